"""Real other ends for the tools of agents: `git http-backend` behind an access check, a docker registry and a
Kubernetes API server over TLS, sshd. Each keeps what was shown to it."""

import base64
import json
import os
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness import Process, scratch, until
from peers.ports import free_port

SSHD = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd",) if Path(p).exists()), None)


def claims(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def serve(handler, tls=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def login(self):
        """User and token of HTTP Basic, if the token is the demo's."""
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic":
            return None
        user, _, token = base64.b64decode(given).decode().partition(":")
        return (user, token) if token.count(".") == 2 and claims(token)["scope"] else None

    def answer(self, status, body=b"", kind="text/plain", **headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class End:
    """`shown`: what came with each call that was let in, oldest first."""

    def __init__(self, handler, tls=None):
        self.shown = []
        handler.end = self
        self.server = serve(handler, tls)
        self.host = f"127.0.0.1:{self.server.server_port}"

    def last(self, user):
        """The token that this user showed last."""
        return next((token for name, token in reversed(self.shown) if name == user), None)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class GitHost(End):
    """`/app.git`: a clone and a push through `git http-backend`, which an access check stands before."""

    def __init__(self):
        root = scratch("git")
        root.mkdir()
        bare = root / "app.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", bare], check=True)
        subprocess.run(["git", "-C", bare, "config", "http.receivepack", "true"], check=True)

        class Handler(Quiet):
            def do_GET(self):
                login = self.login()
                if not login:
                    return self.answer(401, WWW_Authenticate='Basic realm="git"')
                self.end.shown.append(login)
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                env = {"GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
                       "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": login[0],
                       "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                       "CONTENT_LENGTH": str(len(body)), "PATH": os.environ["PATH"],
                       "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", "")}
                done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=env)
                head, _, text = done.stdout.partition(b"\r\n\r\n")
                fields = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n"))
                status = int(fields.pop("Status", "200").split()[0])
                self.answer(status, text, fields.pop("Content-Type", "text/plain"))

            do_POST = do_GET

        super().__init__(Handler)


def certificate():
    """(path of the certificate, a server's TLS): self-signed, for 127.0.0.1."""
    pem = scratch("pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", pem, "-out", f"{pem}.crt"], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{pem}.crt", pem)
    return f"{pem}.crt", tls


class Registry(End):
    """A docker registry with one image. The client takes any certificate of one that is said to be insecure."""

    MANIFEST = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2,
                   "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},
        "layers": []}).encode()

    def __init__(self):
        manifest = self.MANIFEST

        class Handler(Quiet):
            def do_GET(self):
                login = self.login()
                if not login:
                    return self.answer(401, WWW_Authenticate='Basic realm="registry"')
                self.end.shown.append(login)
                if "/manifests/" in self.path:
                    return self.answer(200, manifest, json.loads(manifest)["mediaType"])
                if "/blobs/" in self.path:
                    return self.answer(200, b"{}", "application/octet-stream")
                self.answer(200, b"{}", "application/json")

            do_HEAD = do_GET

        super().__init__(Handler, certificate()[1])


class Kubernetes(End):
    """An API server that checks the bearer token; whoever asks is named by the path, `/NAME`."""

    def __init__(self):
        self.certificate, tls = certificate()

        class Handler(Quiet):
            def do_GET(self):
                scheme, _, token = self.headers.get("Authorization", "").partition(" ")
                if scheme != "Bearer" or token.count(".") != 2 or not claims(token)["scope"]:
                    return self.answer(401, b'{"kind":"Status","code":401}', "application/json")
                self.end.shown.append((self.path.strip("/"), token))
                self.answer(200, b'{"major":"1","minor":"30","gitVersion":"v1.30.0"}', "application/json")

        super().__init__(Handler, tls)

    def config(self, command, arguments):
        """A kubeconfig whose user is an exec plugin; its path."""
        file = scratch("kubeconfig")
        file.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"https://{self.host}",
                                                   "certificate-authority": self.certificate}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"exec": {
                "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
                "command": str(command), "args": arguments}}}]}))
        return file


def start_sshd(home, *more):
    """A real sshd with the key `home`/host, which trusts certificates of `home`/ca.pub and no password or other
    key; `more`: further lines of its configuration. The process and its port."""
    port = free_port()
    lines = (f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {home}/host", "PidFile none",
             f"TrustedUserCAKeys {home}/ca.pub", "AuthorizedKeysFile none", "PasswordAuthentication no",
             "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "StrictModes no", "UsePAM no",
             "LogLevel VERBOSE", *more)
    (home / "config").write_text("\n".join(lines) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    process = Process([SSHD, "-D", "-e", "-f", home / "config"])
    until("sshd", 30, lambda: b"Server listening" in process.log.read_bytes())
    return process, port


class Sshd:
    """A real sshd that takes certificates of these authorities, for the principal `deploy`, and nothing else;
    what is revoked stands in `krl`, which may be replaced."""

    def __init__(self, authorities, krl=b""):
        home = self.home = scratch("sshd")
        home.mkdir(mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "host"], check=True)
        (home / "ca.pub").write_bytes(b"\n".join(authorities) + b"\n")
        (home / "principals").write_text("deploy\n")
        self.revoke(krl)
        self.process, self.port = start_sshd(home, f"RevokedKeys {home}/krl", f"AuthorizedPrincipalsFile {home}/principals",
                                             "MaxStartups 100")

    def revoke(self, krl):
        """As a timer of the server would: the list is replaced as one."""
        (self.home / "krl.part").write_bytes(krl)
        (self.home / "krl.part").rename(self.home / "krl")

    def command(self, *command):
        user = os.environ.get("USER") or subprocess.check_output(["id", "-un"], text=True).strip()
        return ["ssh", "-F", "none", "-p", str(self.port), "-o", "StrictHostKeyChecking=no", "-o",
                "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o",
                "ConnectTimeout=20", f"{user}@127.0.0.1", *command]

    def stop(self):
        self.process.kill()
