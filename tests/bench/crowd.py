"""Row `hostile`: a good client's slowest answers beside thousands of hostile connections, against its slowest
answers alone. As a program, `crowd.py KIND PORT COUNT RATE` is that crowd: it holds so many connections until it is
ended, opens at most RATE of them a second again as they are shut, and prints a line once all have come."""

import os
import resource
import selectors
import socket
import sys
import threading
import time
import urllib.parse

# How many, how many of them come again each second, and what a good client may suffer.
MANY = int(os.environ.get("BENCH_CROWD", "3000"))
RATE = int(os.environ.get("BENCH_CROWD_RATE", "500"))
MOST = 3.0
SAID = {
    "silent": b"",
    "head": b"POST /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    "preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    # Whole calls at an open door, whose answers nobody reads.
    "reader": b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100,
}
DATASET = '{"scope":"demo.read","params":{"dataset":"crowd"},"reason":"a measurement"}'


def crowd(kind, port, count, rate):
    """Never ends by itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    watched, opened, begun = selectors.DefaultSelector(), 0, time.monotonic()
    held = 0
    while True:
        # The first ones come as fast as they can.
        may = opened < count or opened - count < (time.monotonic() - begun) * rate
        if held < count and may:
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                line.connect(("127.0.0.1", port))
                line.setblocking(False)
                line.send(SAID[kind])
            except BlockingIOError:
                pass
            except OSError:
                line.close()
                continue
            # Whatever is to be read of a silent one is its end; of the others only the end is looked for.
            watched.register(line, selectors.EVENT_READ)
            opened, held = opened + 1, held + 1
            if opened == count:
                begun = time.monotonic()
                print("there", flush=True)
        wait = 0 if held < count and may else 0.02
        for key, _ in watched.select(wait):
            line = key.fileobj
            try:
                over = kind != "reader" and not line.recv(4096)
            except BlockingIOError:
                continue
            except OSError:
                over = True
            if over:
                watched.unregister(line)
                line.close()
                held -= 1
            elif kind == "reader":
                # It reads nothing, and is not looked at again.
                watched.unregister(line)


def own_connections(base, token, seconds):
    """µs of each call that has a connection of its own."""
    from harness import call
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        reply = call(base, "POST", "/v1/credentials", raw=DATASET.encode(), headers={"Authorization": f"Bearer {token}"})
        assert reply.status == 200, reply
        took.append((time.perf_counter() - begun) * 1e6)
        time.sleep(0.002)
    return took


def hostile():
    """A good client's p99 beside thousands of connections that say nothing, never end a head, never read or take all
    descriptors, against its p99 alone."""
    from gauge import MANY_ASKS, ROUNDS, SECONDS, Request, Row, median, quantile
    from harness import Demo, Process, clean_env, until
    from pathlib import Path

    rows = []
    with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as demo:
        doors, pid = demo.doors, demo.sidecar_pid
        at = urllib.parse.urlsplit(doors.tcp)
        request = Request("POST", "/v1/credentials", doors.token, DATASET)
        assert doors.call("POST", "/v1/credentials", raw=DATASET.encode()).status == 200

        def load():
            """p99 of eight kept connections, and of calls that each come anew, at the same time."""
            took = []
            anew = threading.Thread(target=lambda: took.extend(own_connections(doors.tcp, doors.token, SECONDS)))
            anew.start()
            kept = request.bytes(doors.tcp, 8, SECONDS)["p99_us"]
            anew.join()
            return kept, quantile(took, 0.99)

        def beside(kind, few):
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            if few:
                now = len(os.listdir(f"/proc/{pid}/fd"))
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (now + 40, hard))
            process = Process([sys.executable, Path(__file__).resolve(), kind, at.port, MANY, RATE], env=clean_env())
            try:
                until("the crowd", 120, lambda: process.out.read_text(), 0.05)
                return load()
            finally:
                process.kill()
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
                until("its end", 60, lambda: doors.call("GET", "/v1/scopes").status == 200)

        load()  # warm
        for kind, few, what in (("silent", False, "connections that say nothing"),
                                ("head", False, "heads that never end"),
                                ("preface", False, "prefaces of HTTP/2 and nothing after"),
                                ("reader", False, "callers that never read"),
                                ("silent", True, "connections that take every descriptor")):
            alone, crowded = [], []
            for _ in range(ROUNDS):
                alone.append(load())
                crowded.append(beside(kind, few))
            for n, which in enumerate(("kept connections", "connections of its own")):
                calm, under = median([it[n] for it in alone]), median([it[n] for it in crowded])
                found = median([b[n] / a[n] for a, b in zip(alone, crowded)])
                rows.append(Row(f"sidecar: p99 of a good client on {which}, beside {MANY:,} {what}, against alone",
                                f"{found:.1f} ×", f"≤ {MOST:g} ×", found <= MOST,
                                f"{under:,.0f} µs, alone {calm:,.0f} µs; up to {RATE:,} of them a second come again"))
    return rows


if __name__ == "__main__":
    crowd(sys.argv[1], *map(int, sys.argv[2:]))
