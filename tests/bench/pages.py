"""The console's rows: what a page costs the server, and how soon a vote on a page reaches the agent."""

import http.client
import os
import re
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

from gauge import MANY_ASKS, Row, cpu, median, quantile
from harness import Demo

REQUESTS = int(os.environ.get("BENCH_REQUESTS", "10000"))
PENDING = int(os.environ.get("BENCH_PENDING", str(REQUESTS // 10)))
FLOOD = int(os.environ.get("BENCH_FLOOD", str(REQUESTS // 2)))
VIEWS = int(os.environ.get("BENCH_VIEWS", "100"))
VOTES = int(os.environ.get("BENCH_VOTES", "200"))


class Person:
    """Somebody signed in at the console, on one connection that stays open, as a browser's does."""

    def __init__(self, demo, name):
        operator = (demo.dir / "operator.token").read_text()
        self.broker = demo.broker_pid
        self.address = urllib.parse.urlsplit(demo.env["GRANTWRIGHT_CONSOLE"])
        self.connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=60)
        self.used = time.monotonic()
        self.headers = {"Accept": "text/html"}
        _, _, made = self.call("POST", f"/api/v1/people/{name}/link", b'{"purpose":"login"}',
                               {"Authorization": f"Bearer {operator}", "Content-Type": "application/json"})
        path = urllib.parse.urlsplit(re.search(rb'"url":\s*"([^"]+)"', made)[1].decode()).path
        status, headers, _ = self.call("GET", path)
        assert status == 303, status
        self.headers["Cookie"] = headers["set-cookie"].split(";")[0]
        _, _, session = self.call("GET", "/session", headers={"Accept": "application/json"})
        self.csrf = re.search(rb'"csrf":\s*"([^"]+)"', session)[1].decode()

    def call(self, method, path, body=None, headers=None):
        # The doors close a connection that idled for ten seconds; a browser then opens another.
        if time.monotonic() - self.used > 5:
            self.connection.close()
        self.used = time.monotonic()
        self.connection.request(method, path, body=body, headers={**self.headers, **(headers or {})})
        answer = self.connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def page(self, path):
        status, _, body = self.call("GET", path)
        assert status == 200, (path, status, body[:300])
        return body

    def approve(self, request_id):
        """As the form of the request's page does."""
        page = self.page(f"/requests/{request_id}").decode()
        form = page[page.index(f'/requests/{request_id}/approve"'):]
        fields = {name: re.search(rf'name="{name}" value="([^"]*)"', form)[1]
                  for name in ("csrf", "digest", "seen")}
        origin = f"{self.address.scheme}://{self.address.netloc}"
        begun = time.perf_counter()
        status, headers, body = self.call(
            "POST", f"/requests/{request_id}/approve", urllib.parse.urlencode(fields).encode(),
            {"Content-Type": "application/x-www-form-urlencoded", "Origin": origin})
        assert status == 303, (status, body[:300])
        return begun


def fill(demo, numbers, waits):
    """Asks with these numbers; those for which `waits` says so wait for people. Four of one task."""
    doors = demo.doors

    def one(n):
        if not waits(n):
            doors.ask("demo.read", {"dataset": f"set-{n}"}, "a measurement")
            return None
        params = {"dataset": f"set-{n}", "rows": n}
        asked = doors.ask("demo.export", params, "a measurement", task=f"task {n // 40}")
        assert asked.status == 202, asked
        return asked.json["request_id"]
    with ThreadPoolExecutor(8) as pool:
        return [request_id for request_id in pool.map(one, numbers) if request_id]


def views(pages):
    """Each page so often: how long it took, first and then, and how much of the processor."""
    first, took, work = {}, {}, {}
    for name, (who, path) in pages.items():
        begun = time.perf_counter()
        who.page(path)
        first[name] = (time.perf_counter() - begun) * 1000
    for name, (who, path) in pages.items():
        times, before = [], cpu(who.broker)
        for _ in range(VIEWS):
            begun = time.perf_counter()
            who.page(path)
            times.append((time.perf_counter() - begun) * 1000)
        took[name], work[name] = times, (cpu(who.broker) - before) * 1000 / VIEWS
    return first, took, work


def told(what, pages):
    """A row for the slowest page at the median and one at p99, with each page in the detail."""
    first, took, work = views(pages)
    each = "; ".join(f"{name} p50 {median(t):.1f}, p99 {quantile(t, 0.99):.1f}, first {first[name]:.0f}, "
                     f"processor {work[name]:.1f}" for name, t in took.items())
    rows = []
    for word, of in (("p50", median), ("p99", lambda t: quantile(t, 0.99))):
        worst = max(took, key=lambda name: of(took[name]))
        ms = of(took[worst])
        rows.append(Row(f"console: slowest page at {word} (`{worst}`), {what}", f"{ms:.1f} ms", "≤ 50 ms", ms <= 50,
                        f"of {len(took)} pages, {VIEWS} views each, from the request to the last byte, ms: {each}"
                        if word == "p99" else "–"))
    return rows


def console():
    """Each page of the console with many requests in the store, for a reviewer, an owner and security: a
    tenth of them waiting, then half as many again as a flood; the bytes of the first page; whether
    anything comes from elsewhere."""
    settings = {"GRANTWRIGHT_DEMO_ASKS_PER_SECOND": MANY_ASKS,
                "GRANTWRIGHT_DEMO_OPEN_REQUESTS": str(PENDING + FLOOD + 10),
                "GRANTWRIGHT_DEMO_PENDING_TTL": "3h"}
    with Demo(**settings) as demo:
        every = max(1, REQUESTS // max(1, PENDING))
        waiting = fill(demo, range(REQUESTS), lambda n: n % every == 0)
        denied = waiting[:max(1, len(waiting) // 20)]
        waiting = waiting[len(denied):]
        for n, request_id in enumerate(denied):
            demo.bob.deny(request_id, reason_code="looks_wrong" if n % 4 == 0 else "not_now")
        alice, bob, dave = (Person(demo, name) for name in ("alice", "bob", "dave"))
        some, done = waiting[len(waiting) // 2], denied[0]
        pages = {
            "inbox": (bob, "/"), "inbox of security": (dave, "/"), "inbox of the owner": (alice, "/"),
            "request": (bob, f"/requests/{some}"), "narrow": (bob, f"/requests/{some}/narrow?ttl=60s"),
            "ended request": (bob, f"/requests/{done}"), "proof": (bob, f"/requests/{done}/proof"),
            "agents": (bob, "/agents"), "agent": (bob, "/agents/demo-agent"),
            "leases": (bob, "/leases"), "all leases": (bob, "/leases?state=all"),
            "log": (bob, "/log"), "log by person": (bob, "/log?human=bob"),
            "log by outcome": (bob, "/log?outcome=failed"), "log by agent": (bob, "/log?agent=demo-agent"),
            "log by words": (bob, "/log?text=nothing+says+this"), "policies": (bob, "/policies"),
            "attention": (bob, "/attention"), "account": (bob, "/account"),
        }
        rows = told(f"{REQUESTS:,} requests, {len(waiting):,} of them waiting", pages)
        home = bob.page("/")
        linked = set(re.findall(rb'(?:href|src)="([^"]+\.(?:css|js|svg))"', home))
        sizes = [len(home)] + [len(bob.page(path.decode())) for path in linked]
        foreign = set()
        for who, path in pages.values():
            foreign |= set(re.findall(rb'(?:href|src|action)="((?:https?:)?//[^"]+)"', who.page(path)))
        waiting += fill(demo, range(REQUESTS, REQUESTS + FLOOD), lambda n: True)
        rows += told(f"{REQUESTS + FLOOD:,} requests, {len(waiting):,} of them waiting", pages)
    bytes_ = sum(sizes)
    return rows + [
        Row("console: the first page, with all it loads", f"{bytes_ / 1000:.0f} kB", "≤ 100 kB",
            bytes_ <= 100_000, f"uncompressed, {len(sizes)} files"),
        Row("console: what its pages load or lead to elsewhere", f"{len(foreign)}", "0", not foreign,
            ", ".join(sorted(f.decode() for f in foreign)) or "–"),
    ]


def page_vote():
    """From Approve on the request's page to the credential at the agent that waits for it."""
    took = []
    with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as demo:
        doors, bob = demo.doors, Person(demo, "bob")
        for _ in range(VOTES):
            request_id, arrived = doors.pending(), []

            def wait():
                reply = doors.get(request_id, "30s", timeout=40)
                arrived.append((time.perf_counter(), reply))
            waiter = threading.Thread(target=wait)
            waiter.start()
            time.sleep(0.03)
            begun = bob.approve(request_id)
            waiter.join()
            at, reply = arrived[0]
            assert reply.json["state"] == "granted", reply
            took.append((at - begun) * 1000)
    p99 = quantile(took, 0.99)
    return [Row("approval: Approve pressed on the console's page → credential at the waiting agent, p99",
                f"{p99:.1f} ms", "≤ 100 ms", p99 <= 100, f"p50 {median(took):.1f} ms over {len(took)} votes")]
