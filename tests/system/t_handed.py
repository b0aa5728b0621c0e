"""The tamper campaign where something is handed on: rights from agent to agent, and a log to the epoch
that goes on from its backup. By class, as t_tamper.py, and with the keys that each class takes.
"""

import copy
import json
import os
import shutil
import unittest
from pathlib import Path

import evidence
from evidence import Log, canonical, digest_of
from harness import SIDECAR, Demo, Process, call, clean_env, scratch, until
from own import sidecar_of

HOW_MANY = int(os.environ.get("TAMPER", "10000"))
demo = planner = first = delegated = None
ids = {}


def setUpModule():
    global demo, planner, first, delegated
    if not evidence.second():
        raise unittest.SkipTest("the second verifier needs `cryptography`")
    demo = Demo()
    home = sidecar_of(demo, "planner", owner="bob")
    planner = Process([SIDECAR, "--config", home / "sidecar.toml"], env=clean_env())

    def door(method, path, body=None):
        return call(home / "s.sock", method, path, body)

    def ready():
        assert planner.code() is None, planner.said()
        try:
            return door("GET", "/readyz").status == 200
        except OSError:
            return False
    until("the planner's sidecar", 30, ready, 0.05)

    def hand(**body):
        made = door("POST", "/v1/delegations", {"to": "demo-agent", **body})
        assert made.status == 201, made
        return made.json["delegation_id"]
    doors, name = demo.doors, demo.doors.fresh()
    ids["read"] = hand(scopes={"demo.read": {"params": {"dataset": name}, "ttl": "5m"}})
    ids["asked"] = doors.ask("demo.read", {"dataset": name}, delegation=ids["read"]).json["request_id"]
    ids["own"] = doors.ask("demo.read", {"dataset": doors.fresh()}).json["request_id"]
    ids["export"] = hand(scopes={"demo.export": {"params": {"rows": 10}}}, passes=1)
    ids["ended"] = hand(scopes={"demo.read": {}})
    assert door("DELETE", f"/v1/delegations/{ids['ended']}").status == 200
    planner.kill()
    sidecar_of(demo, "other")
    place = scratch("delegated")
    code, out, err = demo.cli("audit", "tiles", "--to", place)
    assert code == 0, out + err
    delegated = Log.of_folder(place, demo.env["GRANTWRIGHT_LOG_VKEY"],
                              (Path(demo.dir) / "keys/log.skey").read_text())
    first = evidence.First()


def tearDownModule():
    if demo:
        first.end()
        demo.__exit__()


class Classes(evidence.Judged, unittest.TestCase):
    def judged(self, name, cases, ours=(1,), theirs=(1,), **given):
        """Each case some times over: TAMPER decides how often."""
        cases = list(cases)
        count = max(len(cases), HOW_MANY // 200)
        self.campaign(first, name, count, lambda n: cases[n % len(cases)], ours, theirs, **given)


def later(at, seconds):
    """A leaf's time, some seconds later."""
    import datetime
    text = at.split(".")[0].rstrip("Z")
    moment = datetime.datetime.fromisoformat(text) + datetime.timedelta(seconds=seconds)
    return moment.isoformat() + "Z"


class Delegations(Classes):
    def setUp(self):
        self.events = delegated.events()

    def log(self, events):
        return delegated.signed([canonical(event) for event in events])

    def at(self, kind, **fields):
        return next(i for i, e in enumerate(self.events) if e["kind"] == kind
                    and all(e.get(name) == value for name, value in fields.items()))

    def handed(self, which="read", **fields):
        """One delegation written otherwise."""
        events = copy.deepcopy(self.events)
        at = self.at("delegated", delegation_id=ids[which])
        events[at].update(fields)
        return self.log(events)

    def bounded(self, **fields):
        at = self.at("delegated", delegation_id=ids["read"])
        bounds = {**self.events[at]["scopes"]["demo.read"], **fields}
        return self.handed(scopes={"demo.read": bounds})

    def asked(self, drop=(), **fields):
        """The ask under it in other terms, its digest made to fit wherever it stands."""
        events = copy.deepcopy(self.events)
        terms = {**events[self.at("requested", request_id=ids["asked"])]["terms"], **fields}
        terms = {name: value for name, value in terms.items() if name not in drop}
        for event in (e for e in events if e.get("request_id") == ids["asked"]):
            event["digest"] = digest_of("request", terms)
            event.update({"terms": terms} if "terms" in event else {})
        return events

    def with_leaf(self, place, **leaf):
        """With one more leaf, before the one at `place`."""
        events = copy.deepcopy(self.events)
        events.insert(place, {"at": events[min(place, len(events) - 1)]["at"], **leaf})
        return self.log(events)

    def outlived(self, seconds):
        """The credential of the ask, minted so late that it ends that long after its delegation."""
        events = copy.deepcopy(self.events)
        intended, issued = (events[self.at(kind, request_id=ids["asked"])] for kind in ("intended", "issued"))
        ttl = events[self.at("requested", request_id=ids["asked"])]["terms"]["ttl_s"]
        events[self.at("delegated", delegation_id=ids["read"])]["expires_at"] = later(intended["at"], ttl + 1)
        issued["at"] = later(intended["at"], 1 + seconds)
        issued["expires_at"] = later(issued["at"], ttl)
        return self.log(events)

    def child(self, of, **fields):
        """demo-agent passes on what it was handed."""
        made = self.events[self.at("delegated", delegation_id=ids[of])]
        door = self.events[self.at("instance_enrolled", agent="demo-agent")]["instance"]
        return self.with_leaf(len(self.events), **{
            "kind": "delegated", "delegation_id": "d-child", "from": "demo-agent", "instance": door,
            "to": "other", "parent": ids[of], "scopes": made["scopes"],
            "expires_at": made["expires_at"], **fields})

    def test_30_what_both_verifiers_prove(self):
        """As it is, and with a right that is passed on as it may be: one of the classes below is no finding
        by itself."""
        self.judged("delegations as they are",
                    [self.log(self.events), self.child("export"), self.outlived(0)], (0,), (0,))

    def test_31_rights_that_were_not_handed_on_so(self):
        made = self.events[self.at("delegated", delegation_id=ids["read"])]
        other = self.events[self.at("delegated", delegation_id=ids["export"])]
        scope = made["scopes"]["demo.read"]
        doors = {agent: self.events[self.at("instance_enrolled", agent=agent)]["instance"]
                 for agent in ("planner", "demo-agent")}
        end = {"kind": "delegation_ended", "delegation_id": ids["read"], "agent": "planner"}
        rows = {"demo.export": {**other["scopes"]["demo.export"], "params": {"rows": 1000}}}
        gone = [e for e in self.events if e.get("delegation_id") != ids["read"]]
        events = copy.deepcopy(self.events)
        events[self.at("delegation_ended")]["agent"] = "demo-agent-2"
        stranger = copy.deepcopy(self.events)
        stranger[self.at("delegation_ended")]["human"] = "carol"
        del stranger[self.at("delegation_ended")]["agent"]
        nobody = copy.deepcopy(self.events)
        del nobody[self.at("delegation_ended")]["agent"]
        asked, intended = (self.at(kind, request_id=ids["asked"]) for kind in ("requested", "intended"))
        cases = {
            "another scope": self.handed(scopes=other["scopes"]),
            "another parameter": self.bounded(params={"dataset": "other"}),
            "a parameter that is none": self.bounded(params={"nothing": "x"}),
            "a parameter of another type": self.bounded(params={"dataset": 5}),
            "a shorter lifetime": self.bounded(ttl_s=1),
            "a lifetime that the scope does not have": self.bounded(ttl_s=10_000_000),
            "no lifetime": self.bounded(ttl_s=0),
            "a longer life": self.handed(expires_at=later(made["at"], 25 * 3600)),
            "a life that is over before": self.handed(expires_at=later(made["at"], 1)),
            "no life": self.handed(expires_at=made["at"]),
            "no scope": self.handed(scopes={}),
            "another template": self.handed(scopes={"demo.read": {**scope, "template": "0" * 64}}),
            "to the agent that hands it on": self.handed(to="planner"),
            "to nobody": self.handed(to="nobody"),
            "from nobody": self.handed(**{"from": "nobody"}),
            "by another's sidecar": self.handed(instance=doors["demo-agent"]),
            "by no sidecar": self.handed(instance="i-none"),
            "passed on too often": self.handed(passes=4),
            "a depth that is none": self.handed(passes=0),
            "removed": self.log(gone),
            "twice": self.with_leaf(asked, **{k: v for k, v in made.items() if k != "at"}),
            "ended before the ask": self.with_leaf(asked, **end),
            "ended before the intent": self.with_leaf(intended, **end),
            "ended by an agent that is none of it": self.log(events),
            "ended by a person who owns none of it": self.log(stranger),
            "ended by nobody": self.log(nobody),
            "another chain": self.log(self.asked(delegation=["demo-agent"])),
            "a longer chain": self.log(self.asked(delegation=["planner", "demo-agent"])),
            "no chain": self.log(self.asked(delegation=[])),
            "a chain and no delegation": self.log(self.asked(drop=["delegation_id"])),
            "another delegation": self.log(self.asked(delegation_id=ids["export"])),
            "a delegation that is none": self.log(self.asked(delegation_id="d-none")),
            "another dataset": self.log(self.asked(params={"dataset": "other"})),
            "passed on where it may not be": self.child("read"),
            "passed on to its own chain": self.child("export", to="planner"),
            "passed on to nobody": self.child("export", to="nobody"),
            "a credential that outlives it": self.outlived(1),
            "passed on wider": self.child("export", scopes=rows),
            "passed on from one that is none": self.child("read", parent="d-none"),
        }
        self.judged(f"{len(cases)} kinds of delegations, with the log's key", cases.values())

    def test_39_an_ask_told_as_the_agents_own(self):
        """Whoever holds the log's key can write that nobody handed the right on, where policy lets the
        agent ask by itself."""
        events = self.asked(drop=["delegation_id"], delegation=[])
        for event in (e for e in events if e.get("request_id") == ids["asked"]):
            event.pop("chain", None)
        own, told = (next(e for e in events if e["kind"] == "decided" and e["request_id"] == ids[which])
                     for which in ("own", "asked"))
        told.update(verdict=own["verdict"], context={**own["context"], "time": told["context"]["time"]})
        self.judged("UNDETECTABLE: an ask under a delegation told as the agent's own", [self.log(events)],
                    (0,), (0,))


class Epochs(Classes):
    @classmethod
    def setUpClass(cls):
        cls.demo = of = Demo()
        of.judged = False
        folder, backup = Path(of.dir), scratch("backup")
        for _ in range(3):
            of.doors.ask("demo.read", {"dataset": of.doors.fresh()})
        assert of.cli("backup", "--to", backup)[0] == 0
        cls.restored = len(of.leaves())
        for _ in range(3):
            of.doors.ask("demo.read", {"dataset": of.doors.fresh()})
        of.keeps(cls.restored + 1)
        assert of.stop() == 0
        kept = Path(of.env["GRANTWRIGHT_CHECKPOINT"])
        cls.kept, cls.old = kept.read_text(), (folder / "keys/log.skey").read_text()
        cls.recovery = (folder / "recovery.key").read_text()
        aside = scratch("aside")
        aside.mkdir()
        for end in ("", "-wal", "-shm"):
            if (path := Path(f"{of.store}{end}")).exists():
                shutil.move(path, aside / path.name)
        code, out, err = of.cli("restore", "--config", folder / "broker.toml", "--backup", backup,
                                "--recovery-key", folder / "recovery.key", "--checkpoint", kept, "--json")
        assert code == 0, out + err
        done, place = json.loads(out), scratch("epoch")
        code, out, err = of.cli("audit", "tiles", "--store", of.env["GRANTWRIGHT_STORE"], "--vkey",
                                done["vkey"], "--to", place)
        assert code == 0, out + err
        cls.log = Log.of_folder(place, done["vkey"], (folder / "keys/log.skey").read_text())
        cls.epoch, *cls.carried = cls.log.events()
        cls.pin = cls.carried[0]["recovery_key"]

    @classmethod
    def tearDownClass(cls):
        cls.demo.__exit__()

    def written(self, epoch, carried=None, recovery=None, more=()):
        """The log with this first leaf, signed by a recovery key if there is one, and carrying these."""
        carried = self.carried if carried is None else carried
        leaves = [canonical(leaf) for leaf in (*carried, *more)]
        if recovery:
            epoch = {k: v for k, v in epoch.items() if k != "signature"}
            text = canonical(epoch).decode() + "\n"
            epoch["signature"] = evidence.sign(text, recovery)[len(text) + 1:]
        return self.log.signed([canonical(epoch), *leaves])

    def old_note(self, size, root, skey=None):
        name = self.epoch["old_origin"]
        return evidence.sign(f"{name}\n{size}\n{root}\n", skey or self.old)

    def rooted(self, carried):
        """A first leaf that names these as what it carries."""
        root = evidence.base64.b64encode(evidence.root([canonical(leaf) for leaf in carried])).decode()
        return {**self.epoch, "carried": len(carried), "carried_root": root}

    def test_40_what_both_verifiers_prove(self):
        self.judged("an epoch as it is", [self.log.copy(), self.written(self.epoch, recovery=self.recovery)],
                    (0,), (0,), kept=[self.kept], recovery=self.pin)

    def test_41_bits_of_the_first_leaf(self):
        """Signed anew by the log, not by the recovery key."""
        leaves, cases = self.log.leaves(), []
        for at in range(0, len(leaves[0]), 7):
            body = bytearray(leaves[0])
            body[at] ^= 1 << at % 7
            cases.append(self.log.signed([bytes(body), *leaves[1:]]))
        self.judged("a bit of an epoch's first leaf, with the log's key", cases, (1, 2), (1, 2))

    def test_42_what_the_recovery_key_did_not_sign(self):
        other, vkey = evidence.new_skey("recovery.example")
        half = len(self.carried) // 2
        swapped = [self.carried[0], *self.carried[half:], *self.carried[1:half]]
        shorter, renamed = self.carried[:-1], copy.deepcopy(self.carried)
        renamed[0]["recovery_key"] = vkey
        e = self.epoch
        fields = {"at": later(e["at"], 1), "origin": "other.example/log", "vkey": vkey, "version": 2,
                  "trust_domain": "other.example", "recovery_key": vkey, "old_origin": "other.example/log",
                  "old_vkey": vkey, "old_checkpoint": self.old_note(self.restored, "A" * 43 + "="),
                  "restored": e["restored"] - 1, "restored_root": "A" * 43 + "=",
                  "carried": e["carried"] - 1, "carried_root": "A" * 43 + "=", "signature": ""}
        cases = [self.written({**e, name: value}) for name, value in fields.items()]
        cases += [self.written({k: v for k, v in e.items() if k != name}) for name in fields]
        cases += [self.written(e, recovery=key) for key in (other, self.log.skey, self.old)]
        # What it carries: less, in another order, changed; as it says, or with its word made to fit.
        for carried in (shorter, swapped, renamed, self.carried[1:], []):
            cases += [self.written(e, carried), self.written(self.rooted(carried), carried)
                      if carried else self.log.signed([canonical(e)])]
        self.judged(f"{len(cases)} kinds of epochs, without the recovery key", cases)

    def test_43_what_even_the_recovery_key_cannot_say(self):
        """That it signed it does not make it sound."""
        e, root = self.epoch, "A" * 43 + "="
        stray = evidence.new_skey(e["old_origin"])[0]
        mine = {"recovery": self.recovery}
        fields = [
            {"old_origin": "other.example/log"}, {"origin": "other.example/log"},
            {"origin": e["old_origin"]}, {"vkey": e["old_vkey"]}, {"old_vkey": e["vkey"]},
            {"old_checkpoint": self.old_note(e["restored"] - 1, root)},
            {"old_checkpoint": self.old_note(e["restored"], root)},
            {"old_checkpoint": self.old_note(e["restored"] + 1, root, stray)},
            {"old_checkpoint": "no note"}, {"restored": 10_000_000}, {"carried": 0}, {"version": 2},
            {"carried_root": "no root"}, {"restored_root": "no root"},
            {"trust_domain": "other.example"}, {"recovery_key": "no key"}]
        cases = [self.written({**e, **change}, **mine) for change in fields]
        # After it: an ask in the old log's name, a leaf of before, and a second beginning.
        asked = copy.deepcopy(next(leaf for leaf in self.carried if leaf["kind"] == "requested"))
        asked["terms"]["request_id"] = asked["request_id"] = "r-late"
        asked["digest"], asked["at"] = digest_of("request", asked["terms"]), e["at"]
        before = {**next(leaf for leaf in self.carried if leaf["kind"] == "group_set"),
                  "at": "2020-01-01T00:00:00Z"}
        cases += [self.written(e, more=[leaf], **mine) for leaf in (asked, before, self.carried[0], e)]
        twice = [self.carried[0], *self.carried]
        cases += [self.written(self.rooted(twice), twice, **mine),
                  self.written(self.rooted(self.carried[1:]), self.carried[1:], **mine)]
        self.judged(f"{len(cases)} kinds of unsound epochs, with the recovery key", cases)

    def rolled_back(self):
        """Nothing after the backup is known of: what was lost is not declared."""
        note = self.old_note(self.epoch["restored"], self.epoch["restored_root"])
        return [self.written({**self.epoch, "old_checkpoint": note}, recovery=self.recovery)]

    def test_44_a_loss_that_a_kept_checkpoint_shows(self):
        self.judged("an undeclared loss, with a kept checkpoint of the old log", self.rolled_back(),
                    kept=[self.kept])

    def forged(self):
        """All of it in the name of a recovery key that the forger made: only who knows the true one sees it."""
        skey, vkey = evidence.new_skey("demo.grantwright.example/recovery")
        carried = copy.deepcopy(self.carried)
        carried[0]["recovery_key"] = vkey
        return [self.written({**self.rooted(carried), "recovery_key": vkey}, carried, skey),
                # Naming the true one for the epoch to come says nothing.
                self.written(self.rooted(carried), carried, skey)]

    def test_45_another_recovery_key_where_the_true_one_is_pinned(self):
        self.judged("an epoch of another recovery key, with --recovery-key", self.forged(),
                    recovery=self.pin)

    # Undetectable, and therefore asserted undetected.

    def test_48_a_loss_that_nobody_kept_anything_of(self):
        self.judged("UNDETECTABLE: an undeclared loss, nothing kept", self.rolled_back(), (0,), (0,))

    def test_49_another_recovery_key_that_nobody_knows(self):
        self.judged("UNDETECTABLE: an epoch of another recovery key, none pinned", self.forged(), (0,), (0,))
