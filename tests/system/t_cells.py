"""Client by client and outcome by outcome: each cell of the table in docs/agents.md is a test of its own,
`test_CLIENT_OUTCOME`. A client is one try, as its tool makes it: a credential, or words that say why not."""

import base64
import json
import os
import signal
import subprocess
import unittest

from harness import GRANTWRIGHT, Demo, Process, alive, call, clean_env, scratch, until

demo = doors = short = None


def setUpModule():
    global demo, doors, short
    demo = Demo()
    doors = demo.doors
    short = Demo(GRANTWRIGHT_DEMO_PENDING_TTL="2s")


def tearDownModule():
    for it in (demo, short):
        it.__exit__()


class Client:
    """One try at one demo: (credential or None, words)."""

    def __init__(self, at):
        self.demo = at

    def env(self):
        names = ("GRANTWRIGHT_SIDECAR", "GRANTWRIGHT_TOKEN_FILE")
        return clean_env(HOME=scratch("home"), **{name: self.demo.env[name] for name in names})

    def run(self, *arguments, given="", env=None):
        done = subprocess.run([str(GRANTWRIGHT), *arguments], input=given, capture_output=True, text=True,
                              env=env or self.env(), timeout=60)
        return done.returncode, done.stdout, done.stdout + done.stderr

    @staticmethod
    def flags(scope, params):
        return ["--scope", scope, *(word for k, v in params.items() for word in ("--param", f"{k}={v}"))]

    def helpers_file(self, kind, host, scope, params):
        file = scratch("helpers")
        file.write_text(f'[[{kind}]]\nhost = "{host}"\nscope = "{scope}"\nparams = {{ '
                        + ", ".join(f"{k} = {json.dumps(v)}" for k, v in params.items()) + " }\n")
        return dict(self.env(), GRANTWRIGHT_HELPERS=str(file))


class Http(Client):
    def base(self):
        return self.demo.doors.tcp, {"Authorization": f"Bearer {self.demo.doors.token}"}

    def attempt(self, scope, params):
        base, headers = self.base()
        reply = call(base, "POST", "/v1/credentials", {"scope": scope, "params": params, "reason": "a cell"}, headers)
        granted = reply.json if reply.status == 200 and reply.json["state"] == "granted" else None
        return granted and granted["credential"]["token"], json.dumps(reply.json)


class Socket(Http):
    def base(self):
        return self.demo.doors.socket, {}


class Git(Client):
    def attempt(self, scope, params):
        code, out, words = self.run("helper", "git", *self.flags(scope, params), "--host", "git.example.org", "get",
                                    given="protocol=https\nhost=git.example.org\n\n")
        lines = dict(line.split("=", 1) for line in out.splitlines() if "=" in line) if code == 0 else {}
        return lines.get("password"), words


class GitByName(Client):
    def attempt(self, scope, params):
        env = self.helpers_file("git", "git.example.org", scope, params)
        code, out, words = self.run("helper", "git-credential", "get", env=env,
                                    given="protocol=https\nhost=git.example.org\n\n")
        lines = dict(line.split("=", 1) for line in out.splitlines() if "=" in line) if code == 0 else {}
        return lines.get("password"), words


class Docker(Client):
    def attempt(self, scope, params):
        env = self.helpers_file("docker", "registry.example.org", scope, params)
        code, out, words = self.run("helper", "docker", "get", env=env, given="registry.example.org\n")
        return json.loads(out)["Secret"] if code == 0 else None, words


class Kubectl(Client):
    def attempt(self, scope, params):
        code, out, words = self.run("helper", "kubectl", *self.flags(scope, params))
        return json.loads(out)["status"]["token"] if code == 0 else None, words


class McpStdio(Client):
    def attempt(self, scope, params):
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "_meta": meta, "name": "request_credential",
            "arguments": {"scope": scope, "params": params, "reason": "a cell"}}}
        _, out, _ = self.run("mcp", given=json.dumps(message) + "\n")
        result = json.loads(out)["result"]
        body = result["structuredContent"]
        return body.get("credential", {}).get("token"), result["content"][0]["text"] + json.dumps(body)


class McpHttp(Client):
    def attempt(self, scope, params):
        folder = scratch("mcp")
        folder.mkdir()
        server = Process([GRANTWRIGHT, "mcp", "--listen", "127.0.0.1:0", "--token-file", folder / "token",
                          "--ready-file", folder / "ready"], env=self.env())
        try:
            until("the server", 20, (folder / "ready").exists)
            base = json.loads((folder / "ready").read_text())["url"].removesuffix("/mcp")
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
                "name": "request_credential", "arguments": {"scope": scope, "params": params, "reason": "a cell"}}}
            reply = call(base, "POST", "/mcp", message,
                         {"Authorization": f"Bearer {(folder / 'token').read_text()}", "Accept": "application/json"})
        finally:
            server.term()
        result = reply.json["result"]
        body = result["structuredContent"]
        return body.get("credential", {}).get("token"), result["content"][0]["text"] + json.dumps(body)


CLIENTS = {"http": Http, "socket": Socket, "git": Git, "git_by_name": GitByName, "docker": Docker,
           "kubectl": Kubectl, "mcp_stdio": McpStdio, "mcp_http": McpHttp}


def claims(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def export():
    return {"dataset": doors.fresh(), "rows": 100}


def open_request(at, params):
    """The one that waits for these parameters; there is never a second."""
    found = [r["request_id"] for r in at.bob.pending() if r["params"] == params]
    assert len(found) == 1, found
    return found[0]


class Outcomes:
    """What is done to a client's tries, and what they must show."""

    def waits(self, client, params):
        token, words = client.attempt("demo.export", params)
        self.assertIsNone(token)
        request_id = open_request(client.demo, params)
        self.assertIn(request_id, words)
        return request_id

    def routine(self, client):
        params = {"dataset": doors.fresh()}
        token, words = client.attempt("demo.read", params)
        self.assertIsNotNone(token, words)
        self.assertEqual(client.attempt("demo.read", params)[0], token, "not from memory")

    def approved(self, client):
        params = export()
        request_id = self.waits(client, params)
        self.assertEqual(self.waits(client, params), request_id)
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        token, words = client.attempt("demo.export", params)
        self.assertIsNotNone(token, words)
        self.assertEqual(claims(token)["jti"][1:], request_id[1:])

    def denied(self, client):
        params = export()
        request_id = self.waits(client, params)
        self.assertEqual(demo.bob.deny(request_id, reason="not today").status, 200)
        token, words = client.attempt("demo.export", params)
        self.assertIsNone(token)
        self.assertIn("denied", words.lower())

    def question(self, client):
        params = export()
        request_id = self.waits(client, params)
        self.assertEqual(demo.bob.vote("ask", request_id, text="which quarter?").status, 200)
        token, words = client.attempt("demo.export", params)
        self.assertIsNone(token)
        self.assertIn("which quarter?", words)
        answered = doors.call("POST", f"/v1/requests/{request_id}/answer", {"text": "the second"})
        self.assertEqual(answered.status, 202, answered)
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        self.assertIsNotNone(client.attempt("demo.export", params)[0])

    def narrowed(self, client):
        params = export()
        request_id = self.waits(client, params)
        self.assertEqual(demo.bob.vote("narrow", request_id, params={"rows": 5}).status, 200)
        token, words = client.attempt("demo.export", params)
        self.assertIsNotNone(token, words)
        self.assertIn('"rows":5', json.dumps(claims(token), separators=(",", ":")))

    def expired(self, client):
        client = type(client)(short)
        params = export()
        first = self.waits(client, params)
        until("its end", 20, lambda: short.bob.request(first)["state"] == "expired", 0.1)
        # The first to meet it is told of its end; whoever asks then asks anew.
        _, words = client.attempt("demo.export", params)
        if first in words:
            self.assertIn("nobody decided in time", words)
            self.assertNotEqual(self.waits(client, params), first, "an ended request was met again")

    def revoked(self, client):
        params = {"dataset": doors.fresh()}
        token, words = client.attempt("demo.read", params)
        self.assertIsNotNone(token, words)
        code, _, said = demo.cli("revoke", claims(token)["jti"], person=demo.alice)
        self.assertIn(code, (0, 1), said)
        until("another credential", 10, lambda: client.attempt("demo.read", params)[0] != token, 0.2)

    def broker_away(self, client):
        params = {"dataset": doors.fresh()}
        token, _ = client.attempt("demo.read", params)
        pid = demo.broker_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            self.assertEqual(client.attempt("demo.read", params)[0], token, "memory does not serve")
        finally:
            os.kill(pid, signal.SIGCONT)


class Cells(Outcomes, unittest.TestCase):
    pass


def cell(client, outcome):
    def test(self):
        getattr(self, outcome)(CLIENTS[client](demo))
    return test


for _client in CLIENTS:
    for _outcome in ("routine", "approved", "denied", "question", "narrowed", "expired", "revoked", "broker_away"):
        setattr(Cells, f"test_{_client}_{_outcome}", cell(_client, _outcome))


class Away(unittest.TestCase):
    """The broker is gone, and what was never asked for says so in every tool's words."""

    def test_every_client_says_so(self):
        with Demo() as alone:
            pid = alone.broker_pid
            os.kill(pid, signal.SIGKILL)
            until("the broker is gone", 10, lambda: not alive(pid))
            for name, kind in CLIENTS.items():
                with self.subTest(client=name):
                    token, words = kind(alone).attempt("demo.read", {"dataset": doors.fresh()})
                    self.assertIsNone(token)
                    self.assertIn("broker cannot be reached", words.lower())
            # After so many nobody waits for it: calls fail at once, and the metric says why.
            text = call(alone.doors.tcp, "GET", "/metrics").body.decode()
            self.assertIn("grantwright_sidecar_circuit_open 1", text)


if __name__ == "__main__":
    unittest.main()
