"""The rows of the table. What two things are compared is measured in turns, within one run."""

import datetime
import gzip
import hashlib
import hmac
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse

from gauge import (MANY_ASKS, RELEASE, ROUNDS, SECONDS, SHIPPED, Bare, Cage, Request, Row, ShippedDemo,
                   Sts, ask, echo, enrolled, fsync, median, memory, quantile, rates, ratio, run_json, served,
                   want_wrk, work)
import harness
from chat import Fake, slack
from crowd import hostile
from harness import ROOT, Demo, Process, call, clean_env, scratch, store_files, until
from peers import golang
from peers.minio import Minio
from peers.postgres import programs
from peers.vault import BROKER_POLICY
from kill import accounts_at_vault, kill
from lives import fleet, history, issuers
from pages import console, page_vote

DATASET = '{"scope":"demo.read","params":{"dataset":"bench"},"reason":"a measurement"}'
S3 = "/aws/aws.s3-read?bucket=demo&prefix=public/"


def say(text):
    print(text, flush=True)


def grant():
    """Routine grants through mTLS, policy, durable leaves and the built-in issuer, against a bare
    tonic echo over the same TLS with messages of the same size."""
    with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as demo:
        broker = enrolled(demo)
        bare, echoing = echo()
        homes = {"echo": echoing, "broker": broker}
        pids = {"echo": bare.pid, "broker": demo.broker_pid}
        for home in homes.values():
            ask(home, 64, 4, 1)  # warm
        loads = {"1 connection": (64, 1), "4 connections": (64, 4), "one caller": (1, 1)}
        got = {load: {"echo": [], "broker": []} for load in loads}
        syncs = []
        for _ in range(ROUNDS):
            for load, (callers, connections) in loads.items():
                for name, home in homes.items():
                    got[load][name].append(
                        served(pids[name], lambda: ask(home, callers, connections)))
            syncs.append(fsync(demo.store.parent))
        rss = memory(demo.broker_pid)
        size = sum(f.stat().st_size for f in store_files(demo.store)) / 1e6
        asked = sum(r["n"] for runs in got.values() for r in runs["broker"])
        bare.kill()
    rows = []
    for load in ("1 connection", "4 connections"):
        runs = got[load]
        found = ratio(runs["broker"], runs["echo"])
        rows.append(Row(
            f"broker: routine grants, 64 callers on {load}, against a bare tonic mTLS echo",
            f"{found:.2f} ×", "≥ 0.3 × (aim 0.5)", found >= 0.3,
            f"{rates(runs['broker'])}, p50 {median([r['p50_us'] for r in runs['broker']]) / 1000:.1f} ms, "
            f"p99 {median([r['p99_us'] for r in runs['broker']]) / 1000:.1f} ms, {work(runs['broker'])}; "
            f"echo {rates(runs['echo'])}, {work(runs['echo'])}"))
    p50 = {k: median([r["p50_us"] for r in v]) for k, v in got["one caller"].items()}
    sync = median(syncs)
    bar = 4 * p50["echo"] + sync
    rows.append(Row(
        "broker: one caller, p50, against 4 × the echo's + one fsync", f"{p50['broker'] / bar:.2f} ×",
        "≤ 1 ×", p50["broker"] <= bar,
        f"{p50['broker']:.0f} µs; echo {p50['echo']:.0f} µs, 4 KiB overwritten and synced {sync:.0f} µs; "
        f"a quarter of a leased credential elsewhere is 1,075 µs"))
    rows.append(Row("broker: memory after the grants above", f"{rss:.0f} MB", "–", None,
                    f"{asked:,} grants, store {size:.0f} MB"))
    return rows


def cached():
    """A credential in the sidecar's memory at 32 keep-alive connections, against a bare hyper server
    that answers the same calls with the same bytes."""
    want_wrk(say)
    rows = []
    with Sts() as sts, ShippedDemo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS, **sts.env) as demo:
        doors = demo.doors
        for what, request, base, target in (
            ("POST of the same ask", Request("POST", "/v1/credentials", doors.token, DATASET),
             doors.tcp, True),
            ("AWS SDK's GET", Request("GET", S3, doors.aws_token), doors.tcp, True),
            ("POST on the unix socket", Request("POST", "/v1/credentials", doors.token, DATASET),
             doors.socket, False),
        ):
            first = doors.call(request.method, request.path, raw=(request.body or "").encode() or None,
                               headers={"Authorization": f"Bearer {request.token}"})
            if first.status != 200:
                raise RuntimeError(f"{what}: {first}")
            with Bare(first.body) as bare:
                beside = bare.tcp if str(base).startswith("http") else bare.socket
                got = {"bare": [], "sidecar": []}
                for to in (beside, base):
                    request.load(to, seconds=1)  # warm
                for _ in range(ROUNDS):
                    got["bare"].append(served(bare.process.pid, lambda: request.load(beside)))
                    got["sidecar"].append(served(demo.sidecar_pid, lambda: request.load(base)))
            found = ratio(got["sidecar"], got["bare"])
            p99 = {who: median([r["p99_us"] for r in runs]) for who, runs in got.items()}
            rows.append(Row(
                f"sidecar: cached credential, 32 keep-alive connections, {what}, against bare hyper",
                f"{found:.2f} ×", "≥ 0.9 ×" if target else "–", found >= 0.9 if target else None,
                f"{rates(got['sidecar'])}, {work(got['sidecar'])}; bare {rates(got['bare'])}, "
                f"{work(got['bare'])}; {len(first.body)} bytes"))
            rows.append(Row(
                f"sidecar: the same, p99, {what}", f"{p99['sidecar'] / p99['bare']:.2f} ×", "≤ 2 ×",
                p99["sidecar"] <= 2 * p99["bare"],
                f"{p99['sidecar']:,.0f} µs; bare {p99['bare']:,.0f} µs"))
    return rows


def vote():
    """From a person's vote to the credential at the agent that waits for it."""
    whole, after = [], []
    with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as demo:
        doors, bob = demo.doors, demo.bob
        for _ in range(int(os.environ.get("BENCH_VOTES", "200"))):
            request_id = doors.pending()
            digest = bob.request(request_id)["digest"]
            arrived = []

            def wait():
                reply = doors.get(request_id, "30s", timeout=40)
                arrived.append((time.perf_counter(), reply))
            waiter = threading.Thread(target=wait)
            waiter.start()
            time.sleep(0.03)
            begun = time.perf_counter()
            reply = bob.approve(request_id, digest)
            accepted = time.perf_counter()
            waiter.join()
            assert reply.status == 200, reply
            at, reply = arrived[0]
            assert reply.json["state"] == "granted", reply
            after.append(max(0.0, at - accepted) * 1000)
            whole.append((at - begun) * 1000)
    p99 = quantile(whole, 0.99)
    return [Row("approval: vote sent → credential at the waiting agent, p99", f"{p99:.1f} ms", "≤ 50 ms",
                p99 <= 50,
                f"p50 {median(whole):.1f} ms over {len(whole)} votes; counted from the vote's own answer: "
                f"p50 {median(after):.1f} ms, p99 {quantile(after, 0.99):.1f} ms")]


def chat():
    """Slack, as its fake plays it: acknowledgements while many requests wait, and from the press to the
    credential at the agent that waits."""
    pending = int(os.environ.get("BENCH_PENDING", "1000"))
    votes = int(os.environ.get("BENCH_VOTES", "200"))
    fake = Fake("slack")
    stage = slack(fake, limits={"open_requests_per_agent": pending + votes + 10})
    message = {"channel": "C111", "ts": "1.1"}

    def press(request_id, digest, action="gw_approve", **more):
        done = fake.do("press", user="U0BOB", message=message, action=action,
                       value=f"1:{request_id}:{digest}:0", **more)
        assert done["acked"], done
        return done["us"] / 1000
    try:
        doors, bob = stage.demo.doors, stage.demo.bob
        ids = [doors.pending() for _ in range(pending)]
        first = bob.request(ids[0])["digest"]
        press(ids[0], first)
        told = until("a link", 20, lambda: next(
            (t for t in map(json.dumps, fake.do("whispers")) if "/link/" in t), None))
        stage.confirm("bob", re.search(r"http://localhost:\d+/link/[0-9a-f]+", told)[0])
        # Half over Socket Mode, half over HTTP; each is a vote, on requests that wait.
        acks = [press(request_id, bob.request(request_id)["digest"],
                      **({"to": stage.base} if n % 2 else {}))
                for n, request_id in enumerate(ids[1:votes + 1])]
        whole = []
        for _ in range(votes):
            request_id = doors.pending()
            digest = bob.request(request_id)["digest"]
            arrived = []

            def wait():
                reply = doors.get(request_id, "30s", timeout=40)
                arrived.append((time.perf_counter(), reply))
            waiter = threading.Thread(target=wait)
            waiter.start()
            time.sleep(0.03)
            begun = time.perf_counter()
            press(request_id, digest)
            waiter.join()
            at, reply = arrived[0]
            assert reply.json["state"] == "granted", reply
            whole.append((at - begun) * 1000)
    finally:
        stage.end()
        fake.end()
    ack, p99 = quantile(acks, 0.99), quantile(whole, 0.99)
    return [
        Row(f"Slack: acknowledgement with {pending:,} requests pending, p99", f"{ack:.1f} ms", "≤ 500 ms",
            ack <= 500, f"p50 {median(acks):.1f} ms over {len(acks)} presses, half by Socket Mode"),
        Row("Slack: press → credential at the waiting agent, p99", f"{p99:.1f} ms", "≤ 100 ms",
            p99 <= 100, f"p50 {median(whole):.1f} ms over {len(whole)} votes, with the fake's own time"),
    ]


def policy():
    """One decision at 10 and at 10,000 scopes."""
    runs = [run_json(RELEASE / "examples" / "decide")["runs"] for _ in range(ROUNDS)]
    few, many = (median([run[n]["decide_us"] for run in runs]) for n in (0, 1))
    told = "; ".join(
        f"{runs[-1][n]['scopes']:,} scopes: loaded in {median([r[n]['load_ms'] for r in runs]):.0f} ms, "
        f"first decision {median([r[n]['first_us'] for r in runs]):.1f} µs, with its context "
        f"{median([r[n]['context_and_decide_us'] for r in runs]):.1f} µs" for n in (0, 1))
    return [Row("policy: one decision, 10 → 10,000 scopes", f"{few:.1f} → {many:.1f} µs",
                "≤ 25 µs, within 2 ×", many <= 25 and many <= 2 * few, told)]


def sidecar():
    """The sidecar's memory after a million requests, and its stripped binary."""
    want_wrk(say)
    with ShippedDemo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as demo:
        doors, answered = demo.doors, 0
        request = Request("POST", "/v1/credentials", doors.token, DATASET)
        idle = memory(demo.sidecar_pid)
        while answered < 1_000_000:
            answered += request.load(doors.tcp, seconds=max(2, SECONDS))["n"]
        after, peak = memory(demo.sidecar_pid), memory(demo.sidecar_pid, "VmHWM")
        own = memory(demo.sidecar_pid, "RssAnon")
    stripped = scratch("stripped")
    subprocess.run(["strip", "-o", str(stripped), str(SHIPPED)], check=True)
    mb = stripped.stat().st_size / 1e6
    return [Row(f"sidecar: memory after {answered:,} requests", f"{after:.1f} MB", "≤ 8 MB", after <= 8,
                f"resident, of which {own:.1f} MB its own and the rest parts of the binary; "
                f"{idle:.1f} MB before, peak {peak:.1f} MB"),
            Row("sidecar: stripped binary", f"{mb:.2f} MB", "≤ 8 MB", mb <= 8, "–")]


def local():
    """The sidecar beside its agents: a thousand distinct credentials in memory, its start, and a thousand
    identical asks at once."""
    rows, distinct = [], int(os.environ.get("BENCH_DISTINCT", "1000"))
    with ShippedDemo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as demo:
        doors = demo.doors
        idle = memory(demo.sidecar_pid)
        for n in range(distinct):
            reply = doors.ask("demo.read", {"dataset": f"distinct-{n}"}, reason="a measurement")
            assert reply.status == 200, reply
        after = memory(demo.sidecar_pid)
        rows.append(Row(f"sidecar: memory with {distinct:,} distinct credentials cached", f"{after:.1f} MB",
                        "≤ 12 MB", after <= 12, f"{idle:.1f} MB before"))

        def asked():
            text = doors.call("GET", "/metrics").body.decode()
            return int(re.search(r"(?m)^grantwright_sidecar_asked_total (\d+)$", text)[1])
        # All connections stand before the first word is said, so that the asks come at once.
        before, many, lines = asked(), 1000, []
        params = {"dataset": doors.fresh(), "rows": 5}
        body = json.dumps({"scope": "demo.export", "params": params, "reason": "a measurement"})
        said = (f"POST /v1/credentials HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {doors.token}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}").encode()
        port = int(doors.tcp.rsplit(":", 1)[1])
        # By one door: on the socket the process that asks is known, and asks for itself.
        for _ in range(many):
            lines.append(socket.create_connection(("127.0.0.1", port)))
        for line in lines:
            line.sendall(said)
        replies = []
        for line in lines:
            with line.makefile("rb") as answer:
                replies.append(json.loads(answer.read().partition(b"\r\n\r\n")[2]))
            line.close()
        ids = {reply["request_id"] for reply in replies}
        cards = [r for r in demo.bob.pending() if r["params"] == params]
        upstream = asked() - before
        rows.append(Row(f"sidecar: {many:,} identical asks at once", f"{upstream} upstream", "1, and one card",
                        upstream == 1 and len(cards) == 1,
                        f"{len(replies)} answers, {len(ids)} request, {len(cards)} card"))

        os.kill(demo.sidecar_pid, 15)
        harness.until("the sidecar is gone", 10, lambda: not harness.alive(demo.sidecar_pid), 0.001)
        took = starts(demo, [SHIPPED])
        rows.append(Row("sidecar: start to first routine credential", f"{median(took):.0f} ms", "≤ 150 ms",
                        median(took) <= 150, f"with its identity kept, of {len(took)}: "
                        + ", ".join(f"{ms:.0f}" for ms in took)))
        what = "sidecar: the same with a quarter of a core and 32 MB"
        try:
            with Cage(0.25, 32) as cage:
                took = starts(demo, cage.wrap(SHIPPED))
            rows.append(Row(what, f"{median(took):.0f} ms", "≤ 1,000 ms", median(took) <= 1000,
                            f"in a control group, of {len(took)}: " + ", ".join(f"{ms:.0f}" for ms in took)))
        except OSError as fault:
            rows.append(Row(what, "not measured", "≤ 1,000 ms", None, f"no control groups here: {fault}"))
    return rows


def starts(demo, command):
    """With a kept identity: ms from exec to the first routine credential, of several."""
    took, body = [], {"scope": "demo.read", "params": {"dataset": "start"}, "reason": "a start"}
    for _ in range(max(3, ROUNDS)):
        begun = time.perf_counter()
        process = Process([*command, "--config", demo.dir / "sidecar.toml"])
        while True:
            try:
                if harness.call(demo.doors.socket, "POST", "/v1/credentials", body).status == 200:
                    break
            except OSError:
                if process.code() is not None:
                    raise RuntimeError(process.said()) from None
            time.sleep(0.001)
        took.append((time.perf_counter() - begun) * 1000)
        process.term()
    return took


def distinct():
    """Ten thousand distinct asks at once of one agent, while another caller's cached one goes on."""
    many = int(os.environ.get("BENCH_MANY", "10000"))
    with ShippedDemo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as demo:
        doors = demo.doors
        request = Request("POST", "/v1/credentials", doors.token, DATASET)
        doors.call("POST", "/v1/credentials", raw=DATASET.encode())
        alone = [one(doors) for _ in range(500)]
        idle = memory(demo.sidecar_pid)
        busy, begun = [], time.perf_counter()
        load = Process([sys.executable, ROOT / "tests/system/distinct.py", doors.socket, "many", many, 256])
        while load.code() is None:
            busy.append(one(doors))
            time.sleep(0.002)
        took, answers = time.perf_counter() - begun, json.loads(load.out.read_text())
        peak = memory(demo.sidecar_pid, "VmHWM")
    granted, shed = answers.get("200", 0), answers.get("429", 0) + answers.get("503", 0)
    calm, under = quantile(alone, 0.5), quantile(busy, 0.5)
    return [
        Row(f"sidecar: {many:,} distinct asks at once, memory", f"{peak:.1f} MB", "bounded", None,
            f"peak; {idle:.1f} MB before; {granted:,} granted, {shed:,} told to come again, in {took:.1f} s"),
        Row("sidecar: a cached credential beside them, p50", f"{under / calm:.1f} ×", "–", None,
            f"{under:.0f} µs; alone {calm:.0f} µs; p99 {quantile(busy, 0.99):,.0f} µs"),
    ]


def one(doors):
    """µs of one cached credential over the unix socket."""
    begun = time.perf_counter()
    reply = call(doors.socket, "POST", "/v1/credentials", raw=DATASET.encode())
    assert reply.status == 200, reply
    return (time.perf_counter() - begun) * 1e6


def demo():
    """The whole story, from a shell."""
    took = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        subprocess.run([str(RELEASE / "grantwright"), "demo", "--json"], check=True,
                       stdin=subprocess.DEVNULL, capture_output=True, env=clean_env())
        took.append(time.perf_counter() - begun)
    return [Row("`grantwright demo`, wall time once built", f"{median(took):.1f} s", "≤ 10 s",
                median(took) <= 10, f"{min(took):.1f}–{max(took):.1f} s")]


def append():
    """Routine grants a second into the store alone, durable."""
    runs = [run_json(RELEASE / "examples" / "append", 50_000) for _ in range(ROUNDS)]
    rates_ = [r["grants_per_second"] for r in runs]
    return [Row("store: routine grants appended (four leaves each)", f"{median(rates_):,.0f}/s", "–", None,
                f"{min(rates_):,.0f}–{max(rates_):,.0f}/s, {runs[-1]['callers']} callers, SQLite")]


def scale():
    """What grows with the log and what must not: appends, proofs, searches, receipts and bytes, at 10,000 leaves
    and at BENCH_SCALE of them (1,000,000; the promise is made for 10,000,000)."""
    folder = scratch("scale")
    folder.mkdir()
    leaves, grants = os.environ.get("BENCH_SCALE", "1000000"), os.environ.get("BENCH_SCALE_GRANTS", "4000")
    got = run_json(RELEASE / "examples" / "scale", folder, leaves, grants, timeout=7200)
    size = got["leaves"]
    slower = got["append_small"] / got["append_large"]
    dearer = got["commit_with_receipt_us"] / got["commit_us"]
    store = sqlite3.connect(f"file:{folder}/store.db?mode=ro", uri=True)
    (own,) = store.execute("SELECT sum(length(body)) FROM leaves").fetchone()
    try:
        of = dict(store.execute("SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_master USING (name) "
                                "GROUP BY tbl_name"))
    except sqlite3.OperationalError:  # a SQLite without dbstat
        of = {}
    store.close()
    whole = sum(f.stat().st_size for f in store_files(folder / "store.db"))
    logged = sum(of.get(name, 0) for name in ("leaves", "tiles", "checkpoints"))
    worst = max(got["search_ms"], key=got["search_ms"].get)
    at = f"at {size:,} leaves"
    return [
        Row(f"store: appends {at}, against 10,000", f"{slower:.2f} ×", "≤ 1.2 ×", slower <= 1.2,
            f"{got['append_small']:,.0f} and {got['append_large']:,.0f} grants/s, 64 callers, medians of 7 in turns; "
            f"opened again in {got['open_s']:.1f} s"),
        Row(f"store: inclusion proof {at}, p99 of 1,000", f"{got['proof_us'] / 1000:.2f} ms", "≤ 5 ms",
            got["proof_us"] <= 5000, "leaves all over the log"),
        Row(f"store: a receipt's share of one caller's commit {at}", f"{dearer:.2f} ×", "≤ 1.1 ×",
            dearer <= 1.1, f"{got['commit_us']:.0f} µs without, {got['commit_with_receipt_us']:.0f} µs with"),
        Row(f"store: a receipt {at}", f"{got['receipt_bytes']:,} bytes", "≤ 2,000 bytes",
            got["receipt_bytes"] <= 2000, "leaf, inclusion proof and checkpoint, as JSON"),
        Row(f"store: leaves and tree {at}, against the leaves' own bytes",
            f"{logged / own:.2f} ×" if logged else "not known", "≤ 1.5 ×", logged / own <= 1.5 if logged else None,
            f"{own / 1e6:,.0f} MB of leaves, {logged / 1e6:,.0f} MB with tree and checkpoints; tables and search "
            f"indexes make {whole / 1e6:,.0f} MB of it"),
        Row(f"store: slowest search {at}", f"{got['search_ms'][worst]:.0f} ms", "≤ 500 ms",
            got["search_ms"][worst] <= 500,
            ", ".join(f"{name} {ms:.0f}" for name, ms in got["search_ms"].items()) + " ms"),
    ]


def verify():
    """Offline verification of a log of many grants, with all its checks, by the command."""
    with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as demo_:
        home = enrolled(demo_)
        least = int(os.environ.get("BENCH_LEAVES", "200000"))
        while leaf_count(demo_) < least:
            ask(home, 64, 4, 3)
        env = dict(demo_.env)
        code = demo_.stop()
        assert code == 0, demo_.process.said()
        took, bare, starts, report = [], [], [], None
        for _ in range(ROUNDS):
            for more, times in (([], took), (["--hashes-only"], bare)):
                begun = time.perf_counter()
                done = subprocess.run([str(RELEASE / "grantwright"), "audit", "verify", "--json", *more],
                                      capture_output=True, text=True, env=clean_env(**env), timeout=600)
                times.append(time.perf_counter() - begun)
                if done.returncode != 0:
                    raise RuntimeError(f"exit {done.returncode}: {done.stdout[-500:]}{done.stderr[-300:]}")
                report = json.loads(done.stdout)
            begun = time.perf_counter()
            subprocess.run([str(RELEASE / "grantwright"), "--version"], capture_output=True)
            starts.append(time.perf_counter() - begun)
    runs = [run_json(RELEASE / "examples" / "bench")["runs"] for _ in range(ROUNDS)]
    memory = {only: median([r["leaves_per_s"] for run in runs for r in run if r["hashes_only"] is only])
              for only in (True, False)}
    rows = []
    # A verification makes two hashes for each leaf: its own, and one of the tree.
    for what, times, unit, each, target, in_memory in (
            ("offline verification, conduct and all", took, "leaves", 1, 300_000, memory[False]),
            ("offline verification, hashes alone", bare, "hashes", 2, 1_000_000, memory[True])):
        rate = report["leaves"] / median(times)
        rows.append(Row(
            f"audit: {what}", f"{each * rate:,.0f} {unit}/s", f"≥ {target:,} {unit}/s", each * rate >= target,
            f"{rate:,.0f} leaves/s: {report['leaves']:,} of a SQLite store in {median(times):.2f} s, of which the "
            f"command's start {median(starts) * 1000:.0f} ms; {in_memory:,.0f} leaves/s of a log in memory"))
    requests = int(os.environ.get("BENCH_MADE", "250000"))
    for how, what in (("live", "credentials that may all be valid"), ("ended", "credentials whose end is told")):
        told = run_json(RELEASE / "examples" / "bench", str(requests), how)
        rows.append(Row(
            f"audit: memory of verifying {told['leaves']:,} leaves, {what}", f"{told['peak_mb']:.0f} MB",
            "≤ 512 MB at 10⁷ leaves", told["peak_mb"] <= 512,
            f"peak, resident; {told['requests']:,} requests, a log that is made while it is read"))
    return rows


def export():
    """The whole log to a file, as OCSF events, by the command."""
    with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as demo_:
        home = enrolled(demo_)
        least = int(os.environ.get("BENCH_LEAVES", "200000"))
        while leaf_count(demo_) < least:
            ask(home, 64, 4, 3)
        env = dict(demo_.env)
        code = demo_.stop()
        assert code == 0, demo_.process.said()
        rows = []
        for form in ("ocsf", "jsonl"):
            took, events, size = [], 0, 0
            for _ in range(ROUNDS):
                file = scratch("export")
                begun = time.perf_counter()
                told = run_json(RELEASE / "grantwright", "audit", "export", "--format", form, "--to", file,
                                "--json", env=clean_env(**env))
                took.append(time.perf_counter() - begun)
                events, size = told["events"], file.stat().st_size
                file.unlink()
            found = events / median(took)
            target = form == "ocsf"
            rows.append(Row(f"audit: export to a file, {form}", f"{found:,.0f} events/s",
                            "≥ 20,000/s" if target else "–", found >= 20_000 if target else None,
                            f"{events:,} events, {size / 1e6:.0f} MB in {median(took):.2f} s"))
    return rows


def reconcile():
    """CloudTrail's files, gzipped as they are delivered, against a log with leases of STS."""
    count = int(os.environ.get("BENCH_RECORDS", "500000"))
    with Sts() as sts, Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS, **sts.env) as demo_:
        leases = []
        for n in range(20):
            reply = demo_.doors.ask("aws.s3-read", {"bucket": "demo", "prefix": f"p{n}/"})
            if reply.status != 200:
                raise RuntimeError(f"{reply}")
            leases.append((reply.json["credential"]["AccessKeyId"], reply.json["request_id"], f"p{n}/"))
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        records = [json.dumps({
            "eventVersion": "1.11", "eventTime": at, "eventSource": "s3.amazonaws.com",
            "eventName": "GetObject", "awsRegion": "us-east-1", "sourceIPAddress": "198.51.100.7",
            "userAgent": "[aws-sdk-rust/1.3 os/linux lang/rust/1.95]", "eventID": f"{n:032x}",
            "userIdentity": {
                "type": "AssumedRole", "principalId": f"AROAEXAMPLE:{session}",
                "arn": f"arn:aws:sts::123456789012:assumed-role/grantwright-demo/{session}",
                "accountId": "123456789012", "accessKeyId": key, "sessionContext": {
                    "sessionIssuer": {"type": "Role", "principalId": "AROAEXAMPLE",
                                      "arn": "arn:aws:iam::123456789012:role/grantwright-demo"},
                    "attributes": {"creationDate": at, "mfaAuthenticated": "false"},
                    "sourceIdentity": "demo-agent"}},
            "requestParameters": {"bucketName": "demo", "Host": "demo.s3.amazonaws.com",
                                  "key": f"{prefix}object-{n}"},
            "responseElements": None, "additionalEventData": {"SignatureVersion": "SigV4", "bytesIn": 0,
                                                              "bytesOut": 1024},
            "resources": [{"type": "AWS::S3::Object", "ARN": f"arn:aws:s3:::demo/{prefix}object-{n}"}],
            "readOnly": True, "eventType": "AwsApiCall", "managementEvent": False,
            "recipientAccountId": "123456789012", "eventCategory": "Data"})
            for n in range(1000) for key, session, prefix in leases[n % 20:n % 20 + 1]]
        text = ('{"Records":[' + ",".join(records) + "]}").encode()
        folder = scratch("trail")
        folder.mkdir()
        files = []
        for n in range(max(1, count // 1000 // 50)):
            # A delivered file holds thousands of records.
            whole = ('{"Records":[' + ",".join(records * 50) + "]}").encode()
            files.append(folder / f"{n}.json.gz")
            files[-1].write_bytes(gzip.compress(whole, 6))
        took = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            told = run_json(RELEASE / "grantwright", "reconcile", "cloudtrail", *files, "--json",
                            env=clean_env(**demo_.env))
            took.append(time.perf_counter() - begun)
        if told["matched"] != told["events"] or told["findings"]:
            raise RuntimeError(f"{told['counts']}, {told['matched']} of {told['events']}")
    found = told["events"] / median(took)
    return [Row("reconcile: CloudTrail, gzipped files", f"{found:,.0f} events/s", "≥ 50,000/s",
                found >= 50_000, f"{told['events']:,} events in {len(files)} files, "
                f"{len(text) / 1000:.0f} bytes each unpacked, in {median(took):.2f} s")]


def leaf_count(demo_):
    """The size that the log's checkpoint names."""
    return int(re.split(rb"\n", demo_.checkpoint())[1])


def beside(what, direct, broker, target=True):
    """A direct client and the broker's callers in turns, at one caller and at 64."""
    one, many = ({"direct": [], "broker": []} for _ in range(2))
    for got, callers in ((one, 1), (many, 64)):
        direct(callers, 1)
        broker(callers, 1)  # warm
        for _ in range(ROUNDS):
            got["direct"].append(direct(callers, SECONDS))
            got["broker"].append(broker(callers, SECONDS))
    p50 = {k: median([r["p50_us"] for r in v]) / 1000 for k, v in one.items()}
    over = p50["broker"] - p50["direct"]
    rows = [Row(f"broker: {what}, one caller, p50 over the backend's own", f"{over:.2f} ms", "≤ 3 ms", over <= 3,
                f"broker {p50['broker']:.2f} ms, direct {p50['direct']:.2f} ms; "
                f"{work(one['broker'])} at the broker")]
    found = ratio(many["broker"], many["direct"])
    rows.append(Row(f"broker: {what}, 64 callers, against the backend's own throughput", f"{found:.2f} ×",
                    "≥ 0.7 ×" if target else "–", found >= 0.7 if target else None,
                    f"broker {rates(many['broker'])}, {work(many['broker'])}; direct {rates(many['direct'])}"))
    return rows


def assume_role(host, key, secret, policy):
    """The form of an AssumeRole, and its headers, signed (SigV4): good for a quarter of an hour."""
    form = urllib.parse.urlencode({
        "Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": "arn:aws:iam::123456789012:role/x",
        "RoleSessionName": "direct", "DurationSeconds": "900", "Policy": policy})
    at = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    kind, within = "application/x-www-form-urlencoded", f"{at[:8]}/us-east-1/sts/aws4_request"
    sha = lambda text: hashlib.sha256(text.encode()).hexdigest()
    names = "content-type;host;x-amz-date"
    canonical = f"POST\n/\n\ncontent-type:{kind}\nhost:{host}\nx-amz-date:{at}\n\n{names}\n{sha(form)}"
    signing = f"AWS4{secret}".encode()
    for part in within.split("/"):
        signing = hmac.digest(signing, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{at}\n{within}\n{sha(canonical)}"
    signature = hmac.digest(signing, text.encode(), "sha256").hex()
    signed = f"AWS4-HMAC-SHA256 Credential={key}/{within}, SignedHeaders={names}, Signature={signature}"
    return form, {"Host": host, "X-Amz-Date": at, "Content-Type": kind, "Authorization": signed}


def sts_session():
    """What STS answers to AssumeRole."""
    ends = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=900))
    return ('<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
            "<Credentials><AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId>"
            f"<SecretAccessKey>{'s' * 40}</SecretAccessKey><SessionToken>{'t' * 356}</SessionToken>"
            f"<Expiration>{ends:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials></AssumeRoleResult>"
            "</AssumeRoleResponse>").encode()


def backend_sts():
    """AssumeRole through the broker, against the same call made directly: a server that answers at once with
    the same bytes (what the broker adds), and MinIO (a backend that stores each session)."""
    body = sts_session()
    policy = json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::demo/public/*"]}]})
    what = ("aws.s3-read", '{"bucket":"demo","prefix":"b-#/"}')
    missing = golang.prepare(ROOT, "minio", say)
    if missing:
        raise RuntimeError(missing)
    minio, rows = Minio(ROOT, scratch("minio")), []
    key, secret = minio.access_key, minio.secret_key
    try:
        with Bare(body) as bare:
            for name, url, target in (("STS, a server that answers at once", bare.tcp, False),
                                      ("STS, MinIO", minio.url, True)):
                form, headers = assume_role(urllib.parse.urlsplit(url).netloc, key, secret, policy)
                request = Request("POST", "/", "-", form, headers)
                with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS, AWS_ENDPOINT_URL_STS=url,
                          AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret, AWS_REGION="us-east-1") as demo:
                    home = enrolled(demo)
                    rows += beside(
                        name, lambda n, s: request.bytes(url, n, s),
                        lambda n, s: served(demo.broker_pid, lambda: ask(home, n, min(n, 4), s, what, "light")), target)
    finally:
        minio.stop()
    return rows


def backend_vault():
    """An account of Vault's database engine (real Vault on raft with an audit file, real PostgreSQL) through
    the broker, against the same call made directly."""
    for missing in (None if programs() else "no PostgreSQL here", golang.prepare(ROOT, "vault", say)):
        if missing:
            raise RuntimeError(missing)
    with accounts_at_vault() as vault:
        request = Request("GET", "/v1/database/creds/db-read", vault.root_token)
        what = ("vault.db-read", '{"database":"sales"}')
        with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS, VAULT_ADDR=vault.addr,
                  VAULT_TOKEN=vault.token(BROKER_POLICY)) as demo:
            home = enrolled(demo)
            return beside(
                "Vault, an account of its database engine", lambda n, s: request.bytes(vault.addr, n, s),
                lambda n, s: served(demo.broker_pid, lambda: ask(home, n, min(n, 4), s, what, "light")))


ROWS = {"grant": grant, "fleet": fleet, "cached": cached, "vote": vote, "page-vote": page_vote, "chat": chat,
        "console": console, "policy": policy, "sidecar": sidecar, "local": local, "demo": demo,
        "append": append, "scale": scale, "verify": verify, "backend-sts": backend_sts, "backend-vault": backend_vault,
        "export": export, "reconcile": reconcile,
        "issuers": issuers, "history": history, "kill": kill, "distinct": distinct, "hostile": hostile}
