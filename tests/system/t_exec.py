"""`grantwright exec` and the helpers: a credential for one command, which ends with it; and for git and
kubectl, as they are."""

import base64
import json
import os
import shutil
import signal
import ssl
import stat
import subprocess
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ends import Quiet, serve
from harness import GRANTWRIGHT, Demo, Process, clean_env, scratch, until

demo = doors = None


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


def agent():
    """What an agent's shell has."""
    return clean_env(GRANTWRIGHT_SIDECAR=doors.tcp,
                     GRANTWRIGHT_TOKEN_FILE=demo.env["GRANTWRIGHT_TOKEN_FILE"])


def command(*arguments, scope="demo.read", more=()):
    params = [f"dataset={doors.fresh()}"] + (["rows=3"] if scope == "demo.export" else [])
    flags = [word for param in params for word in ("--param", param)]
    return [str(GRANTWRIGHT), "exec", "--scope", scope, *flags, *more, "--", *arguments]


def execute(*arguments, **more):
    done = subprocess.run(command(*arguments, **more), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, env=agent(), timeout=60)
    return done.returncode, done.stdout, done.stderr


def claims(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


class Exec(unittest.TestCase):
    def test_the_command_has_it_in_its_environment_and_nobody_else(self):
        mark = scratch("mark")
        process = Process(command("sh", "-c", f'printf %s "$CREDENTIAL_TOKEN" > {mark}; exec sleep 60'),
                          env=agent())
        try:
            token = until("the command", 20, lambda: mark.exists() and mark.read_text())
            self.assertEqual(claims(token)["scope"], "demo.read")
            for what in ("environ", "cmdline"):
                seen = Path(f"/proc/{process.pid}/{what}").read_bytes()
                self.assertNotIn(token.encode(), seen, what)
            child = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
            self.assertNotIn(token.encode(), Path(f"/proc/{child}/cmdline").read_bytes())
        finally:
            process.term()

    def test_exit_codes_and_signals_pass_through(self):
        self.assertEqual(execute("sh", "-c", "exit 7")[0], 7)
        self.assertEqual(execute("sh", "-c", "kill -9 $$")[0], 128 + 9)
        self.assertEqual(execute("/no/such/command")[0], 127)
        self.assertEqual(execute("/etc/passwd")[0], 126)
        for told, code in ((signal.SIGTERM, 41), (signal.SIGUSR1, 42), (signal.SIGINT, 43)):
            mark = scratch("mark")
            script = ('trap "exit 41" TERM; trap "exit 42" USR1; trap "exit 43" INT; '
                      f': > {mark}; while :; do sleep 0.05; done')
            process = Process(command("sh", "-c", script), env=agent())
            until("the command", 20, mark.exists)
            os.kill(process.pid, told)
            self.assertEqual(process.wait(), code, process.said())

    def test_input_and_output_are_the_commands_own(self):
        done = subprocess.run(command("cat"), input="a\n", capture_output=True, text=True, env=agent(),
                              timeout=60)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "a\n", ""))

    def test_each_run_has_its_own_and_it_ends_with_the_command(self):
        script = 'echo "$CREDENTIAL_TOKEN"'
        param = f"dataset={doors.fresh()}"
        line = [str(GRANTWRIGHT), "exec", "--scope", "demo.read", "--param", param, "--", "sh", "-c", script]
        ids = set()
        for _ in range(2):
            done = subprocess.run(line, capture_output=True, text=True, env=agent(), timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            ids.add(claims(done.stdout.strip())["jti"])
        self.assertEqual(len(ids), 2)
        for lease_id in ids:
            reply = doors.get("r" + lease_id[1:])
            self.assertNotEqual(reply.status, 404, reply)
            self.assertFalse(reply.status == 200 and reply.json["state"] == "granted", reply)

    def test_it_waits_for_people_and_says_so(self):
        process = Process(command("sh", "-c", 'test -n "$CREDENTIAL_TOKEN" && echo ran',
                                  scope="demo.export", more=("--reason", "a nightly report")), env=agent())
        said = until("a word", 20, process.log.read_text)
        self.assertIn("waits for 1 approval", said)
        request_id = said.split()[1]
        self.assertIn(f"/requests/{request_id}", said)
        self.assertEqual(demo.bob.request(request_id)["reason"], "a nightly report")
        # Asked back: the question is shown, and its answer leads on.
        asked = demo.bob.vote("ask", request_id, text="which night?")
        self.assertEqual(asked.status, 200, asked)
        until("the question", 45, lambda: "which night?" in process.log.read_text())
        answered = doors.call("POST", f"/v1/requests/{request_id}/answer", {"text": "every"})
        self.assertIn(answered.status, (200, 202), answered)
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        self.assertEqual(process.wait(40), 0, process.said())
        self.assertEqual(process.out.read_text(), "ran\n")

    def test_a_denial_runs_nothing(self):
        mark = scratch("mark")
        process = Process(command("touch", str(mark), scope="demo.export"), env=agent())
        request_id = until("a word", 20, process.log.read_text).split()[1]
        self.assertEqual(demo.bob.deny(request_id, reason="not tonight").status, 200)
        self.assertEqual(process.wait(40), 1)
        self.assertIn("not tonight", process.log.read_text())
        self.assertFalse(mark.exists())

    def test_who_stops_waiting_leaves_nothing_open(self):
        process = Process(command("true", scope="demo.export"), env=agent())
        request_id = until("a word", 20, process.log.read_text).split()[1]
        self.assertEqual(process.term(), 128 + 15)
        self.assertEqual(demo.bob.request(request_id)["state"], "cancelled")
        code, _, said = execute("true", scope="demo.export", more=("--timeout", "1s"))
        self.assertEqual(code, 2, said)
        self.assertEqual(demo.bob.request(said.split()[1])["state"], "cancelled")

    def test_files_are_private_renewed_in_place_and_gone_at_the_end(self):
        mark = scratch("mark")
        script = f'echo "$CREDENTIAL_DIR" > {mark}.tmp; mv {mark}.tmp {mark}; exec sleep 60'
        process = Process(command("sh", "-c", script, more=("--files", "--ttl", "9s")), env=agent())
        try:
            folder = Path(until("the command", 20, lambda: mark.exists() and mark.read_text().strip()))
            token = folder / "token"
            self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o700)
            for file in folder.iterdir():
                self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600, file)
            first = token.read_text()
            until("another token", 30, lambda: token.read_text() != first)
            self.assertNotEqual(claims(token.read_text())["jti"], claims(first)["jti"])
            whole = json.loads((folder / "credential.json").read_text())
            self.assertEqual(whole["credential"]["token"], token.read_text())
        finally:
            process.term()
        self.assertFalse(folder.exists())

    def test_named_variables_and_what_is_wrong_with_others(self):
        code, out, _ = execute("sh", "-c", 'echo "${#MINE}-$CREDENTIAL_TOKEN"', more=("--env", "MINE=token"))
        self.assertEqual(code, 0)
        self.assertRegex(out, r"^[1-9]\d+-\n$")
        code, _, said = execute("true", more=("--env", "MINE=password"))
        self.assertEqual(code, 2)
        self.assertIn("has no part `password`: it has token", said)
        for wrong in (("--env", "1X=token"), ("--param", "dataset"), ("--param", "dataset=twice"),
                      ("--timeout", "soon")):
            self.assertEqual(execute("true", more=wrong)[0], 2, wrong)
        code, _, said = execute("true", scope="demo.nothing")
        self.assertEqual(code, 1)
        self.assertIn("unknown_scope", said)


class Renewal(unittest.TestCase):
    """A sidecar of the test's own hears what is asked for: people approve r1, and never decide on r2."""

    def setUp(self):
        calls, keys = self.calls, self.keys = [], []

        class Sidecar(Quiet):
            def said(self, status, **body):
                try:
                    self.answer(status, json.dumps(body).encode(), "application/json")
                except OSError:
                    self.close_connection = True  # Whoever asked has ended.

            def pending(self, name):
                self.said(202, state="pending", request_id=name, needs={"votes": 1, "have": 0})

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                calls.append(("POST", self.path))
                if self.path != "/v1/credentials":
                    return self.said(200, state="released")
                keys.append(json.loads(body)["idempotency_key"])
                self.pending(f"r{len(keys)}")

            def do_GET(self):
                name = self.path.partition("?")[0].rpartition("/")[2]
                calls.append(("GET", name))
                if name != "r1":
                    time.sleep(0.2)
                    return self.pending(name)
                ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 6))
                self.said(200, state="granted", request_id=name, expires_at=ends, credential={"token": "one"})

            def do_DELETE(self):
                calls.append(("DELETE", self.path))
                self.said(200, state="cancelled", request_id=self.path.rpartition("/")[2])

        self.server = serve(Sidecar)
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        token = scratch("token")
        token.write_text("x" * 64)
        self.env = clean_env(GRANTWRIGHT_SIDECAR=f"http://127.0.0.1:{self.server.server_port}",
                             GRANTWRIGHT_TOKEN_FILE=token)

    def test_the_next_one_is_one_ask_of_its_own_and_nothing_stays_open_or_lies_about(self):
        mark = scratch("mark")
        script = f'echo "$CREDENTIAL_DIR" > {mark}.tmp; mv {mark}.tmp {mark}; exec sleep 120'
        process = Process(command("sh", "-c", script, scope="demo.export", more=("--files",)), env=self.env)
        try:
            folder = Path(until("the command", 30, lambda: mark.exists() and mark.read_text().strip()))
            until("a look at what was asked next", 30, lambda: ("GET", "r2") in self.calls)
            # While people decide, what has expired does not stay.
            until("the end of the first", 30, lambda: not (folder / "token").exists(), 0.1)
        finally:
            code = process.term()
        self.assertEqual(code, 128 + 15, process.said())
        self.assertEqual(self.calls.count(("GET", "r1")), 1, "the old one was asked for again")
        self.assertEqual((len(self.keys), len(set(self.keys))), (2, 2), self.keys)
        # The command has ended: nobody waits for the second, nor needs the first.
        for ending in (("DELETE", "/v1/requests/r2"), ("POST", "/v1/requests/r1/release")):
            self.assertIn(ending, self.calls)


class Bearer(ThreadingHTTPServer):
    """Answers who shows a token of the demo's, and keeps what was shown."""

    def __init__(self, certificate=None):
        shown = self.shown = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                given = self.headers.get("Authorization", "")
                shown.append(given)
                scheme, _, token = given.partition(" ")
                if scheme == "Basic":
                    token = base64.b64decode(token).decode().partition(":")[2]
                ok = token.count(".") == 2
                body = b"" if not ok else (b"0" * 40 + b"\trefs/heads/main\n" if "info/refs" in self.path
                                           else b'{"major":"1","minor":"30","gitVersion":"v1.30.0"}')
                self.send_response(200 if ok else 401)
                if not ok:
                    self.send_header("WWW-Authenticate", 'Basic realm="a"')
                kind = "text/plain" if "info/refs" in self.path else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Helpers(unittest.TestCase):
    def setUp(self):
        self.server = Bearer()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    @unittest.skipUnless(shutil.which("git"), "no git")
    def test_git_fetches_with_it_and_other_hosts_never_see_it(self):
        host = f"127.0.0.1:{self.server.server_port}"
        helper = (f"!'{GRANTWRIGHT}' helper git --scope demo.read --param dataset={doors.fresh()} "
                  f"--host {host}")
        env = dict(agent(), GIT_TERMINAL_PROMPT="0", GIT_CONFIG_NOSYSTEM="1", HOME=str(scratch("home")),
                   GIT_ASKPASS="/bin/false")
        git = ["git", "-c", f"credential.helper={helper}"]
        done = subprocess.run([*git, "ls-remote", f"http://{host}/r"], env=env, capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("refs/heads/main", done.stdout)
        user, token = base64.b64decode(self.server.shown[-1].split()[1]).decode().split(":")
        self.assertEqual((user, claims(token)["scope"]), ("x-access-token", "demo.read"))
        other = Bearer()
        self.addCleanup(other.server_close)
        self.addCleanup(other.shutdown)
        done = subprocess.run([*git, "ls-remote", f"http://127.0.0.1:{other.server_port}/r"], env=env,
                              capture_output=True, text=True, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual({it for it in other.shown if it}, set())

    @unittest.skipUnless(shutil.which("kubectl") and shutil.which("openssl"), "no kubectl or openssl")
    def test_kubectl_shows_it_as_its_bearer_token(self):
        # To a server without TLS kubectl shows nothing.
        pem = scratch("pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                        "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=IP:127.0.0.1", "-keyout", f"{pem}.key", "-out", f"{pem}.crt"],
                       check=True, capture_output=True)
        pem.write_text(Path(f"{pem}.key").read_text() + Path(f"{pem}.crt").read_text())
        server = Bearer(pem)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        config = scratch("kubeconfig")
        config.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": f"https://127.0.0.1:{server.server_port}", "certificate-authority": f"{pem}.crt"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"exec": {
                "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
                "command": str(GRANTWRIGHT),
                "args": ["helper", "kubectl", "--scope", "demo.read", "--param", f"dataset={doors.fresh()}"],
            }}}],
        }))
        done = subprocess.run(["kubectl", "get", "--raw", "/version"], capture_output=True, text=True,
                              env=dict(agent(), KUBECONFIG=str(config), HOME=str(scratch("home"))), timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        scheme, token = server.shown[-1].split()
        self.assertEqual((scheme, claims(token)["scope"]), ("Bearer", "demo.read"))

    def test_what_waits_is_said_and_the_next_try_meets_it(self):
        line = [str(GRANTWRIGHT), "helper", "kubectl", "--scope", "demo.export", "--param",
                f"dataset={doors.fresh()}", "--param", "rows=1"]

        def run():
            return subprocess.run(line, capture_output=True, text=True, env=agent(), timeout=60)
        first = run()
        self.assertEqual((first.returncode, first.stdout), (2, ""))
        request_id = first.stderr.split()[1]
        self.assertIn("waits for 1 approval", first.stderr)
        self.assertIn(request_id, run().stderr)
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        token = json.loads(run().stdout)["status"]["token"]
        self.assertEqual(claims(token)["jti"][1:], request_id[1:], "not the lease of that request")


if __name__ == "__main__":
    unittest.main()
