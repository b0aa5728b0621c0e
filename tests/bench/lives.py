"""Rows about built-in issuers and the life of what they issue: beside Vault, and over history."""

import base64
import json
import os
import subprocess
import time

from gauge import (GRANTS, MANY_ASKS, ROUNDS, Request, Row, ask, cpu, enrolled, joining, median, memory, rates,
                   ratio, served, want_wrk)
from harness import ROOT, Demo, call, clean_env, scratch
from own import Own
from peers import golang
from peers.vault import Vault

SECRET = "0123456789abcdef0123456789abcdef"
MINTERS = """
[[minter]]
name = "ssh"
kind = "ssh"

[[minter]]
name = "x509"
kind = "x509"

[[introspection]]
client = "bench"
secret_file = "bench.secret"
audience = "https://bench.example.com"
"""
SCOPES = """
[[scope]]
name = "bench.ssh"
title = "Run {job}"
minter = "ssh"
params.key = { type = "public-key", format = "ssh" }
params.job = { type = "string", pattern = "[a-z][a-z0-9-]{0,63}" }
template = { public_key = "key", principals = ["deploy"], force_command = "/bin/run ${job}" }

[[scope]]
name = "bench.x509"
title = "Call as {service}"
minter = "x509"
params.csr = { type = "public-key", format = "csr" }
params.service = { type = "string", pattern = "[a-z][a-z0-9-]{0,62}" }
template = { request = "csr", dns = ["${service}.internal.example"] }

[[scope]]
name = "bench.jwt"
title = "Read {dataset}"
minter = "jwt"
params.dataset = { type = "string", pattern = "[a-z][a-z0-9-]{0,63}" }
template = { audience = "https://bench.example.com", status = true }
"""
POLICY = "".join(f'@id("{n}") @max_ttl("15m") permit (principal, action == Action::"issue", '
                 f'resource == Scope::"{n}");\n' for n in ("bench.ssh", "bench.x509", "bench.jwt"))


def stand():
    return Own(MINTERS, SCOPES, POLICY, secrets={"bench.secret": SECRET},
               GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS)


def keys():
    """A public line for SSH and a certificate request, as an agent would make them."""
    folder = scratch("keys")
    folder.mkdir()
    quiet = {"check": True, "capture_output": True}
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / "k")], **quiet)
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out",
                    str(folder / "key.pem")], **quiet)
    subprocess.run(["openssl", "req", "-new", "-key", str(folder / "key.pem"), "-subj", "/CN=x", "-outform",
                    "DER", "-out", str(folder / "csr")], **quiet)
    subprocess.run(["openssl", "req", "-new", "-key", str(folder / "key.pem"), "-subj", "/CN=x", "-out",
                    str(folder / "csr.pem")], **quiet)
    line = (folder / "k.pub").read_text().strip()
    return line, base64.b64encode((folder / "csr").read_bytes()).decode(), (folder / "csr.pem").read_text()


def vault_calls(vault, line, csr):
    """What Vault issues: name to how root asks for it, whom no policy judges and Vault serves fastest, and how an
    agent does; what we issue beside it, and how many times as much we want to."""
    vault.call("POST", "sys/mounts/pki", {"type": "pki"})
    vault.call("POST", "pki/root/generate/internal", {"common_name": "bench", "key_type": "ec", "key_bits": 256})
    for name, lease in (("leased", True), ("unleased", False)):
        vault.call("POST", f"pki/roles/{name}", {
            "allowed_domains": "internal.example", "allow_subdomains": True, "key_type": "ec", "key_bits": 256,
            "ttl": "15m", "generate_lease": lease, "no_store": not lease, "use_csr_common_name": False})
    vault.call("POST", "sys/mounts/ssh", {"type": "ssh"})
    vault.call("POST", "ssh/config/ca", {"generate_signing_key": True, "key_type": "ed25519"})
    vault.call("POST", "ssh/roles/bench", {"key_type": "ca", "allow_user_certificates": True,
                                           "allowed_users": "deploy", "default_user": "deploy", "ttl": "15m"})
    vault.call("POST", "identity/oidc/key/bench", {"allowed_client_ids": "*", "algorithm": "EdDSA"})
    vault.call("POST", "identity/oidc/role/bench", {"key": "bench", "ttl": "15m"})
    service = {"csr": csr, "common_name": "a.internal.example"}
    ways = {
        "X.509, leased": ("POST", "pki/sign/leased", service, "x509", 10),
        "X.509, nothing stored": ("POST", "pki/sign/unleased", service, "x509", 5),
        "service token": ("POST", "auth/token/create", {"ttl": "15m"}, "jwt", 10),
        "SSH": ("POST", "ssh/sign/bench", {"public_key": line, "valid_principals": "deploy"}, "ssh", 5),
        "signed JWT": ("GET", "identity/oidc/token/bench", None, "jwt", 5),
    }
    token = logged_in(vault, [path for _, path, *_ in ways.values()])
    calls = {}
    for name, (method, path, body, kind, target) in ways.items():
        root, agent = (Request(method, f"/v1/{path}", it, body and json.dumps(body))
                       for it in (vault.root_token, token))
        # Root is nobody whom a token could name.
        calls[name] = (None if name == "signed JWT" else root, agent, kind, target)
    return calls


def logged_in(vault, paths):
    """The token of an agent that logged in, which may do no more than this."""
    vault.call("PUT", "sys/policies/acl/bench", {
        "policy": "".join(f'path "{it}" {{ capabilities = ["read", "update"] }}\n' for it in paths)})
    vault.call("POST", "sys/auth/approle", {"type": "approle"})
    vault.call("POST", "auth/approle/role/bench", {"token_policies": ["bench"]})
    login = vault.call("POST", "auth/approle/login", {
        "role_id": vault.call("GET", "auth/approle/role/bench/role-id")["data"]["role_id"],
        "secret_id": vault.call("POST", "auth/approle/role/bench/secret-id", {})["data"]["secret_id"]})
    return login["auth"]["client_token"]


def issuers():
    """Built-in issuers, durable with lease and evidence, beside what Vault (raft, file audit device) issues,
    leased and not, to root. What it issues to an agent, whose rights are judged by policy as ours are, stands
    beside. Ours is asked as by four sidecars with sixteen callers each. Every ask for a certificate, here and
    there, carries one and the same key's request, as a sidecar's own do: ours checks its signature once."""
    want_wrk(print)
    missing = golang.prepare(ROOT, "vault", print)
    if missing:
        raise RuntimeError(missing)
    line, csr, csr_pem = keys()
    asks = {"jwt": ("bench.jwt", '{"dataset":"b-#"}'),
            "ssh": ("bench.ssh", json.dumps({"job": "b-#", "key": line})),
            "x509": ("bench.x509", json.dumps({"csr": csr, "service": "b-#"}))}
    own, vault = stand(), Vault(ROOT, scratch("vault"), durable=True)
    rows = []

    def light(callers, connections, kind):
        return ask(home, callers, connections, *seconds(), what=asks[kind], load="light")

    try:
        home = enrolled(own.demo)
        for kind in asks:
            ask(home, 8, 2, 1, asks[kind])  # warm
        for name, (root, agent, kind, target) in vault_calls(vault, line, csr_pem).items():
            request = root or agent
            got = {"own": [], "vault": [], "agent": [], "own one": [], "vault one": []}
            for _ in range(ROUNDS):
                got["vault"].append(request.load(vault.addr, 64))
                if root:
                    got["agent"].append(agent.load(vault.addr, 64))
                got["own"].append(served(own.broker.pid, lambda: light(64, 4, kind)))
                got["vault one"].append(request.load(vault.addr, 1))
                got["own one"].append(light(1, 1, kind))
            found = ratio(got["own"], got["vault"])
            p50 = {k: median([r["p50_us"] for r in got[k]]) for k in ("own one", "vault one")}
            rows.append(Row(f"issuers: {kind}, durable with lease and evidence, 64 callers, against Vault's {name}",
                            f"{found:.1f} ×", f"≥ {target} ×", found >= target,
                            f"{rates(got['own'])}; Vault {rates(got['vault'])}{to_an_agent(got)}"))
            quotient = p50["own one"] / max(1, p50["vault one"])
            rows.append(Row(f"issuers: {kind}, one caller, p50, against Vault's {name}", f"{quotient:.2f} ×",
                            "≤ 0.25 ×" if target == 10 else "–", quotient <= 0.25 if target == 10 else None,
                            f"{p50['own one']:.0f} µs; Vault {p50['vault one']:.0f} µs"))
    finally:
        own.end()
        vault.stop()
    return rows


def to_an_agent(got):
    """What Vault issues to one whom policy judges."""
    if not got["agent"]:
        return ""
    return f", to an agent {rates(got['agent'])}: {ratio(got['own'], got['agent']):.1f} ×"


def seconds():
    from gauge import SECONDS
    return (SECONDS,)


def history():
    """Minting after many past leases, against minting after none, by turns at two brokers."""
    many = int(os.environ.get("BENCH_HISTORY", "1000000"))
    with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as old, \
            Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as new:
        homes = {"old": enrolled(old), "new": enrolled(new)}
        past = 0
        while past < many:
            past += ask(homes["old"], 64, 4, 10)["n"]
        got = {"old": [], "new": []}
        for _ in range(ROUNDS):
            for name, home in homes.items():
                got[name].append(ask(home, 1, 1, *seconds()))
    p50 = {k: median([r["p50_us"] for r in v]) for k, v in got.items()}
    found = p50["old"] / p50["new"]
    return [Row(f"history: a grant's p50 at {past:,} past leases, against none", f"{found:.2f} ×", "≤ 1.2 ×",
                found <= 1.2, f"{p50['old']:.0f} µs; {p50['new']:.0f} µs")]


def fleet():
    """Sidecars attending one broker: its memory, and how soon all are back after its restart."""
    many = int(os.environ.get("BENCH_FLEET", "10000"))
    with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS) as demo:
        before = memory(demo.broker_pid)
        home, ca, domain = joining(demo)
        home.mkdir()
        operator = {"Authorization": f"Bearer {(demo.dir / 'operator.token').read_text()}"}
        with open(home / "tokens", "w") as file:
            for _ in range(many):
                made = call(demo.env["GRANTWRIGHT_CONSOLE"], "POST",
                            "/api/v1/agents/demo-agent/join", {}, operator)
                file.write(made.json["join_token"] + "\n")
        process = subprocess.Popen(
            [GRANTS, "fleet", home, demo.env["GRANTWRIGHT_BROKER"], ca, domain],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=clean_env())
        try:
            enrolled, first = (json.loads(process.stdout.readline()) for _ in range(2))
            rss = memory(demo.broker_pid)
            begun, worked = time.monotonic(), cpu(process.pid)
            demo.restart()
            json.loads(process.stdout.readline())
            back, again = time.monotonic() - begun, memory(demo.broker_pid)
            worked = cpu(process.pid) - worked
        finally:
            process.kill()
            process.wait()
    return [
        Row(f"broker: memory with {many:,} sidecars attending", f"{max(rss, again):.0f} MB",
            "< 1,000 MB", max(rss, again) < 1000,
            f"{before:.0f} MB before; all enrolled in {enrolled['seconds']:.0f} s, then attending in "
            f"{first['seconds']:.1f} s"),
        Row(f"broker: restarted, {many:,} sidecars attend again after", f"{back:.1f} s", "≤ 60 s",
            back <= 60, f"the restart itself counted; the sidecars' own processor on the same cores: "
            f"{worked:.0f} s; {again:.0f} MB then"),
    ]
