"""docs/agents.md: the lines to paste, each executed as they stand there. Only addresses, folders and ports are
those of this machine; what cannot be here (a Docker engine, systemd) is played by a script of the same name."""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import unittest
from pathlib import Path

from clients import Around, Imds, World
from ends import SSHD, GitHost, Kubernetes, Registry, Sshd
from harness import GRANTWRIGHT, ROOT, SIDECAR, Process, call, clean_env, scratch, until
from own import sidecar_of
from peers import node
from peers.ports import free_port

PAGE = (ROOT / "docs/agents.md").read_text()
SCOPES = """
[[scope]]
name = "git.push"
title = "Push to the code"
minter = "jwt"
template = { audience = "git" }

[[scope]]
name = "registry.pull"
title = "Pull images"
minter = "jwt"
template = { audience = "registry" }

[[scope]]
name = "k8s.read"
title = "Read namespace {namespace}"
minter = "jwt"
params.namespace = { type = "string", pattern = "[a-z][a-z0-9-]{0,31}" }
template = { audience = "kubernetes", claims = ["namespace"] }

[[scope]]
name = "ssh.deploy"
title = "Log in as {account}"
minter = "ssh"
params.public_key = { type = "public-key", format = "ssh" }
params.account = { type = "choice", values = ["deploy"] }
template = { public_key = "public_key", principals = ["${account}"] }

[[scope]]
name = "db.read"
title = "Read the tables of {dataset}"
minter = "pg"
params.dataset = { type = "string", pattern = "[a-z][a-z0-9-]{0,31}" }
template = { roles = ["${dataset}_readers"] }
"""
ROUTINE = ["git.push", "registry.pull", "k8s.read", "ssh.deploy", "db.read"]
around = world = None


def setUpModule():
    global around, world
    around = Around()
    world = World(around, scopes=SCOPES, routine=ROUTINE)
    around.postgres.sql("CREATE ROLE sales_readers; GRANT SELECT ON sales TO sales_readers")
    if int(around.postgres.sql("SHOW server_version_num")[0]) >= 160000:
        around.postgres.sql("GRANT sales_readers TO broker WITH ADMIN OPTION")


def tearDownModule():
    for it in (world, around):
        if it:
            it.stop()


def blocks():
    """Title (its bold words) to the lines that are indented below it."""
    part = PAGE.partition("## Three lines for each tool")[2].partition("\n## ")[0]
    found = {}
    for text in re.split(r"(?m)^(?=\*\*)", part)[1:]:
        title = re.match(r"\*\*(.*?)\*\*", text)[1]
        found[title] = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    return found


class Paste(unittest.TestCase):
    """One home, one folder of programs, one shell."""

    TESTED = {}

    def setUp(self):
        self.home, self.bin = scratch("home"), scratch("bin")
        for folder in (self.home, self.bin):
            folder.mkdir(mode=0o700)
        for name in ("grantwright", "git-credential-grantwright", "docker-credential-grantwright"):
            (self.bin / name).symlink_to(GRANTWRIGHT)

    def text(self, title, **more):
        """The block, with this machine's places: `more` are literal replacements."""
        text = blocks()[title]
        for old, new in {
            "http://127.0.0.1:7788": world.doors.tcp,
            "/run/grantwright/aws.token": world.demo.env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"],
            "/run/grantwright/agent.token": world.demo.env["GRANTWRIGHT_TOKEN_FILE"],
            "DIR/env": f"{world.demo.dir}/env", **more,
        }.items():
            text = text.replace(old, new)
        return text

    def env(self, **more):
        path = f"{self.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = world.env(HOME=self.home, PATH=path, GIT_CONFIG_NOSYSTEM="1", GIT_TERMINAL_PROMPT="0",
                        AWS_ENDPOINT_URL_STS=around.recorder.url, AWS_DEFAULT_REGION="us-east-1",
                        AWS_EC2_METADATA_DISABLED="true", AWS_MAX_ATTEMPTS="1")
        env.update({k: str(v) for k, v in more.items()})
        return env

    def program(self, name, script, folder=None):
        file = (folder or self.bin) / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o700)

    def shell(self, script, cwd=None, **more):
        """What it printed. What runs in the background ends with it."""
        out, err = scratch("out"), scratch("err")
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            child = subprocess.Popen(["bash", "-ec", script], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                                     cwd=cwd or self.home, env=self.env(**more), start_new_session=True)
        try:
            code = child.wait(180)
        finally:
            # Its own group and nobody else's: it leads a session.
            try:
                os.killpg(child.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
            child.wait()
        self.assertEqual(code, 0, f"{script}\n{out.read_text()}\n{err.read_text()}")
        return out.read_text()

    def approving(self, params):
        """A person who approves the one request of these parameters, once it is there."""
        def one():
            request_id = until("a request", 120, lambda: world.requests(params, "pending"), 0.2)[0]
            world.bob.approve(request_id)
        person = threading.Thread(target=one)
        person.start()
        self.addCleanup(person.join)

    WAIT = "\nfor n in $(seq 600); do [ -e {file} ] && break; sleep 0.1; done\n"

    def test_aws_sdks(self):
        said = self.shell(self.text("AWS SDKs") + "\naws sts get-caller-identity")
        self.assertIn("assumed-role/grantwright-demo/", said)

    def test_aws_sdks_that_should_wait_for_people(self):
        (self.home / ".aws").mkdir()
        (self.home / ".aws/config").write_text(self.text("AWS SDKs that should wait for people"))
        self.approving({"bucket": "demo", "prefix": "out/"})
        said = self.shell("aws --profile export sts get-caller-identity")
        self.assertIn("assumed-role/grantwright-demo/", said)

    def test_software_that_knows_only_instance_metadata(self):
        imds = Imds(world)
        text = self.text("Software that knows only instance metadata", **{"127.0.0.1:7799": f"127.0.0.1:{imds.port}"})
        up = "\nfor n in $(seq 600); do curl -s -o /dev/null $AWS_EC2_METADATA_SERVICE_ENDPOINT && break; sleep 0.1; done\n"
        said = self.shell(f"{text}{up}for n in 1 2 3 4 5 6; do aws sts get-caller-identity && exit 0; sleep 1; done; exit 1",
                          cwd=imds.home)
        self.assertIn("assumed-role/grantwright-demo/", said)

    def test_mcp_clients(self):
        from mcp.client.client import Client
        from mcp.client.stdio import StdioServerParameters, stdio_client
        told = json.loads(self.text("MCP clients"))["mcpServers"]["grantwright"]

        async def tools():
            server = StdioServerParameters(command=str(self.bin / told["command"]), args=told["args"], env=told["env"])
            with open(os.devnull, "w") as quiet:
                async with Client(stdio_client(server, errlog=quiet)) as client:
                    result = await client.call_tool("list_scopes", {})
                    return json.dumps(result.structured_content)
        self.assertIn("demo.read", asyncio.run(tools()))

    def test_mcp_clients_over_http(self):
        (self.bin / "mcp-inspector").symlink_to(node.folder(ROOT) / "node_modules/.bin/mcp-inspector")
        text = self.text("MCP clients over HTTP", **{"127.0.0.1:7790": f"127.0.0.1:{free_port()}"})
        text = text.replace(" &\n", " &" + self.WAIT.format(file="~/.grantwright-mcp.token"))
        self.assertIn("request_credential", self.shell(text))

    def test_git(self):
        end = around.once(GitHost)
        text = self.text("git", **{"git.example.org": end.host})
        work = self.home / "app"
        self.shell(f"git init -q -b main {work} && cd {work}\ngit config --global user.name a\n"
                   "git config --global user.email a@b\ngit commit -q --allow-empty -m first\n"
                   f"git remote add origin http://{end.host}/app.git\ngit config --global push.default current\n"
                   f"git config --global push.autoSetupRemote true\n{text}")
        self.assertTrue(end.last("x-access-token"))

    @unittest.skipUnless(shutil.which("docker"), "no docker client")
    def test_docker(self):
        end = around.once(Registry)
        text = self.text("docker", **{"registry.example.org": end.host, "docker pull": "docker manifest inspect --insecure"})
        config = re.search(r"(?m)^# in ~/.docker/config.json: (.*)$", text)[1]
        (self.home / ".docker").mkdir()
        (self.home / ".docker/config.json").write_text(config)
        before = len(end.shown)
        self.shell(text, DOCKER_CLI_EXPERIMENTAL="enabled", DOCKER_CONFIG=self.home / ".docker")
        self.assertGreater(len(end.shown), before)

    @unittest.skipUnless(shutil.which("kubectl"), "no kubectl")
    def test_kubectl(self):
        end = around.once(Kubernetes)
        config = json.loads(Path(end.config("x", [])).read_text())
        del config["users"]
        lines = self.text("kubectl").splitlines()
        file = self.home / "kubeconfig"
        # JSON is YAML; the block is what a person pastes below it.
        head = "".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items())
        user = "\n".join("    " + line for line in lines if not line.startswith("#"))
        file.write_text(f"{head}users:\n- name: u\n  user:\n{user}\n")
        self.assertEqual([line for line in lines if line.startswith("#")], ["# kubectl get pods"])
        self.assertIn("v1.30.0", self.shell("kubectl get --raw /pasted", KUBECONFIG=file))
        self.assertTrue(end.last("pasted"))

    @unittest.skipUnless(SSHD and shutil.which("ssh"), "no OpenSSH server")
    def test_ssh(self):
        end = around.once(Sshd, [world.get("/issuers/ssh/ca.pub")], world.get("/issuers/ssh/krl"))
        *options, login = end.command()
        self.program("ssh", f'exec {shutil.which("ssh")} {" ".join(options[1:])} -o HostName=127.0.0.1 "$@"')
        text = self.text("ssh", **{"deploy@host uptime": f"{login.partition('@')[0]}@host echo here"})
        text = text.replace(" &\n", " &" + self.WAIT.format(file="~/.grantwright/ssh.sock"))
        said = self.shell(text + f"\nssh {login.partition('@')[0]}@host echo there")
        self.assertEqual(said.splitlines()[0], "here")
        self.assertEqual(said.splitlines()[-1], "there")

    def test_psql(self):
        text = self.text("psql and everything else on libpq", **{
            "--host db --dbname sales": f"--host 127.0.0.1 --port {around.postgres.port} --dbname postgres",
            "psql service=grantwright": "psql -XAtw -c 'SELECT sum(n) FROM sales' service=grantwright"})
        text = text.replace(" &\n", " &" + self.WAIT.format(file="~/.pg_service.conf"))
        self.assertEqual(self.shell(text, PGSERVICEFILE=self.home / ".pg_service.conf").strip(), "42")

    def test_programs_that_know_only_files(self):
        folder = self.home / "run"
        folder.mkdir()
        self.program("systemctl", f'echo "$@" > {folder}/reloaded')
        # The engine's part: it reads the file as its documentation says.
        self.program("docker", 'test "$1 $2 $4" = "run --env-file app" && cat "$3"')
        first, *rest = self.text("Programs that know only files", **{"/run/app": str(folder)}).splitlines()
        said = self.shell(f"{first} &{self.WAIT.format(file=folder / 'reloaded')}cat {folder}/token; echo")
        self.assertEqual(said.strip().count("."), 2, said)
        self.assertEqual((folder / "reloaded").read_text(), "reload app\n")
        said = self.shell("\n".join(rest).replace(" &\n", " &" + self.WAIT.format(file=folder / "env")))
        self.assertRegex(said, r"(?m)^API_KEY=\S+\.\S+\.\S+$")

    def test_any_command(self):
        self.program("report", 'test -n "$API_KEY" && echo reported', self.home)
        self.program("long-job", 'test -s "$CREDENTIAL_DIR/token" && echo ran', self.home)
        url = around.recorder.url
        import boto3
        s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{around.recorder.port}", region_name="us-east-1",
                          aws_access_key_id="x", aws_secret_access_key="x")
        s3.create_bucket(Bucket="demo")
        s3.put_object(Bucket="demo", Key="public/one", Body=b"1")
        self.approving({"dataset": "d", "rows": 10})
        said = self.shell(self.text("Any command"), AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{around.recorder.port}",
                          AWS_ENDPOINT_URL_STS=url)
        self.assertRegex(said, r"(?s)^reported\n.* one\nran\n$")

    def test_anything_that_speaks_http(self):
        scopes, ask, events = self.text("Anything that speaks HTTP").splitlines()
        listed = json.loads(self.shell(scopes))
        self.assertIn("demo.export", json.dumps(listed))
        self.approving({"dataset": "d", "rows": 9})
        asked = json.loads(self.shell(ask))
        said = self.shell(events.replace("/ID/", f"/{asked['request_id']}/"))
        self.assertIn("granted", said)

    @unittest.skipUnless(importlib.util.find_spec("grpc_tools"), "no grpcio")
    def test_grpc(self):
        said = self.shell(self.text("gRPC"), GRANTWRIGHT_SIDECAR_SOCKET=world.doors.socket)
        self.assertEqual(json.loads(said)["token"].count("."), 2)


class Delegation(unittest.TestCase):
    """The lines of “A narrower right for another agent”: two agents, each at its own sidecar."""

    def sidecar(self, name, owner):
        home = sidecar_of(world.demo, name, owner)
        process = Process([SIDECAR, "--config", home / "sidecar.toml"], env=clean_env())
        self.addCleanup(process.kill)

        def ready():
            self.assertIsNone(process.code(), process.said())
            try:
                return call(home / "s.sock", "GET", "/readyz").status == 200
            except OSError:
                return False
        until(f"the sidecar of {name}", 30, ready, 0.05)
        return home

    def run_line(self, line):
        done = subprocess.run(["bash", "-ec", line], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=120, env=clean_env(PATH=os.environ["PATH"]))
        self.assertEqual(done.returncode, 0, f"{line}\n{done.stdout}\n{done.stderr}")
        return json.loads(done.stdout)

    def test_a_narrower_right_for_another_agent(self):
        part = PAGE.partition("## A narrower right for another agent\n")[2].partition("\n## ")[0]
        lines = re.findall(r"(?m)^    (\S.*)$", part)
        self.assertEqual([line.split()[0] for line in lines], ["curl"] * 3, "each is executed below")
        homes = {name: self.sidecar(name, owner) for name, owner in (("planner", "bob"), ("worker", "carol"))}
        for name, home in homes.items():
            lines = [line.replace(f"/run/grantwright/{name}/sidecar.sock", f"{home}/s.sock") for line in lines]
        hand, ask, end = lines
        handed = self.run_line(hand)
        self.assertEqual((handed["from"], handed["to"], handed["state"]), ("planner", "worker", "live"))
        delegation = handed["delegation_id"]
        granted = self.run_line(ask.replace('"ID"', f'"{delegation}"'))
        self.assertEqual(granted["state"], "granted", granted)
        asked = world.demo.events(granted["request_id"])[0]
        self.assertEqual(asked["terms"]["delegation"], ["planner"])
        ended = self.run_line(end.replace("/ID ", f"/{delegation} "))
        self.assertEqual(ended["state"], "ended")

    def test_the_policy_for_what_it_may_do_through_another_only(self):
        text = "".join(f"{line}\n" for line in re.findall(r"(?m)^      (\S.*)$", PAGE) if "worker" in line or "planner" in line)
        self.assertIn("context.delegation.contains", text)
        folder = scratch("policy")
        shutil.copytree(world.demo.dir / "scopes", folder / "scopes")
        (folder / "policy").mkdir()
        (folder / "policy/own.cedar").write_text(text)
        code, out, err = world.demo.cli("policy", "check", folder)
        self.assertEqual(code, 0, out + err)


class Page(unittest.TestCase):
    def test_every_block_is_executed(self):
        words = {re.sub(r"\W+", "_", title).lower() for title in blocks()}
        tests = {name.removeprefix("test_") for name in dir(Paste) if name.startswith("test_")}
        for word in words:
            self.assertTrue(any(word.startswith(test) for test in tests), f"nothing executes {word}")
        self.assertGreaterEqual(len(words), 14)


if __name__ == "__main__":
    unittest.main()
