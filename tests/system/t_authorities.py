"""Vault as the authority: certificates of its PKI engine, OpenSSH certificates of its SSH engine, tokens
signed by its transit engine, at the real other end: OpenSSL, sshd, PyJWT. Each also with a crash of the
broker before and after the mint."""

import base64
import os
import subprocess
import sys
import unittest
from urllib.parse import urlsplit

from ends import SSHD, start_sshd
from harness import ROOT, scratch
from peers import golang
from peers.vault import Refused, Vault
from stand import Proxy, Stand

stand = vault = proxy = None
BROKER = """
path "pki/roles/*" { capabilities = ["read"] }
path "pki/sign/*" { capabilities = ["update"] }
path "pki/issue/*" { capabilities = ["update"] }
path "pki/revoke" { capabilities = ["update"] }
path "pki/cert/*" { capabilities = ["read"] }
path "pki/certs" { capabilities = ["list"] }
path "pki/certs/" { capabilities = ["list"] }
path "ssh/roles/*" { capabilities = ["read"] }
path "ssh/sign/*" { capabilities = ["update"] }
path "transit/keys/*" { capabilities = ["read"] }
path "transit/sign/*" { capabilities = ["update"] }
path "auth/token/create" { capabilities = ["update"] }
path "auth/token/accessors" { capabilities = ["list", "sudo"] }
path "auth/token/accessors/" { capabilities = ["list", "sudo"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
"""
ISSUER = "https://tokens.example.com"
AUDIENCE = "https://data.example.com"


def scope(name, minter, params, template):
    lines = "\n".join(f"params.{key} = {kind}" for key, kind in params.items())
    return f"""
[[scope]]
name = "{name}"
title = "Use {name}"
minter = "{minter}"
ttl = {{ default_s = 900, max_s = 3600 }}
{lines}
[scope.template]
{template}
"""


WORD = '{ type = "string", pattern = "[a-z][a-z0-9-]{0,20}", title = "What" }'
CSR = '{ type = "public-key", format = "csr" }'
SSH = '{ type = "public-key", format = "ssh" }'
NAMES = 'dns = ["${service}.internal.example"]\nuri = ["spiffe://example.org/svc/${service}"]\n'
SCOPES = [
    scope("v.sign", "vpki", {"csr": CSR, "service": WORD},
          'mount = "pki"\nrole = "mesh"\nrequest = "csr"\n' + NAMES),
    scope("v.issue", "vpki", {"service": WORD}, 'mount = "pki"\nrole = "made"\n' + NAMES),
    scope("v.careless", "vpki", {"csr": CSR, "service": WORD},
          'mount = "pki"\nrole = "careless"\nrequest = "csr"\n' + NAMES),
    scope("v.ssh", "vssh", {"key": SSH, "account": '{ type = "choice", values = ["backup", "deploy"] }',
                            "job": WORD},
          'mount = "ssh"\nrole = "deploy"\npublic_key = "key"\nprincipals = ["${account}"]\n'
          'force_command = "/bin/echo ran ${job}"\nsource_address = ["127.0.0.0/8"]\n'),
    scope("v.careless-ssh", "vssh", {"key": SSH, "account": '{ type = "choice", values = ["deploy"] }'},
          'mount = "ssh"\nrole = "careless"\npublic_key = "key"\nprincipals = ["${account}"]\n'),
    scope("v.token", "vtransit", {"dataset": WORD},
          f'mount = "transit"\nkey = "p256"\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n'),
    scope("v.token-ed", "vtransit", {"dataset": WORD},
          f'mount = "transit"\nkey = "ed"\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n'),
    scope("v.child", "vtoken", {"what": WORD}, 'policies = ["read-${what}"]\n'),
]


def setUpModule():
    global stand, vault, proxy
    missing = golang.prepare(ROOT, "vault", print)
    if missing:
        raise unittest.SkipTest(missing)
    vault = Vault(ROOT, scratch("vault"))
    for kind in ("pki", "ssh", "transit"):
        vault.call("POST", f"sys/mounts/{kind}", {"type": kind})
    vault.call("POST", "pki/root/generate/internal", {"common_name": "test root", "ttl": "87600h"})
    role = {"allowed_domains": "internal.example", "allow_subdomains": True, "max_ttl": "1h", "key_type": "any",
            "allowed_uri_sans": "spiffe://example.org/svc/*", "server_flag": False}
    vault.call("POST", "pki/roles/mesh", {**role, "use_csr_common_name": False, "use_csr_sans": False,
                                          "allowed_serial_numbers": "*"})
    vault.call("POST", "pki/roles/careless", role)
    vault.call("POST", "pki/roles/made", {**role, "key_type": "ec", "key_bits": 256})
    vault.call("POST", "ssh/config/ca", {"generate_signing_key": True, "key_type": "ed25519"})
    role = {"key_type": "ca", "allow_user_certificates": True, "allowed_users": "*", "allow_user_key_ids": True,
            "allowed_extensions": "permit-pty", "allowed_critical_options": "force-command,source-address"}
    vault.call("POST", "ssh/roles/deploy", role)
    vault.call("POST", "ssh/roles/careless", {**role, "default_extensions": {"permit-pty": ""}})
    vault.call("POST", "transit/keys/p256", {"type": "ecdsa-p256"})
    vault.call("POST", "transit/keys/ed", {"type": "ed25519"})
    vault.call("POST", "transit/keys/p256/rotate", {})
    vault.call("PUT", "sys/policies/acl/read-sales", {
        "policy": 'path "kv/data/sales" { capabilities = ["read"] }'})
    token = scratch("vault-token")
    token.write_text(vault.token(BROKER, policies=["broker", "read-sales"]))
    token.chmod(0o600)
    proxy = Proxy(urlsplit(vault.addr).port)

    def minter(name, engine):
        return (f'\n[[minter]]\nname = "{name}"\nkind = "vault"\nengine = "{engine}"\n'
                f'address = "http://127.0.0.1:{proxy.port}"\n[minter.login]\nmethod = "token"\n'
                f'token_file = "{token}"\n')
    names = ["v.sign", "v.issue", "v.careless", "v.ssh", "v.careless-ssh", "v.token", "v.token-ed", "v.child"]
    stand = Stand([minter("vpki", "pki"), minter("vssh", "ssh"), minter("vtransit", "transit"),
                   minter("vtoken", "token")], SCOPES, asks=names)


def tearDownModule():
    for part in (stand and stand.end, proxy and proxy.close, vault and vault.stop):
        if part:
            part()


def openssl(*words, **more):
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, **more)
    return done.returncode, done.stdout, done.stderr


def issued(reply):
    return stand.event(reply["request_id"], "issued")["facts"]


def serials():
    return vault.call("LIST", "pki/certs")["data"]["keys"]


class Pki(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = scratch("pki")
        cls.dir.mkdir()
        cls.root = cls.dir / "root.pem"
        cls.root.write_text(vault.call("GET", "pki/cert/ca")["data"]["certificate"])

    def verify(self, certificate):
        """As a server that reads Vault's list."""
        crl, file = self.dir / "crl.pem", self.dir / "leaf.pem"
        crl.write_text(vault.call("GET", "pki/cert/crl")["data"]["certificate"])
        file.write_text(certificate)
        code, _, said = openssl("verify", "-crl_check", "-purpose", "sslclient", "-CAfile", self.root,
                                "-CRLfile", crl, file)
        return code == 0, said

    def whole(self, scope):
        reply, got = stand.granted(scope, {"service": "web"})
        self.assertEqual(sorted(got), ["ca", "certificate", "private_key"])
        self.assertEqual(self.verify(got["certificate"]), (True, ""))
        leaf, key = self.dir / "leaf.pem", self.dir / "leaf.key"
        key.write_text(got["private_key"])
        self.assertEqual(openssl("x509", "-in", leaf, "-noout", "-pubkey")[1],
                         openssl("pkey", "-in", key, "-pubout")[1])
        text = openssl("x509", "-in", leaf, "-noout", "-text")[1]
        self.assertIn("DNS:web.internal.example, URI:spiffe://example.org/svc/web", text)
        self.assertNotIn("Server Authentication", text)
        if scope == "v.sign":
            # The role admits it: by this a lost one is found.
            self.assertIn(f"serialNumber = {reply['lease_id']}", text.replace("serialNumber=", "serialNumber = "))
        # In the same life as was granted.
        self.assertEqual(openssl("x509", "-in", leaf, "-noout", "-checkend", "901")[0], 1)
        self.assertTrue(stand.lease(reply["lease_id"])["revocable"])
        stand.nowhere(got["private_key"].splitlines()[1])
        code, out = stand.revoke(reply["lease_id"])
        self.assertEqual(code, 0, out)
        self.assertIn("Vault revoked serial number", out)
        ok, said = self.verify(got["certificate"])
        self.assertFalse(ok)
        self.assertIn("certificate revoked", said)
        return reply, got

    def test_05_signed_for_the_sidecars_key_used_and_revoked(self):
        reply, _ = self.whole("v.sign")
        self.assertEqual(issued(reply)["vault_role"], "pki/roles/mesh")

    def test_05_issued_with_a_key_of_vaults(self):
        _, got = self.whole("v.issue")
        self.assertNotIn("csr", got)

    def test_05_released_by_its_agent_its_serial_number_is_in_vaults_list(self):
        reply, got = stand.granted("v.sign", {"service": "released"})
        self.assertEqual(self.verify(got["certificate"]), (True, ""))
        done = stand.release(reply["request_id"])
        self.assertTrue(done["ended"], done)
        self.assertIn("certificate revoked", self.verify(got["certificate"])[1])
        serial = issued(reply)["serial"].replace(":", "").upper()
        listed = openssl("crl", "-in", self.dir / "crl.pem", "-noout", "-text")[1]
        self.assertIn(f"Serial Number: {serial}\n", listed)

    def test_04_a_role_that_takes_names_from_the_request_is_refused_before_anything_is_made(self):
        before = serials()
        request = stand.approved("v.careless", {"service": "web"})
        reply = stand.doors.get(request, wait="20s")
        self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)
        self.assertEqual(serials(), before)

    def test_05_a_name_that_the_role_does_not_allow_is_a_definite_refusal(self):
        vault.call("POST", "pki/roles/mesh", {
            "allowed_domains": "other.example", "allow_subdomains": True, "key_type": "any",
            "use_csr_common_name": False, "use_csr_sans": False, "server_flag": False})
        try:
            request = stand.approved("v.sign", {"service": "web"})
            reply = stand.doors.get(request, wait="20s")
            self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)
        finally:
            vault.call("POST", "pki/roles/mesh", {
                "allowed_domains": "internal.example", "allow_subdomains": True, "max_ttl": "1h",
                "key_type": "any", "allowed_uri_sans": "spiffe://example.org/svc/*", "server_flag": False,
                "use_csr_common_name": False, "use_csr_sans": False, "allowed_serial_numbers": "*"})

    def test_08_killed_before_and_after_the_mint(self):
        before = set(serials())
        request = stand.killed(proxy, "before", b"/v1/pki/sign/mesh", "v.sign", {"service": "before"})
        self.assertEqual(set(serials()), before)
        self.assertIn("Vault has no certificate of it", stand.event(request, "unknown")["detail"])
        request = stand.killed(proxy, "after", b"/v1/pki/sign/mesh", "v.sign", {"service": "after"},
                               lambda: set(serials()) - before)
        [left] = set(serials()) - before
        self.assertIn(f"Vault revoked serial number {left}", stand.event(request, "unknown")["detail"])
        self.assertGreater(self.revoked_at(left), 0)
        self.whole("v.sign")

    def test_08_a_lost_answer_of_a_role_that_admits_no_stamp_is_unknown(self):
        before = set(serials())
        request = stand.killed(proxy, "after", b"/v1/pki/issue/made", "v.issue", {"service": "after"},
                               lambda: set(serials()) - before)
        [left] = set(serials()) - before
        self.assertEqual(self.revoked_at(left), 0)
        self.assertNotIn("serial number", stand.event(request, "unknown")["detail"])

    @staticmethod
    def revoked_at(serial):
        found = vault.call("GET", f"pki/cert/{serial.replace(':', '-')}")
        return found["data"]["revocation_time"]


class Ssh(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not SSHD:
            raise unittest.SkipTest("no sshd here: apt-get install openssh-server")
        cls.dir = scratch("ssh")
        cls.dir.mkdir()
        os.chmod(cls.dir, 0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(cls.dir / "host")], check=True)
        (cls.dir / "ca.pub").write_text(vault.call("GET", "ssh/config/ca")["data"]["public_key"])
        (cls.dir / "principals").write_text("deploy\n")
        cls.server, cls.port = start_sshd(cls.dir, f"AuthorizedPrincipalsFile {cls.dir}/principals")

    @classmethod
    def tearDownClass(cls):
        if hasattr(cls, "server"):
            cls.server.kill()

    def login(self, got):
        key, certificate = self.dir / "key", self.dir / "key-cert.pub"
        key.touch(0o600)
        key.write_text(got["private_key"])
        certificate.write_text(got["ssh_certificate"] + "\n")
        user = os.environ.get("USER") or subprocess.check_output(["id", "-un"], text=True).strip()
        done = subprocess.run(
            ["ssh", "-F", "none", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i", str(key), "-o",
             f"CertificateFile={certificate}", "-o", "StrictHostKeyChecking=no", "-o",
             "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-p",
             str(self.port), f"{user}@127.0.0.1", "cat /etc/shadow"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout.strip(), done.stderr

    def test_05_signed_by_vault_runs_what_was_approved_and_says_that_it_cannot_be_revoked(self):
        reply, got = stand.granted("v.ssh", {"account": "deploy", "job": "rotate"})
        self.assertEqual(sorted(got), ["private_key", "ssh_certificate"])
        code, out, err = self.login(got)
        self.assertEqual((code, out), (0, "ran rotate"), err)
        said = self.server.log.read_text()
        self.assertIn(f"agent=demo-agent request={reply['request_id']} approvers=bob", said)
        # Said before anybody asks for its end, and by its end.
        self.assertFalse(reply["revocable"])
        self.assertFalse(stand.lease(reply["lease_id"])["revocable"])
        _, out = stand.revoke(reply["lease_id"])
        self.assertIn("cannot be recalled", out)
        self.assertEqual(self.login(got)[0], 0, "as was said")

    def test_05_another_principal_is_refused_at_sshd(self):
        _, got = stand.granted("v.ssh", {"account": "backup", "job": "rotate"})
        self.assertEqual(self.login(got)[0], 255)

    def test_04_a_role_that_adds_extensions_is_refused_before_anything_is_signed(self):
        request = stand.approved("v.careless-ssh", {"account": "deploy"})
        reply = stand.doors.get(request, wait="20s")
        self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)

    def test_08_killed_before_and_after_the_mint(self):
        for when in ("before", "after"):
            stand.killed(proxy, when, b"/v1/ssh/sign/deploy", "v.ssh", {"account": "deploy", "job": when})
        stand.granted("v.ssh", {"account": "deploy", "job": "again"})


class Transit(unittest.TestCase):
    def whole(self, scope, key, algorithm):
        import jwt
        reply, got = stand.granted(scope, {"dataset": "sales"})
        held = vault.call("GET", f"transit/keys/{key}")["data"]
        newest = held["keys"][str(held["latest_version"])]["public_key"]
        if algorithm == "EdDSA":
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
            newest = Ed25519PublicKey.from_public_bytes(base64.b64decode(newest))
        claims = jwt.decode(got["token"], newest, algorithms=[algorithm], audience=AUDIENCE, issuer=ISSUER)
        self.assertEqual((claims["params"], claims["request_id"], claims["approvers"]),
                         ({"dataset": "sales"}, reply["request_id"], ["bob"]))
        self.assertEqual(claims["exp"] - claims["iat"], 900)
        self.assertEqual(jwt.get_unverified_header(got["token"])["kid"], f"{key}-v{held['latest_version']}")
        self.assertFalse(stand.lease(reply["lease_id"])["revocable"])
        _, out = stand.revoke(reply["lease_id"])
        self.assertIn("cannot be recalled", out)

    def test_05_signed_by_a_key_that_never_leaves_vault(self):
        self.whole("v.token", "p256", "ES256")
        self.whole("v.token-ed", "ed", "EdDSA")

    def test_08_killed_before_and_after_the_mint(self):
        for when in ("before", "after"):
            stand.killed(proxy, when, b"/v1/transit/sign/p256", "v.token", {"dataset": when})
        self.whole("v.token", "p256", "ES256")


class Orphan(unittest.TestCase):
    """A child token whose answer was lost is found by its accessor."""

    def alive(self):
        """Child tokens of the broker's own that live."""
        found = []
        for accessor in vault.call("LIST", "auth/token/accessors")["data"]["keys"]:
            try:
                seen = vault.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
            except Refused:
                continue
            found += [seen["meta"]["request"]] if "lease" in (seen["meta"] or {}) else []
        return found

    def test_08_killed_before_and_after_the_mint_no_token_is_left(self):
        self.assertEqual(self.alive(), [])
        stand.killed(proxy, "before", b"/v1/auth/token/create", "v.child", {"what": "sales"})
        request = stand.killed(proxy, "after", b"/v1/auth/token/create", "v.child", {"what": "sales"}, self.alive)
        self.assertEqual(self.alive(), [], "found and revoked")
        self.assertIn("knows the token no more", stand.event(request, "unknown")["detail"])


if __name__ == "__main__":
    sys.exit("run tests/system/run authorities")
