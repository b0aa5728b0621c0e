"""PostgreSQL directly: asked, approved, used by `psql`, ended, refused at the database; killed in between."""

import re
import sys
import threading
import unittest

from harness import scratch, until
from peers.postgres import Postgres, programs
from stand import Proxy, Stand

stand = postgres = proxy = None
READ = "SELECT sum(n) FROM sales"
SCOPE = """
[[scope]]
name = "pg.read"
title = "Read the tables of {dataset}"
minter = "pg"
ttl = { default_s = 600, max_s = 3600 }
params.dataset = { type = "string", pattern = "[a-z][a-z0-9-]{0,15}", title = "Dataset" }
[scope.template]
roles = ["${dataset}_readers"]
connection_limit = 2
"""
STEPS = SCOPE.replace("pg.read", "pg.steps").replace("connection_limit = 2", "step_s = 6")


def setUpModule():
    global stand, postgres, proxy
    if not programs():
        raise unittest.SkipTest("no PostgreSQL here")
    postgres = Postgres(scratch("postgres"))
    postgres.sql("CREATE ROLE sales_readers; CREATE ROLE \"odd-name_readers\"; CREATE TABLE sales (n int);"
                 "INSERT INTO sales VALUES (40), (2); CREATE TABLE salaries (n int);"
                 "GRANT SELECT ON sales TO sales_readers, \"odd-name_readers\";"
                 "CREATE ROLE boss_readers SUPERUSER;"
                 "CREATE ROLE broker LOGIN CREATEROLE PASSWORD 'broker-pass';"
                 "GRANT pg_signal_backend TO broker")
    if int(postgres.sql("SHOW server_version_num")[0]) >= 160000:
        postgres.sql("GRANT sales_readers, \"odd-name_readers\", boss_readers TO broker WITH ADMIN OPTION")
    proxy = Proxy(postgres.port)
    secret = scratch("pg-password")
    secret.write_text("broker-pass\n")
    secret.chmod(0o600)
    stand = Stand([f"""
[[minter]]
name = "pg"
kind = "postgres"
url = "postgres://broker@127.0.0.1:{proxy.port}/postgres"
password_file = "{secret}"
timeout = "20s"
"""], [SCOPE, STEPS], asks=["pg.read"], routine=["pg.steps"])


def tearDownModule():
    for part in (stand and stand.end, proxy and proxy.close, postgres and postgres.stop):
        if part:
            part()


def granted(dataset="sales", **fields):
    reply, got = stand.granted("pg.read", {"dataset": dataset}, **fields)
    assert sorted(got) == ["password", "username"], sorted(got)
    return reply, got["username"], got["password"]


def role(name, what):
    return postgres.sql(f"SELECT {what} FROM pg_roles WHERE rolname = '{name}'")


class Whole(unittest.TestCase):
    def test_05_ask_approve_use_revoke_refused_at_the_database(self):
        reply, user, password = granted(ttl="5m")
        self.assertEqual(postgres.client(user, password, READ), (0, "42", ""))
        code, _, said = postgres.client(user, password, "SELECT * FROM salaries")
        self.assertNotEqual(code, 0)
        self.assertIn("permission denied", said)
        listed = stand.lease(reply["lease_id"])
        self.assertEqual((listed["state"], listed["revocable"]), ("live", True))
        session = postgres.session(user, password)
        try:
            session.stdin.write(READ + ";\n")
            session.stdin.flush()
            self.assertEqual(session.stdout.readline().strip(), "42")
            code, out = stand.revoke(reply["lease_id"])
            self.assertEqual(code, 0, out)
            self.assertIn("1 sessions were ended", out)
            # The session that was open is over too.
            session.stdin.write(READ + ";\n")
            session.stdin.flush()
            self.assertIn("terminating connection", session.stdout.readline())
        finally:
            session.kill()
            session.communicate()
        self.assertEqual(role(user, "1"), [])
        code, _, said = postgres.client(user, password, READ)
        self.assertNotEqual(code, 0)
        self.assertIn("authentication failed", said)
        self.assertFalse(stand.event(reply["request_id"], "revoked").get("still_valid", False))
        stand.nowhere(password)

    def test_05_released_by_its_agent_it_is_refused_at_the_database(self):
        reply, user, password = granted()
        self.assertEqual(postgres.client(user, password, READ)[0], 0)
        done = stand.release(reply["request_id"])
        self.assertTrue(done["ended"], done)
        self.assertIn("the role is dropped", done["effect"])
        self.assertEqual(role(user, "1"), [])
        self.assertNotEqual(postgres.client(user, password, READ)[0], 0)

    def test_05_the_role_is_what_was_granted_and_no_more(self):
        reply, user, password = granted(ttl="5m")
        flags = ("rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls, rolconnlimit,"
                 "extract(epoch FROM rolvaliduntil - now())::int BETWEEN 1 AND 300")
        self.assertEqual(role(user, flags), ["f|2|t"])
        member = ("SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid "
                  f"JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = '{user}'")
        self.assertEqual(postgres.sql(member), ["sales_readers"])
        comment = postgres.sql("SELECT description FROM pg_shdescription JOIN pg_roles ON oid = objoid "
                               f"WHERE rolname = '{user}'")[0]
        self.assertIn(reply["request_id"], comment)
        self.assertIn("approvers=bob", comment)
        sessions = [postgres.session(user, password) for _ in range(2)]
        try:
            for session in sessions:
                session.stdin.write("SELECT 7;\n")
                session.stdin.flush()
                self.assertEqual(session.stdout.readline().strip(), "7")
            code, _, said = postgres.client(user, password, READ)
            self.assertNotEqual(code, 0)
            self.assertIn("too many connections", said)
        finally:
            for session in sessions:
                session.kill()
                session.communicate()

    def test_a_name_that_must_be_quoted_is(self):
        _, user, password = granted("odd-name")
        self.assertEqual(postgres.client(user, password, READ), (0, "42", ""))

    def test_05_valid_until_refuses_a_login_and_the_sweep_drops_the_role(self):
        _, user, password = granted(ttl="6s")
        self.assertEqual(postgres.client(user, password, READ)[0], 0)
        session = postgres.session(user, password)
        try:
            until("the login is refused", 30, lambda: postgres.client(user, password, READ)[0] != 0, 0.2)
            until("the role is dropped", 30, lambda: role(user, "1") == [], 0.2)
            session.stdin.write(READ + ";\n")
            session.stdin.flush()
            self.assertIn("terminating connection", session.stdout.readline())
        finally:
            session.kill()
            session.communicate()

    def test_04_a_role_with_powers_is_refused_and_nothing_is_made(self):
        for dataset in ("boss", "absent"):
            request = stand.approved("pg.read", {"dataset": dataset})
            reply = stand.doors.get(request, wait="20s")
            self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)
            self.assertEqual(stand.kinds(request)[-2:], ["intended", "failed"])
        names = postgres.sql("SELECT description FROM pg_shdescription WHERE description LIKE '%boss%'")
        self.assertEqual(names, [])


class Steps(unittest.TestCase):
    """Made for 6 s at a time, approved for longer."""

    def test_26_what_is_used_is_extended_in_place_and_what_is_not_ends_with_its_step(self):
        body = {"scope": "pg.steps", "params": {"dataset": "sales"}, "reason": "long work", "ttl": "10m"}

        def ask():
            reply = stand.doors.call("POST", "/v1/credentials", body)
            self.assertEqual(reply.status, 200, reply)
            return reply.json
        first = ask()
        request, user, password = (first["request_id"], *(first["credential"][k] for k in ("username", "password")))
        left = int(role(user, "extract(epoch FROM rolvaliduntil - now())::int")[0])
        self.assertLessEqual(left, 6, "made for one step")
        self.assertGreater(first["extends_until"], first["expires_at"])
        # Used for longer than two steps: the same role and password, valid for longer.
        until("extended twice", 60, lambda: ask() and stand.kinds(request).count("renewed") >= 2, 0.5)
        again = ask()
        self.assertEqual((again["request_id"], again["credential"]), (request, first["credential"]))
        self.assertGreater(again["expires_at"], first["expires_at"])
        self.assertEqual(postgres.client(user, password, READ), (0, "42", ""))
        # Nobody asks any more: it ends within a step, long before what was approved.
        until("the role is dropped", 60, lambda: role(user, "1") == [], 0.5)
        self.assertNotEqual(postgres.client(user, password, READ)[0], 0)
        until("its end is in the log", 30, lambda: stand.kinds(request)[-1] == "expired", 0.5)
        code, out, err = stand.demo.cli("audit", "verify")
        self.assertEqual(code, 0, out + err)

    def test_24_one_that_is_revoked_is_not_extended(self):
        reply = stand.doors.call("POST", "/v1/credentials", {
            "scope": "pg.steps", "params": {"dataset": "odd-name"}, "reason": "long work", "ttl": "10m"})
        self.assertEqual(reply.status, 200, reply)
        code, out = stand.revoke(reply.json["lease_id"])
        self.assertEqual(code, 0, out)
        self.assertEqual(role(reply.json["credential"]["username"], "1"), [])
        self.assertEqual(stand.kinds(reply.json["request_id"])[-1], "revoked")


class Crash(unittest.TestCase):
    """Killed with SIGKILL between the intent and the outcome: nothing is minted twice, nothing is left."""

    def killed(self, when):
        request = stand.approved("pg.read", {"dataset": "sales"})
        before = set(postgres.sql("SELECT rolname FROM pg_roles WHERE rolname LIKE 'gw-%'"))
        proxy.stop(when, b"CREATE ROLE")
        self.collect(request)
        self.assertTrue(proxy.met.wait(20), "the mint was never tried")
        if when == "after":
            until("the role", 20, lambda: set(postgres.sql(
                "SELECT rolname FROM pg_roles WHERE rolname LIKE 'gw-%'")) - before)
        self.assertEqual(stand.kinds(request)[-1], "intended")
        stand.kill()
        stand.start()
        reply = stand.doors.get(request, wait="20s")
        self.assertEqual((reply.json.get("state"), stand.kinds(request)[-1]), ("unknown", "unknown"), reply)
        until("no role is left", 20, lambda: not set(postgres.sql(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'gw-%'")) - before)
        # Spent, and said so: it is never minted by asking again.
        self.assertEqual(stand.kinds(request).count("intended"), 1)
        granted()

    @staticmethod
    def collect(request):
        threading.Thread(target=lambda: Crash.quiet(request), daemon=True).start()

    @staticmethod
    def quiet(request):
        try:
            stand.doors.get(request, wait="20s", timeout=60)
        except OSError:
            pass

    def test_08_killed_before_the_mint(self):
        self.killed("before")

    def test_08_killed_after_the_mint_the_orphan_is_found_and_dropped(self):
        self.killed("after")

    def test_03_killed_after_the_outcome_delivers_the_same_or_says_issued(self):
        reply, user, password = granted()
        stand.kill()
        stand.start()
        again = stand.doors.get(reply["request_id"], wait="20s")
        self.assertIn(again.status, (200, 410), again)
        if again.status == 200:
            self.assertEqual(again.json["credential"], {"username": user, "password": password})
        self.assertEqual(stand.kinds(reply["request_id"]).count("issued"), 1)
        self.assertEqual(postgres.client(user, password, READ), (0, "42", ""))


class Away(unittest.TestCase):
    def test_24_a_database_that_is_away_loses_no_revocation(self):
        reply, user, password = granted()
        proxy.to, there = 1, proxy.to
        for pid in postgres.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'broker'"):
            postgres.sql(f"SELECT pg_terminate_backend({pid})")
        try:
            _, out = stand.revoke(reply["lease_id"])
            self.assertTrue(re.search("cannot be reached|lost", out), out)
            self.assertEqual(postgres.client(user, password, READ)[0], 0, "nobody could end it yet")
            stand.kill()
            stand.start()
        finally:
            proxy.to = there
        # Nobody asks again: the broker does, over its own restart too.
        until("the role is gone", 90, lambda: role(user, "1") == [], 0.5)


if __name__ == "__main__":
    sys.exit("run tests/system/run postgres")
