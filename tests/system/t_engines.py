"""Vault's other engines and every way to log in, at a real Vault: child tokens that read KV secrets a few
times, sessions of AWS (moto behind the engine), identity tokens; AppRole, the broker's own OIDC identity,
TLS certificate, Kubernetes; answers wrapped on their way."""

import base64
import json
import subprocess
import sys
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from harness import ROOT, Process, call, scratch, secret, until
from peers import golang
from peers.ports import free_port
from peers.vault import Refused, Vault
from stand import Stand

stand = vault = tls = moto = reviews = None
MOTO = None
BROKER = """
path "auth/token/create/grantwright" { capabilities = ["update"] }
path "auth/token/roles/grantwright" { capabilities = ["read"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "aws/roles/*" { capabilities = ["read"] }
path "aws/sts/*" { capabilities = ["update"] }
path "identity/oidc/role/*" { capabilities = ["read"] }
path "identity/oidc/token/*" { capabilities = ["read"] }
"""
ROLE = "arn:aws:iam::123456789012:role/reader"


def scope(name, minter, template, ttl=900, pattern="[a-z][a-z0-9-]{0,20}"):
    return f"""
[[scope]]
name = "{name}"
title = "Use {{what}}"
minter = "{minter}"
ttl = {{ default_s = {ttl}, max_s = 3600 }}
params.what = {{ type = "string", pattern = "{pattern}", title = "What" }}
[scope.template]
{template}
"""


def token_scope(minter):
    return scope(f"t.{minter}", minter, 'policies = ["read-${what}"]\nrole = "grantwright"\nnum_uses = 3')


class Reviews(BaseHTTPRequestHandler):
    """The TokenReview of a Kubernetes API server, for one service account."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = asked["spec"]["token"] == self.server.token
        text = json.dumps({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": {
            "authenticated": good, "user": {"username": "system:serviceaccount:gw:broker", "uid": "u-1"},
        } if good else {"authenticated": False}}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def jwt_like(claims):
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
    return f'{part({"alg": "RS256"})}.{part(claims)}.c2ln'


def certificates():
    """An authority, a server's certificate for 127.0.0.1 and a client's."""
    folder = scratch("tls")
    folder.mkdir()

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
            "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority",
            "-addext", "basicConstraints=critical,CA:TRUE")
    for name, usage, more in (("server", "serverAuth", "\nsubjectAltName=IP:127.0.0.1"),
                              ("broker", "clientAuth", "")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "ext").write_text(f"extendedKeyUsage={usage}\nkeyUsage=digitalSignature{more}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "1", "-extfile", "ext", "-out", f"{name}.pem")
    (folder / "broker.key").chmod(0o600)
    return folder


def prepared(server):
    """Policies, a token role, a KV engine: what the token engine's scopes need."""
    server.call("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
    for name in ("sales", "hr"):
        until("the KV engine", 20, lambda: _put(server, name))
        server.call("PUT", f"sys/policies/acl/read-{name}", {
            "policy": f'path "kv/data/{name}" {{ capabilities = ["read"] }}'})
    server.call("PUT", "sys/policies/acl/broker", {"policy": BROKER})
    server.call("POST", "auth/token/roles/grantwright", {
        "allowed_policies_glob": ["read-*"], "orphan": False, "renewable": False})


def _put(server, name):
    try:
        return server.call("POST", f"kv/data/{name}", {"data": {"password": f"{name}-secret"}})
    except Refused:
        return None


def setUpModule():
    global stand, vault, tls, moto, reviews, MOTO
    missing = golang.prepare(ROOT, "vault", print)
    if missing:
        raise unittest.SkipTest(missing)
    port = free_port()
    MOTO = f"http://127.0.0.1:{port}"
    moto = Process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
    until("moto", 60, lambda: _up(port), 0.1)
    vault = Vault(ROOT, scratch("vault"))
    prepared(vault)
    vault.call("POST", "sys/auth/approle", {"type": "approle"})
    vault.call("POST", "auth/approle/role/broker", {
        "token_policies": ["broker"], "token_period": "1h", "token_no_default_policy": True})
    role_id = vault.call("GET", "auth/approle/role/broker/role-id")["data"]["role_id"]
    secret_id = vault.call("POST", "auth/approle/role/broker/secret-id", {})["data"]["secret_id"]
    approle = (f'[minter.login]\nmethod = "approle"\nrole_id_file = "{secret("role-id", role_id)}"\n'
               f'secret_id_file = "{secret("secret-id", secret_id)}"\n')
    vault.call("POST", "sys/mounts/aws", {"type": "aws"})
    vault.call("POST", "aws/config/root", {
        "access_key": "AKIAIOSFODNN7EXAMPLE", "secret_key": "secret", "region": "us-east-1",
        "iam_endpoint": MOTO, "sts_endpoint": MOTO})
    vault.call("POST", "aws/roles/reader", {"credential_type": "assumed_role", "role_arns": [ROLE]})
    vault.call("POST", "aws/roles/person", {"credential_type": "iam_user",
                                            "policy_arns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"]})
    vault.call("POST", "identity/oidc/key/k", {"algorithm": "ES256", "allowed_client_ids": ["*"]})
    for name, ttl in (("short", "10m"), ("long", "12h")):
        vault.call("POST", f"identity/oidc/role/{name}", {"key": "k", "ttl": ttl, "client_id": f"c-{name}"})

    reviews = ThreadingHTTPServer(("127.0.0.1", 0), Reviews)
    reviews.token = jwt_like({"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:gw:broker",
                              "kubernetes.io/serviceaccount/namespace": "gw",
                              "kubernetes.io/serviceaccount/service-account.name": "broker",
                              "kubernetes.io/serviceaccount/service-account.uid": "u-1"})
    threading.Thread(target=reviews.serve_forever, daemon=True).start()
    vault.call("POST", "sys/auth/kubernetes", {"type": "kubernetes"})
    vault.call("POST", "auth/kubernetes/config", {
        "kubernetes_host": f"http://127.0.0.1:{reviews.server_address[1]}", "disable_local_ca_jwt": True,
        "kubernetes_ca_cert": ""})
    vault.call("POST", "auth/kubernetes/role/broker", {
        "bound_service_account_names": "broker", "bound_service_account_namespaces": "gw",
        "token_policies": ["broker"], "token_no_default_policy": True})

    folder = certificates()
    tls = Vault(ROOT, scratch("vault-tls"), tls=(folder / "server.pem", folder / "server.key"))
    prepared(tls)
    tls.call("POST", "sys/auth/cert", {"type": "cert"})
    tls.call("POST", "auth/cert/certs/broker", {
        "certificate": (folder / "ca.pem").read_text(), "allowed_common_names": "broker",
        "token_policies": ["broker"], "token_no_default_policy": True})

    def minter(name, engine, login, address=None, more=""):
        return (f'\n[[minter]]\nname = "{name}"\nkind = "vault"\nengine = "{engine}"\n'
                f'address = "{address or vault.addr}"\n{more}{login}')
    stand = Stand([
        minter("wrapped", "token", approle, more="wrap = true\n"),
        minter("plain", "token", approle),
        minter("oidc", "token", '[minter.login]\nmethod = "jwt"\nrole = "broker"\naudience = "vault"\n'),
        minter("kube", "token", '[minter.login]\nmethod = "kubernetes"\nrole = "broker"\n'
                                f'token_file = "{secret("sa-token", reviews.token)}"\n'),
        minter("cert", "token", '[minter.login]\nmethod = "cert"\nrole = "broker"\n', address=tls.addr,
               more=f'ca_file = "{folder}/ca.pem"\ncertificate_file = "{folder}/broker.pem"\n'
                    f'key_file = "{folder}/broker.key"\n'),
        minter("vaws", "aws", approle), minter("vid", "identity", approle, more="wrap = true\n"),
    ], [*[token_scope(m) for m in TOKENS], scope("t.aws", "vaws", 'mount = "aws"\nrole = "${what}"'),
        scope("t.id", "vid", 'mount = "identity"\nrole = "${what}"')],
        asks=[*[f"t.{m}" for m in TOKENS], "t.aws", "t.id"])
    vault.call("POST", "sys/auth/jwt", {"type": "jwt"})
    vault.call("POST", "auth/jwt/config", {
        "oidc_discovery_url": stand.console, "bound_issuer": stand.console, "jwt_supported_algs": ["EdDSA"]})
    vault.call("POST", "auth/jwt/role/broker", {
        "role_type": "jwt", "bound_audiences": ["vault"], "bound_subject": f"{stand.console}/broker",
        "user_claim": "sub", "token_policies": ["broker"], "token_no_default_policy": True})


TOKENS = ("wrapped", "plain", "oidc", "kube", "cert")


def _up(port):
    try:
        return call(f"http://127.0.0.1:{port}", "GET", "/moto-api/").status == 200
    except OSError:
        return False


def tearDownModule():
    for part in (stand and stand.end, vault and vault.stop, tls and tls.stop, moto and moto.kill,
                 reviews and reviews.shutdown):
        if part:
            part()


def kv(token, name="sales", server=None):
    """Status, and the secret's password."""
    try:
        found = (server or vault).call("GET", f"kv/data/{name}", token=token)
        return 200, found["data"]["data"]["password"]
    except Refused as fault:
        return fault.status, None


class Tokens(unittest.TestCase):
    def whole(self, minter, server=None):
        reply, got = stand.granted(f"t.{minter}", {"what": "sales"})
        self.assertEqual(sorted(got), ["token"])
        self.assertEqual(kv(got["token"], server=server), (200, "sales-secret"))
        self.assertEqual(kv(got["token"], "hr", server)[0], 403)
        return reply, got["token"]

    def test_05_by_approle_with_wrapped_answers_used_three_times(self):
        reply, token = self.whole("wrapped")
        self.assertEqual(kv(token)[0], 200)
        self.assertEqual(kv(token)[0], 403, "three uses, one of them refused by policy")
        facts = stand.event(reply["request_id"], "issued")["facts"]
        self.assertEqual(facts["vault_policies"], "read-sales")
        stand.nowhere(token)

    def test_05_a_revoked_token_is_refused_at_vault(self):
        reply, token = self.whole("plain")
        accessor = stand.event(reply["request_id"], "issued")["facts"]["vault_accessor"]
        seen = vault.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
        self.assertEqual((seen["policies"], seen["meta"]["agent"], seen["meta"]["approvers"]),
                         (["read-sales"], "demo-agent", "bob"))
        self.assertEqual((seen["explicit_max_ttl"], seen["renewable"]), (900, False))
        code, out = stand.revoke(reply["lease_id"])
        self.assertEqual(code, 0, out)
        self.assertIn("knows the token no more", out)
        self.assertEqual(kv(token)[0], 403)
        self.assertFalse(stand.event(reply["request_id"], "revoked").get("still_valid", False))

    def test_05_a_released_token_is_refused_at_vault(self):
        reply, token = self.whole("plain")
        done = stand.release(reply["request_id"])
        self.assertEqual((done["ended"], done["effect"]), (True, "Vault knows the token no more"))
        self.assertEqual(kv(token)[0], 403)

    def test_the_brokers_own_oidc_identity_logs_in(self):
        self.whole("oidc")

    def test_kubernetes_logs_in(self):
        self.whole("kube")

    def test_a_certificate_logs_in(self):
        self.whole("cert", tls)

    def test_a_lost_login_is_replaced(self):
        reply, _ = self.whole("plain")
        accessor = stand.event(reply["request_id"], "issued")["facts"]["vault_accessor"]
        for held in vault.call("LIST", "auth/token/accessors")["data"]["keys"]:
            try:
                seen = vault.call("POST", "auth/token/lookup-accessor", {"accessor": held})["data"]
            except Refused:
                continue
            if seen["path"] == "auth/approle/login":
                vault.call("POST", "auth/token/revoke-accessor", {"accessor": held})
        # Children end with their parent, and the broker logs in anew.
        with self.assertRaises(Refused):
            vault.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})
        self.whole("plain")
        self.whole("wrapped")


class Aws(unittest.TestCase):
    def test_05_a_session_named_after_the_request_that_is_said_not_to_be_recalled(self):
        reply, got = stand.granted("t.aws", {"what": "reader"})
        self.assertEqual(sorted(got), ["AccessKeyId", "Expiration", "SecretAccessKey", "SessionToken"])
        sts = boto3.client("sts", endpoint_url=MOTO, region_name="us-east-1",
                           aws_access_key_id=got["AccessKeyId"], aws_secret_access_key=got["SecretAccessKey"],
                           aws_session_token=got["SessionToken"])
        arn = sts.get_caller_identity()["Arn"]
        self.assertTrue(arn.endswith(f"assumed-role/reader/{reply['request_id']}"), arn)
        self.assertFalse(stand.lease(reply["lease_id"])["revocable"])
        _, out = stand.revoke(reply["lease_id"])
        self.assertIn("AWS accepts the session", out)

    def test_04_a_role_that_makes_users_is_refused_before_anything_is_made(self):
        request = stand.approved("t.aws", {"what": "person"})
        reply = stand.doors.get(request, wait="20s")
        self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)
        self.assertIn("IAM users", reply.json["detail"])
        users = boto3.client("iam", endpoint_url=MOTO, region_name="us-east-1", aws_access_key_id="a",
                             aws_secret_access_key="b").list_users()["Users"]
        self.assertEqual(users, [])


class Identity(unittest.TestCase):
    def test_05_for_one_client_and_no_longer_than_granted(self):
        _, got = stand.granted("t.id", {"what": "short"})
        body = got["token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        self.assertEqual((claims["aud"], claims["exp"] - claims["iat"]), ("c-short", 600))
        checked = vault.call("POST", "identity/oidc/introspect", {"token": got["token"], "client_id": "c-short"})
        self.assertTrue(checked["active"])

    def test_05_a_role_whose_tokens_live_longer_is_refused(self):
        request = stand.approved("t.id", {"what": "long"})
        reply = stand.doors.get(request, wait="20s")
        self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)
        self.assertIn("live longer", reply.json["detail"])


class Used(unittest.TestCase):
    def test_vaults_own_audit_log_tells_what_was_done_with_a_token(self):
        """Accessors are hashed in it, unless its device says otherwise: then the metadata tells whose it was."""
        folder, devices = scratch("audited"), {"hashed": {}, "plain": {"hmac_accessor": "false"}}
        folder.mkdir()
        made = []
        for name, more in devices.items():
            options = {"file_path": str(folder / name), **more}
            vault.call("PUT", f"sys/audit/{name}", {"type": "file", "options": options})
        try:
            for minter in ("plain", "wrapped"):
                reply, got = stand.granted(f"t.{minter}", {"what": "sales"})
                self.assertEqual((kv(got["token"])[0], kv(got["token"], "hr")[0]), (200, 403))
                made.append(reply["request_id"])
        finally:
            for name in devices:
                vault.call("DELETE", f"sys/audit/{name}")
        for name in devices:
            code, told = stand.demo.cli_json("reconcile", "vault", folder / name)
            self.assertEqual((code, told["findings"], told["malformed"]), (0, [], 0), told)
            views = {view["request_id"]: view for view in told["leases"]}
            for request in made:
                used = views[request]["used"]
                self.assertEqual((views[request]["state"], used["minted"], used["calls"], used["refused"]),
                                 ("used", True, 1, 1), f"{name}: {used}")


if __name__ == "__main__":
    sys.exit("run tests/system/run engines")
