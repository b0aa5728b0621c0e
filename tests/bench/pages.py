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
VIEWS = int(os.environ.get("BENCH_VIEWS", "100"))
VOTES = int(os.environ.get("BENCH_VOTES", "200"))


class Person:
    """Somebody signed in at the console, on one connection that stays open, as a browser's does."""

    def __init__(self, demo, name):
        operator = (demo.dir / "operator.token").read_text()
        self.address = urllib.parse.urlsplit(demo.env["GRANTWRIGHT_CONSOLE"])
        self.connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=60)
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


def fill(demo):
    """A store of so many requests, a tenth of which wait for people, some denied."""
    doors = demo.doors

    def one(n):
        if n < PENDING:
            return doors.ask("demo.export", {"dataset": f"set-{n}", "rows": n}, "a measurement").json["request_id"]
        doors.ask("demo.read", {"dataset": f"set-{n}"}, "a measurement")
        return None
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(REQUESTS)))
    waiting = [request_id for request_id in made if request_id]
    denied = max(1, len(waiting) // 20)
    for request_id in waiting[:denied]:
        demo.bob.deny(request_id)
    return waiting[:denied], waiting[denied:]


def console():
    """Each page of the console with many requests in the store, for a reviewer and for security; the bytes
    of the first page; whether anything comes from elsewhere."""
    settings = {"GRANTWRIGHT_DEMO_ASKS_PER_SECOND": MANY_ASKS,
                "GRANTWRIGHT_DEMO_OPEN_REQUESTS": str(PENDING + 10)}
    with Demo(**settings) as demo:
        denied, waiting = fill(demo)
        bob, dave = Person(demo, "bob"), Person(demo, "dave")
        some, done = waiting[len(waiting) // 2], denied[0]
        pages = {
            "inbox": (bob, "/"), "inbox of security": (dave, "/"), "request": (bob, f"/requests/{some}"),
            "narrow": (bob, f"/requests/{some}/narrow?ttl=60s"), "ended request": (bob, f"/requests/{done}"),
            "agents": (bob, "/agents"), "agent": (bob, "/agents/demo-agent"), "leases": (bob, "/leases"),
            "log": (bob, "/log"), "log by person": (bob, "/log?human=bob"),
            "log by words": (bob, "/log?text=nothing+says+this"), "policies": (bob, "/policies"),
        }
        first, took, work = {}, {}, {}
        for name, (who, path) in pages.items():
            begun = time.perf_counter()
            who.page(path)
            first[name] = (time.perf_counter() - begun) * 1000
        for name, (who, path) in pages.items():
            times, before = [], cpu(demo.broker_pid)
            for _ in range(VIEWS):
                begun = time.perf_counter()
                who.page(path)
                times.append((time.perf_counter() - begun) * 1000)
            took[name], work[name] = times, (cpu(demo.broker_pid) - before) * 1000 / VIEWS
        home = bob.page("/")
        linked = set(re.findall(rb'(?:href|src)="([^"]+\.(?:css|js|svg))"', home))
        sizes = [len(home)] + [len(bob.page(path.decode())) for path in linked]
        foreign = set()
        for who, path in pages.values():
            foreign |= set(re.findall(rb'(?:href|src|action)="((?:https?:)?//[^"]+)"', who.page(path)))
    worst = max(took, key=lambda name: quantile(took[name], 0.99))
    p99 = quantile(took[worst], 0.99)
    told = "; ".join(f"{name} p50 {median(t):.1f}, p99 {quantile(t, 0.99):.1f}, first {first[name]:.0f}, "
                     f"processor {work[name]:.1f}" for name, t in took.items())
    bytes_ = sum(sizes)
    return [
        Row(f"console: slowest page (`{worst}`) with {REQUESTS:,} requests, {len(waiting):,} of them waiting, p99",
            f"{p99:.1f} ms", "≤ 50 ms", p99 <= 50, f"from the request to the last byte, ms: {told}"),
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
