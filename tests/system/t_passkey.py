"""People at the console: links, sessions, passkeys; and a quorum that two passkeys signed, verified
offline from a copy of the database, and not to be forged by who holds that and the log's key."""

import hashlib
import json
import sqlite3
import unittest
from pathlib import Path
from urllib.parse import urlsplit

from forge import Forger
from harness import Demo, call, cli, copy_store, scratch, until
from passkey import Browser, Passkey, b64, unb64

demo = doors = None


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


def console():
    return demo.env["GRANTWRIGHT_CONSOLE"]


def operator(method, path, body=None):
    token = (Path(demo.dir) / "operator.token").read_text()
    return call(console(), method, path, body, {"Authorization": f"Bearer {token}"})


def link(person, purpose):
    reply = operator("POST", f"/api/v1/people/{person}/link", {"purpose": purpose})
    assert reply.status == 200, reply
    return reply.json["url"]


class Sign(unittest.TestCase):
    def test_the_login_link_signs_bob_in_once(self):
        path = urlsplit(demo.env["GRANTWRIGHT_LOGIN_BOB"]).path
        bob = Browser(console())
        first = bob.call("GET", path)
        self.assertEqual((first.status, first.headers["location"]), (303, "/"), first)
        self.assertEqual(bob.call("GET", "/session").json["human"], "bob")
        page = call(console(), "GET", path, headers={"Accept": "text/html"})
        self.assertEqual(page.status, 410)
        self.assertIn(b"used already", page.body)
        self.assertIn("text/html", page.headers["content-type"])
        self.assertEqual(bob.call("GET", "/api/v1/requests").status, 401, "a session is no token")
        self.assertEqual(bob.post("/signout", {}).status, 303)
        bob.csrf = None
        self.assertEqual(bob.call("GET", "/session").status, 401)
        page = call(console(), "GET", "/signin", headers={"Accept": "text/html"})
        self.assertNotIn(b"/oidc/start", page.body, "nobody signs in elsewhere here")

    def test_an_operator_ends_a_passkey(self):
        dave, passkey = Browser(console()), Passkey(console())
        self.assertEqual(dave.enrol(link("dave", "enrol"), passkey).status, 200)
        listed = operator("GET", "/api/v1/people/dave/passkeys").json["passkeys"]
        self.assertEqual([p["revoked"] for p in listed], [False])
        end = f"/api/v1/people/dave/passkeys/{listed[0]['credential_id']}/revoke"
        self.assertEqual(operator("POST", end, {}).status, 200)
        self.assertEqual(Browser(console()).sign_in(passkey).code, "passkey_unknown")
        self.assertEqual(operator("POST", end, {}).status, 404)


def witnessed():
    """The size of the newest checkpoint that the witness cosigned."""
    with sqlite3.connect(f"file:{demo.store}?mode=ro", uri=True) as db:
        rows = db.execute("SELECT value FROM side WHERE kind = 'witnessed'").fetchall()
    return max((int(bytes(row[0]).decode().split("\n")[1]) for row in rows), default=0)


class Quorum(unittest.TestCase):
    """A scope that wants two passkeys: what two people signed is proven from a copy of the database by
    whoever has the log's key; what somebody wrote there in their name is found."""

    @classmethod
    def setUpClass(cls):
        folder = Path(demo.dir)
        policies = {p.name: p.read_text() for p in sorted((folder / "policy").glob("*.cedar"))}
        scopes = {p.name: p.read_text() for p in sorted((folder / "scopes").glob("*.toml"))}
        changed = {name: two_people(text) for name, text in policies.items()}
        assert changed != policies, "no scope wants a passkey"
        loaded = operator("POST", "/api/v1/policy", {"policies": changed, "scopes": scopes})
        assert loaded.status == 200, loaded
        cls.people = {"bob": enrolled(demo.env["GRANTWRIGHT_ENROL_BOB"], edwards=False),
                      "carol": enrolled(link("carol", "enrol"), edwards=True)}
        cls.granted, cls.states = cls.decide("first")
        # A second one, so that there is a signature of carol's that is good, but for something else.
        size = len(demo.leaves())
        cls.second, _ = cls.decide("second")
        demo.keeps(size)
        # What the witness cosigned is in the copy, whoever was faster.
        until("the witness vouches for both", 30, lambda: witnessed() > size, 0.05)
        cls.copy = copy_store(demo.store, scratch("copy"))

    @classmethod
    def decide(cls, key):
        request_id = doors.pending("demo.rotate-root", idempotency_key=key)
        digest = demo.bob.request(request_id)["digest"]
        refused = demo.bob.approve(request_id)
        assert (refused.status, refused.code) == (403, "passkey_required"), refused
        assert f"/requests/{request_id}" in refused.json["next"], refused
        states = []
        for browser, passkey in cls.people.values():
            voted = browser.approve(request_id, digest, passkey)
            assert voted.status == 200, voted
            states.append(voted.json["state"])
        collected = doors.get(request_id)
        assert collected.json["state"] == "granted", collected
        return request_id, states

    def verify(self, store, *arguments):
        """As somebody elsewhere does it: nothing but the file and the log's key."""
        code, out, err = cli("audit", "verify", "--json", "--store", f"sqlite://{store}",
                             "--vkey", demo.env["GRANTWRIGHT_LOG_VKEY"], *arguments)
        self.assertIn(code, (0, 1), out + err)
        report = json.loads(out)
        self.assertEqual(report["ok"], code == 0, report)
        return report

    def test_two_passkeys_decide_and_the_log_proves_it(self):
        self.assertEqual(self.states, ["pending", "approved"])
        report = self.verify(self.copy)
        self.assertEqual((report["ok"], report["findings"]), (True, []), report)
        signed = [e for e in demo.events(self.granted) if e["kind"] == "voted"]
        self.assertEqual([v["proof"]["kind"] for v in signed], ["passkey"] * 2)
        self.assertEqual([v["human"] for v in signed], ["bob", "carol"])
        # What the signatures do not show is said.
        self.assertTrue(any("the operator who made its" in u for u in report["undetectable"]), report)

    def test_the_database_holds_no_session(self):
        with sqlite3.connect(self.copy) as db:
            rows = b"".join(bytes(r[0]) for r in db.execute("SELECT value FROM side"))
        for browser, _ in self.people.values():
            self.assertNotIn(browser.cookie.split(":")[1].encode(), rows)

    def forge(self, change, *arguments):
        """What the verifier finds when `change` rewrote the leaf of carol's vote, and everything that
        does not need her passkey was made to fit."""
        copy = copy_store(self.copy, scratch("forged"))
        forger = Forger(copy, Path(demo.dir) / "keys" / "log.skey")
        at = forger.index(kind="voted", request_id=self.granted, human="carol")
        change(forger, forger.leaves[at])
        forger.seal()
        report = self.verify(copy, *arguments)
        return at, report

    def found(self, change, rule):
        at, report = self.forge(change)
        self.assertIs(report["ok"], False, "the forgery passed")
        first = report["findings"][0]
        self.assertEqual((first["leaf"], first["rule"]), (at, rule), report["findings"])
        # The forger did make everything else fit.
        rules = {finding["rule"] for finding in report["findings"]}
        self.assertFalse(rules & {"root", "signature", "checkpoint", "hash", "tile"}, rules)

    def test_a_store_sealed_anew_without_a_change_is_proven(self):
        # Otherwise the forger's own mistakes would be what is found.
        _, report = self.forge(lambda forger, vote: None)
        self.assertEqual(report["findings"], [])

    def test_a_vote_signed_by_the_forgers_own_passkey(self):
        def change(forger, vote):
            own = Passkey(console(), edwards=True)
            proof = vote["proof"]
            data, client = unb64(proof["authenticator_data"]), unb64(proof["client_data"])
            proof["signature"] = b64(own.key.sign(data + hashlib.sha256(client).digest()))
        self.found(change, "passkey")

    def test_a_signature_of_the_same_person_for_another_request(self):
        def change(forger, vote):
            other = forger.index(kind="voted", request_id=self.second, human="carol")
            vote["proof"] = dict(forger.leaves[other]["proof"])
        self.found(change, "passkey")

    def test_a_signature_whose_time_was_over(self):
        def change(forger, vote):
            vote["proof"]["expires_at"] = "2031-01-01T00:00:00.000Z"
        self.found(change, "passkey")

    def test_another_persons_signature(self):
        def change(forger, vote):
            bobs = forger.index(kind="voted", request_id=self.granted, human="bob")
            vote["proof"] = dict(forger.leaves[bobs]["proof"])
        self.found(change, "passkey")

    def test_a_vote_without_a_signature(self):
        def change(forger, vote):
            del vote["proof"]
        self.found(change, "passkey")

    def test_a_vote_in_the_name_of_somebody_else(self):
        def change(forger, vote):
            vote["human"] = "alice"
        self.found(change, "eligible")

    def test_a_passkey_swapped_for_the_forgers_contradicts_a_kept_checkpoint(self):
        def change(forger, vote):
            own = Passkey(console(), edwards=True)
            at = forger.index(kind="passkey_enrolled",
                              credential_id=vote["proof"]["credential_id"])
            forger.leaves[at]["public_key"]["key"] = own.key.public_key().public_bytes_raw().hex()
            for leaf in forger.leaves:
                if leaf["kind"] == "voted" and leaf["human"] == "carol" and "proof" in leaf:
                    proof = leaf["proof"]
                    data, client = unb64(proof["authenticator_data"]), unb64(proof["client_data"])
                    proof["signature"] = b64(own.key.sign(data + hashlib.sha256(client).digest()))
        # Whose passkey it is rests on the enrolment: here only memory outside the log helps.
        _, report = self.forge(change, "--checkpoint", demo.env["GRANTWRIGHT_CHECKPOINT"])
        self.assertEqual((report["ok"], report["rollback"]), (False, "found"), report)


def enrolled(url, edwards):
    """A browser signed in with a passkey that was enrolled by this link, and the passkey."""
    browser, passkey = Browser(console()), Passkey(console(), edwards)
    path = urlsplit(url).path
    page = browser.call("GET", path, Accept="text/html")
    assert page.status == 200, page
    assert browser.enrol(url, passkey).status == 200
    again = browser.post(f"{path}/options", {})
    assert (again.status, again.code) == (410, "link_used"), again
    again = Browser(console())
    assert again.sign_in(passkey).status == 200
    assert again.call("GET", "/session").json["how"] == "passkey"
    return again, passkey


def two_people(policy):
    """The policy with two people where one passkey was asked for."""
    parts = policy.split("permit")
    return "permit".join(p.replace('@quorum("1")', '@quorum("2")') if "passkey" in p else p
                         for p in parts)
