"""The system from outside: a demo of our own, its doors, its people, its command line.

Everything runs on loopback ports chosen by the system, in fresh folders; only processes started here
are ended, each by its own id.
"""

import atexit
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("E2E_BIN", ROOT / "target" / "release"))
GRANTWRIGHT = BIN / "grantwright"
SIDECAR = BIN / "grantwright-sidecar"
SCRATCH = Path(tempfile.mkdtemp(prefix="grantwright-e2e-"))
KEEP = bool(os.environ.get("E2E_KEEP"))


@atexit.register
def _clean():
    for process in list(Process.alive):
        process.kill()
    if not KEEP:
        shutil.rmtree(SCRATCH, ignore_errors=True)


def scratch(name):
    """A path that does not exist yet."""
    base = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=SCRATCH))
    return base / "d"


def secret(name, text):
    """A file that only its owner reads."""
    file = scratch(name)
    file.write_text(text)
    file.chmod(0o600)
    return file


def until(what, seconds, probe, step=0.02):
    """Polls until `probe` gives something true; says what it waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(step)


def hold(port):
    """While a server is away nobody else is given its port of loopback: whoever asks for any, and every call going
    out, passes over one that is bound. It is never listened on, so the server can."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(("127.0.0.1", port))
    except OSError:
        pass  # Somebody was quicker: the server says so.
    return held


def is_shut(line):
    """Whether the other end of this connection, which said nothing, has closed it."""
    line.settimeout(0.05)
    try:
        return line.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def alive(pid):
    """Whether the process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        # Threads that still end hold its files.
        return state != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def clean_env(**more):
    """The environment without what the developer's shell says of clouds and of other demos."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("AWS_", "VAULT_", "GRANTWRIGHT_"))}
    env.update({k: str(v) for k, v in more.items()})
    return env


class Process:
    """One child, its output in files."""

    alive = []

    def __init__(self, command, env=None, log=None, cwd=None):
        self.log = Path(log or tempfile.mkstemp(prefix="log-", dir=SCRATCH)[1])
        self.out = Path(str(self.log) + ".out")
        with open(self.out, "wb") as out, open(self.log, "wb") as err:
            self.child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL,
                                          stdout=out, stderr=err, env=env or clean_env(), cwd=cwd)
        self.pid = self.child.pid
        Process.alive.append(self)

    def code(self):
        code = self.child.poll()
        if code is not None and self in Process.alive:
            Process.alive.remove(self)
        return code

    def wait(self, seconds=30):
        try:
            self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s: {self.child.args}\n{self.said()}")
        return self.code()

    def term(self, seconds=20):
        if self.code() is None:
            self.child.terminate()
        return self.wait(seconds)

    def kill(self):
        if self.code() is None:
            self.child.kill()
        self.child.wait()
        self.code()

    def said(self, lines=30):
        text = self.log.read_text(errors="replace") + self.out.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            raise AssertionError(f"not JSON: {self!r}")

    @property
    def code(self):
        return self.json.get("code")

    def __repr__(self):
        return f"{self.status} {self.body[:600].decode(errors='replace')}"


class Unix(http.client.HTTPConnection):
    def __init__(self, path, timeout=30):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def call(base, method, path, body=None, headers=None, timeout=30, raw=None):
    """One request on its own connection. `base`: http://… or the path of a unix socket.
    `body`: JSON value; `raw`: bytes as they are."""
    if str(base).startswith("http"):
        parts = urlsplit(str(base))
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    else:
        connection = Unix(base, timeout=timeout)
    sent = dict(headers or {})
    data = raw
    if body is not None:
        data = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, path, body=data, headers=sent)
        answer = connection.getresponse()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def read_env(path):
    """`DIR/env` as a dictionary; refuses lines of any other shape."""
    out = {}
    for line in Path(path).read_text().splitlines():
        found = re.fullmatch(r"export ([A-Z][A-Z0-9_]*)='([^']*)'", line)
        if found:
            out[found[1]] = found[2]
        elif not re.fullmatch(r"unset [A-Z][A-Z0-9_]*", line):
            raise AssertionError(f"DIR/env holds a line of another shape: {line!r}")
    return out


class Person:
    """Somebody at the people's API."""

    def __init__(self, demo, name):
        self.demo, self.name = demo, name

    @property
    def token_file(self):
        return Path(self.demo.env["GRANTWRIGHT_HUMANS"]) / f"{self.name}.token"

    def call(self, method, path, body=None, **more):
        headers = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        headers.update(more.pop("headers", {}))
        return call(self.demo.env["GRANTWRIGHT_CONSOLE"], method, path, body, headers, **more)

    def request(self, request_id):
        reply = self.call("GET", f"/api/v1/requests/{request_id}")
        assert reply.status == 200, reply
        return reply.json

    def pending(self):
        return self.call("GET", "/api/v1/requests?state=pending").json["requests"]

    def vote(self, word, request_id, digest=None, **fields):
        digest = digest or self.request(request_id)["digest"]
        return self.call("POST", f"/api/v1/requests/{request_id}/{word}",
                         {"digest": digest, **fields})

    def approve(self, request_id, digest=None, **fields):
        return self.vote("approve", request_id, digest, **fields)

    def deny(self, request_id, digest=None, **fields):
        return self.vote("deny", request_id, digest, **fields)


class Doors:
    """The sidecar's HTTP door, over TCP with the agent's token, or over the unix socket."""

    def __init__(self, demo):
        self.demo = demo
        self.serial = itertools.count(1)

    @property
    def tcp(self):
        return self.demo.env["GRANTWRIGHT_SIDECAR"]

    @property
    def socket(self):
        return self.demo.env["GRANTWRIGHT_SIDECAR_SOCKET"]

    @property
    def token(self):
        return Path(self.demo.env["GRANTWRIGHT_TOKEN_FILE"]).read_text()

    @property
    def aws_token(self):
        return Path(self.demo.env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).read_text()

    def call(self, method, path, body=None, headers=None, **more):
        sent = {"Authorization": f"Bearer {self.token}"}
        sent.update(headers or {})
        return call(self.tcp, method, path, body, sent, **more)

    def ask(self, scope, params=None, reason="a test", **fields):
        headers = fields.pop("headers", None)
        body = {"scope": scope, "params": params or {}, "reason": reason, **fields}
        return self.call("POST", "/v1/credentials", body, headers)

    def fresh(self, prefix="x"):
        """A parameter value nobody used before, so that no earlier ask is identical."""
        return f"{prefix}-{os.getpid()}-{next(self.serial)}"

    def get(self, request_id, wait="0s", **more):
        return self.call("GET", f"/v1/requests/{request_id}?wait={wait}", **more)

    def cancel(self, request_id):
        return self.call("DELETE", f"/v1/requests/{request_id}")

    def pending(self, scope="demo.export", **fields):
        """A new ask that waits for people; returns the request's id."""
        if scope == "demo.export":
            params = fields.pop("params", None) or {"dataset": self.fresh("set"), "rows": 100}
        elif scope == "demo.escalate":
            params = fields.pop("params", None) or {"role": self.fresh("role")}
        else:
            params = fields.pop("params", None) or {}
        reply = self.ask(scope, params, **fields)
        assert reply.status == 202, reply
        return reply.json["request_id"]


class Demo:
    """`grantwright demo --keep --dir D`."""

    # False where the test itself spoils the store.
    judged = True

    def __init__(self, folder=None, start=True, wait=60, **env):
        self.dir = Path(folder or scratch("demo"))
        self.settings = {"GRANTWRIGHT_DEMO_ASKS_PER_SECOND": "100000", **env}
        self.doors = Doors(self)
        self.env, self.held = {}, []
        for name in ("alice", "bob", "carol", "dave"):
            setattr(self, name, Person(self, name))
        if start:
            self.start(wait)

    def start(self, wait=60, expect_ready=True):
        self.process = Process([GRANTWRIGHT, "demo", "--keep", "--json", "--dir", self.dir],
                               env=clean_env(**self.settings))
        stale = (self.dir / "env").stat().st_ino if (self.dir / "env").exists() else None

        def ready():
            if self.process.code() is not None:
                raise AssertionError(f"the demo ended with {self.process.code()}:\n"
                                     f"{self.process.said()}")
            file = self.dir / "env"
            return file.exists() and file.stat().st_ino != stale
        until("DIR/env", wait, ready)
        self.env = read_env(self.dir / "env")
        return self

    @property
    def broker_pid(self):
        return int(self.env["GRANTWRIGHT_BROKER_PID"])

    @property
    def sidecar_pid(self):
        return int(self.env["GRANTWRIGHT_SIDECAR_PID"])

    def kill_broker(self):
        """Its broker dies at once; when this returns, the store and the ports are free."""
        os.kill(self.broker_pid, signal.SIGKILL)
        until("the demo's own broker is gone", 30, lambda: not alive(self.broker_pid))
        self.hold_ports()

    def hold_ports(self):
        """Holds those of a broker that is gone, for the one that comes after it."""
        if not self.held:
            listen = re.findall(r'(?m)^(?:grpc|http) = "127\.0\.0\.1:(\d+)"$', (self.dir / "broker.toml").read_text())
            assert len(listen) == 2, listen
            self.held = [hold(int(port)) for port in listen]

    def said(self, name, lines=30):
        """The last lines of the log of one of its processes."""
        return "\n".join((self.dir / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    def stop(self):
        return self.process.term()

    def restart(self):
        code = self.stop()
        assert code == 0, f"the demo ended with {code} on SIGTERM:\n{self.process.said()}"
        self.hold_ports()
        return self.start()

    def keeps(self, size):
        """Waits until the sidecar's file has a checkpoint of so many leaves: it is written off the path
        of answers."""
        until(f"the sidecar keeps a checkpoint of {size} leaves", 30, lambda: int(
            Path(self.env["GRANTWRIGHT_CHECKPOINT"]).read_text().split("\n")[1]) >= size)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for held in self.held:
            held.close()
        if self.process.code() is None:
            self.process.child.terminate()
            try:
                self.process.child.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if self.judged:
            self.judge()

    def judge(self):
        """Every log that a test leaves behind is verified by the verifier that is not ours."""
        vkey, store = self.env.get("GRANTWRIGHT_LOG_VKEY"), self.env.get("GRANTWRIGHT_STORE")
        if not vkey or not store_path(store).exists():
            return
        from evidence import second
        verify = second()
        if verify is None:
            return
        from stored import Store
        kept = verify.split_notes(Path(self.env["GRANTWRIGHT_CHECKPOINT"]).read_text()) or [""]
        report = verify.Verifier(Store(store_path(store)), vkey, kept, int(time.time() * 1000)).run()
        assert report["ok"], f"the second verifier: {report}"

    def cli(self, *arguments, person=None, env=None, timeout=60):
        """Runs the command line with `DIR/env`'s variables; returns (exit code, stdout, stderr)."""
        return cli(*arguments, env={
            **self.env, **({"GRANTWRIGHT_HUMAN_TOKEN_FILE": str(person.token_file)} if person else {}),
            **(env or {}),
        }, timeout=timeout)

    def cli_json(self, *arguments, **more):
        code, out, err = self.cli(*arguments, "--json", **more)
        try:
            return code, json.loads(out)
        except ValueError:
            raise AssertionError(f"not JSON from {arguments}: exit {code}\n{out}\n{err}")

    def checkpoint(self):
        return call(self.env["GRANTWRIGHT_LOG"].rsplit("/log", 1)[0], "GET", "/log/checkpoint").body

    def leaves(self):
        return leaves(self.store)

    @property
    def store(self):
        return store_path(self.env["GRANTWRIGHT_STORE"])

    def events(self, request_id):
        return [leaf for leaf in self.leaves() if leaf.get("request_id") == request_id]


def cli(*arguments, env=None, timeout=60):
    done = subprocess.run([str(GRANTWRIGHT), *[str(a) for a in arguments]], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, env=clean_env(**(env or {})),
                          timeout=timeout)
    return done.returncode, done.stdout, done.stderr


def store_path(url):
    assert url.startswith("sqlite://"), url
    return Path(url.removeprefix("sqlite://"))


def store_files(path):
    return [p for p in (Path(path), Path(f"{path}-wal"), Path(f"{path}-shm")) if p.exists()]


def copy_store(path, folder):
    """A copy of a store at rest, or of one in use, through SQLite's own backup."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / Path(path).name
    source = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    copy = sqlite3.connect(target)
    with copy:
        source.backup(copy)
    copy.close()
    source.close()
    return target


def leaf_columns(connection):
    """(index column, bytes column) of table `leaves`, whatever they are called."""
    rows = connection.execute("SELECT * FROM leaves LIMIT 1")
    names = [d[0] for d in rows.description]
    row = rows.fetchone()
    body = next(n for n, v in zip(names, row)
                if isinstance(v, (bytes, str)) and bytes(v if isinstance(v, bytes) else v.encode())
                .startswith(b"{"))
    index = next(n for n in names if n in ("index", "idx", "leaf_index", "i", "position", "n", "seq")
                 or n.endswith("index"))
    return index, body


def leaves(path):
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    try:
        index, body = leaf_columns(connection)
        rows = connection.execute(f'SELECT "{index}", "{body}" FROM leaves ORDER BY 1').fetchall()
    finally:
        connection.close()
    return [json.loads(value) for _, value in rows]


def together(*calls):
    """Runs the calls at the same time; returns their results in order."""
    results = [None] * len(calls)

    def one(n, work):
        try:
            results[n] = work()
        except BaseException as fault:
            results[n] = fault

    threads = [threading.Thread(target=one, args=(n, c)) for n, c in enumerate(calls)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def signal_pid(pid, what=signal.SIGKILL):
    """Only for processes of a demo started here."""
    os.kill(pid, what)
