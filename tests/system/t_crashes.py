"""Killed with SIGKILL between the intent and the outcome, before the backend heard and after it answered: one
test for each backend, made from a table. Vault's database engine, its authorities and PostgreSQL have theirs in
t_vault, t_authorities and t_postgres."""

import sys
import threading
import unittest

from harness import ROOT, Process, call, scratch, secret, until
from peers import golang
from peers.ports import free_port
from peers.vault import Vault
from stand import Proxy, Stand

ROLE = "arn:aws:iam::123456789012:role/reader"
# Backend: parameters of its scope, and the bytes with which its one minting call begins.
BACKENDS = {
    "sts": ({"what": "reader"}, b"Action=AssumeRole"),
    "vault-aws": ({"what": "reader"}, b"/v1/aws/sts/"),
    "vault-identity": ({"what": "short"}, b"/v1/identity/oidc/token/"),
}
TEMPLATES = {
    "sts": f'role_arn = "{ROLE}"\n[[scope.template.policy]]\nactions = ["s3:GetObject"]\n'
           'resources = ["arn:aws:s3:::demo/${what}/*"]',
    "vault-aws": 'mount = "aws"\nrole = "${what}"',
    "vault-identity": 'mount = "identity"\nrole = "${what}"',
}
# A built-in issuer calls nobody: intent and outcome are one commit.
BUILT_IN = """
[[scope]]
name = "c.built-in"
title = "Use {what}"
minter = "jwt"
params.what = { type = "string", pattern = "[a-z][a-z0-9-]{0,20}", title = "What" }
template = { audience = "https://crash.example.com", status = true }
"""
stand = vault = moto = None
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
    global stand, vault, moto
    missing = golang.prepare(ROOT, "vault", print)
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
    vault.call("POST", "sys/auth/approle", {"type": "approle"})
    vault.call("PUT", "sys/policies/acl/broker", {"policy": "".join(
        f'path "{path}" {{ capabilities = ["{may}"] }}\n' for path, may in (
            ("aws/roles/*", "read"), ("aws/sts/*", "update"),
            ("identity/oidc/role/*", "read"), ("identity/oidc/token/*", "read")))})
    # Identity tokens are of an entity, which a login has.
    vault.call("POST", "auth/approle/role/broker", {
        "token_policies": ["broker"], "token_period": "1h", "token_no_default_policy": True})
    role_id = vault.call("GET", "auth/approle/role/broker/role-id")["data"]["role_id"]
    secret_id = vault.call("POST", "auth/approle/role/broker/secret-id", {})["data"]["secret_id"]
    login = (f'[minter.login]\nmethod = "approle"\nrole_id_file = "{secret("role-id", role_id)}"\n'
             f'secret_id_file = "{secret("secret-id", secret_id)}"\n')
    for name in BACKENDS:
        proxies[name] = Proxy(port if name == "sts" else int(vault.addr.rsplit(":", 1)[1]))
    minters = [f'[[minter]]\nname = "{name}"\nkind = "vault"\nengine = "{name.split("-")[1]}"\ntimeout = "20s"\n'
               f'address = "http://127.0.0.1:{proxy.port}"\n{login}'
               for name, proxy in proxies.items() if name != "sts"]
    minters.append(f'[[minter]]\nname = "sts"\nkind = "sts"\nregion = "us-east-1"\n'
                   f'endpoint = "http://127.0.0.1:{proxies["sts"].port}"\n'
                   f'access_key_id_file = "{secret("key", "AKIAIOSFODNN7EXAMPLE")}"\n'
                   f'secret_access_key_file = "{secret("secret", "wJalrXUtnFEMI")}"\n')
    stand = Stand(minters, [*map(scope, BACKENDS), BUILT_IN], asks=[f"c.{name}" for name in BACKENDS],
                  routine=["c.built-in"])


def tearDownModule():
    for part in (stand and stand.end, *(p.close for p in proxies.values()), vault and vault.stop,
                 moto and moto.kill):
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


for _name in BACKENDS:
    for _when in ("before", "after"):
        setattr(Crash, f"test_08_{_name.replace('-', '_')}_killed_{_when}_the_mint", made(_name, _when))


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
