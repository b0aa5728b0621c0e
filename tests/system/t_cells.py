"""Client by client and outcome by outcome: each cell of the table in docs/agents.md is a test of its own,
`test_CLIENT_OUTCOME`. The clients are the tools themselves (`clients.py`); the table is made from them."""

import os
import re
import sys
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

import boto3  # noqa: F401  the suite `table` brings it
from clients import CLIENTS, Around, World
from harness import ROOT, alive, call, signal_pid, together, until

OUTCOMES = {"routine": "routine", "approved": "pending → approved", "denied": "denied", "question": "question",
            "narrowed": "narrowed", "expired": "expired", "revoked": "revoked", "broker_away": "broker away"}
PAGE = ROOT / "docs" / "agents.md"
BEGIN, END = "<!-- made by tests/system/t_cells.py -->\n", "<!-- to here -->\n"
# Cells wait much and work little; each world's people and logs are shared.
AT_ONCE = 5
assertions = unittest.TestCase()
around = world = short = away = pool = None
futures = {}


def setUpModule():
    global around, world, short, away, pool
    around = Around()
    # The first one's list of revoked certificates is the one that sshd reads.
    world = World(around)
    short, gone = together(lambda: World(around, GRANTWRIGHT_DEMO_PENDING_TTL="6s"), lambda: World(around))
    away = Away(gone)
    pool = ThreadPoolExecutor(AT_ONCE)
    if "-k" not in sys.argv:
        for client in CLIENTS:
            for outcome in OUTCOMES:
                futures[client, outcome] = pool.submit(run, client, outcome)


def tearDownModule():
    if pool:
        pool.shutdown(cancel_futures=True)
    if away:
        away.close()
    for it in (world, short, away and away.world, around):
        if it:
            it.stop()


def run(name, outcome):
    kind = CLIENTS[name]
    missing = kind.missing()
    if missing:
        raise unittest.SkipTest(missing)
    if outcome == "broker_away":
        return away.cell(name)
    at = short if outcome == "expired" else world
    asking = outcome not in ("routine", "revoked")
    client = kind(at, kind.ASKING if asking else kind.ROUTINE, kind.wanted(around, asking))
    clients = [client]
    try:
        globals()[outcome](client, clients)
    finally:
        for it in clients:
            it.close()


def gets(client):
    """What it is given in the end: a busy machine may say first that it is under way."""
    if not client.repeats:
        identity, words = client.attempt(last=True)
        assertions.assertIsNotNone(identity, words)
        return identity
    said = []

    def one():
        identity, words = client.attempt()
        said[:] = [words]
        return identity
    try:
        return until("a credential", 60, one, 0.3)
    except AssertionError as fault:
        raise AssertionError(f"{fault}; it says: {said}") from None


def says(client, *wanted):
    """It has none, and says why."""
    if not client.tells:
        assertions.assertIsNone(client.attempt()[0])
        return
    said = []

    def one():
        identity, words = client.attempt() if client.repeats else client.attempt(last=True)
        assertions.assertIsNone(identity)
        said[:] = [words]
        # Quotation in JSON and line ends of terminals aside.
        flat = " ".join(words.split()).lower()
        return all(it.lower() in flat for it in wanted)
    try:
        until(f"its words {wanted}", 60, one, 0.3)
    except AssertionError as fault:
        raise AssertionError(f"{fault}; it says: {said}") from None


def waits(client):
    """A try that meets people: it has none, says which request waits, and there is one such request."""
    def one():
        identity, words = client.attempt()
        assertions.assertIsNone(identity)
        found = client.world.requests(client.params)
        return (found, words) if found else None
    found, words = until("a request", 60, one, 0.3)
    assertions.assertEqual(len(found), 1, found)
    if client.tells and found[0] not in words:
        says(client, found[0])
    return found[0]


def vote(client, word, request_id, **fields):
    reply = client.world.bob.vote(word, request_id, **fields)
    assertions.assertEqual(reply.status, 200, reply)


def routine(client, clients):
    identity = gets(client)
    clients.append(client.again())
    if client.shared:
        assertions.assertEqual(gets(clients[1]), identity, "not from memory")
    else:
        assertions.assertNotEqual(gets(clients[1]), identity, "not its own")


def approved(client, _):
    request_id = waits(client)
    if client.repeats:
        assertions.assertEqual(waits(client), request_id)
    vote(client, "approve", request_id)
    identity = gets(client)
    assertions.assertTrue(client.is_of(identity, request_id), (identity, request_id))


def denied(client, clients):
    request_id = waits(client)
    vote(client, "deny", request_id, reason="not today")
    says(client, "denied")
    # A person's deny holds for the same ask.
    clients.append(client.again())
    assertions.assertIsNone(clients[1].attempt()[0])
    if client.repeats:
        assertions.assertEqual(client.world.requests(client.params, "pending"), [])


def question(client, _):
    request_id = waits(client)
    vote(client, "ask", request_id, text="which quarter?")
    if client.repeats:
        says(client, "which quarter?")
    else:
        identity, words = client.attempt()
        assertions.assertIsNone(identity)
        assertions.assertIn("which quarter?", words)
    answered = client.answer(request_id, "the second")
    assertions.assertIn(answered.status, (200, 202), answered)
    vote(client, "approve", request_id)
    assertions.assertTrue(client.is_of(gets(client), request_id))


def narrowed(client, _):
    request_id = waits(client)
    vote(client, "narrow", request_id, **client.narrower)
    assertions.assertTrue(client.is_narrow(gets(client)))


def expired(client, clients):
    request_id = waits(client)
    until("its end", 60, lambda: short.bob.request(request_id)["state"] == "expired", 0.2)
    if not client.repeats:
        says(client, "nobody decided in time")
        clients.append(client.again())
        client = clients[1]

    # The first to meet it is told of its end; whoever asks then asks anew.
    def anew():
        identity, words = client.attempt()
        assertions.assertIsNone(identity)
        if client.tells and request_id in words:
            assertions.assertIn("nobody decided in time", words.lower())
        return len(short.requests(client.params)) > 1
    until("a new request", 60, anew, 0.3)


def revoked(client, clients):
    identity = gets(client)
    request_id, = world.requests(client.params)
    _, said = world.stand.revoke(world.lease(request_id))
    if not client.shared:
        until("the end of what it holds", 60, lambda: client.ended(request_id, identity), 0.2)

    # An SDK keeps what it has: who asks next is not given it.
    def another():
        clients.append(client.again())
        return gets(clients[-1]) != identity
    until(f"another credential ({said.strip()})", 60, another, 0.3)


class Away:
    """Everybody was given a credential; then the broker dies."""

    def __init__(self, world):
        self.world, self.lock, self.had = world, threading.Lock(), None

    def prepare(self):
        with self.lock:
            if self.had is not None:
                return
            had = {}

            def one(name):
                kind = CLIENTS[name]
                if not kind.missing():
                    client = kind(self.world, kind.ROUTINE, kind.wanted(around, False))
                    try:
                        had[name] = (client, gets(client))
                    except Exception as fault:  # its own cell says so
                        had[name] = (client, fault)
            with ThreadPoolExecutor(AT_ONCE) as own:
                for done in [own.submit(one, name) for name in CLIENTS]:
                    done.result()
            pid = self.world.stand.broker.pid
            signal_pid(pid)
            until("the broker is gone", 20, lambda: not alive(pid))
            self.had = had

    def cell(self, name):
        self.prepare()
        client, identity = self.had[name]
        if isinstance(identity, Exception):
            raise identity
        # From memory, or what it holds: it serves on.
        again = client.again() if client.shared else client
        kind = CLIENTS[name]
        other = kind(self.world, kind.ROUTINE, kind.wanted(around, False))
        try:
            assertions.assertEqual(gets(again), identity)
            if name != "imds":
                says(other, "broker cannot be reached")
        finally:
            again.close()
            other.close()

    def close(self):
        for client, _ in (self.had or {}).values():
            client.close()


class Cells(unittest.TestCase):
    pass


def cell(client, outcome):
    def test(self):
        future = futures.get((client, outcome))
        return future.result(600) if future else run(client, outcome)
    return test


for _client in CLIENTS:
    for _outcome in OUTCOMES:
        setattr(Cells, f"test_{_client}_{_outcome}", cell(_client, _outcome))


def table():
    notes = list(dict.fromkeys(kind.note for kind in CLIENTS.values() if kind.note))
    lines = ["| client × door | " + " | ".join(OUTCOMES.values()) + " |", "| --- |" + " --- |" * len(OUTCOMES)]
    for name, kind in CLIENTS.items():
        mark = f" <sup>{notes.index(kind.note) + 1}</sup>" if kind.note else ""
        lines.append(f"| {kind.label}{mark} | " + " | ".join(f"`{name}_{it}`" for it in OUTCOMES) + " |")
    return "\n".join(lines) + "\n\n" + "\n".join(f"{n}. {note}" for n, note in enumerate(notes, 1)) + "\n"


class Page(unittest.TestCase):
    def test_the_table_is_the_one_of_the_tests(self):
        text = PAGE.read_text()
        head, _, rest = text.partition(BEGIN)
        shown, _, tail = rest.partition(END)
        if os.environ.get("GRANTWRIGHT_BLESS"):
            PAGE.write_text(head + BEGIN + table() + END + tail)
        else:
            self.assertEqual(shown, table(), "GRANTWRIGHT_BLESS=1 writes it")

    def test_every_cell_is_a_test(self):
        rows = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].splitlines()
        named = {name for row in rows for cell in row.split("|")[2:] for name in re.findall(r"`(\w+)`", cell)}
        for name in named:
            self.assertTrue(hasattr(Cells, f"test_{name}"), name)
        self.assertEqual(len(CLIENTS) * len(OUTCOMES), sum(it.startswith("test_") for it in dir(Cells)))


class Circuit(unittest.TestCase):
    def test_after_so_many_nobody_waits_for_a_broker_that_is_gone(self):
        away.prepare()
        for _ in range(20):
            self.assertEqual(away.world.doors.ask("demo.read", {"dataset": away.world.doors.fresh()}).status, 503)
        # Calls fail at once, and the metric says why.
        text = call(away.world.doors.tcp, "GET", "/metrics").body.decode()
        self.assertIn("grantwright_sidecar_circuit_open 1", text)


if __name__ == "__main__":
    unittest.main()
