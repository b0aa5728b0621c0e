"""A demo whose broker gives way to one of our own configuration, on the same ports and store."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from harness import GRANTWRIGHT, Demo, Process, call, clean_env, scratch, until


def sidecar_of(demo, name, owner="alice"):
    """A folder for another agent's sidecar at the same broker."""
    operator = {"Authorization": f"Bearer {(demo.dir / 'operator.token').read_text()}"}
    home = scratch(name)
    home.mkdir()
    console = demo.env["GRANTWRIGHT_CONSOLE"]
    made = call(console, "POST", "/api/v1/agents", {
        "name": name, "owner": owner, "team": "data", "environment": "demo", "model": "demo", "model_version": "1"},
        operator)
    assert made.status in (200, 201, 409), made
    joined = call(console, "POST", f"/api/v1/agents/{name}/join", {}, operator)
    (home / "join.token").write_text(joined.json["join_token"])
    (home / "join.token").chmod(0o600)
    text = (demo.dir / "sidecar.toml").read_text()
    for key, value in (("trust_bundle", f"{demo.dir}/keys/ca.pem"), ("listen", "127.0.0.1:0"),
                       ("socket", f"{home}/s.sock")):
        text = re.sub(rf"(?m)^{key} = .*", f'{key} = "{value}"', text)
    (home / "sidecar.toml").write_text(text)
    return home


class Own:
    """`more`: TOML that is added to the broker's. `scopes`, `policy`: text that joins the demo's.
    `secrets`: files that the TOML names."""

    def __init__(self, more, scopes="", policy="", secrets=None, **env):
        self.demo = Demo(**env)
        self.dir = self.demo.dir
        self.console = self.demo.env["GRANTWRIGHT_CONSOLE"]
        self.demo.kill_broker()
        lines = []
        for line in (self.dir / "broker.toml").read_text().splitlines():
            if line.strip().startswith("grpc ="):
                line = f'grpc = "{urlsplit(self.demo.env["GRANTWRIGHT_BROKER"]).netloc}"'
            if line.strip().startswith("http ="):
                line = f'http = "127.0.0.1:{urlsplit(self.console).port}"'
            if line.strip().startswith("public_url"):
                line = f'public_url = "{self.console}"'
            lines.append(line)
        self.config = self.dir / "own.toml"
        self.config.write_text("\n".join(lines) + "\n" + more)
        self.config.chmod(0o600)
        for name, text in (secrets or {}).items():
            private(self.dir / name, text)
        self.broker = None
        self.start()
        if scopes:
            (self.dir / "scopes" / "own.toml").write_text(scopes)
            (self.dir / "policy" / "own.cedar").write_text(policy)
            self.apply()

    def apply(self):
        code, out, err = self.demo.cli("policy", "apply", self.dir, env=self.operator)
        assert code == 0, out + err

    @property
    def operator(self):
        return {"GRANTWRIGHT_HUMAN_TOKEN_FILE": str(self.dir / "operator.token")}

    def start(self):
        self.broker = Process([GRANTWRIGHT, "broker", "--config", self.config], env=clean_env())
        until("the broker", 60, self._ready)
        until("the sidecar's stream", 30, lambda: call(
            self.demo.env["GRANTWRIGHT_SIDECAR"], "GET", "/readyz").status == 200, 0.1)

    def _ready(self):
        if self.broker.code() is not None:
            raise AssertionError(self.broker.said())
        try:
            return call(self.console, "GET", "/readyz").status == 200
        except OSError:
            return False

    def kill(self):
        self.broker.kill()

    def restart(self):
        self.kill()
        self.start()

    def get(self, path, **more):
        reply = call(self.console, "GET", path, **more)
        assert reply.status == 200, reply
        return reply.body

    def granted(self, scope, params, **fields):
        reply = self.demo.doors.ask(scope, params, idempotency_key=self.demo.doors.fresh("k"), **fields)
        assert reply.status == 200, reply
        return reply.json

    def revoke(self, *words, person=None):
        code, said = self.demo.cli_json("revoke", *words, person=person or self.demo.alice)
        assert code == 0, said
        return said

    def release(self, request_id):
        """The agent is done with its credential, through its sidecar: what that did."""
        reply = self.demo.doors.call("POST", f"/v1/requests/{request_id}/release")
        assert (reply.status, reply.json.get("state")) == (200, "released"), reply
        return reply.json

    def end(self):
        self.kill()
        self.demo.__exit__()


def private(path, text):
    path = Path(path)
    path.write_text(text)
    path.chmod(0o600)
    return path
