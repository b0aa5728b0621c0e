"""The built-in issuers at the real other end: OpenSSH's sshd, OpenSSL, a Go server, PyJWT, Node's jose.

What was granted is taken, and refused after its end, under another name, and once it was ended early.
"""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
import unittest
import zlib
from pathlib import Path

from ends import SSHD, start_sshd
from harness import GRANTWRIGHT, ROOT, Process, call, clean_env, scratch, until
from peers.ports import free_port
from own import Own
from peers import node

AUDIENCE = "https://data.example.com"
SECRET = "0123456789abcdef0123456789abcdef"
MINTERS = """
[[minter]]
name = "ssh"
kind = "ssh"

[[minter]]
name = "x509"
kind = "x509"

[[introspection]]
client = "data-service"
secret_file = "data-service.secret"
audience = "https://data.example.com"

[[introspection]]
client = "other-service"
secret_file = "data-service.secret"
audience = "https://other.example.com"
"""
SCOPES = """
[[scope]]
name = "own.ssh"
title = "Run {job} as {account}"
minter = "ssh"
ttl = { default_s = 900, max_s = 900 }
params.key = { type = "public-key", format = "ssh" }
params.account = { type = "choice", values = ["backup", "deploy"] }
params.job = { type = "string", pattern = "[a-z][a-z0-9-]{0,31}" }
[scope.template]
public_key = "key"
principals = ["${account}"]
force_command = "/bin/echo ran ${job}"
source_address = ["127.0.0.0/8"]

[[scope]]
name = "own.ssh-elsewhere"
title = "Run from the data centre as {account}"
minter = "ssh"
params.key = { type = "public-key", format = "ssh" }
params.account = { type = "choice", values = ["deploy"] }
[scope.template]
public_key = "key"
principals = ["${account}"]
source_address = ["10.0.0.0/8"]

[[scope]]
name = "own.mesh"
title = "Call as {service}"
minter = "x509"
params.csr = { type = "public-key", format = "csr" }
params.service = { type = "string", pattern = "[a-z][a-z0-9-]{0,31}" }
[scope.template]
request = "csr"
dns = ["${service}.internal.example"]
uri = ["spiffe://example.org/svc/${service}"]

[[scope]]
name = "own.token"
title = "Read {dataset}"
minter = "jwt"
params.dataset = { type = "string", pattern = "[a-z][a-z0-9-]{0,31}" }
params.key = { type = "public-key", format = "jkt" }
[scope.template]
audience = "https://data.example.com"
claims = ["dataset"]
holder = "key"
status = true
"""
ASKED = ("own.ssh", "own.mesh")
# The same twice: with a name of their own they are for people to approve.
SCOPES += "".join("\n[[scope]]" + text.replace(f'"{name}"', f'"{name}-asked"')
                  for text in SCOPES.split("\n[[scope]]") for name in ASKED if f'name = "{name}"\n' in text)
POLICY = "".join(
    f'@id("{name}") @max_ttl("15m") permit (principal, action == Action::"issue", '
    f'resource == Scope::"{name}");\n'
    for name in ("own.ssh", "own.ssh-elsewhere", "own.mesh", "own.token"))
POLICY += "".join(
    f'@id("{name}-asked") @quorum("1") @approvers("reviewers") @strength("chat") @channels("console,api") '
    f'@max_ttl("15m") permit (principal, action == Action::"issueAfterApproval", '
    f'resource == Scope::"{name}-asked");\n' for name in ASKED)

own = None


def only_here(private):
    """The private half of the sidecar's key: in no file of broker or sidecar, not even in the log."""
    body = "".join(line for line in private.splitlines() if not line.startswith("-----"))
    # Where the seed stands, or the scalar: what is before and after is public.
    part = body[220:252] if "OPENSSH" in private else body[52:84]
    assert len(part) == 32, private
    for path in own.dir.rglob("*"):
        if path.is_file() and part.encode() in path.read_bytes().replace(b"\n", b""):
            raise AssertionError(f"{path} holds a private key")


def approved(scope, params):
    """Asked for with a key of its own, refused to its owner, approved by bob, collected."""
    reply = own.demo.doors.ask(scope, params, idempotency_key=own.demo.doors.fresh("k"))
    assert reply.status == 202, reply
    request = reply.json["request_id"]
    refused = own.demo.alice.approve(request)
    assert (refused.status, refused.code) == (403, "self_approval"), refused
    voted = own.demo.bob.approve(request)
    assert voted.status == 200, voted
    reply = own.demo.doors.get(request, wait="20s")
    assert (reply.status, reply.json["state"]) == (200, "granted"), reply
    kinds = [event["kind"] for event in own.demo.events(request)]
    assert kinds == ["requested", "decided", "voted", "decided", "intended", "issued"], kinds
    return reply.json


def execute(scope, params, *command):
    """`grantwright exec --files` at the demo's sidecar."""
    flags = [word for name, value in params.items() for word in ("--param", f"{name}={value}")]
    return subprocess.run(
        [str(GRANTWRIGHT), "exec", "--scope", scope, *flags, "--files", "--", *map(str, command)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=at_the_sidecar())


def at_the_sidecar(**more):
    return clean_env(GRANTWRIGHT_SIDECAR=own.demo.doors.tcp,
                     GRANTWRIGHT_TOKEN_FILE=own.demo.env["GRANTWRIGHT_TOKEN_FILE"], **more)


def setUpModule():
    global own
    own = Own(MINTERS, SCOPES, POLICY, secrets={"data-service.secret": SECRET})


def tearDownModule():
    if own:
        own.end()


class Ssh(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not SSHD:
            raise unittest.SkipTest("no sshd here: apt-get install openssh-server")
        cls.dir = scratch("ssh")
        cls.dir.mkdir()
        os.chmod(cls.dir, 0o700)
        for name in ("host", "agent"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f",
                            str(cls.dir / name)], check=True)
        (cls.dir / "ca.pub").write_bytes(own.get("/issuers/ssh/ca.pub"))
        (cls.dir / "principals").write_text("deploy\n")
        cls.fetch()
        cls.server, cls.port = start_sshd(cls.dir, f"RevokedKeys {cls.dir}/krl",
                                          f"AuthorizedPrincipalsFile {cls.dir}/principals", "MaxStartups 100")
        cls.key = (cls.dir / "agent.pub").read_text().strip()

    @classmethod
    def tearDownClass(cls):
        if hasattr(cls, "server"):
            cls.server.kill()

    @classmethod
    def fetch(cls):
        """As a timer of the server would: the list is replaced as one."""
        (cls.dir / "krl.part").write_bytes(own.get("/issuers/ssh/krl"))
        (cls.dir / "krl.part").rename(cls.dir / "krl")

    def grant(self, scope="own.ssh", **fields):
        params = {"key": self.key, "account": "deploy", **fields.pop("params", {})}
        if scope == "own.ssh":
            params.setdefault("job", own.demo.doors.fresh("job"))
        body = own.granted(scope, params, **fields)
        return body, body["credential"]["ssh_certificate"]

    def login(self, certificate, command="id", key=None):
        file = Path(str(scratch("cert")) + ".pub")
        file.parent.mkdir(exist_ok=True)
        file.write_text(certificate + "\n")
        user = os.environ.get("USER") or subprocess.check_output(["id", "-un"], text=True).strip()
        done = subprocess.run(
            ["ssh", "-F", "none", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
             "-i", str(key or self.dir / "agent"), "-o", f"CertificateFile={file}",
             "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
             "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-p", str(self.port),
             f"{user}@127.0.0.1", command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout.strip(), done.stderr

    def test_it_comes_in_and_runs_what_was_approved_and_nothing_else(self):
        body, certificate = self.grant(params={"job": "rotate-logs"})
        code, out, err = self.login(certificate, "cat /etc/shadow")
        self.assertEqual((code, out), (0, "ran rotate-logs"), err)
        # What the server's own log says of it joins our log.
        said = self.server.log.read_text()
        self.assertIn(f"agent=demo-agent request={body['request_id']}", said)

    def test_approved_by_a_person_used_renewed_and_revoked(self):
        params = {"key": self.key, "account": "deploy", "job": own.demo.doors.fresh("job")}
        # One approval is worth one certificate: a fresh one is asked for and approved anew.
        first, renewed = (approved("own.ssh-asked", params) for _ in range(2))
        self.assertNotEqual(first["request_id"], renewed["request_id"])
        of = lambda body: body["credential"]["ssh_certificate"]  # noqa: E731
        for body in (first, renewed):
            code, out, err = self.login(of(body), "cat /etc/shadow")
            self.assertEqual((code, out), (0, f"ran {params['job']}"), err)
            self.assertIn(f"agent=demo-agent request={body['request_id']} approvers=bob",
                          self.server.log.read_text())
        self.assertTrue(own.revoke(renewed["lease_id"])["ended"])
        self.fetch()
        self.assertEqual((self.login(of(renewed))[0], self.login(of(first))[0]), (255, 0))

    def test_a_key_that_was_left_out_is_the_sidecars_own(self):
        job = own.demo.doors.fresh("job")
        body = own.granted("own.ssh", {"account": "deploy", "job": job})
        got = body["credential"]
        self.assertEqual(sorted(got), ["private_key", "ssh_certificate"])
        key = self.dir / "sidecars"
        key.touch(0o600)
        key.write_text(got["private_key"])
        public = subprocess.run(["ssh-keygen", "-y", "-f", str(key)], capture_output=True, text=True)
        self.assertEqual(public.stdout.split()[:2], body["params"]["key"].split(), public.stderr)
        code, out, err = self.login(got["ssh_certificate"], key=key)
        self.assertEqual((code, out), (0, f"ran {job}"), err)
        only_here(got["private_key"])
        own.revoke(body["lease_id"])
        self.fetch()
        self.assertEqual(self.login(got["ssh_certificate"], key=key)[0], 255)

    def test_the_sidecars_own_key_logs_in_by_files_and_by_an_agents_socket(self):
        user = os.environ.get("USER") or subprocess.check_output(["id", "-un"], text=True).strip()
        ssh = (f"ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes "
               f"-o LogLevel=ERROR -o ConnectTimeout=10 -p {self.port}")
        job = own.demo.doors.fresh("job")
        by_files = (f'{ssh} -o IdentityAgent=none -o IdentitiesOnly=yes -i "$CREDENTIAL_DIR/private_key" '
                    f'-o CertificateFile="$CREDENTIAL_DIR/ssh_certificate" {user}@127.0.0.1 id')
        done = execute("own.ssh", {"account": "deploy", "job": job}, "sh", "-c", by_files)
        self.assertEqual((done.returncode, done.stdout.strip()), (0, f"ran {job}"), done.stderr)
        by_agent = [str(GRANTWRIGHT), "helper", "ssh-agent", "--sidecar-key", "--scope", "own.ssh", "--param",
                    "account=deploy", "--param", f"job={job}", "--", "sh", "-c", f"{ssh} {user}@127.0.0.1 id"]
        done = subprocess.run(by_agent, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                              env=at_the_sidecar())
        self.assertEqual((done.returncode, done.stdout.strip()), (0, f"ran {job}"), done.stderr)

    def test_it_is_refused_after_its_end(self):
        _, certificate = self.grant(ttl="4s")
        self.assertEqual(self.login(certificate)[0], 0)
        time.sleep(5)
        code, _, err = self.login(certificate)
        self.assertEqual(code, 255, err)
        self.assertIn("Certificate invalid: expired", self.server.log.read_text())

    def test_another_principal_and_another_address_are_refused(self):
        for scope, params in (("own.ssh", {"account": "backup"}), ("own.ssh-elsewhere", {})):
            _, certificate = self.grant(scope, params=params)
            code, out, _ = self.login(certificate)
            self.assertEqual((code, out), (255, ""), scope)

    def test_ended_early_it_is_refused_and_others_are_not_also_after_a_crash(self):
        body, ended = self.grant()
        _, other = self.grant()
        said = own.revoke(body["lease_id"])
        self.assertTrue(said["ended"], said)
        self.assertIn("/issuers/ssh/krl", said["effect"])
        for _ in range(2):
            self.fetch()
            self.assertEqual(self.login(ended)[0], 255)
            self.assertEqual(self.login(other)[0], 0)
            own.restart()

    def test_released_by_its_agent_it_is_refused(self):
        body, certificate = self.grant()
        self.assertTrue(own.release(body["request_id"])["ended"])
        self.fetch()
        self.assertEqual(self.login(certificate)[0], 255)

    def test_a_key_that_no_certificate_can_be_for_is_refused_at_the_ask(self):
        # The last one says 28 octets where 32 follow.
        for key in ("ssh-rsa AAAA", self.key + " me@host", self.key[:-4] + "!!!!",
                    self.key.replace("1lZDI1NTE5AAAAI", "1lZDI1NTE5AAAAH")):
            self.assertNotEqual(key, self.key)
            reply = own.demo.doors.ask("own.ssh", {"key": key, "account": "deploy", "job": "x"})
            self.assertEqual((reply.status, reply.code), (400, "bad_params"), (key, reply))


class X509(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = scratch("x509")
        cls.dir.mkdir()
        cls.run_openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out",
                        cls.dir / "key.pem")
        cls.run_openssl("req", "-new", "-key", cls.dir / "key.pem", "-subj", "/CN=root", "-outform",
                        "DER", "-out", cls.dir / "csr.der")
        cls.csr = base64.b64encode((cls.dir / "csr.der").read_bytes()).decode()
        (cls.dir / "ca.pem").write_bytes(own.get("/issuers/x509/ca.pem"))

    @classmethod
    def run_openssl(cls, *words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    def grant(self):
        body = own.granted("own.mesh", {"csr": self.csr, "service": own.demo.doors.fresh("svc")})
        return body, self.file(body)

    def file(self, body):
        file = self.dir / f"{body['lease_id']}.pem"
        file.write_text(body["credential"]["certificate"])
        self.assertEqual(body["credential"]["ca"], (self.dir / "ca.pem").read_text())
        return file

    def fetch(self):
        (self.dir / "crl.pem").write_bytes(own.get("/issuers/x509/crl.pem"))
        (self.dir / "crl.der").write_bytes(own.get("/issuers/x509/crl"))

    def verify(self, file):
        done = subprocess.run(["openssl", "verify", "-crl_check", "-purpose", "sslclient", "-CAfile",
                               str(self.dir / "ca.pem"), "-CRLfile", str(self.dir / "crl.pem"),
                               str(file)], capture_output=True, text=True)
        return done.returncode == 0, done.stderr

    def test_openssl_takes_it_until_it_ends_early(self):
        (body, ended), (_, other) = self.grant(), self.grant()
        self.fetch()
        self.assertEqual(self.verify(ended), (True, ""))
        text = subprocess.run(["openssl", "x509", "-in", str(ended), "-noout", "-text"],
                              capture_output=True, text=True).stdout
        self.assertIn("CN = demo-agent", text)
        self.assertNotIn("root", text)
        self.assertIn(f"{own.console}/issuers/x509/crl", text)
        own.revoke(body["lease_id"])
        self.fetch()
        ok, said = self.verify(ended)
        self.assertFalse(ok)
        self.assertIn("certificate revoked", said)
        self.assertEqual(self.verify(other), (True, ""))

    def test_approved_by_a_person_used_renewed_and_revoked(self):
        params = {"csr": self.csr, "service": own.demo.doors.fresh("svc")}
        first, renewed = ((body, self.file(body)) for body in
                          (approved("own.mesh-asked", params) for _ in range(2)))
        self.assertNotEqual(first[0]["request_id"], renewed[0]["request_id"])
        self.fetch()
        for _, file in (first, renewed):
            self.assertEqual(self.verify(file), (True, ""))
        self.assertTrue(own.revoke(renewed[0]["lease_id"])["ended"])
        self.fetch()
        self.assertIn("certificate revoked", self.verify(renewed[1])[1])
        self.assertEqual(self.verify(first[1]), (True, ""))

    def test_released_by_its_agent_openssl_refuses_it(self):
        body, file = self.grant()
        self.assertTrue(own.release(body["request_id"])["ended"])
        self.fetch()
        self.assertIn("certificate revoked", self.verify(file)[1])

    def test_a_go_server_takes_it_until_it_ends_early(self):
        if not shutil.which("go"):
            self.skipTest("no Go here")
        (body, ended), (_, other) = self.grant(), self.grant()
        self.fetch()
        port, process = self.go_server()
        try:
            self.assertEqual(self.go(port, ended), "hello demo-agent")
            own.revoke(body["lease_id"])
            self.fetch()
            self.assertEqual(self.go(port, ended), "")
            self.assertEqual(self.go(port, other), "hello demo-agent")
        finally:
            process.kill()

    def test_a_request_that_was_left_out_is_of_the_sidecars_own_key(self):
        params = {"service": own.demo.doors.fresh("svc")}
        body = own.granted("own.mesh", params)
        got = body["credential"]
        self.assertEqual(sorted(got), ["ca", "certificate", "private_key"])
        file, key = self.dir / "sidecars.pem", self.dir / "sidecars.key"
        file.write_text(got["certificate"])
        key.touch(0o600)
        key.write_text(got["private_key"])
        of = lambda *words: subprocess.run(["openssl", *map(str, words)], capture_output=True,  # noqa: E731
                                           text=True, check=True).stdout
        self.assertEqual(of("x509", "-in", file, "-noout", "-pubkey"), of("pkey", "-in", key, "-pubout"))
        self.fetch()
        self.assertEqual(self.verify(file), (True, ""))
        only_here(got["private_key"])
        # The same request again, so that an ask that repeats is identical, also after a crash.
        own.restart()
        again = own.granted("own.mesh", params)
        self.assertEqual(again["params"], body["params"])
        own.revoke(body["lease_id"])
        self.fetch()
        self.assertFalse(self.verify(file)[0])
        if not shutil.which("go"):
            return
        port, process = self.go_server()
        try:
            self.assertEqual(self.go(port, file, key), "")
            file.write_text(again["credential"]["certificate"])
            self.assertEqual(self.go(port, file, key), "hello demo-agent")
            files = 'curl -sk --cert "$CREDENTIAL_DIR/certificate" --key "$CREDENTIAL_DIR/private_key" '
            done = execute("own.mesh", params, "sh", "-c", f"{files} https://127.0.0.1:{port}/")
            self.assertEqual(done.stdout.strip(), "hello demo-agent", done.stderr)
        finally:
            process.kill()

    def go_server(self):
        server = self.dir / "server"
        built = subprocess.run(["go", "build", "-o", str(server), str(ROOT / "tests/peers/tls/main.go")],
                               capture_output=True, text=True, timeout=600,
                               env=dict(os.environ, GO111MODULE="off", CGO_ENABLED="0"))
        self.assertEqual(built.returncode, 0, built.stderr)
        self.run_openssl("req", "-x509", "-key", self.dir / "key.pem", "-subj", "/CN=server", "-days",
                         "1", "-out", self.dir / "server.pem")
        port = free_port()
        process = Process([server, f"127.0.0.1:{port}", self.dir / "server.pem", self.dir / "key.pem",
                           self.dir / "ca.pem", self.dir / "crl.der"])
        try:
            until("the Go server", 20, lambda: process.code() is None and _open(port))
        except BaseException:
            process.kill()
            raise
        return port, process

    def go(self, port, certificate, key=None):
        done = subprocess.run(["curl", "-sk", "--cert", str(certificate), "--key",
                               str(key or self.dir / "key.pem"), f"https://127.0.0.1:{port}/"],
                              capture_output=True, text=True, timeout=20)
        return done.stdout.strip()


def _open(port):
    import socket
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Token(unittest.TestCase):
    JWK = {"crv": "Ed25519", "kty": "OKP", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    JKT = b64(hashlib.sha256(json.dumps(JWK, separators=(",", ":")).encode()).digest())

    def grant(self):
        body = own.granted("own.token", {"dataset": own.demo.doors.fresh("set"), "key": self.JKT})
        return body, body["credential"]["token"]

    def introspect(self, token, client="data-service", secret=SECRET):
        basic = base64.b64encode(f"{client}:{secret}".encode()).decode()
        return call(own.console, "POST", "/introspect", raw=f"token={token}".encode(), headers={
            "Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"})

    def verify(self, token):
        """By discovery and the key set, with PyJWT."""
        import jwt
        found = json.loads(own.get("/.well-known/openid-configuration"))
        key = jwt.PyJWKClient(found["jwks_uri"]).get_signing_key_from_jwt(token)
        return jwt.decode(token, key.key, algorithms=found["id_token_signing_alg_values_supported"],
                          audience=AUDIENCE, issuer=found["issuer"])

    def bit(self, token):
        """The token's bit, read as the draft on status lists says; the list's own signature too."""
        import jwt
        place = self.verify(token)["status"]["status_list"]
        self.assertTrue(place["uri"].startswith(own.console), place)
        reply = call(own.console, "GET", place["uri"].removeprefix(own.console))
        self.assertEqual(reply.headers["content-type"], "application/statuslist+jwt")
        raw = reply.body.decode()
        self.assertEqual(jwt.get_unverified_header(raw)["typ"], "statuslist+jwt")
        key = jwt.PyJWKClient(f"{own.console}/jwks").get_signing_key_from_jwt(raw)
        claims = jwt.decode(raw, key.key, algorithms=["EdDSA", "ES256"])
        self.assertEqual(claims["sub"], place["uri"])
        bits = zlib.decompress(unb64(claims["status_list"]["lst"]))
        return bits[place["idx"] // 8] >> (place["idx"] % 8) & 1

    def test_pyjwt_takes_it_and_it_is_bound_to_audience_and_holder(self):
        import jwt
        body, token = self.grant()
        claims = self.verify(token)
        self.assertEqual((claims["aud"], claims["cnf"]), (AUDIENCE, {"jkt": self.JKT}))
        self.assertTrue(body["revocable"])
        with self.assertRaises(jwt.InvalidAudienceError):
            key = jwt.PyJWKClient(f"{own.console}/jwks").get_signing_key_from_jwt(token)
            jwt.decode(token, key.key, algorithms=["EdDSA"], audience="https://other.example.com")

    def test_a_key_that_was_left_out_is_the_sidecars_own(self):
        from cryptography.hazmat.primitives import serialization
        body = own.granted("own.token", {"dataset": own.demo.doors.fresh("set")})
        got = body["credential"]
        self.assertEqual(sorted(got), ["private_key", "token"])
        private = serialization.load_pem_private_key(got["private_key"].encode(), None)
        point = private.public_key().public_numbers()
        part = lambda n: b64(n.to_bytes(32, "big"))  # noqa: E731
        jwk = {"crv": "P-256", "kty": "EC", "x": part(point.x), "y": part(point.y)}
        jkt = b64(hashlib.sha256(json.dumps(jwk, separators=(",", ":")).encode()).digest())
        self.assertEqual(self.verify(got["token"])["cnf"], {"jkt": jkt})
        self.assertEqual(body["params"]["key"], jkt)
        only_here(got["private_key"])

    def test_nodes_jose_takes_it(self):
        missing = node.prepare(ROOT, print)
        if missing:
            self.skipTest(missing)
        _, token = self.grant()
        script = ROOT / "tests" / "peers" / "jose.mjs"
        done = subprocess.run(["node", str(script), str(node.folder(ROOT)), own.console, AUDIENCE],
                              input=token, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["cnf"]["jkt"], self.JKT)

    def test_ended_early_it_is_inactive_and_its_bit_is_set_also_after_a_crash(self):
        (body, ended), (_, other) = self.grant(), self.grant()
        for token in (ended, other):
            told = self.introspect(token).json
            self.assertEqual((told["active"], told["aud"], told["token_type"]), (True, AUDIENCE, "Bearer"))
            self.assertEqual(self.bit(token), 0)
        said = own.revoke(body["lease_id"])
        self.assertTrue(said["ended"], said)
        for _ in range(2):
            self.assertEqual(self.introspect(ended).json, {"active": False})
            self.assertEqual(self.introspect(other).json["active"], True)
            self.assertEqual((self.bit(ended), self.bit(other)), (1, 0))
            own.restart()

    def test_released_by_its_agent_it_is_inactive_and_its_bit_is_set(self):
        body, token = self.grant()
        self.assertTrue(own.release(body["request_id"])["ended"])
        self.assertEqual((self.introspect(token).json, self.bit(token)), ({"active": False}, 1))

    def test_a_service_is_told_of_its_own_audience_only_and_nobody_else_is_told(self):
        _, token = self.grant()
        self.assertEqual(self.introspect(token, "other-service").json, {"active": False})
        for client, secret in (("data-service", "x" * 32), ("nobody", SECRET), ("", "")):
            self.assertEqual(self.introspect(token, client, secret).status, 401)
        for junk in ("", "x", "a.b.c", token[:-2], token + "A"):
            reply = self.introspect(junk)
            self.assertEqual(reply.json, {"active": False}, junk)
        bare = call(own.console, "POST", "/introspect", raw=b"token=x")
        self.assertEqual(bare.status, 401)

    def test_keys_rotate_without_losing_a_token(self):
        import jwt
        kid = lambda token: jwt.get_unverified_header(token)["kid"]  # noqa: E731
        published = lambda: {k["kid"] for k in json.loads(own.get("/jwks"))["keys"]}  # noqa: E731

        def step(word, seen):
            code, out, err = own.demo.cli("authority", word, "--tokens", "--config", own.config)
            self.assertEqual(code, 0, out + err)
            os.kill(own.broker.pid, signal.SIGHUP)
            until(word, 10, seen, 0.05)
        before, (_, old) = published(), self.grant()
        step("prepare", lambda: len(published()) == len(before) * 2)
        _, still = self.grant()
        self.assertEqual(kid(still), kid(old), "published, and not signing yet")
        ahead = published()
        step("switch", lambda: kid(self.grant()[1]) != kid(old))
        _, new = self.grant()
        self.assertIn(kid(new), ahead - before)
        for token in (old, new):
            self.verify(token)
            self.assertTrue(self.introspect(token).json["active"])
        code, out, err = own.demo.cli("authority", "retire", "--tokens", "--config", own.config)
        self.assertEqual(code, 2, "retired while its tokens live")
        self.assertIn("may live for another", out + err)


if __name__ == "__main__":
    unittest.main()
