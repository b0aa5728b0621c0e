"""How the rows measure: load programs, memory, the disk, and a stand-in for STS."""

import contextlib
import datetime
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import harness
from harness import ROOT, Demo, Process, call, clean_env, scratch, until
from peers import apt

RELEASE = harness.BIN
# The second verifier takes minutes over the logs that rows leave behind; tests have it judge theirs.
Demo.judged = False
GRANTS = RELEASE / "examples" / "bench-grants"
BYTES = RELEASE / "examples" / "bench-bytes"
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))
# The sidecar as deploy/build builds it.
SHIPPED = Path(os.environ.get("E2E_SIDECAR", ROOT / "target" / "shipped" / "grantwright-sidecar"))
MANY_ASKS = "4000000000"
median = statistics.median


class Row:
    """One line of the table. `met` is None where nothing was promised."""

    def __init__(self, what, figure, target, met, detail):
        self.what, self.figure, self.target = what, figure, target
        self.met, self.detail = met, detail


def run_json(*command, timeout=600, env=None):
    """The last line that the command prints, as JSON."""
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout, env=env or clean_env())
    if done.returncode != 0:
        raise RuntimeError(f"{Path(str(command[0])).name}: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def quantile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))]


def spread(values):
    return f"{min(values):,.0f}–{max(values):,.0f}"


def rate(runs):
    return median([r["per_s"] for r in runs])


def rates(runs):
    """Median and range of a second's answers."""
    return f"{rate(runs):,.0f}/s ({spread([r['per_s'] for r in runs])})"


def ratio(these, those):
    """Median over the rounds of the quotient within a round."""
    return median([a["per_s"] / b["per_s"] for a, b in zip(these, those)])


def memory(pid, field="VmRSS"):
    """MB (10⁶ bytes), of one process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 / 1e6


def cpu(pid):
    """Seconds of processor that one process used, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def served(pid, load):
    """What the load measured, and the processor that each answer cost its server: on a busy machine that
    says more than a rate."""
    before = cpu(pid)
    run = load()
    return {**run, "cpu_us": (cpu(pid) - before) * 1e6 / max(1, run["n"])}


def work(runs):
    return f"{median([r['cpu_us'] for r in runs]):.0f} µs of processor each"


def ticks():
    """(stolen, idle, all) ticks of the machine since it started."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return fields[7], fields[3] + fields[4], sum(fields)


def fsync(folder, times=300):
    """Median µs of 4 KiB written over and fdatasync, in a file of the folder that has its blocks already,
    as a database's write-ahead log has."""
    took, path = [], Path(folder) / "sync.bench"
    with open(path, "wb", buffering=0) as file:
        file.write(b"x" * 4096 * times)
        os.fsync(file.fileno())
        file.seek(0)
        for _ in range(times):
            begun = time.perf_counter()
            file.write(b"y" * 4096)
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - begun) * 1e6)
    path.unlink()
    return median(took)


class Cage:
    """A control group of its own, with a share of one core and so many MB: version 2 of the kernel's interface
    where it has the controllers, else version 1. `wrap` is a command that runs another in it."""

    def __init__(self, cores, mb):
        root, name = Path("/sys/fs/cgroup"), f"grantwright-bench-{os.getpid()}"
        quota, most = int(cores * 100_000), mb * 1024 * 1024
        if (root / "cgroup.controllers").exists():
            self.folders = {root / name: {"cpu.max": f"{quota} 100000", "memory.max": most, "memory.swap.max": 0}}
            with contextlib.suppress(OSError):
                (root / "cgroup.subtree_control").write_text("+cpu +memory")
        else:
            self.folders = {root / "cpu" / name: {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": quota},
                            root / "memory" / name: {"memory.limit_in_bytes": most}}

    def __enter__(self):
        try:
            for folder, values in self.folders.items():
                folder.mkdir()
                for key, value in values.items():
                    # Where there is no swap there is no bound of it.
                    if key != "memory.swap.max" or (folder / key).exists():
                        (folder / key).write_text(str(value))
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for folder in self.folders:
            if folder.exists():
                folder.rmdir()

    def wrap(self, *command):
        script = "".join(f"echo $$ > {folder}/cgroup.procs && " for folder in self.folders)
        return ["sh", "-c", f'{script}exec "$@"', "sh", *map(str, command)]


# ---- the sidecar as it is shipped ----------------------------------------------------------------

class ShippedDemo(Demo):
    """A demo whose sidecar is the shipped one: it takes what lies beside its own binary."""

    def start(self, *arguments, **more):
        beside = scratch("bin")
        beside.mkdir()
        for binary in (harness.GRANTWRIGHT, SHIPPED):
            shutil.copy2(binary, beside / binary.name)
        before, harness.GRANTWRIGHT = harness.GRANTWRIGHT, beside / "grantwright"
        try:
            return super().start(*arguments, **more)
        finally:
            harness.GRANTWRIGHT = before


# ---- grants --------------------------------------------------------------------------------------

def enrolled(demo):
    """A folder with an identity of its own, enrolled at the demo's broker as a sidecar is."""
    home, ca, domain = joining(demo)
    operator = (demo.dir / "operator.token").read_text()
    joined = call(demo.env["GRANTWRIGHT_CONSOLE"], "POST", "/api/v1/agents/demo-agent/join", {},
                  {"Authorization": f"Bearer {operator}"}).json
    run_json(GRANTS, "enrol", home, demo.env["GRANTWRIGHT_BROKER"], ca, domain, joined["join_token"])
    return home


def joining(demo):
    """A fresh folder, and what a sidecar must know before it enrols."""
    domain = re.search(r'(?m)^trust_domain = "(.*)"', (demo.dir / "sidecar.toml").read_text())[1]
    return scratch("identity"), next(demo.dir.rglob("ca.pem")), domain


def echo():
    """A bare echo, and a folder with an identity for its clients."""
    home = scratch("echo")
    process = Process([GRANTS, "echo", home])
    until("the echo", 10, lambda: (home / "address").exists())
    return process, home


def ask(home, callers, connections, seconds=SECONDS, what=(), load="load"):
    """`what`: a scope and its parameters as JSON, each `#` another word in each ask. `load`: by calls of the
    client that a sidecar has, which the echo is asked by, too; `light`: by one that takes as little of the
    processors as `wrk` does, beside what `wrk` asks, and as a busy sidecar by a stream for each connection."""
    return run_json(GRANTS, load, home, callers, connections, seconds, *what)


# ---- HTTP ----------------------------------------------------------------------------------------

class Request:
    """One HTTP request that is sent over and over."""

    def __init__(self, method, path, token, body=None, headers=None):
        self.method, self.path, self.token, self.body = method, path, token, body
        sent = {"Host": "localhost", "Authorization": f"Bearer {token}"}
        if body is not None:
            sent |= {"Content-Type": "application/json", "Content-Length": len(body)}
        head = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in (sent | (headers or {})).items())]
        self.file = scratch("request")
        self.file.write_text("\r\n".join(head) + "\r\n\r\n" + (body or ""))

    def load(self, base, connections=32, seconds=SECONDS):
        """`base`: http://… (by wrk where there is one) or the path of a unix socket."""
        base = str(base)
        if base.startswith("http") and shutil.which("wrk"):
            return self.wrk(base, connections, seconds)
        to = urllib.parse.urlsplit(base).netloc if base.startswith("http") else base
        return run_json(BYTES, "load", to, connections, seconds, self.file)

    def bytes(self, base, connections, seconds):
        """By the client that is built here, whatever there is."""
        return run_json(BYTES, "load", urllib.parse.urlsplit(base).netloc, connections, seconds, self.file)

    def wrk(self, base, connections, seconds):
        script = scratch("wrk.lua")
        script.write_text(
            f"wrk.method = '{self.method}'\nwrk.headers['Authorization'] = 'Bearer {self.token}'\n"
            + (f"wrk.headers['Content-Type'] = 'application/json'\nwrk.body = [[{self.body}]]\n"
               if self.body is not None else ""))
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(script),
             base + self.path], capture_output=True, text=True, timeout=600, env=clean_env())
        out = done.stdout
        if done.returncode != 0 or "Non-2xx" in out or "Socket errors" in out:
            raise RuntimeError(f"wrk: {out[-400:]}{done.stderr[-200:]}")
        unit = {"us": 1, "ms": 1000, "s": 1e6}
        latency = {q: float(v) * unit[u] for q, v, u in
                   re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", out)}
        return {"n": int(re.search(r"(\d+) requests in", out)[1]),
                "per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),
                "p50_us": latency.get("50", 0), "p99_us": latency.get("99", 0)}


def want_wrk(say):
    """The usual client, where it can be had; else the one built here."""
    if not shutil.which("wrk"):
        missing = apt.install(["wrk"], say)
        if missing:
            say(f"   no wrk ({missing}): measured with bench-bytes")


class Bare:
    """A bare hyper server that answers with these bytes."""

    def __init__(self, body):
        file, self.socket = scratch("bytes"), scratch("socket")
        file.write_bytes(body)
        self.process = Process([BYTES, "serve", file, self.socket])
        port = until("the bare server", 10, lambda: self.process.out.read_text().strip())
        self.tcp = f"http://127.0.0.1:{port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()


class Sts:
    """Answers AssumeRole as STS does; checks nothing. Only the first call of a run comes here."""

    def __enter__(self):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"])).decode()
                given = {k: v[0] for k, v in urllib.parse.parse_qs(raw).items()}
                role = given["RoleArn"].replace(":role/", ":assumed-role/").replace(":iam:", ":sts:")
                now = datetime.datetime.now(datetime.timezone.utc)
                ends = now + datetime.timedelta(seconds=int(given["DurationSeconds"]))
                # Each session has a key of its own, as at AWS: calls are matched by it.
                session = hashlib.sha256(given["RoleSessionName"].encode()).hexdigest()
                body = (
                    '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
                    "<AssumeRoleResult><AssumedRoleUser><AssumedRoleId>AROA:b</AssumedRoleId>"
                    f"<Arn>{role}/{given['RoleSessionName']}</Arn></AssumedRoleUser><Credentials>"
                    f"<AccessKeyId>ASIA{session[:16].upper()}</AccessKeyId>"
                    f"<SecretAccessKey>{'s' * 40}</SecretAccessKey>"
                    f"<SessionToken>{'t' * 356}</SessionToken>"
                    f"<Expiration>{ends:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>"
                    "</AssumeRoleResult></AssumeRoleResponse>").encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.env = {
            "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{self.server.server_port}",
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_REGION": "us-east-1",
            "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        }
        return self

    def __exit__(self, *_):
        self.server.shutdown()
