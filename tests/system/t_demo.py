"""`grantwright demo`: its story, its folder, its end."""

import json
import os
import re
import stat
import subprocess
import time
import unittest
from pathlib import Path

from harness import (GRANTWRIGHT, SCRATCH, Demo, Process, alive, call, clean_env, read_env, scratch,
                     signal_pid, until)

STEPS = {"routine", "pending", "self-approval", "approval", "denial", "verify"}
EXPORTS = """GRANTWRIGHT_BROKER GRANTWRIGHT_CONSOLE GRANTWRIGHT_SIDECAR GRANTWRIGHT_SIDECAR_SOCKET
GRANTWRIGHT_TOKEN_FILE GRANTWRIGHT_HUMANS GRANTWRIGHT_LOGIN_BOB GRANTWRIGHT_ENROL_BOB
GRANTWRIGHT_CHECKPOINT GRANTWRIGHT_STORE GRANTWRIGHT_LOG GRANTWRIGHT_LOG_VKEY GRANTWRIGHT_BROKER_PID
GRANTWRIGHT_SIDECAR_PID AWS_CONTAINER_CREDENTIALS_FULL_URI
AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE""".split()
UNSETS = """AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE AWS_ROLE_ARN
AWS_WEB_IDENTITY_TOKEN_FILE AWS_CONTAINER_CREDENTIALS_RELATIVE_URI""".split()


def demo(*arguments, cwd=None, timeout=60, **env):
    done = subprocess.run([str(GRANTWRIGHT), "demo", *[str(a) for a in arguments]],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
                          env=clean_env(**env), cwd=cwd)
    return done


def steps(done):
    out = []
    for line in done.stdout.splitlines():
        try:
            out.append(json.loads(line))
        except ValueError:
            raise AssertionError(f"standard output holds more than steps: {line!r}")
    return out


class Story(unittest.TestCase):
    def test_tells_the_whole_story_in_json_and_exits_0(self):
        begun = time.monotonic()
        done = demo("--json", timeout=40)
        took = time.monotonic() - begun
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertLess(took, 30)
        told = steps(done)
        for step in told:
            self.assertEqual(set(step), {"step", "ok", "ms", "detail"}, step)
            self.assertIs(step["ok"], True, step)
            self.assertIsInstance(step["ms"], int, step)
            self.assertIsInstance(step["detail"], str, step)
        self.assertLessEqual(STEPS, {s["step"] for s in told})
        detail = {s["step"]: s["detail"] for s in told}
        self.assertIn("alice", detail["self-approval"])
        self.assertRegex(detail["approval"], "bob|carol")
        self.assertRegex(detail["denial"], "alice|bob|carol|dave")

    def test_speaks_to_people_without_json(self):
        done = demo(timeout=40)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for name in ("alice", "bob"):
            self.assertIn(name, done.stdout)

    def test_leaves_nothing_running(self):
        folder = scratch("gone")
        done = demo("--json", "--dir", folder)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertFalse((folder / "env").exists(), "DIR/env is removed at the end")
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.assertNotIn(str(folder).encode(), path.read_bytes(), path)
            except OSError:
                pass


class Folder(unittest.TestCase):
    def test_a_foreign_folder_is_refused_and_left_alone(self):
        folder = scratch("foreign")
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
        done = demo("--json", "--dir", folder)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual([p.name for p in folder.iterdir()], ["thesis.txt"])

    def test_an_empty_folder_is_fresh_and_a_told_one_is_resumed(self):
        folder = scratch("resumed")
        folder.mkdir()
        first = demo("--json", "--dir", folder)
        self.assertEqual(first.returncode, 0, first.stdout + first.stderr)
        self.assertTrue((folder / "demo.toml").exists())
        again = demo("--json", "--dir", folder)
        self.assertEqual(again.returncode, 0, again.stdout + again.stderr)
        self.assertEqual([s["step"] for s in steps(again)], ["resume", "verify"])
        self.assertTrue(all(s["ok"] for s in steps(again)))

    def test_scopes_and_policies_are_plain_files(self):
        folder = scratch("plain")
        done = demo("--json", "--dir", folder)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        text = "\n".join(p.read_text() for p in folder.rglob("*")
                         if p.is_file() and p.suffix in (".toml", ".cedar"))
        for scope in ("demo.read", "demo.export", "demo.escalate", "demo.rotate-root",
                      "demo.drop-tables", "aws.s3-read", "aws.s3-export", "vault.db-read"):
            self.assertIn(f'"{scope}"', text)
        self.assertIn("issueAfterApproval", text)

    def test_secrets_are_for_their_owner_only(self):
        with Demo() as running:
            env = running.env
            files = [Path(env["GRANTWRIGHT_TOKEN_FILE"]),
                     Path(env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])]
            files += sorted(Path(env["GRANTWRIGHT_HUMANS"]).glob("*.token"))
            self.assertEqual(len(files), 6)
            files += [p for p in running.dir.rglob("*.key")]
            for path in files:
                mode = stat.S_IMODE(path.stat().st_mode)
                self.assertEqual(mode, 0o600, f"{path} has mode {mode:o}")
                if path.suffix == ".token" or "token" in path.name:
                    self.assertNotIn("\n", path.read_text(), path)
            self.assertNotEqual(running.doors.token, running.doors.aws_token)


class Kept(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.demo = Demo()

    @classmethod
    def tearDownClass(cls):
        cls.demo.__exit__()

    def test_env_is_complete_and_of_the_promised_shape(self):
        text = (self.demo.dir / "env").read_text()
        env = read_env(self.demo.dir / "env")
        for name in EXPORTS:
            self.assertTrue(env.get(name), f"{name} is missing")
        for name in UNSETS:
            self.assertRegex(text, rf"(?m)^unset {name}$")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            self.assertEqual(Path(env[name]).read_bytes(), b"", name)
        self.assertRegex(env["GRANTWRIGHT_BROKER"], r"^https://127\.0\.0\.1:\d+$")
        self.assertRegex(env["GRANTWRIGHT_CONSOLE"], r"^http://localhost:\d+$")
        self.assertRegex(env["GRANTWRIGHT_SIDECAR"], r"^http://127\.0\.0\.1:\d+$")
        self.assertRegex(env["GRANTWRIGHT_LOG"], r"^http://127\.0\.0\.1:\d+/log$")
        self.assertRegex(env["GRANTWRIGHT_STORE"], r"^sqlite://")
        self.assertRegex(env["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
                         r"^http://127\.0\.0\.1:\d+/aws/aws\.s3-read\?bucket=demo&prefix=public/$")
        for name in ("GRANTWRIGHT_TOKEN_FILE", "GRANTWRIGHT_CHECKPOINT"):
            self.assertTrue(Path(env[name]).is_file(), name)

    def test_env_can_be_sourced_by_a_plain_shell(self):
        script = ('set -eu; export AWS_PROFILE=x; . "$1"; '
                  'printf "%s\\n" "$AWS_CONTAINER_CREDENTIALS_FULL_URI" "${AWS_PROFILE-gone}"')
        out = subprocess.run(["sh", "-c", script, "sh", str(self.demo.dir / "env")],
                             capture_output=True, text=True, check=True).stdout.splitlines()
        self.assertEqual(out, [self.demo.env["AWS_CONTAINER_CREDENTIALS_FULL_URI"], "gone"])

    def test_two_processes_neither_the_demos_own(self):
        own = self.demo.process.pid
        broker, sidecar = self.demo.broker_pid, self.demo.sidecar_pid
        self.assertEqual(len({own, broker, sidecar}), 3)
        words = Path(f"/proc/{broker}/cmdline").read_bytes().split(b"\0")
        self.assertEqual((Path(words[0].decode()).name, words[1]), ("grantwright", b"broker"))
        words = Path(f"/proc/{sidecar}/cmdline").read_bytes().split(b"\0")
        self.assertEqual(Path(words[0].decode()).name, "grantwright-sidecar")

    def test_listens_on_loopback_only(self):
        for pid in (self.demo.broker_pid, self.demo.sidecar_pid):
            for file, zero in (("tcp", "00000000"), ("tcp6", "0" * 32)):
                inodes = set()
                for fd in Path(f"/proc/{pid}/fd").iterdir():
                    try:
                        found = re.match(r"socket:\[(\d+)\]", os.readlink(fd))
                        inodes.add(found[1] if found else "")
                    except OSError:
                        pass
                for line in Path(f"/proc/{pid}/net/{file}").read_text().splitlines()[1:]:
                    part = line.split()
                    if part[3] == "0A" and part[9] in inodes:
                        self.assertNotEqual(part[1].split(":")[0], zero, f"{pid} listens on all")

    def test_demo_agent_belongs_to_alice(self):
        agents = self.demo.bob.call("GET", "/api/v1/agents").json["agents"]
        mine = next(a for a in agents if a["name"] == "demo-agent")
        self.assertEqual(mine["owner"], "alice")

    def test_the_operator_is_a_fifth_person(self):
        for person in (self.demo.alice, self.demo.bob, self.demo.carol, self.demo.dave):
            me = person.call("GET", "/api/v1/me").json
            self.assertEqual((me["human"], me["operator"]), (person.name, False))
        self.assertIn("security", self.demo.dave.call("GET", "/api/v1/me").json["groups"])
        for name in ("alice", "bob", "carol"):
            person = getattr(self.demo, name)
            self.assertIn("reviewers", person.call("GET", "/api/v1/me").json["groups"])


class End(unittest.TestCase):
    def test_sigterm_ends_all_processes_with_exit_0(self):
        demo = Demo()
        pids = (demo.broker_pid, demo.sidecar_pid)
        self.assertTrue(all(map(alive, pids)))
        self.assertEqual(demo.stop(), 0, demo.process.said())
        self.assertFalse((demo.dir / "env").exists())
        for pid in pids:
            until(f"process {pid} is gone", 5, lambda: not alive(pid))

    def test_a_killed_broker_leaves_the_demo_up_and_sigterm_ends_the_sidecar(self):
        demo = Demo()
        sidecar = demo.sidecar_pid
        signal_pid(demo.broker_pid)
        time.sleep(1.0)
        self.assertIsNone(demo.process.code(), demo.process.said())
        self.assertTrue(alive(sidecar))
        demo.stop()
        until("the sidecar is gone", 5, lambda: not alive(sidecar))

    def test_resume_keeps_what_matters_and_renews_env(self):
        demo = Demo()
        before = demo.env
        person = demo.bob.token_file.read_text()
        size = len(demo.leaves())
        waiting = demo.doors.pending()
        self.assertEqual(demo.stop(), 0)
        stale = demo.dir / "env"
        stale.write_text("export STALE='1'\n")
        demo.start()
        after = demo.env
        self.assertNotIn("STALE", after)
        for name in ("GRANTWRIGHT_LOG_VKEY", "GRANTWRIGHT_STORE", "GRANTWRIGHT_HUMANS",
                     "GRANTWRIGHT_TOKEN_FILE", "GRANTWRIGHT_CHECKPOINT"):
            self.assertEqual(before[name], after[name], name)
        self.assertEqual(demo.bob.token_file.read_text(), person)
        self.assertEqual(demo.bob.request(waiting)["state"], "pending")
        self.assertGreaterEqual(len(demo.leaves()), size)
        self.assertEqual(demo.bob.approve(waiting).status, 200)
        self.assertEqual(demo.doors.get(waiting).json["state"], "granted")
        code, report = demo.cli_json("audit", "verify")
        self.assertEqual((code, report["ok"]), (0, True), report)
        demo.stop()
