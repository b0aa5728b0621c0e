"""The kill switch: an agent with many live leases is revoked, at each kind of backend beside the backend's own
rate, measured by a direct client in the same run."""

import base64
import contextlib
import http.client
import json
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from gauge import MANY_ASKS, Row, ask, enrolled
from harness import ROOT, Demo, call, scratch
from lives import SECRET, stand
from peers import golang
from peers.postgres import Postgres, programs
from peers.vault import BROKER_POLICY, Vault
from stand import Stand

# Live leases at the built-in issuer and at PostgreSQL, and at Vault, which takes minutes to make and end that many.
MANY = int(os.environ.get("BENCH_KILL", "10000"))
AT_VAULT = int(os.environ.get("BENCH_KILL_VAULT", str(min(MANY, 2000))))
CLIENTS = 32
PG_SCOPE = """
[[scope]]
name = "pg.read"
title = "Read the tables of {dataset}"
minter = "pg"
params.dataset = { type = "string", pattern = "[a-z]{1,15}", title = "Dataset" }
template = { roles = ["${dataset}_readers"] }
"""


def say(text):
    print(f"   {text}", flush=True)


def filled(demo, home, what, many):
    """Asks until so many leases live; how many."""
    live = 0
    while live < many:
        live += ask(home, CLIENTS, 2, 1, what)["n"]
    return live


def left(demo):
    """How many leases of the agent are live, over all pages."""
    count, path = 0, "/api/v1/leases?state=live&agent=demo-agent"
    page = path
    while page:
        reply = demo.dave.call("GET", page).json
        count += sum(lease["state"] == "live" for lease in reply["leases"])
        page = f"{path}&before={reply['next']}" if "next" in reply else None
    return count


def revoke(demo, console, scope, params, active=None):
    """Revokes the demo's agent: seconds until an ask was refused, until `active` said no, and until every
    lease was ended; and what the broker said."""
    operator = {"Authorization": f"Bearer {(demo.dir / 'operator.token').read_text()}"}
    done, ended, live = [], [], left(demo)
    begun = time.perf_counter()

    def work():
        try:
            reply = call(console, "POST", "/api/v1/agents/demo-agent/revoke", {}, operator, timeout=1800)
            while reply.status == 200 and reply.json.get("going_on") and left(demo):
                time.sleep(0.2)
            done.append(reply)
        except OSError as fault:
            done.append(fault)
        ended.append(time.perf_counter() - begun)
    worker = threading.Thread(target=work)
    worker.start()
    refused = inactive = None
    while refused is None or (active and inactive is None):
        if active and inactive is None and not active():
            inactive = time.perf_counter() - begun
        if refused is None and demo.doors.ask(scope, params(), idempotency_key=demo.doors.fresh("k")).status != 200:
            refused = time.perf_counter() - begun
    while worker.is_alive():
        worker.join(2)
        if worker.is_alive():
            say(f"{left(demo):,} left after {time.perf_counter() - begun:.0f} s")
    if done[0].status != 200:
        raise RuntimeError(f"the revocation: {done[0]}")
    gone = live if done[0].json.get("going_on") else sum(lease["ended"] for lease in done[0].json["leases"])
    still = left(demo)
    if still:
        raise RuntimeError(f"{still} leases live on after the revocation")
    return refused, inactive, ended[0], gone


def built_in():
    own = stand()
    try:
        home = enrolled(own.demo)
        live = filled(own.demo, home, ("bench.jwt", '{"dataset":"b-#"}'), MANY)
        sample = own.granted("bench.jwt", {"dataset": "sample"})["credential"]["token"]
        basic = base64.b64encode(f"bench:{SECRET}".encode()).decode()

        def active():
            return call(own.console, "POST", "/introspect", raw=f"token={sample}".encode(), headers={
                "Authorization": f"Basic {basic}"}).json["active"]
        assert active()
        refused, inactive, ended, gone = revoke(
            own.demo, own.console, "bench.jwt", lambda: {"dataset": own.demo.doors.fresh()}, active)
    finally:
        own.end()
    return [
        Row(f"kill switch: new asks refused, {live:,} live leases of the built-in issuer", f"{refused:.2f} s", "≤ 1 s",
            refused <= 1, "–"),
        Row("kill switch: built-in credentials inactive at introspection", f"{inactive:.2f} s", "≤ 2 s",
            inactive <= 2, "–"),
        Row("kill switch: every built-in lease ended, each with its leaf", f"{ended:.2f} s", "–", None,
            f"{gone:,} leases, {gone / ended:,.0f}/s"),
    ]


def beside(name, refused, gone, ended, rates, how):
    """`rates`: the backend's own, before the broker's and after. What was dropped leaves its traces in the
    backend's tables, so that of two alike the later is the slower."""
    before, after = rates
    direct = 2 / (1 / before + 1 / after)
    found = (gone / ended) / direct
    return [
        Row(f"kill switch: {name}, new asks refused, {gone:,} live leases", f"{refused:.2f} s", "≤ 1 s", refused <= 1, "–"),
        Row(f"kill switch: {name}, leases ended against the backend's own rate", f"{found:.2f} ×", "≥ 0.9 ×",
            found >= 0.9, f"{gone / ended:,.0f}/s; {how} {before:,.0f}/s before and {after:,.0f}/s after"),
    ]


def in_parallel(work, clients=CLIENTS):
    """Does each of `work` at `clients` kept connections; how many in a second."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda part: [one() for one in part], [work[n::clients] for n in range(clients)]))
    return len(work) / (time.perf_counter() - begun)


@contextlib.contextmanager
def accounts_at_vault():
    """A real Vault, on raft with an audit file, that makes accounts of a real PostgreSQL."""
    with contextlib.ExitStack() as ends:
        postgres = Postgres(scratch("postgres"))
        ends.callback(postgres.stop)
        postgres.sql("CREATE ROLE readers; CREATE TABLE sales (n int); GRANT SELECT ON sales TO readers;"
                     "CREATE ROLE vault LOGIN SUPERUSER PASSWORD 'vault-pass'")
        vault = Vault(ROOT, scratch("vault"), durable=True)
        ends.callback(vault.stop)
        vault.database(postgres, "sales")
        yield vault


def at_vault():
    with accounts_at_vault() as vault:
        local = threading.local()

        def direct(method, path, body=None):
            if not hasattr(local, "line"):
                local.line = http.client.HTTPConnection(urlsplit(vault.addr).netloc, timeout=120)
            local.line.request(method, f"/v1/{path}", json.dumps(body) if body else None,
                               {"X-Vault-Token": vault.root_token})
            reply = local.line.getresponse()
            text = reply.read()
            if reply.status >= 300:
                raise RuntimeError(f"Vault: {reply.status} {text[:200]}")
            return json.loads(text) if text else None

        def own(many):
            made = []
            in_parallel([lambda: made.append(direct("GET", "database/creds/db-read")["lease_id"])] * many)
            return in_parallel([
                lambda lease=lease: direct("POST", "sys/leases/revoke", {"lease_id": lease, "sync": True})
                for lease in made])
        before = own(AT_VAULT // 2)
        with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS, VAULT_ADDR=vault.addr,
                  VAULT_TOKEN=vault.token(BROKER_POLICY)) as demo:
            filled(demo, enrolled(demo), ("vault.db-read", '{"database":"sales"}'), AT_VAULT)
            refused, _, ended, gone = revoke(demo, demo.env["GRANTWRIGHT_CONSOLE"], "vault.db-read",
                                             lambda: {"database": "sales"})
        after = own(AT_VAULT // 2)
    return beside("Vault's database engine", refused, gone, ended, (before, after),
                  f"`sys/leases/revoke` by {CLIENTS} clients, nothing looked up after,")


def dropped(postgres, many):
    """Ends so many roles of its own, as the broker ends a lease, by 8 clients; how many in a second."""
    postgres.sql(f"DO $$ BEGIN FOR i IN 1..{many} LOOP EXECUTE format("
                 "'CREATE ROLE %I LOGIN IN ROLE sales_readers', 'direct-' || i); END LOOP; END $$")
    scripts = []
    for n in range(8):
        script = scratch("drop.sql")
        script.write_text("".join(
            f'ALTER ROLE "direct-{i}" NOLOGIN PASSWORD NULL;\n'
            f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'direct-{i}';\n"
            f'DROP ROLE "direct-{i}";\n' for i in range(1 + n, many + 1, 8)))
        scripts.append(script)
    begun = time.perf_counter()
    running = [subprocess.Popen(
        [postgres.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", postgres.folder,
         "-p", str(postgres.port), "-d", "postgres", "-o", os.devnull, "-f", script], stdin=subprocess.DEVNULL)
        for script in scripts]
    if any([one.wait(1800) for one in running]):
        raise RuntimeError("the direct client failed")
    return many / (time.perf_counter() - begun)


def at_postgres():
    postgres = Postgres(scratch("postgres"))
    own = None
    try:
        postgres.sql("CREATE ROLE sales_readers; CREATE ROLE broker LOGIN CREATEROLE PASSWORD 'broker-pass';"
                     "GRANT pg_signal_backend TO broker")
        if int(postgres.sql("SHOW server_version_num")[0]) >= 160000:
            postgres.sql("GRANT sales_readers TO broker WITH ADMIN OPTION")
        before = dropped(postgres, MANY // 2)
        secret = scratch("pg-password")
        secret.write_text("broker-pass\n")
        secret.chmod(0o600)
        own = Stand([f'[[minter]]\nname = "pg"\nkind = "postgres"\npassword_file = "{secret}"\n'
                     f'url = "postgres://broker@127.0.0.1:{postgres.port}/postgres"\n'], [PG_SCOPE],
                    routine=["pg.read"], GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS)
        filled(own.demo, enrolled(own.demo), ("pg.read", '{"dataset":"sales"}'), MANY)
        refused, _, ended, gone = revoke(own.demo, own.console, "pg.read", lambda: {"dataset": "sales"})
        after = dropped(postgres, MANY // 2)
    finally:
        if own:
            own.end()
        postgres.stop()
    return beside("PostgreSQL", refused, gone, ended, (before, after),
                  "the same three statements by 8 clients, nothing looked at before or after,")


def kill():
    """The kill switch: an agent with many live leases is revoked."""
    rows = built_in()
    if not programs():
        say("no PostgreSQL here: the rows of backends are left out")
        return rows
    rows += at_postgres()
    missing = golang.prepare(ROOT, "vault", say)
    if missing:
        say(f"no Vault ({missing}): its rows are left out")
        return rows
    return rows + at_vault()
