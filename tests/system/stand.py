"""A demo whose own broker gave way to one that knows more backends, on the same ports; and a proxy that
stops at a chosen byte, so that a broker can be killed before or after a mint."""

import socket
import threading
from urllib.parse import urlsplit

from harness import GRANTWRIGHT, Demo, Process, call, clean_env, until


class Stand:
    """`minters`: texts of `[[minter]]`. `scopes`: texts of `[[scope]]`. `asks`: names of the scopes that
    need one reviewer; `routine`: those that need nobody."""

    def __init__(self, minters, scopes, asks=(), routine=(), own="", **env):
        self.demo = Demo(**env)
        self.doors = self.demo.doors
        self.console = self.demo.env["GRANTWRIGHT_CONSOLE"]
        self.demo.kill_broker()
        text = (self.demo.dir / "broker.toml").read_text()
        lines = []
        for line in text.splitlines():
            name = line.split("=")[0].strip()
            line = {
                "grpc": f'grpc = "{urlsplit(self.demo.env["GRANTWRIGHT_BROKER"]).netloc}"',
                "http": f'http = "127.0.0.1:{urlsplit(self.console).port}"',
                "public_url": f'public_url = "{self.console}"',
            }.get(name, line)
            lines.append(line)
        self.config = self.demo.dir / "more.toml"
        self.config.write_text(own + "\n".join(lines) + "\n" + "\n".join(minters) + "\n")
        self.config.chmod(0o600)
        self.start()
        if scopes:
            self.apply(scopes, asks, routine)

    def apply(self, scopes, asks=(), routine=()):
        (self.demo.dir / "scopes" / "more.toml").write_text("\n".join(scopes))
        rules = [f'@id("{name}-asks") @quorum("1") @approvers("reviewers") @strength("chat") '
                 f'@channels("console,api") @max_ttl("12h") @reason("a person looks at it")\n'
                 f'permit (principal, action == Action::"issueAfterApproval", resource == Scope::"{name}");'
                 for name in asks]
        rules += [f'@id("{name}-routine") @max_ttl("12h") @reason("routine")\n'
                  f'permit (principal, action == Action::"issue", resource == Scope::"{name}");'
                  for name in routine]
        (self.demo.dir / "policy" / "more.cedar").write_text("\n".join(rules))
        code, out, err = self.demo.cli("policy", "apply", self.demo.dir, env={
            "GRANTWRIGHT_HUMAN_TOKEN_FILE": str(self.demo.dir / "operator.token")})
        if code != 0:
            raise AssertionError(out + err)

    def start(self):
        self.broker = Process([GRANTWRIGHT, "broker", "--config", self.config], env=clean_env())
        until("the broker with more backends", 30, self._ready)

    def _ready(self):
        if self.broker.code() is not None:
            raise AssertionError(self.broker.said())
        try:
            return call(self.console, "GET", "/readyz").status == 200
        except OSError:
            return False

    def kill(self):
        self.broker.kill()

    def ask(self, scope, params, **fields):
        fields.setdefault("idempotency_key", self.doors.fresh("k"))
        return self.doors.ask(scope, params, **fields)

    def approved(self, scope, params, **fields):
        """Asked, approved by bob; the request's id, not collected yet."""
        reply = self.ask(scope, params, **fields)
        assert reply.status == 202, reply
        voted = self.demo.bob.approve(reply.json["request_id"])
        assert voted.status == 200, voted
        return reply.json["request_id"]

    def granted(self, scope, params, **fields):
        """Asked, approved, collected: the whole reply, and the credential in it."""
        reply = self.doors.get(self.approved(scope, params, **fields), wait="20s")
        assert reply.status == 200 and reply.json["state"] == "granted", reply
        return reply.json, reply.json["credential"]

    def killed(self, proxy, when, marker, scope, params, made=None):
        """Asked and approved; the broker is killed (SIGKILL) while the call with `marker` is under way, "before" or
        "after" the backend had it, and comes back. The request, whose outcome is unknown and stays so."""
        request = self.approved(scope, params)
        proxy.stop(when, marker)
        threading.Thread(target=self._collect, args=(request,), daemon=True).start()
        assert proxy.met.wait(20), "the mint was never tried"
        if made:
            until("it was made", 20, made)
        assert self.kinds(request)[-1] == "intended", self.kinds(request)
        self.kill()
        self.start()
        reply = self.doors.get(request, wait="20s")
        assert (reply.json.get("state"), self.kinds(request)[-1]) == ("unknown", "unknown"), reply
        # Spent, and said so: it is never minted by asking again.
        assert self.kinds(request).count("intended") == 1
        return request

    def _collect(self, request):
        try:
            self.doors.get(request, wait="20s", timeout=60)
        except OSError:
            pass

    def kinds(self, request_id):
        return [e["kind"] for e in self.demo.events(request_id)]

    def event(self, request_id, kind):
        return next(e for e in self.demo.events(request_id) if e["kind"] == kind)

    def revoke(self, lease):
        """(exit code, output) of `grantwright revoke`."""
        code, out, err = self.demo.cli("revoke", lease, person=self.demo.alice)
        return code, out + err

    def release(self, request_id):
        """The agent is done with its credential, through its sidecar: what that did."""
        reply = self.doors.call("POST", f"/v1/requests/{request_id}/release")
        assert (reply.status, reply.json.get("state")) == (200, "released"), reply
        assert self.event(request_id, "revoked")["by"] == "agent"
        return reply.json

    def lease(self, lease_id):
        _, listed = self.demo.cli_json("lease", "list", person=self.demo.alice)
        return next(x for x in listed["leases"] if x["lease_id"] == lease_id)

    def nowhere(self, secret):
        """SECURITY 21: no file of the folder, and no line of the broker, holds it."""
        for path in self.demo.dir.rglob("*"):
            if path.is_file() and not path.is_socket() and secret.encode() in path.read_bytes():
                raise AssertionError(f"{path} holds a minted secret")
        if secret in self.broker.said():
            raise AssertionError("the broker's log holds a minted secret")

    def end(self):
        if self.broker.code() is None:
            self.broker.term()
        self.demo.__exit__()


class Proxy:
    """Passes bytes on to a port, until armed: then the message that holds `marker` stops there.

    `stop("before", b"…")`: it never reaches the server. `stop("after", b"…")`: it does, and its answer
    nobody."""

    def __init__(self, port):
        self.to = port
        self.armed = None
        self.met = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self, when, marker):
        self.met.clear()
        self.armed = (when, marker)

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                client.close()
                continue
            held = threading.Event()
            for source, target, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, target, up, held),
                                 daemon=True).start()

    def _pump(self, source, target, up, held):
        try:
            while data := source.recv(65536):
                if up and self.armed and self.armed[1] in data:
                    when, self.armed = self.armed[0], None
                    held.set()
                    if when == "after":
                        target.sendall(data)
                    self.met.set()
                    continue
                if not held.is_set():
                    target.sendall(data)
        except OSError:
            pass
        # Who sent what is held learns nothing, not even that the server has done with it.
        if held.is_set() and not up:
            return
        for end in (source, target):
            try:
                end.close()
            except OSError:
                pass

    def close(self):
        self.listener.close()
