"""Vault's database engine in front of a real PostgreSQL: asked for, used, ended, refused at the database."""

import json
import re
import subprocess
import sys
import unittest

from harness import GRANTWRIGHT, ROOT, Demo, Process, call, clean_env, scratch, until
from peers import golang
from peers.postgres import Postgres, programs
from peers.vault import BROKER_POLICY, Vault

demo = vault = postgres = None
READ = "SELECT sum(n) FROM sales"


def setUpModule():
    global demo, vault, postgres
    if not programs():
        raise unittest.SkipTest("no PostgreSQL here")
    missing = golang.prepare(ROOT, "vault", print)
    if missing:
        raise unittest.SkipTest(missing)
    postgres = Postgres(scratch("postgres"))
    postgres.sql("CREATE ROLE readers; CREATE TABLE sales (n int); INSERT INTO sales VALUES (40), (2);"
                 "CREATE TABLE salaries (n int); GRANT SELECT ON sales TO readers;"
                 "CREATE ROLE vault LOGIN SUPERUSER PASSWORD 'vault-pass'")
    vault = Vault(ROOT, scratch("vault"), durable=True)
    vault.database(postgres, "sales")
    demo = Demo(VAULT_ADDR=vault.addr, VAULT_TOKEN=vault.token(BROKER_POLICY))


def tearDownModule():
    for part in (demo and demo.process, vault, postgres):
        if part:
            (part.term if hasattr(part, "term") else part.stop)()


def ask(**fields):
    params = {"database": fields.pop("database", "sales")}
    return demo.doors.ask("vault.db-read", params, **fields)


def credential(**fields):
    reply = ask(idempotency_key=demo.doors.fresh("k"), **fields)
    assert reply.status == 200, reply
    got = reply.json["credential"]
    assert sorted(got) == ["password", "username"], sorted(got)
    return reply.json, got["username"], got["password"]


def issued(request_id):
    return next(e for e in demo.events(request_id) if e["kind"] == "issued")


class Whole(unittest.TestCase):
    def test_05_ask_use_revoke_refused_at_the_database(self):
        """SECURITY: revocation theatre. What `revoke` reports is what PostgreSQL then does."""
        granted, user, password = credential(ttl="5m")
        self.assertEqual(postgres.client(user, password, READ), (0, "42", ""))
        code, _, said = postgres.client(user, password, "SELECT * FROM salaries")
        self.assertNotEqual(code, 0)
        self.assertIn("permission denied", said)

        code, listed = demo.cli_json("lease", "list", person=demo.alice)
        mine = [x for x in listed["leases"] if x["lease_id"] == granted["lease_id"]]
        self.assertEqual([(x["state"], x["revocable"]) for x in mine], [("live", True)])

        at_vault = issued(granted["request_id"])["facts"]["vault_lease_id"]
        self.assertIn(at_vault.rsplit("/", 1)[1], vault.leases())
        code, out, err = demo.cli("revoke", granted["lease_id"], person=demo.alice)
        self.assertEqual(code, 0, out + err)
        self.assertIn("knows it no more", out)
        self.assertNotIn(at_vault.rsplit("/", 1)[1], vault.leases())
        code, _, said = postgres.client(user, password, READ)
        self.assertNotEqual(code, 0)
        self.assertIn("authentication failed", said)
        self.assertEqual(postgres.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{user}'"), [])
        ended = [e for e in demo.events(granted["request_id"]) if e["kind"] == "revoked"]
        self.assertEqual([e.get("still_valid", False) for e in ended], [False])

    def test_05_the_lease_is_no_longer_than_the_grant(self):
        """The role's own lease is 15 min: Vault and the database are set to what was granted."""
        granted, user, _ = credential(ttl="2m")
        at_vault = issued(granted["request_id"])["facts"]["vault_lease_id"]
        left = vault.call("POST", "sys/leases/lookup", {"lease_id": at_vault})["data"]["ttl"]
        self.assertTrue(0 < left <= 120, left)
        until_db = postgres.sql("SELECT extract(epoch FROM rolvaliduntil - now())::int FROM pg_roles "
                                f"WHERE rolname = '{user}'")
        self.assertLessEqual(int(until_db[0]), 130)

    def test_05_the_lease_reaches_the_grant_where_the_role_gives_less(self):
        vault.database(postgres, "sales", ttl="1m")
        try:
            granted, _, _ = credential(ttl="10m")
            at_vault = issued(granted["request_id"])["facts"]["vault_lease_id"]
            left = vault.call("POST", "sys/leases/lookup", {"lease_id": at_vault})["data"]["ttl"]
            self.assertTrue(500 < left <= 600, left)
        finally:
            vault.database(postgres, "sales")

    def test_04_another_database_than_the_roles_is_refused_before_anything_is_made(self):
        before = vault.leases()
        reply = ask(database="payroll")
        self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)
        self.assertEqual(vault.leases(), before)
        kinds = [e["kind"] for e in demo.events(reply.json["request_id"])]
        self.assertEqual(kinds[-1], "failed")

    def test_05_a_ttl_over_the_bound_is_refused(self):
        reply = ask(ttl="16m")
        self.assertEqual((reply.status, reply.code), (400, "ttl_too_long"), reply)

    def test_21_the_password_is_nowhere_in_the_folder(self):
        _, _, password = credential()
        for path in demo.dir.rglob("*"):
            if path.is_file() and not path.is_socket():
                self.assertNotIn(password.encode(), path.read_bytes(), path)

    def test_06_the_same_key_is_the_same_account(self):
        key = demo.doors.fresh("same")
        one, two = (ask(idempotency_key=key).json for _ in range(2))
        self.assertEqual(one["credential"], two["credential"])


class Files(unittest.TestCase):
    """`grantwright helper files` and psql, as it is."""

    def test_psql_logs_in_by_a_service_file_and_by_a_password_file(self):
        folder = scratch("pg")
        folder.mkdir()
        service, passwords = folder / "service.conf", folder / "pgpass"
        process = Process([GRANTWRIGHT, "helper", "files", "--scope", "vault.db-read", "--param",
                           "database=sales", "--ttl", "20s", "--service-file", service, "--passfile",
                           passwords, "--host", "127.0.0.1", "--port", postgres.port, "--dbname", "postgres"],
                          env=clean_env(**demo.env))
        try:
            until("the files", 30, passwords.exists)

            def psql(*words, **env):
                done = subprocess.run([programs() / "psql", "-X", "-A", "-t", "-w", "-c", READ, *words],
                                      env=clean_env(**env), capture_output=True, text=True)
                return done.stdout.strip(), done.stderr
            self.assertEqual(psql("service=grantwright", PGSERVICEFILE=service), ("42", ""))
            user = passwords.read_text().split(":")[3]
            by_file = ("-h", "127.0.0.1", "-p", str(postgres.port), "-U", user, "-d", "postgres")
            self.assertEqual(psql(*by_file, PGPASSFILE=passwords), ("42", ""))
            # Another account, before the old one ends.
            until("another account", 40, lambda: passwords.read_text().split(":")[3] != user, 0.2)
            self.assertEqual(psql("service=grantwright", PGSERVICEFILE=service), ("42", ""))
            user = passwords.read_text().split(":")[3]
        finally:
            code = process.term()
        self.assertEqual(code, 0, process.said())
        self.assertFalse(service.exists() or passwords.exists())
        until("the account's end", 20,
              lambda: not postgres.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{user}'"))


class Many(unittest.TestCase):
    def test_24_all_of_an_agent_end_with_their_effects(self):
        accounts = [credential() for _ in range(8)]
        code, planned = demo.cli_json("revoke", "--agent", "demo-agent", "--dry-run",
                                      person=demo.alice)
        self.assertEqual(code, 0, planned)
        self.assertGreaterEqual(planned["revocable"], 8)
        self.assertEqual(postgres.client(*accounts[0][1:], READ)[0], 0, "a dry run ended it")
        code, done = demo.cli_json("revoke", "--owner", "alice", "--scope", "vault.db-read",
                                   person=demo.alice)
        self.assertEqual((code, done["ok"], done["refused"], done["not_ended"]), (0, True, [], []))
        ids = {row["lease_id"] for row in done["ended"]}
        self.assertLessEqual({granted["lease_id"] for granted, _, _ in accounts}, ids)
        for _, user, password in accounts:
            self.assertNotEqual(postgres.client(user, password, READ)[0], 0)
        code, none = demo.cli_json("revoke", "--scope", "vault.db-read", person=demo.alice)
        self.assertEqual((code, none["ended"]), (0, []))


class Faults(unittest.TestCase):
    def test_a_sealed_vault_is_a_clear_refusal(self):
        key = vault.folder / "raft" / "secrets.json"
        vault.call("PUT", "sys/seal")
        try:
            reply = ask(idempotency_key=demo.doors.fresh("sealed"))
            self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)
            self.assertIn("sealed", reply.json["detail"])
        finally:
            vault.call("PUT", "sys/unseal", {"key": json.loads(key.read_text())["unseal_key"]})
            until("unsealed", 30, self._healthy)
        credential()

    @staticmethod
    def _healthy():
        try:
            return vault.call("GET", "sys/health") is not None
        except Exception:
            return False

    def test_a_vault_that_is_away_fails_and_loses_no_revocation(self):
        granted, user, password = credential()
        vault.stop()
        try:
            reply = ask(idempotency_key=demo.doors.fresh("away"))
            self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)
            _, out = demo.cli_json("revoke", granted["lease_id"], person=demo.alice)
            self.assertEqual((out["ended"], out["state"]), (False, "withdrawn"), out)
            self.assertGreaterEqual(self._waiting(), 1)
        finally:
            vault.start()
        # Nobody asks again: the broker does.
        until("the account is gone", 60, lambda: postgres.client(user, password, READ)[0] != 0, 0.2)
        until("the queue is empty", 60, lambda: self._waiting() == 0, 0.2)
        ended = [e for e in demo.events(granted["request_id"]) if e["kind"] == "revoked"]
        self.assertEqual([e.get("still_valid", False) for e in ended], [True, False])

    @staticmethod
    def _waiting():
        text = call(demo.env["GRANTWRIGHT_CONSOLE"], "GET", "/metrics").body.decode()
        return int(re.search(r"(?m)^grantwright_revocations_waiting (\d+)$", text)[1])


class Crash(unittest.TestCase):
    def test_03_a_broker_killed_after_the_mint_delivers_the_same_or_nothing(self):
        key = demo.doors.fresh("crash")
        one = ask(idempotency_key=key)
        self.assertEqual(one.status, 200, one)
        before = len(vault.leases())
        demo.kill_broker()
        demo.stop()
        demo.start()
        two = ask(idempotency_key=key)
        self.assertIn(two.status, (200, 410), two)
        if two.status == 200:
            self.assertEqual(two.json["credential"], one.json["credential"])
        self.assertEqual(len(vault.leases()), before)


if __name__ == "__main__":
    sys.exit("run tests/system/run vault")
