"""Killed with SIGKILL between the intent and the outcome, before the backend heard and after it answered: one
test for each backend, made from a table; what Vault's database engine made is found and revoked where the broker
makes a token per mint, and what it made in steps is extended in place. Vault's authorities, PostgreSQL and the clouds
have theirs in t_authorities, t_postgres and t_clouds."""

import sys
import threading
import unittest

from harness import ROOT, Process, call, scratch, secret, until
from peers import golang
from peers.ports import free_port
from peers.postgres import Postgres, programs
from peers.vault import BROKER_POLICY, Refused, Vault
from stand import Proxy, Stand

ROLE = "arn:aws:iam::123456789012:role/reader"
# Backend: parameters of its scope, and the bytes with which its one minting call begins.
BACKENDS = {
    "sts": ({"what": "reader"}, b"Action=AssumeRole"),
    "vault-aws": ({"what": "reader"}, b"/v1/aws/sts/"),
    "vault-identity": ({"what": "short"}, b"/v1/identity/oidc/token/"),
    "vault-database": ({"what": "sales"}, b"/v1/database/creds/db-read"),
    # With a token per mint; the second gives up soon.
    "careful-database": ({"what": "sales"}, b"/v1/database/creds/db-read"),
    "hasty-database": ({"what": "sales"}, b"/v1/database/creds/db-read"),
}
# Nothing to make a mint with before it: a token that is asked for, and never heard of.
CHILD = b"/v1/auth/token/create"
ACCOUNT = 'mount = "database"\nrole = "db-read"\nconnection = "${what}"'
TEMPLATES = {
    "sts": f'role_arn = "{ROLE}"\n[[scope.template.policy]]\nactions = ["s3:GetObject"]\n'
           'resources = ["arn:aws:s3:::demo/${what}/*"]',
    "vault-aws": 'mount = "aws"\nrole = "${what}"',
    "vault-identity": 'mount = "identity"\nrole = "${what}"',
    "vault-database": ACCOUNT, "careful-database": ACCOUNT, "hasty-database": ACCOUNT,
}
# Of a token per mint, beside what the engine wants.
CAREFUL = """
path "auth/token/create" { capabilities = ["update"] }
path "auth/token/accessors" { capabilities = ["list", "sudo"] }
path "auth/token/accessors/" { capabilities = ["list", "sudo"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
"""
STEPS = f"""
[[scope]]
name = "c.steps"
title = "Use {{what}}"
minter = "careful-database"
ttl = {{ default_s = 900, max_s = 3600 }}
params.what = {{ type = "string", pattern = "[a-z][a-z0-9-]{{0,20}}", title = "What" }}
[scope.template]
{ACCOUNT}
step_s = 12
"""
# A built-in issuer calls nobody: intent and outcome are one commit.
BUILT_IN = """
[[scope]]
name = "c.built-in"
title = "Use {what}"
minter = "jwt"
params.what = { type = "string", pattern = "[a-z][a-z0-9-]{0,20}", title = "What" }
template = { audience = "https://crash.example.com", status = true }
"""
stand = vault = moto = postgres = None
proxies = {}


def scope(name):
    return f"""
[[scope]]
name = "c.{name}"
title = "Use {{what}}"
minter = "{name}"
ttl = {{ default_s = 900, max_s = 3600 }}
params.what = {{ type = "string", pattern = "[a-z][a-z0-9-]{{0,20}}", title = "What" }}
[scope.template]
{TEMPLATES[name]}
"""


def _up(port):
    try:
        return call(f"http://127.0.0.1:{port}", "GET", "/moto-api/").status == 200
    except OSError:
        return False


def setUpModule():
    global stand, vault, moto, postgres
    missing = golang.prepare(ROOT, "vault", print) or (None if programs() else "no PostgreSQL here")
    if missing:
        raise unittest.SkipTest(missing)
    port = free_port()
    moto = Process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
    until("moto", 60, lambda: _up(port), 0.1)
    vault = Vault(ROOT, scratch("vault"))
    endpoint = f"http://127.0.0.1:{port}"
    vault.call("POST", "sys/mounts/aws", {"type": "aws"})
    vault.call("POST", "aws/config/root", {
        "access_key": "AKIAIOSFODNN7EXAMPLE", "secret_key": "secret", "region": "us-east-1",
        "iam_endpoint": endpoint, "sts_endpoint": endpoint})
    vault.call("POST", "aws/roles/reader", {"credential_type": "assumed_role", "role_arns": [ROLE]})
    vault.call("POST", "identity/oidc/key/k", {"algorithm": "ES256", "allowed_client_ids": ["*"]})
    vault.call("POST", "identity/oidc/role/short", {"key": "k", "ttl": "10m", "client_id": "c-short"})
    postgres = Postgres(scratch("postgres"))
    postgres.sql("CREATE ROLE readers; CREATE TABLE sales (n int); GRANT SELECT ON sales TO readers;"
                 "CREATE ROLE vault LOGIN SUPERUSER PASSWORD 'vault-pass'")
    vault.database(postgres, "sales")
    vault.call("POST", "sys/auth/approle", {"type": "approle"})
    vault.call("PUT", "sys/policies/acl/broker", {"policy": "".join(
        f'path "{path}" {{ capabilities = ["{may}"] }}\n' for path, may in (
            ("aws/roles/*", "read"), ("aws/sts/*", "update"),
            ("identity/oidc/role/*", "read"), ("identity/oidc/token/*", "read"))) + BROKER_POLICY + CAREFUL})
    # Identity tokens are of an entity, which a login has.
    vault.call("POST", "auth/approle/role/broker", {
        "token_policies": ["broker"], "token_period": "1h", "token_no_default_policy": True})
    role_id = vault.call("GET", "auth/approle/role/broker/role-id")["data"]["role_id"]
    secret_id = vault.call("POST", "auth/approle/role/broker/secret-id", {})["data"]["secret_id"]
    login = (f'[minter.login]\nmethod = "approle"\nrole_id_file = "{secret("role-id", role_id)}"\n'
             f'secret_id_file = "{secret("secret-id", secret_id)}"\n')
    for name in BACKENDS:
        proxies[name] = Proxy(port if name == "sts" else int(vault.addr.rsplit(":", 1)[1]))
    minters = [f'[[minter]]\nname = "{name}"\nkind = "vault"\nengine = "{name.split("-")[1]}"\n'
               f'timeout = "{"8s" if name.startswith("hasty") else "20s"}"\n'
               f'token_per_mint = {str(name.startswith(("careful", "hasty"))).lower()}\n'
               f'address = "http://127.0.0.1:{proxy.port}"\n{login}'
               for name, proxy in proxies.items() if name != "sts"]
    minters.append(f'[[minter]]\nname = "sts"\nkind = "sts"\nregion = "us-east-1"\n'
                   f'endpoint = "http://127.0.0.1:{proxies["sts"].port}"\n'
                   f'access_key_id_file = "{secret("key", "AKIAIOSFODNN7EXAMPLE")}"\n'
                   f'secret_access_key_file = "{secret("secret", "wJalrXUtnFEMI")}"\n')
    stand = Stand(minters, [*map(scope, BACKENDS), BUILT_IN, STEPS], asks=[f"c.{name}" for name in BACKENDS],
                  routine=["c.built-in", "c.steps"])


def tearDownModule():
    for part in (stand and stand.end, *(p.close for p in proxies.values()), vault and vault.stop,
                 moto and moto.kill, postgres and postgres.stop):
        if part:
            part()


class Crash(unittest.TestCase):
    def killed(self, name, when):
        params, marker = BACKENDS[name]
        request = stand.killed(proxies[name], when, marker, f"c.{name}", params)
        self.assertNotIn("issued", stand.kinds(request))
        stand.granted(f"c.{name}", params)


def made(name, when):
    def test(self):
        self.killed(name, when)
    test.__doc__ = f"SECURITY 8, at `{name}`."
    return test


for _name in ("sts", "vault-aws", "vault-identity"):
    for _when in ("before", "after"):
        setattr(Crash, f"test_08_{_name.replace('-', '_')}_killed_{_when}_the_mint", made(_name, _when))


def accounts():
    return set(vault.leases())


def roles():
    """Accounts at the database itself."""
    return set(postgres.sql("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'"))


def children():
    """Requests whose own tokens live at Vault."""
    found = set()
    for accessor in vault.call("LIST", "auth/token/accessors")["data"]["keys"]:
        try:
            seen = vault.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
        except Refused:
            continue
        found |= {seen["meta"]["request"]} if "lease" in (seen["meta"] or {}) else set()
    return found


class Database(unittest.TestCase):
    def killed(self, name, when, marker=None, made=None):
        """The request, the leaf's words, and what is there afterwards that was not before: leases, accounts."""
        params, own = BACKENDS[name]
        before = accounts(), roles()
        request = stand.killed(proxies[name], when, marker or own, f"c.{name}", params, made and (
            lambda: made(accounts() - before[0])))
        self.assertNotIn("issued", stand.kinds(request))
        return request, stand.event(request, "unknown")["detail"], before

    def test_08_before_the_mint_nothing_is_made(self):
        for name in ("vault-database", "careful-database"):
            _, _, before = self.killed(name, "before")
            self.assertTrue(accounts() <= before[0] and roles() <= before[1], name)
            stand.granted(f"c.{name}", BACKENDS[name][0])

    def test_08_after_the_mint_what_nobody_can_find_is_unknown(self):
        _, detail, before = self.killed("vault-database", "after", made=bool)
        self.assertEqual((len(accounts() - before[0]), len(roles() - before[1])), (1, 1), "made once")
        self.assertNotIn("token", detail)
        stand.granted("c.vault-database", {"what": "sales"})

    def test_08_after_the_mint_it_is_found_by_its_token_and_revoked(self):
        request, detail, before = self.killed("careful-database", "after", made=bool)
        self.assertIn("Vault knows the token no more, and nothing that was made with it is left", detail)
        self.assertNotIn(request, children())
        until("the lease is gone", 30, lambda: accounts() <= before[0])
        until("the account is gone at the database", 30, lambda: roles() <= before[1])
        stand.granted("c.careful-database", {"what": "sales"})

    def test_08_before_its_token_is_heard_of_the_token_is_revoked(self):
        others = children()
        request, detail, before = self.killed("careful-database", "after", CHILD, lambda _: children() - others)
        self.assertIn("Vault knows the token no more", detail)
        self.assertNotIn(request, children())
        self.assertTrue(accounts() <= before[0] and roles() <= before[1])

    def test_08_a_lost_answer_is_revoked_at_once_and_the_mint_has_failed(self):
        params, marker = BACKENDS["hasty-database"]
        before = accounts(), roles()
        request = stand.approved("c.hasty-database", params)
        proxies["hasty-database"].stop("after", marker)
        reply = stand.doors.get(request, wait="20s", timeout=60)
        self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)
        self.assertIn("whatever was made with it", reply.json["detail"])
        self.assertEqual(stand.kinds(request)[-1], "failed")
        self.assertNotIn(request, children())
        until("the account is gone at the database", 30,
              lambda: accounts() <= before[0] and roles() <= before[1])

    def test_05_the_account_of_a_token_ends_with_its_lease_at_the_database(self):
        reply, got = stand.granted("c.careful-database", {"what": "sales"})
        self.assertIn(reply["request_id"], children())
        look = "SELECT count(*) FROM sales"
        self.assertEqual(postgres.client(got["username"], got["password"], look)[0], 0)
        code, out = stand.revoke(reply["lease_id"])
        self.assertEqual(code, 0, out)
        self.assertIn("knows it no more", out)
        self.assertNotEqual(postgres.client(got["username"], got["password"], look)[0], 0)
        until("its token is gone", 30, lambda: reply["request_id"] not in children())


class Steps(unittest.TestCase):
    def test_26_what_is_used_is_extended_at_vault_and_what_is_not_ends_with_its_step(self):
        body = {"scope": "c.steps", "params": {"what": "sales"}, "reason": "long work", "ttl": "10m"}

        def ask():
            reply = stand.doors.call("POST", "/v1/credentials", body)
            self.assertEqual(reply.status, 200, reply)
            return reply.json
        first = ask()
        request, user, password = (first["request_id"], *(first["credential"][k] for k in ("username", "password")))
        lease = stand.event(request, "issued")["facts"]["vault_lease_id"]
        left = lambda: vault.call("POST", "sys/leases/lookup", {"lease_id": lease})["data"]["ttl"]
        self.assertLessEqual(left(), 12, "made for one step")
        # Used for longer than two steps: the same account.
        until("extended twice", 60, lambda: ask() and stand.kinds(request).count("renewed") >= 2, 0.5)
        again = ask()
        self.assertEqual((again["request_id"], again["credential"]), (request, first["credential"]))
        self.assertGreater(again["expires_at"], first["expires_at"])
        self.assertLessEqual(left(), 12)
        self.assertEqual(postgres.client(user, password, "SELECT count(*) FROM sales"), (0, "0", ""))
        # Nobody asks any more: it ends within a step, long before what was approved.
        until("the account is dropped", 60, lambda: user not in roles(), 0.5)
        self.assertNotEqual(postgres.client(user, password, "SELECT count(*) FROM sales")[0], 0)
        until("its end is in the log", 30, lambda: stand.kinds(request)[-1] == "expired", 0.5)


class BuiltIn(unittest.TestCase):
    def test_03_a_built_in_issuer_is_killed_between_no_two_leaves(self):
        """Killed again and again under load: each request has its whole story or none, and the same key gives
        the same credential or another, never two."""
        keys = []
        for _ in range(3):
            stop = threading.Event()

            def asking():
                while not stop.is_set():
                    key = stand.doors.fresh("k")
                    keys.append(key)
                    try:
                        stand.doors.ask("c.built-in", {"what": "burst"}, idempotency_key=key, timeout=10)
                    except OSError:
                        pass
            workers = [threading.Thread(target=asking, daemon=True) for _ in range(4)]
            for worker in workers:
                worker.start()
            until("asks under way", 30, lambda: len(keys) >= 20, 0.01)
            stand.kill()
            stop.set()
            for worker in workers:
                worker.join(30)
            stand.start()
            until("the sidecar's stream", 30, lambda: call(
                stand.demo.env["GRANTWRIGHT_SIDECAR"], "GET", "/readyz").status == 200, 0.1)
            # Those around the end.
            for key in keys[-12:]:
                reply = stand.doors.ask("c.built-in", {"what": "burst"}, idempotency_key=key)
                self.assertIn(reply.status, (200, 410), reply)
                kinds = stand.kinds(reply.json["request_id"])
                self.assertEqual(kinds[:4], ["requested", "decided", "intended", "issued"])
                self.assertEqual(kinds.count("issued"), 1)
            keys.clear()
        code, out, err = stand.demo.cli("audit", "verify")
        self.assertEqual(code, 0, out + err)


if __name__ == "__main__":
    sys.exit("run tests/system/run crashes")
