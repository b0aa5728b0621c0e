"""The restore ceremony: last week's database stops the broker, the recovery key alone begins a new epoch."""

import json
import re
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

from harness import (GRANTWRIGHT, ROOT, SIDECAR, Person, Process, call, cli, leaves, scratch, store_files,
                     until)
from forge import Forger
from peers.postgres import Postgres, programs
from t_crash import Stage

VERIFIER = ROOT / "tests/system/stored.py"


def said(*arguments, code=0, **more):
    got, out, err = cli(*arguments, "--json", **more)
    assert got == code, f"{arguments}: exit {got}\n{out}\n{err}"
    return json.loads(out) if out.strip() else {"detail": err}


def second(store, *more):
    return second_on(f"sqlite://{store}", *more)


def second_on(place, *more):
    """The verifier that is not ours, where its library is there."""
    done = subprocess.run([sys.executable, str(VERIFIER), place, "--json", *more],
                          capture_output=True, text=True, timeout=600)
    if "No module named 'cryptography'" in done.stderr:
        return None
    return done.returncode, done.stdout + done.stderr


class Stores(unittest.TestCase):
    """A broker that moves to PostgreSQL by the ceremony, and whose database is then restored from a dump."""

    @classmethod
    def setUpClass(cls):
        if not programs():
            raise unittest.SkipTest("PostgreSQL is not installed")
        cls.postgres = Postgres(scratch("postgres"))

    @classmethod
    def tearDownClass(cls):
        cls.postgres.stop()

    def url(self, database):
        """Over the socket, where the superuser needs no password."""
        folder = str(self.postgres.folder).replace("/", "%2F")
        return f"postgres://{self.postgres.root}@{folder}:{self.postgres.port}/{database}"

    def tool(self, program, *arguments):
        done = subprocess.run([self.postgres.bin / program, "-h", self.postgres.folder, "-p",
                               str(self.postgres.port), "-U", self.postgres.root, *map(str, arguments)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)

    def configure(self, stage, database):
        config = stage.broker_toml.read_text()
        config, n = re.subn(r'(?m)^url = "(sqlite|postgres)://.*"$', f'url = "{self.url(database)}"', config)
        self.assertEqual(n, 1)
        stage.broker_toml.write_text(config)

    def test_a_dump_of_postgresql_goes_on_in_a_new_epoch_that_sidecars_follow(self):
        stage = Stage()
        self.addCleanup(lambda: (stage.sidecar.kill(), stage.broker.kill()))
        doors, backup, dump = stage.doors, scratch("backup"), scratch("dump.sql")
        kept = ("--checkpoint", stage.env["GRANTWRIGHT_CHECKPOINT"])
        mine = ("--recovery-key", stage.dir / "recovery.key")

        def granted():
            reply = doors.ask("demo.read", {"dataset": doors.fresh("set")})
            return reply.json if reply.status == 200 else None
        until("the first credential", 30, granted, 0.2)
        for database in ("one", "two", "three"):
            self.postgres.sql(f"CREATE DATABASE {database}")
        pin = scratch("pin")
        pin.write_text(leaves(stage.store)[0]["recovery_key"])

        # From SQLite to PostgreSQL: nothing was lost.
        said("backup", "--to", backup, env=stage.env)
        stage.broker.term()
        self.configure(stage, "one")
        moved = said("restore", "--config", stage.broker_toml, "--backup", backup, *mine, *kept)
        stage.start_broker()
        lease = until("the sidecar goes on", 40, granted, 0.2)["lease_id"]
        self.assertIn(moved["origin"], self.kept(stage))

        # Last night's dump; what came after it is lost.
        self.tool("pg_dump", "-f", dump, "one")
        count = self.size(stage)
        for _ in range(3):
            self.assertTrue(granted())
        until("the sidecar keeps a later checkpoint", 30, lambda: self.size(stage) > count, 0.1)
        stage.broker.term()
        self.tool("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, "two")
        self.configure(stage, "two")
        stage.start_broker()

        def stopped():
            reply = doors.ask("demo.read", {"dataset": doors.fresh("set")})
            return (reply.status, reply.code) == (503, "log_inconsistent")
        until("nothing is issued", 30, stopped, 0.2)
        stage.broker.term()

        # The ceremony: into a database that is empty, from the one that was restored.
        full = said("restore", "--config", stage.broker_toml, "--backup", self.url("two"), *mine, *kept, code=2)
        self.assertIn("empty", json.dumps(full))
        self.configure(stage, "three")
        done = said("restore", "--config", stage.broker_toml, "--backup", self.url("two"), *mine, *kept)
        self.assertEqual(done["old_origin"], moved["origin"])
        self.assertGreater(done["known"], done["restored"])
        stage.start_broker()
        until("the sidecar goes on", 40, granted, 0.2)
        self.assertIn(done["origin"], self.kept(stage))
        alice = Person(stage, "alice")
        ended = said("revoke", lease, env={**stage.env, "GRANTWRIGHT_STORE": self.url("three"),
                                           "GRANTWRIGHT_HUMAN_TOKEN_FILE": str(alice.token_file)})
        self.assertTrue(ended.get("ok", True), ended)

        # Both verifiers prove it, from the first recovery key on, and that it goes on from what is left.
        store = ("--store", self.url("three"))
        for more in (("--vkey", done["vkey"], *kept), ("--recovery-key", pin),
                     ("--vkey", moved["old_vkey"], "--recovery-key", pin),
                     ("--vkey", done["vkey"], "--before", self.url("one"))):
            report = said("audit", "verify", *store, *more)
            self.assertEqual((report["findings"], report["origin"]), ([], done["origin"]), report)
        bundle = scratch("bundle.tar.gz")
        said("audit", "bundle", *store, "--vkey", done["vkey"], "--to", bundle)
        judged = second_on(str(bundle), "--vkey", moved["old_vkey"], "--recovery-key", str(pin))
        if judged:
            self.assertEqual(judged[0], 0, judged[1][:2000])

    @staticmethod
    def kept(stage):
        return Path(stage.env["GRANTWRIGHT_CHECKPOINT"]).read_text(encoding="utf-8")

    def size(self, stage):
        return int(self.kept(stage).split("\n")[1])


class Ceremony(unittest.TestCase):
    def setUp(self):
        self.stage = stage = Stage()
        self.addCleanup(lambda: (stage.sidecar.kill(), stage.broker.kill()))
        self.alice = Person(stage, "alice")
        until("the first credential", 30, self.asked, 0.2)

    def asked(self, dataset=None):
        dataset = dataset or self.stage.doors.fresh("set")
        reply = self.stage.doors.ask("demo.read", {"dataset": dataset})
        return reply.json if reply.status == 200 else None

    def kept(self):
        """Size of the sidecar's own checkpoint."""
        with open(self.stage.env["GRANTWRIGHT_CHECKPOINT"], encoding="utf-8") as note:
            return int(note.read().split("\n")[1])

    def put_away(self, name):
        """Moves the store aside: it is evidence."""
        folder = scratch(name)
        folder.mkdir()
        for end in ("", "-wal", "-shm"):
            path = self.stage.store.with_name(self.stage.store.name + end)
            if path.exists():
                shutil.move(path, folder / path.name)
        return folder / self.stage.store.name

    def test_an_old_database_issues_nothing_until_the_recovery_key_begins_an_epoch(self):
        stage, doors = self.stage, self.stage.doors
        lease = self.asked()["lease_id"]
        approved = doors.pending()
        stage.bob.approve(approved)
        backup = scratch("backup")
        count = said("backup", "--to", backup, env=stage.env)["leaves"]
        for _ in range(5):
            self.assertTrue(self.asked())
        until("the sidecar keeps a later checkpoint", 20, lambda: self.kept() > count, 0.1)
        vkey = leaves(stage.store)[0]["vkey"]

        stage.broker.term()
        true = self.put_away("true")
        shutil.copy(backup, stage.store)
        stage.start_broker()
        def stopped():
            reply = doors.ask("demo.read", {"dataset": doors.fresh("set")})
            return (reply.status, reply.code) == (503, "log_inconsistent")
        until("nothing is issued", 30, stopped, 0.2)
        self.assertTrue(stopped())
        # The sidecar proves it a moment after its own ask was refused.
        until("the broker knows", 30,
              lambda: call(stage.env["GRANTWRIGHT_CONSOLE"], "GET", "/readyz").status == 503, 0.1)
        self.assertEqual(Person(stage, "carol").approve(approved).status, 503)
        self.assertIsNone(stage.broker.code())
        self.assertEqual(len(leaves(stage.store)), count)
        stage.broker.term()

        seen = self.kept()
        # The ceremony: not with another key, not over a store that is there, not without what was kept.
        config, mine = ("--config", stage.broker_toml), ("--recovery-key", stage.dir / "recovery.key")
        kept = ("--checkpoint", stage.env["GRANTWRIGHT_CHECKPOINT"])
        other = scratch("other")
        said("restore", "--make-key", other, "--trust-domain", "demo.grantwright.example")
        there = said("restore", *config, "--backup", backup, *mine, *kept, code=2)
        self.assertIn("exists", json.dumps(there))
        self.put_away("rolled-back")
        wrong = said("restore", *config, "--backup", backup, "--recovery-key", other, *kept, code=2)
        self.assertIn("recovery key", json.dumps(wrong))
        self.assertFalse(stage.store.exists())
        done = said("restore", *config, "--backup", backup, *mine, *kept)
        self.assertEqual((done["restored"], done["known"], done["lost"]), (count, seen, seen - count), done)
        self.assertNotEqual((done["origin"], done["vkey"]), (done["old_origin"], vkey))

        stage.start_broker()
        again = until("the sidecar goes on", 40, self.asked, 0.2)
        self.assertIn("receipt", again)
        # What was approved and not spent is void; a credential that lives can still be ended.
        self.assertEqual(doors.get(approved).status, 404)
        ended = said("revoke", lease, env={**stage.env,
                     "GRANTWRIGHT_HUMAN_TOKEN_FILE": str(self.alice.token_file)})
        self.assertTrue(ended["ok"] if "ok" in ended else ended, ended)
        # What the sidecar saw of the old log stays, and it knows the new one after a restart too.
        shown = call(stage.env["GRANTWRIGHT_SIDECAR"], "GET", "/v1/checkpoints",
                     headers={"Authorization": f"Bearer {doors.token}"}).body.decode()
        self.assertIn(f"{done['old_origin']}\n{seen}\n", shown)
        stage.sidecar.term()
        stage.ready_sidecar.unlink(missing_ok=True)
        stage.sidecar = Process([SIDECAR, "--config", stage.sidecar_toml])
        ready = until("the sidecar", 20, lambda: stage.read(stage.ready_sidecar))
        stage.env["GRANTWRIGHT_SIDECAR"] = f"http://{ready['tcp']}"
        until("it serves", 30, self.asked, 0.2)
        stage.sidecar.term()
        stage.broker.term()

        shows = scratch("older")
        shows.write_text(shown, encoding="utf-8")
        self.verified(done, backup, true, shows)
        self.held_once(done, backup, true)

    def held_once(self, done, backup, true):
        """Neither the old store nor a second ceremony from the same backup fits beside the new key."""
        stage = self.stage
        self.put_away("new")
        again = said("restore", "--config", stage.broker_toml, "--backup", backup, "--recovery-key",
                     stage.dir / "recovery.key", "--no-checkpoint", code=2)
        self.assertIn("begun from it already", json.dumps(again))
        self.assertFalse(stage.store.exists())
        for part in store_files(true):
            shutil.copy(part, stage.store.with_name(part.name))
        broker = Process([GRANTWRIGHT, "broker", "--config", stage.broker_toml])
        until("it does not start", 30, lambda: broker.code() is not None, 0.1)
        self.assertNotEqual(broker.code(), 0)

    def old_note(self, true, text):
        """A note that the old log's key signed."""
        forger = Forger(true, self.stage.dir / "keys/log.skey.epoch-1")
        forger.db.close()
        return forger.signed(text)

    def pinned(self, done, new):
        """Who wrote the recovery key down needs no new key: it vouches for that, also to who knows the old."""
        pin, other, mine = scratch("pin"), scratch("other-pin"), self.stage.dir / "recovery.key"
        opened = next(leaf for leaf in leaves(self.stage.store) if leaf["kind"] == "opened")
        pin.write_text(opened["recovery_key"])
        other.write_text(opened["vkey"])
        for vkey in ((), ("--vkey", done["old_vkey"]), ("--vkey", done["vkey"])):
            report = said("audit", "verify", "--store", new, *vkey, "--recovery-key", pin)
            self.assertEqual((report["findings"], report["origin"]), ([], done["origin"]), report)
            judged = second(self.stage.store, *vkey, "--recovery-key", str(pin))
            if judged:
                self.assertEqual(judged[0], 0, judged[1][:2000])
        report = said("audit", "verify", "--store", new, "--recovery-key", other, code=1)
        self.assertEqual(report["findings"][0]["rule"], "recovery-key", report)
        judged = second(self.stage.store, "--recovery-key", str(other))
        if judged:
            self.assertEqual(judged[0], 1, judged[1][:2000])
        refused = said("audit", "verify", "--store", new, "--recovery-key", mine, code=2)
        self.assertIn("belongs offline", json.dumps(refused))

    def verified(self, done, backup, true, shows):
        """The new log proves itself, and that it goes on from the backup, which the true log began with."""
        stage = self.stage
        key = ("--vkey", done["vkey"])
        new, kept = f"sqlite://{stage.store}", ("--checkpoint", stage.env["GRANTWRIGHT_CHECKPOINT"])
        for before in (backup, true):
            report = said("audit", "verify", "--store", new, *key, *kept, "--before", f"sqlite://{before}")
            self.assertEqual((report["findings"], report["rollback"]), ([], "none"), report)
        judged = second(stage.store, *key, *kept)
        if judged:
            self.assertEqual(judged[0], 0, judged[1][:2000])
        # Going on from an earlier verification; and with what the sidecar saw of the old log.
        known = scratch("known")
        for resumed in (None, done["carried"]):
            report = said("audit", "verify", "--store", new, *key, "--resume", known)
            self.assertEqual(report["findings"], [], report)
            self.assertGreaterEqual(report.get("resumed_from") or 0, resumed or 0, report)
        said("audit", "verify", "--store", new, *key, "--checkpoint", shows, "--before", f"sqlite://{true}")
        judged = second(stage.store, *key, "--checkpoint", shows)
        if judged:
            self.assertEqual(judged[0], 0, judged[1][:2000])
        # A checkpoint of the old log that covers more than was declared lost, or other leaves.
        for size, rule in ((done["known"] + 1, "rollback"), (done["known"], "fork"), (done["restored"], "fork")):
            more = scratch(f"more-{size}")
            more.write_text(self.old_note(true, f"{done['old_origin']}\n{size}\n{'A' * 43}=\n"), encoding="utf-8")
            report = said("audit", "verify", "--store", new, *key, "--checkpoint", more, code=1)
            self.assertEqual((report["findings"][0]["rule"], report["rollback"]), (rule, "found"), report)
            judged = second(stage.store, *key, "--checkpoint", more)
            if judged:
                self.assertEqual(judged[0], 1, judged[1][:2000])
                self.assertIn(rule, judged[1])
        self.pinned(done, new)
        # Another log is not the one before.
        elsewhere = Stage()
        try:
            elsewhere.broker.term()
            report = said("audit", "verify", "--store", new, *key, *kept, "--before",
                          f"sqlite://{elsewhere.store}", code=1)
            self.assertIn("epoch-carried", [f["rule"] for f in report["findings"]], report)
        finally:
            elsewhere.sidecar.kill()
            elsewhere.broker.kill()
