"""The clients of the table in docs/agents.md. Each is one try, as its tool makes it, at one scope: a credential,
or words that say why not. What it needs around it is in `Around`, what it asks of is a `World`."""

import asyncio
import importlib.util
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

from ends import SSHD, GitHost, Kubernetes, Registry, Sshd, claims
from harness import BIN, GRANTWRIGHT, ROOT, Process, call, clean_env, scratch, until
from peers import forks, golang, java, node, rpc
from peers.ports import free_port
from peers.postgres import Postgres, programs
from recorder import Recorder
from stand import Stand

REGION = "us-east-1"
SERIAL = itertools.count()
SCOPES = "".join(f"""
[[scope]]
name = "cell.ssh{more}"
title = "Do {{job}} on the servers"
minter = "ssh"
ttl = {{ default_s = 900, max_s = 900 }}
params.public_key = {{ type = "public-key", format = "ssh" }}
params.job = {{ type = "string", pattern = "[a-z0-9][a-z0-9-]{{0,31}}" }}
[scope.template]
public_key = "public_key"
principals = ["deploy"]
force_command = "/bin/echo did ${{job}}"

[[scope]]
name = "cell.db{more}"
title = "Read the tables of {{dataset}}"
minter = "pg"
ttl = {{ default_s = 900, max_s = 900 }}
params.dataset = {{ type = "string", pattern = "[a-z][a-z0-9-]{{0,31}}" }}
[scope.template]
roles = ["${{dataset}}_readers"]
""" for more in ("", "-ask"))


def fresh():
    """A value that nobody used before."""
    return f"x{os.getpid()}-{next(SERIAL)}"


def lines(process, given, seconds=90):
    """One line to a process that answers each with one line; its answer."""
    process.stdin.write(given + "\n")
    process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else ""
    if not line:
        process.kill()
        raise AssertionError(f"no answer from {process.args[:3]} within {seconds} s")
    return line.rstrip("\n")


class Around:
    """What is there once for all worlds."""

    def __init__(self):
        self.made, self.lock, self.worlds = {}, threading.RLock(), []
        port = free_port()
        self.moto = Process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
        self.postgres = Postgres(scratch("postgres"))
        self.postgres.sql("CREATE TABLE sales (n int); INSERT INTO sales VALUES (40), (2);"
                          "CREATE ROLE broker LOGIN CREATEROLE PASSWORD 'broker-pass';"
                          "GRANT pg_signal_backend TO broker")
        until("moto", 60, lambda: self.moto_is_up(port), 0.1)
        self.recorder = Recorder(port)

    @staticmethod
    def moto_is_up(port):
        try:
            return call(f"http://127.0.0.1:{port}", "GET", "/moto-api/").status == 200
        except OSError:
            return False

    def once(self, kind, *arguments):
        """The one of this kind, made when it is first wanted."""
        with self.lock:
            if kind not in self.made:
                self.made[kind] = kind(*arguments)
            return self.made[kind]

    def sshd(self):
        """Trusts the authorities of all worlds; what is revoked is the first one's."""
        return self.once(Sshd, [world.authority for world in self.worlds], self.worlds[0].get("/issuers/ssh/krl"))

    def dataset(self):
        """A fresh dataset that the database knows."""
        name = fresh()
        with self.lock:
            self.postgres.sql(f'CREATE ROLE "{name}_readers"; GRANT SELECT ON sales TO "{name}_readers"')
            if int(self.postgres.sql("SHOW server_version_num")[0]) >= 160000:
                self.postgres.sql(f'GRANT "{name}_readers" TO broker WITH ADMIN OPTION')
        return name

    def stop(self):
        for it in (*self.made.values(), self.recorder, self.postgres):
            it.stop()
        self.moto.kill()


class World:
    """A broker that knows every backend the clients need, with a sidecar before it."""

    def __init__(self, around, scopes="", routine=(), **env):
        self.around = around
        secret = scratch("pg-password")
        secret.write_text("broker-pass\n")
        secret.chmod(0o600)
        self.stand = Stand(
            ['[[minter]]\nname = "ssh"\nkind = "ssh"\n', f"""
[[minter]]
name = "pg"
kind = "postgres"
url = "postgres://broker@127.0.0.1:{around.postgres.port}/postgres"
password_file = "{secret}"
timeout = "20s"
"""], [SCOPES, scopes], asks=["cell.ssh-ask", "cell.db-ask"], routine=["cell.ssh", "cell.db", *routine],
            AWS_ENDPOINT_URL_STS=around.recorder.url, AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE",
            AWS_SECRET_ACCESS_KEY="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", AWS_REGION=REGION,
            GRANTWRIGHT_DEMO_OPEN_REQUESTS="1000", **env)
        self.demo, self.doors, self.bob = self.stand.demo, self.stand.doors, self.stand.demo.bob
        until("the sidecar's stream", 30, lambda: call(self.doors.tcp, "GET", "/readyz").status == 200, 0.1)
        self.names = scratch("names")
        self.names.mkdir()
        for name in ("docker-credential-grantwright", "git-credential-grantwright"):
            (self.names / name).symlink_to(GRANTWRIGHT)
        self.mcp, self.imds = None, None
        self.lock, self.imds_lock = threading.RLock(), threading.Lock()
        self.authority = self.get("/issuers/ssh/ca.pub")
        around.worlds.append(self)

    def get(self, path):
        reply = call(self.stand.console, "GET", path)
        assert reply.status == 200, reply
        return reply.body

    def env(self, **more):
        """What an agent's shell has; PATH finds the helpers by their names."""
        home = scratch("home")
        home.mkdir()
        return clean_env(**{
            "HOME": home, "PATH": f"{self.names}:{os.environ['PATH']}", "GRANTWRIGHT_SIDECAR": self.doors.tcp,
            "GRANTWRIGHT_TOKEN_FILE": self.demo.env["GRANTWRIGHT_TOKEN_FILE"], **more})

    def requests(self, params, state="all"):
        """Of these parameters, ids, newest first."""
        found = self.bob.call("GET", f"/api/v1/requests?state={state}&limit=1000").json["requests"]
        return [r["request_id"] for r in found if all(r["params"].get(k) == v for k, v in params.items())]

    def lease(self, request_id):
        return next(e["lease_id"] for e in self.demo.events(request_id) if e["kind"] == "issued")

    def served(self):
        """The one `grantwright mcp --listen` of this world: its address and its token."""
        with self.lock:
            if not self.mcp:
                folder = scratch("mcp")
                folder.mkdir()
                self.mcp = Process([GRANTWRIGHT, "mcp", "--listen", "127.0.0.1:0", "--token-file", folder / "token",
                                    "--ready-file", folder / "ready"], env=self.env())
                until("the MCP server", 30, (folder / "ready").exists)
                self.at = (json.loads((folder / "ready").read_text())["url"], (folder / "token").read_text())
            return self.at

    def stop(self):
        for it in (self.mcp, self.imds and self.imds.process):
            if it:
                it.kill()
        self.stand.end()


class Client:
    """One try at one scope of one world. `tells`: its user reads what the sidecar said. `shared`: who asks the
    same is given the same, from memory. `repeats`: a try ends at once; else one goes on until it is decided."""

    label, note, tells, shared, repeats = "", "", True, True, True

    def __init__(self, world, scope, params):
        self.world, self.scope, self.params = world, scope, params

    @staticmethod
    def missing():
        """Why it cannot be had here."""

    def again(self):
        """Another process of the same."""
        return type(self)(self.world, self.scope, self.params)

    def run(self, *command, given="", env=None):
        done = subprocess.run([str(it) for it in command], input=given, capture_output=True, text=True,
                              env=env or self.world.env(), timeout=120)
        return done.returncode, done.stdout, done.stdout + done.stderr

    def answer(self, request_id, text):
        """Its agent answers a reviewer's question."""
        return self.world.doors.call("POST", f"/v1/requests/{request_id}/answer", {"text": text})

    def flags(self):
        return ["--scope", self.scope, *(it for k, v in self.params.items() for it in ("--param", f"{k}={v}"))]

    def helpers(self, kind, host, user):
        """An environment whose helpers' file names this scope for this host."""
        file = scratch("helpers")
        params = ", ".join(f"{k} = {json.dumps(v)}" for k, v in self.params.items())
        file.write_text(f'[[{kind}]]\nhost = "{host}"\nscope = "{self.scope}"\nusername = "{user}"\n'
                        f"params = {{ {params} }}\n")
        return self.world.env(GRANTWRIGHT_HELPERS=file)

    def close(self):
        pass


# Families: what a client's credential is, and what is asked for.

class Jwt(Client):
    """The identity is the token."""

    ROUTINE, ASKING = "demo.read", "demo.export"

    @classmethod
    def wanted(cls, _, asking):
        return {"dataset": fresh(), **({"rows": 100} if asking else {})}

    narrower = {"params": {"rows": 5}}

    @staticmethod
    def is_of(token, request_id):
        return claims(token)["jti"][1:] == request_id[1:]

    def is_narrow(self, token):
        return '"rows":5' in json.dumps(claims(token), separators=(",", ":"))


class Aws(Client):
    """The identity is what STS says the caller is; its session is named after the request."""

    ROUTINE, ASKING = "aws.s3-read", "aws.s3-export"

    @classmethod
    def wanted(cls, _, asking):
        return {"bucket": "demo", "prefix": f"cells/{fresh()}/"}

    @property
    def narrower(self):
        return {"params": {"prefix": f"{self.params['prefix']}only/"}}

    @staticmethod
    def is_of(arn, request_id):
        return request_id in arn

    def is_narrow(self, arn):
        form = next(f for f in self.world.around.recorder.named("AssumeRole")
                    if f["RoleSessionName"] == arn.rsplit("/", 1)[1])
        prefix = self.params["prefix"]
        return f"demo/{prefix}only/*" in form["Policy"] and f"demo/{prefix}*" not in form["Policy"]


class Own(Client):
    """A credential of its own, which ends with it; it waits in the open, and says what for."""

    shared, repeats = False, False
    note = "waits by itself; each run has a credential of its own, which ends with it"
    process, seen = None, 0

    def start(self):
        raise NotImplementedError

    def held(self):
        """The identity of what it was given."""
        raise NotImplementedError

    def attempt(self, last=False):
        """Until there is something new to say; `last`: until it has one, or has ended."""
        if self.process is None:
            self.process = self.start()

        def look():
            ended = self.process.code() is not None
            held, said = self.held(), self.process.log.read_text()
            if held or ended:
                return held, said
            if not last and said.endswith("\n") and len(said) > self.seen:
                self.seen = len(said)
                return None, said
            return None
        return until(f"a word of {self.label}", 120, look, 0.05)

    def ended(self, request_id, identity):
        """Whether what it holds is worth nothing any more."""
        return self.world.doors.get(request_id).json.get("state") != "granted"

    def close(self):
        if self.process and self.process.code() is None:
            self.process.term(60)


# HTTP.

class Curl(Jwt):
    label = "`curl`, TCP"

    def to(self):
        return [f"{self.world.doors.tcp}/v1/credentials", "-H", f"Authorization: Bearer {self.world.doors.token}"]

    def attempt(self):
        body = json.dumps({"scope": self.scope, "params": self.params, "reason": "a cell"})
        _, out, words = self.run("curl", "-sS", "-m", "60", *self.to(), "-H", "Content-Type: application/json", "-d", body)
        reply = json.loads(out) if out else {}
        return reply["credential"]["token"] if reply.get("state") == "granted" else None, words


class CurlSocket(Curl):
    label = "`curl`, unix socket"

    def to(self):
        return ["http://localhost/v1/credentials", "--unix-socket", self.world.doors.socket]


# gRPC.

class Stubs:
    """The code that grpcio's own compiler makes of `agent.proto`, once."""

    def __init__(self):
        self.folder = rpc.made(ROOT, scratch("stubs"))

    def stop(self):
        pass


class Grpc(Jwt):
    label, process = "gRPC, Python, TCP", None

    @staticmethod
    def missing():
        return None if importlib.util.find_spec("grpc_tools") else "no grpcio"

    def to(self):
        return [urlsplit(self.world.doors.tcp).netloc, self.world.doors.token]

    def call(self, method, **message):
        if self.process is None:
            stubs = self.world.around.once(Stubs).folder
            self.process = subprocess.Popen([sys.executable, str(ROOT / "tests/peers/rpc.py"), str(stubs), *self.to()],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                            stderr=subprocess.DEVNULL, env=clean_env())
        return json.loads(lines(self.process, json.dumps({"method": method, "message": message})))

    def attempt(self):
        said = self.call("Ask", scope=self.scope, params_json=json.dumps(self.params), reason="a cell")
        for standing in said.get("ok", []):
            if "granted" in standing:
                return json.loads(standing["granted"]["credential_json"])["token"], json.dumps(standing)
        return None, json.dumps(said)

    def answer(self, request_id, text):
        said = self.call("Answer", request_id=request_id, text=text)
        return SimpleNamespace(status=200 if said.get("ok") else said)

    def close(self):
        end(self.process)


class GrpcSocket(Grpc):
    label = "gRPC, Python, unix socket"

    def to(self):
        return [f"unix:{self.world.doors.socket}"]


# Tools with helpers.

class Git(Jwt):
    label = "git, by its configuration"

    @staticmethod
    def missing():
        return None if shutil.which("git") else "no git"

    def helper(self, host, user):
        words = " ".join(self.flags())
        return f"!'{GRANTWRIGHT}' helper git {words} --host {host} --username {user}", self.world.env()

    def attempt(self):
        end, user = self.world.around.once(GitHost), fresh()
        helper, env = self.helper(end.host, user)
        env.update(GIT_TERMINAL_PROMPT="0", GIT_CONFIG_NOSYSTEM="1", GIT_ASKPASS="/bin/false")
        code, _, words = self.run("git", "-c", "credential.helper=", "-c", f"credential.helper={helper}", "ls-remote",
                                  f"http://{end.host}/app.git", env=env)
        return end.last(user) if code == 0 else None, words


class GitByName(Git):
    label = "git, by the helper's name"

    def helper(self, host, user):
        return "grantwright", self.helpers("git", host, user)


class Docker(Jwt):
    label, tells, note = "docker's client", False, "shows no word of its credential helpers; the helper itself says it"

    @staticmethod
    def missing():
        return None if shutil.which("docker") and shutil.which("openssl") else "no docker client or openssl"

    def attempt(self):
        end, user = self.world.around.once(Registry), fresh()
        folder = scratch("docker")
        folder.mkdir()
        (folder / "config.json").write_text('{"credsStore": "grantwright"}')
        env = self.helpers("docker", end.host, user)
        env.update(DOCKER_CONFIG=str(folder), DOCKER_CLI_EXPERIMENTAL="enabled")
        code, _, words = self.run("docker", "manifest", "inspect", "--insecure", f"{end.host}/acme/app:1", env=env)
        return end.last(user) if code == 0 else None, words


class Kubectl(Jwt):
    label = "kubectl"

    @staticmethod
    def missing():
        return None if shutil.which("kubectl") and shutil.which("openssl") else "no kubectl or openssl"

    def attempt(self):
        end, user = self.world.around.once(Kubernetes), fresh()
        config = end.config(GRANTWRIGHT, ["helper", "kubectl", *self.flags()])
        code, _, words = self.run("kubectl", "get", "--raw", f"/{user}", env=self.world.env(KUBECONFIG=config))
        return end.last(user) if code == 0 else None, words


class Ssh(Own):
    label, ROUTINE, ASKING = "ssh, through the agent's socket", "cell.ssh", "cell.ssh-ask"
    narrower = {"ttl": "2m"}
    socket = None

    @staticmethod
    def missing():
        return None if SSHD and shutil.which("ssh") else "no OpenSSH server"

    @classmethod
    def wanted(cls, _, asking):
        return {"job": fresh()}

    def start(self):
        folder = scratch("agent")
        folder.mkdir(mode=0o700)
        self.socket = folder / "s"
        return Process([GRANTWRIGHT, "helper", "ssh-agent", *self.flags(), "--socket", self.socket],
                       env=self.world.env())

    def certificate(self):
        file = scratch("cert")
        file.write_text(self.run("ssh-add", "-L", env=clean_env(SSH_AUTH_SOCK=self.socket))[1])
        return self.run("ssh-keygen", "-L", "-f", file)[1]

    def login(self):
        end = self.world.around.sshd()
        code, out, words = self.run(*end.command("true"), env=clean_env(SSH_AUTH_SOCK=self.socket))
        return (code, out) == (0, f"did {self.params['job']}\n"), words

    def held(self):
        if not self.socket.exists():
            return None
        came, words = self.login()
        assert came, words
        return re.search(r'Key ID: "(.*)"', self.certificate())[1]

    @staticmethod
    def is_of(key_id, request_id):
        return request_id in key_id

    def is_narrow(self, _):
        said = re.search(r"Valid: from (\S+) to (\S+)", self.certificate())
        return life(said[1], said[2]) <= 120 + 60

    def ended(self, request_id, _):
        self.world.around.sshd().revoke(self.world.get("/issuers/ssh/krl"))
        return not self.login()[0]


def life(begin, end):
    from datetime import datetime
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


class Psql(Own):
    label, ROUTINE, ASKING = "psql, by a service file", "cell.db", "cell.db-ask"
    narrower = {"ttl": "2m"}
    file = None

    @classmethod
    def wanted(cls, around, asking):
        return {"dataset": around.dataset()}

    def start(self):
        self.file = scratch("service")
        return Process([GRANTWRIGHT, "helper", "files", *self.flags(), "--service-file", self.file, "--host",
                        "127.0.0.1", "--port", self.world.around.postgres.port, "--dbname", "postgres"],
                       env=self.world.env())

    def login(self):
        return self.run(programs() / "psql", "-X", "-A", "-t", "-w", "-c", "SELECT sum(n) FROM sales",
                        "service=grantwright", env=clean_env(PGSERVICEFILE=self.file))

    def held(self):
        if not self.file.exists():
            return None
        _, out, words = self.login()
        assert out.strip() == "42", words
        return re.search(r"(?m)^user=(.*)$", self.file.read_text())[1]

    @staticmethod
    def is_of(user, _):
        return bool(user)

    def is_narrow(self, user):
        left = self.world.around.postgres.sql(
            f"SELECT extract(epoch FROM rolvaliduntil - now())::int FROM pg_roles WHERE rolname = '{user}'")
        return int(left[0]) <= 120 + 60

    def ended(self, request_id, _):
        return "authentication failed" in self.login()[2]


class File(Own, Jwt):
    label = "a file, replaced whole"
    file = None

    def start(self):
        self.file = scratch("file")
        return Process([GRANTWRIGHT, "helper", "files", *self.flags(), *self.how()], env=self.world.env())

    def how(self):
        return "--part", f"token={self.file}"

    def held(self):
        return self.file.read_text() if self.file.exists() else None


class EnvFile(File):
    label = "an environment file"

    def how(self):
        return "--env-file", self.file, "--env", "API_KEY=token"

    def held(self):
        if not self.file.exists():
            return None
        return self.run("sh", "-c", f'. {self.file}; printf %s "$API_KEY"')[1]


class Exec(File):
    label = "`grantwright exec`"

    def start(self):
        self.file = scratch("mark")
        script = f'printf %s "$CREDENTIAL_TOKEN" > {self.file}.part; mv {self.file}.part {self.file}; exec sleep 600'
        return Process([GRANTWRIGHT, "exec", *self.flags(), "--", "sh", "-c", script], env=self.world.env())


# The Model Context Protocol.

class Mcp(Jwt):
    """`request_credential` through one of the official clients."""

    def read(self, body, text):
        return body.get("credential", {}).get("token"), text + json.dumps(body)

    def arguments(self):
        return {"scope": self.scope, "params": self.params, "reason": "a cell"}


class McpPython(Mcp):
    label = "MCP, Python SDK, stdio"

    def attempt(self):
        return asyncio.run(self.once())

    async def once(self):
        from mcp.client.client import Client as Session
        from mcp.client.stdio import StdioServerParameters, stdio_client
        server = StdioServerParameters(command=str(GRANTWRIGHT), args=["mcp"], env={
            name: self.world.demo.env[name] for name in ("GRANTWRIGHT_SIDECAR", "GRANTWRIGHT_TOKEN_FILE")})
        with open(os.devnull, "w") as quiet:
            return await self.ask(Session(stdio_client(server, errlog=quiet)))

    async def ask(self, session):
        async with session as client:
            result = await client.call_tool("request_credential", self.arguments())
            return self.read(result.structured_content, result.content[0].text)


class McpPythonHttp(McpPython):
    label = "MCP, Python SDK, HTTP"

    async def once(self):
        import httpx2
        from mcp.client.client import Client as Session
        from mcp.client.streamable_http import streamable_http_client
        url, token = self.world.served()
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=90) as http:
            return await self.ask(Session(streamable_http_client(url, http_client=http)))


class WithNode:
    @staticmethod
    def missing():
        return None if node.ready(ROOT) else "no Node packages"


class McpNode(WithNode, Mcp):
    label, process = "MCP, TypeScript SDK, stdio", None

    def told(self):
        env = {name: self.world.demo.env[name] for name in ("GRANTWRIGHT_SIDECAR", "GRANTWRIGHT_TOKEN_FILE")}
        return {"sdk": "v2", "command": str(GRANTWRIGHT), "args": ["mcp"], "env": env}

    def attempt(self):
        if self.process is None:
            self.process = subprocess.Popen(
                ["node", str(ROOT / "tests/peers/mcp.mjs"), str(node.folder(ROOT))], stdin=subprocess.PIPE, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean_env())
            said = json.loads(lines(self.process, json.dumps(self.told())))
            assert said["connected"], said
        said = json.loads(lines(self.process, json.dumps({
            "id": 1, "method": "tools/call", "name": "request_credential", "arguments": self.arguments()})))
        return self.read(said["result"]["structuredContent"], said["result"]["content"][0]["text"])

    def close(self):
        end(self.process)


class McpNodeHttp(McpNode):
    label = "MCP, TypeScript SDK, HTTP"

    def told(self):
        url, token = self.world.served()
        return {"sdk": "v2", "url": url, "token": token}


class McpInspector(WithNode, Mcp):
    label = "MCP, the inspector's command line"

    def attempt(self):
        url, token = self.world.served()
        _, out, words = self.run(
            node.folder(ROOT) / "node_modules/.bin/mcp-inspector", "--cli", url, "--transport", "http", "--header",
            f"Authorization: Bearer {token}", "--method", "tools/call", "--tool-name", "request_credential",
            "--tool-arg", f"scope={self.scope}", f"params={json.dumps(self.params)}", "reason=a cell")
        try:
            result = json.loads(out)
        except ValueError:
            return None, words
        return self.read(result.get("structuredContent") or {}, words)


def end(process):
    if process:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


# The AWS SDKs: each line on their standard input asks STS who they are.

class Sdk(Aws):
    """One process, from whose default chain the credentials come: here from the container endpoint."""

    process = None

    def env(self):
        query = "&".join(f"{k}={v}" for k, v in self.params.items())
        empty = {name: self.world.demo.env[name] for name in
                 ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
        return clean_env(**empty, AWS_EC2_METADATA_DISABLED="true", HOME=scratch("home"), AWS_REGION=REGION, AWS_DEFAULT_REGION=REGION,
                         AWS_ENDPOINT_URL_STS=self.world.around.recorder.url, AWS_MAX_ATTEMPTS="1",
                         AWS_METADATA_SERVICE_NUM_ATTEMPTS="1",
                         AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{self.world.doors.tcp}/aws/{self.scope}?{query}",
                         AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=self.world.demo.env[
                             "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])

    def begun(self):
        return subprocess.Popen(self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                stderr=subprocess.DEVNULL, env=self.env())

    def attempt(self):
        if self.process is None:
            self.process = self.begun()
        word, said = lines(self.process, "go").split(" ", 1)
        return (said, said) if word == "OK" else (None, said)

    def close(self):
        end(self.process)


class FromProcess(Sdk):
    """The credentials come from a `credential_process`."""

    def env(self):
        env = {k: v for k, v in super().env().items() if not k.startswith("AWS_CONTAINER")}
        config = scratch("aws")
        config.write_text(f"[default]\nregion = {REGION}\ncredential_process = {GRANTWRIGHT} helper aws "
                          f"{' '.join(self.flags())}\n")
        env.update(AWS_CONFIG_FILE=str(config), CREDENTIALS_FROM="process", GRANTWRIGHT_SIDECAR=self.world.doors.tcp,
                   GRANTWRIGHT_TOKEN_FILE=self.world.demo.env["GRANTWRIGHT_TOKEN_FILE"])
        return env


class Boto(Sdk):
    name = "boto3"

    def begun(self):
        return forks.Forked(forks.boto, self.env())


class Cli(Sdk):
    name = "AWS CLI"

    def attempt(self):
        aws = forks.Forked(forks.aws, self.env(), "sts", "get-caller-identity", "--output", "json")
        aws.stdin.close()
        with aws.stdout, aws.stderr:
            out, words = aws.stdout.read(), aws.stderr.read()
        code = aws.wait(60)
        return (json.loads(out)["Arn"], out + words) if code == 0 else (None, out + words)


class JavaScript(WithNode, Sdk):
    name = "SDK for JavaScript v3"

    def command(self):
        return ["node", str(ROOT / "tests/peers/aws.mjs"), str(node.folder(ROOT))]


class Go(Sdk):
    name = "SDK for Go v2"

    @staticmethod
    def missing():
        return None if golang.ready(ROOT, "awsgo") else "no client made with the AWS SDK for Go"

    def command(self):
        return [str(golang.binary(ROOT, "awsgo"))]


class Rust(Sdk):
    name = "SDK for Rust"

    def command(self):
        return [str(BIN / "examples" / "aws")]


class Java(Sdk):
    name = "SDK for Java v2"

    @staticmethod
    def missing():
        return None if java.ready(ROOT) else "no client made with the AWS SDK for Java"

    def command(self):
        return java.command(ROOT)


class Imds:
    """A `grantwright sidecar --imds` of its own for a world; what it gives is said at its start."""

    def __init__(self, world):
        home = self.home = scratch("imds")
        home.mkdir()
        self.process, self.port = None, free_port()
        operator = (world.demo.dir / "operator.token").read_text()
        joined = call(world.stand.console, "POST", "/api/v1/agents/demo-agent/join", {},
                      {"Authorization": f"Bearer {operator}"})
        (home / "join.token").write_text(joined.json["join_token"])
        (home / "join.token").chmod(0o600)
        text = (world.demo.dir / "sidecar.toml").read_text()
        for key, value in (("trust_bundle", f"{world.demo.dir}/keys/ca.pem"), ("listen", "127.0.0.1:0"),
                           ("socket", f"{home}/s.sock")):
            text = re.sub(rf"(?m)^{key} = .*", f'{key} = "{value}"', text)
        (home / "sidecar.toml").write_text(text)

    def serve(self, scope):
        if self.process:
            self.process.kill()
        self.process = Process([GRANTWRIGHT, "sidecar", "--config", self.home / "sidecar.toml", "--imds",
                                f"127.0.0.1:{self.port}", "--imds-scope", scope])
        until("instance metadata and the stream", 60, self.up, 0.05)

    def up(self):
        assert self.process.code() is None, self.process.said()
        try:
            return (call(f"http://127.0.0.1:{self.port}", "GET", "/latest/meta-data/").status
                    and call(f"{self.home}/s.sock", "GET", "/readyz").status == 200)
        except OSError:
            return None


class BotoImds(Boto):
    """There is one server at a time in a world: who uses it holds it until the end."""

    label, tells = "boto3, instance metadata", False
    note = "says only that there are no credentials"
    holds, serving = False, False

    def env(self):
        world = self.world
        if not self.serving:
            self.holds = world.imds_lock.acquire(timeout=300)
            world.imds = world.imds or Imds(world)
            query = "&".join(f"{k}={v}" for k, v in self.params.items())
            world.imds.serve(f"{self.scope}?{query}")
            self.serving = True
        env = {k: v for k, v in super().env().items()
               if not k.startswith("AWS_CONTAINER") and k != "AWS_EC2_METADATA_DISABLED"}
        return dict(env, AWS_EC2_METADATA_SERVICE_ENDPOINT=f"http://127.0.0.1:{world.imds.port}",
                    AWS_EC2_METADATA_V1_DISABLED="true")

    def again(self):
        other = super().again()
        other.serving = True
        return other

    def answer(self, request_id, text):
        return call(f"{self.world.imds.home}/s.sock", "POST", f"/v1/requests/{request_id}/answer", {"text": text})

    def close(self):
        super().close()
        if self.holds:
            self.holds = False
            self.world.imds_lock.release()


def both(kind, tells_container, tells_process):
    """The rows of one SDK."""
    name = kind.__name__
    chain = "its own error does not say what waits: the sidecar, the console and `exec` do"
    return {
        name.lower(): type(name, (kind,), {
            "label": f"{kind.name}, container endpoint", "tells": tells_container,
            "note": "" if tells_container else chain}),
        f"{name.lower()}_process": type(f"{name}Process", (FromProcess, kind), {
            "label": f"{kind.name}, `credential_process`", "tells": tells_process,
            "note": "" if tells_process else chain}),
    }


CLIENTS = {
    "curl": Curl, "curl_socket": CurlSocket, "grpc": Grpc, "grpc_socket": GrpcSocket,
    **both(Boto, True, True), **both(Cli, True, True), **both(JavaScript, False, True), **both(Go, True, False),
    **both(Rust, False, True), **both(Java, False, False),
    "imds": BotoImds,
    "mcp_python": McpPython, "mcp_python_http": McpPythonHttp, "mcp_node": McpNode, "mcp_node_http": McpNodeHttp,
    "mcp_inspector": McpInspector,
    "exec": Exec, "git": Git, "git_by_name": GitByName, "docker": Docker, "kubectl": Kubectl, "ssh": Ssh,
    "psql": Psql, "file": File, "env_file": EnvFile,
}
