"""The tools agents have, as they are: git against a real `git http-backend`, the docker client against a
registry, ssh against a real sshd, and programs that know only files."""

import json
import os
import shutil
import stat
import subprocess
import time
import unittest
from pathlib import Path

from ends import SSHD, GitHost, Quiet, Registry, claims, serve, start_sshd
from harness import GRANTWRIGHT, ROOT, Demo, Process, clean_env, scratch, until
from peers import node

demo = doors = None


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


def agent(**more):
    """What an agent's shell has; PATH finds the helpers by their names."""
    names = Path(demo.dir) / "names"
    if not names.exists():
        names.mkdir()
        for name in ("docker-credential-grantwright", "git-credential-grantwright"):
            (names / name).symlink_to(GRANTWRIGHT)
    home = scratch("home")
    home.mkdir()
    return clean_env(GRANTWRIGHT_SIDECAR=doors.tcp,
                     GRANTWRIGHT_TOKEN_FILE=demo.env["GRANTWRIGHT_TOKEN_FILE"], HOME=home,
                     PATH=f"{names}:{os.environ['PATH']}", **more)


def helpers(env, text):
    folder = Path(env["HOME"]) / ".config/grantwright"
    folder.mkdir(parents=True)
    (folder / "helpers.toml").write_text(text)
    return env


class Git(unittest.TestCase):
    """A clone and a push through `git http-backend`, which an access check stands before."""

    def setUp(self):
        self.server = GitHost()
        self.addCleanup(self.server.stop)
        self.host, self.shown = self.server.host, self.server.shown

    def git(self, env, *arguments, cwd=None):
        return subprocess.run(["git", *arguments], env=env, cwd=cwd, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60)

    def env(self, text):
        env = helpers(agent(GIT_TERMINAL_PROMPT="0", GIT_CONFIG_NOSYSTEM="1", GIT_ASKPASS="/bin/false"), text)
        (Path(env["HOME"]) / ".gitconfig").write_text(
            "[credential]\n\thelper =\n\thelper = grantwright\n[user]\n\tname = a\n\temail = a@b\n")
        return env

    def test_it_clones_and_pushes_with_the_helper_by_name(self):
        env = self.env(f'[[git]]\nhost = "{self.host}"\nscope = "demo.read"\n'
                       f'params = {{ dataset = "{doors.fresh()}" }}\n')
        work = scratch("work")
        done = self.git(env, "clone", "-q", f"http://{self.host}/app.git", str(work))
        self.assertEqual(done.returncode, 0, done.stderr)
        (work / "a").write_text("a")
        for words in (("add", "a"), ("commit", "-qm", "a"), ("push", "-q", "origin", "HEAD:main")):
            done = self.git(env, *words, cwd=work)
            self.assertEqual(done.returncode, 0, done.stderr)
        listed = self.git(env, "ls-remote", f"http://{self.host}/app.git")
        self.assertIn("refs/heads/main", listed.stdout)
        self.assertEqual({user for user, _ in self.shown}, {"x-access-token"})
        self.assertEqual(len({token for _, token in self.shown}), 1, "one grant serves them all")

    def test_what_waits_is_said_and_the_next_try_works(self):
        env = self.env(f'[[git]]\nhost = "{self.host}"\nscope = "demo.export"\n'
                       f'params = {{ dataset = "{doors.fresh()}", rows = 5 }}\nusername = "robot"\n')
        first = self.git(env, "ls-remote", f"http://{self.host}/app.git")
        self.assertNotEqual(first.returncode, 0)
        self.assertIn("waits for 1 approval", first.stderr)
        request_id = first.stderr.split("request ", 1)[1].split()[0]
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        second = self.git(env, "ls-remote", f"http://{self.host}/app.git")
        self.assertEqual(second.returncode, 0, second.stderr)
        self.assertEqual(self.shown[-1][0], "robot")

    def test_hosts_that_are_not_in_the_file_see_nothing(self):
        env = self.env('[[git]]\nhost = "git.example.org"\nscope = "demo.read"\n'
                       'params = { dataset = "x" }\n')
        done = self.git(env, "ls-remote", f"http://{self.host}/app.git")
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(self.shown, [])


@unittest.skipUnless(shutil.which("openssl"), "no openssl")
class Docker(unittest.TestCase):
    """docker's own client runs `docker-credential-grantwright`; the protocol itself, word by word."""

    def setUp(self):
        self.server = Registry()
        self.addCleanup(self.server.stop)
        self.host, self.shown = self.server.host, self.server.shown

    def env(self, scope="demo.read", params="", **more):
        return helpers(agent(**more), f'[[docker]]\nhost = "{self.host}"\nscope = "{scope}"\n'
                       f'params = {{ dataset = "{doors.fresh()}"{params} }}\nusername = "agent"\n')

    def helper(self, env, word, given=""):
        done = subprocess.run(["docker-credential-grantwright", word], input=given, env=env,
                              capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout.rstrip("\n")

    def test_the_protocol(self):
        env = self.env()
        code, said = self.helper(env, "get", f"http://{self.host}/v2/\n")
        self.assertEqual(code, 0, said)
        answer = json.loads(said)
        self.assertEqual(sorted(answer), ["Secret", "ServerURL", "Username"])
        self.assertEqual((answer["Username"], claims(answer["Secret"])["scope"]), ("agent", "demo.read"))
        self.assertEqual(json.loads(self.helper(env, "list")[1]), {self.host: "agent"})
        self.assertEqual(self.helper(env, "erase", self.host), (0, ""))
        for server in ("ghcr.io", f"{self.host}.evil.example", f"x{self.host}"):
            self.assertEqual(self.helper(env, "get", server),
                             (1, "credentials not found in native keychain"))
        self.assertEqual(self.helper(env, "store", json.dumps({"ServerURL": "x"}))[0], 1)
        env = self.env("demo.export", ", rows = 3")
        code, said = self.helper(env, "get", self.host)
        self.assertEqual(code, 1)
        self.assertIn("waits for 1 approval", said)
        request_id = said.split("request ", 1)[1].split()[0]
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        self.assertEqual(self.helper(env, "get", self.host)[0], 0)

    @unittest.skipUnless(shutil.which("docker"), "no docker client")
    def test_dockers_own_client_shows_it_to_the_registry(self):
        folder = scratch("docker")
        folder.mkdir()
        (folder / "config.json").write_text('{"credsStore": "grantwright"}')
        env = self.env(DOCKER_CONFIG=str(folder), DOCKER_CLI_EXPERIMENTAL="enabled")
        done = subprocess.run(["docker", "manifest", "inspect", "--insecure", f"{self.host}/acme/app:1"],
                              env=env, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        user, token = self.shown[-1]
        self.assertEqual((user, claims(token)["scope"]), ("agent", "demo.read"))


class Files(unittest.TestCase):
    def start(self, *arguments, command=(), scope="demo.read"):
        params = ["--param", f"dataset={doors.fresh()}", *(["--param", "rows=1"] if scope == "demo.export" else [])]
        line = [str(GRANTWRIGHT), "helper", "files", "--scope", scope, *params, *map(str, arguments)]
        return Process([*line, *(["--", *map(str, command)] if command else [])], env=agent())

    def test_files_are_private_replaced_whole_and_gone_at_the_end(self):
        folder = scratch("files")
        folder.mkdir()
        part, env, whole, told = (folder / n for n in ("token", "app.env", "all.json", "reloads"))
        process = self.start("--part", f"token={part}", "--env-file", env, "--env", "API_KEY=token",
                             "--json-file", whole, "--ttl", "9s",
                             command=("sh", "-c", f"cat {part} >> {told}; echo >> {told}"))
        try:
            until("the reload", 30, lambda: told.exists() and told.read_text().count("\n"))
            first = part.read_text()
            self.assertEqual(claims(first)["scope"], "demo.read")
            for file in (part, env, whole):
                self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600, file)
            # As a shell reads it.
            seen = subprocess.run(["sh", "-c", f". {env}; printf %s \"$API_KEY\""], capture_output=True, text=True)
            self.assertEqual(seen.stdout, first)
            # Readers never meet half of one, nor none, while it is renewed.
            seen = {first}
            deadline = time.monotonic() + 30
            while len(seen) < 2 and time.monotonic() < deadline:
                text = part.read_text()
                self.assertEqual(text.count("."), 2)
                seen.add(text)
            self.assertEqual(len(seen), 2, "not renewed")
            until("the second reload", 20, lambda: told.read_text().count("\n") >= 2)
            self.assertEqual(told.read_text().splitlines()[0], first)
            last = "r" + claims(part.read_text())["jti"][1:]
        finally:
            code = process.term()
        self.assertEqual(code, 0, process.said())
        self.assertFalse(any(file.exists() for file in (part, env, whole)))
        self.assertNotEqual(doors.get(last).json.get("state"), "granted", "not released")

    def test_it_waits_for_people_and_writes_nothing_before(self):
        folder = scratch("files")
        folder.mkdir()
        env = folder / "app.env"
        process = self.start("--env-file", env, scope="demo.export")
        try:
            request_id = until("a word", 20, process.log.read_text).split()[1]
            self.assertFalse(env.exists())
            self.assertEqual(demo.bob.approve(request_id).status, 200)
            until("the file", 40, env.exists)
            self.assertRegex(env.read_text(), r"^CREDENTIAL_TOKEN=\S+\n")
        finally:
            process.term()

    def test_once_leaves_the_file_and_a_wrong_kind_leaves_nothing(self):
        folder = scratch("files")
        folder.mkdir()
        token, aws = folder / "token", folder / "aws"
        process = self.start("--part", f"token={token}", "--once")
        self.assertEqual(process.wait(), 0, process.said())
        self.assertTrue(token.exists())
        for wrong in (("--aws-file", aws), ("--service-file", aws), ("--passfile", aws),
                      ("--part", f"password={aws}"), ()):
            process = self.start(*wrong)
            self.assertEqual(process.wait(), 2, process.said())
            self.assertFalse(aws.exists(), wrong)


class Examples(unittest.TestCase):
    """The agents of tests/e2e: they ask, wait, are asked back, and go on."""

    def go(self, *command):
        dataset = doors.fresh()
        process = Process([*command, dataset, "500"], env=agent(NODE_NO_WARNINGS="1"))
        request_id = until("a request", 30, process.out.read_text).split()[1]
        self.assertEqual(demo.bob.vote("ask", request_id, text="which report?").status, 200)
        until("the answer", 60, lambda: demo.bob.request(request_id)["questions"][0].get("answer"))
        self.assertIn("which report?", process.out.read_text())
        self.assertEqual(demo.bob.vote("narrow", request_id, params={"rows": 50}).status, 200)
        self.assertEqual(process.wait(60), 0, process.said())
        self.assertIn(f"exporting 50 rows of {dataset} with", process.out.read_text())
        self.assertTrue(process.out.read_text().endswith("done\n"))
        # Denied: it says so, and does nothing.
        process = Process([*command, doors.fresh(), "500"], env=agent(NODE_NO_WARNINGS="1"))
        request_id = until("a request", 30, process.out.read_text).split()[1]
        self.assertEqual(demo.bob.deny(request_id, reason="not this week").status, 200)
        self.assertEqual(process.wait(60), 1)
        self.assertIn("not this week", process.log.read_text())
        self.assertNotIn("exporting", process.out.read_text())

    def test_an_agent_in_python(self):
        self.go("python3", ROOT / "tests/e2e/agent.py")

    @unittest.skipUnless((node.folder(ROOT) / "node_modules/typescript").exists(), "no TypeScript")
    def test_an_agent_in_typescript(self):
        made = scratch("ts").with_suffix(".mjs")
        strip = ("const ts = require(process.argv[1] + '/node_modules/typescript');"
                 "process.stdout.write(ts.transpileModule(require('fs').readFileSync(process.argv[2], 'utf8'),"
                 "{compilerOptions: {target: 'es2022', module: 'esnext'}}).outputText)")
        made.write_bytes(subprocess.run(
            ["node", "-e", strip, str(node.folder(ROOT)), str(ROOT / "tests/e2e/agent.ts")],
            check=True, capture_output=True).stdout)
        self.go("node", made)


@unittest.skipUnless(SSHD and shutil.which("ssh-keygen"), "no OpenSSH server")
class Ssh(unittest.TestCase):
    """A real sshd trusts an authority's certificates only; the agent's key has one, for its own key."""

    def setUp(self):
        home = self.home = scratch("sshd")
        home.mkdir(mode=0o700)
        for name in ("ca", "host", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True)
        self.user = os.environ.get("USER") or "root"
        self.sshd, self.port = start_sshd(home)
        self.addCleanup(self.sshd.kill)
        asked = self.asked = []
        test = self

        class Sidecar(Quiet):
            """The sidecar's door, whose broker signs with `ssh-keygen`."""

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path.endswith("/release"):
                    return self.answer(200, b'{"state":"released"}', "application/json")
                ask = json.loads(body)
                asked.append(ask)
                line = test.sign(ask["params"]["public_key"], len(asked))
                ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + test.life))
                self.answer(200, json.dumps({
                    "state": "granted", "request_id": f"r{len(asked)}", "expires_at": ends,
                    "credential": {"ssh_certificate": line}}).encode(), "application/json")

        self.life, self.for_key = 600, None
        self.server = serve(Sidecar)
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        token = home / "token"
        token.write_text("x" * 64)
        self.env = clean_env(GRANTWRIGHT_SIDECAR=f"http://127.0.0.1:{self.server.server_port}",
                             GRANTWRIGHT_TOKEN_FILE=token, HOME=home)

    def sign(self, public, serial):
        file = self.home / f"key-{serial}.pub"
        file.write_text(self.for_key or public)
        subprocess.run(["ssh-keygen", "-q", "-s", self.home / "ca", "-I", f"r{serial}", "-n", self.user,
                        "-z", str(serial), "-V", f"-1m:+{max(1, self.life // 60)}m", file], check=True)
        return (self.home / f"key-{serial}-cert.pub").read_text().strip()

    def agent(self, *command):
        return [str(GRANTWRIGHT), "helper", "ssh-agent", "--scope", "ssh.deploy", "--param",
                f"account={self.user}", *(["--", *map(str, command)] if command else [])]

    def ssh(self, *command):
        return ["ssh", "-F", "none", "-p", str(self.port), "-o", "StrictHostKeyChecking=no", "-o",
                f"UserKnownHostsFile={self.home}/known", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-l",
                self.user, "127.0.0.1", *command]

    def test_ssh_logs_in_with_the_certificate_and_not_without(self):
        done = subprocess.run(self.ssh("true"), env=clean_env(HOME=self.home), capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        done = subprocess.run(self.agent(*self.ssh("echo", "in")), env=self.env, capture_output=True,
                              text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (0, "in\n"), done.stderr + self.sshd.said())
        self.assertEqual(self.asked[0]["params"]["account"], self.user)
        self.assertTrue(self.asked[0]["params"]["public_key"].startswith("ssh-ed25519 "))
        self.assertIn("ED25519-CERT", self.sshd.log.read_text())

    def test_the_agent_serves_renews_and_ends(self):
        self.life = 6
        process = Process(self.agent(), env=self.env)
        line = until("the socket", 20, process.out.read_text)
        socket = Path(line.split("'")[1])
        self.assertEqual(stat.S_IMODE(socket.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(socket.parent.stat().st_mode), 0o700)
        listed = subprocess.run(["ssh-add", "-L"], env=clean_env(SSH_AUTH_SOCK=socket), capture_output=True,
                                text=True)
        self.assertTrue(listed.stdout.startswith("ssh-ed25519-cert-v01@openssh.com "), listed.stderr)
        until("a renewal", 20, lambda: len(self.asked) > 1)
        self.assertEqual(*[ask["params"]["public_key"] for ask in self.asked[:2]])
        refused = subprocess.run(["ssh-add", "-D"], env=clean_env(SSH_AUTH_SOCK=socket), capture_output=True)
        self.assertNotEqual(refused.returncode, 0)
        self.assertEqual(process.term(), 0, process.said())
        self.assertFalse(socket.exists())

    def test_a_certificate_for_another_key_is_refused(self):
        self.for_key = (self.home / "other.pub").read_text()
        done = subprocess.run(self.agent("true"), env=self.env, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no certificate for this key", done.stderr)


if __name__ == "__main__":
    unittest.main()
