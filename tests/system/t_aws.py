"""The AWS SDKs, unmodified, get credentials through the sidecar: boto3 and the AWS CLI from the container
endpoint, each of them from instance metadata; what each does in each case is `t_cells`. moto is STS."""

import json
import os
import re
import subprocess
import sys
import time
import unittest
from pathlib import Path

import moto  # noqa: F401  the suite `python` brings it

from harness import (BIN, GRANTWRIGHT, ROOT, SCRATCH, Demo, Process, call, clean_env, scratch,
                     until)
from peers import golang, java, node
from peers.ports import free_port
from recorder import Recorder

demo = doors = recorder = server = None
REGION = "us-east-1"
READ = {"bucket": "demo", "prefix": "public/"}


def setUpModule():
    global demo, doors, recorder, server
    port = free_port()
    server = Process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
    until("moto", 60, lambda: _up(port), 0.1)
    recorder = Recorder(port)
    demo = Demo(AWS_ENDPOINT_URL_STS=recorder.url, AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE",
                AWS_SECRET_ACCESS_KEY="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", AWS_REGION=REGION)
    doors = demo.doors


def _up(port):
    try:
        return call(f"http://127.0.0.1:{port}", "GET", "/moto-api/").status == 200
    except OSError:
        return False


def tearDownModule():
    if demo:
        demo.__exit__()
    if recorder:
        recorder.stop()
    if server:
        server.kill()


def agent_env(scope="aws.s3-read", **params):
    """What `. DIR/env` gives an agent's process: nothing but the container door."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "GRANTWRIGHT_"))}
    env.update({k: v for k, v in demo.env.items() if k.startswith("AWS_")})
    query = "&".join(f"{k}={v}" for k, v in (params or READ).items())
    env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = f"{doors.tcp}/aws/{scope}?{query}"
    env.update(AWS_REGION=REGION, AWS_DEFAULT_REGION=REGION, AWS_ENDPOINT_URL_STS=recorder.url,
               AWS_MAX_ATTEMPTS="1", AWS_METADATA_SERVICE_NUM_ATTEMPTS="1")
    return env


BOTO = """
import sys, boto3, botocore.exceptions
session = boto3.Session()
for line in sys.stdin:
    try:
        print("OK", session.client("sts").get_caller_identity()["Arn"], flush=True)
    except botocore.exceptions.BotoCoreError as fault:
        print("NO", " ".join(str(fault).split()), flush=True)
"""


class Boto:
    """A process that asks STS who it is at each line: boto3, or another command."""

    def __init__(self, env, command=None):
        self.child = subprocess.Popen(command or [sys.executable, "-c", BOTO], stdin=subprocess.PIPE, text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)

    def identity(self):
        self.child.stdin.write("go\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, self.child.stderr.read()
        return line.rstrip("\n").split(" ", 1)

    def close(self):
        self.child.stdin.close()
        self.child.wait(10)
        self.child.stdout.close()
        self.child.stderr.close()


class Sdk(unittest.TestCase):
    def boto(self, env):
        boto = Boto(env)
        self.addCleanup(boto.close)
        return boto

    def test_boto3_is_the_assumed_role(self):
        word, arn = self.boto(agent_env()).identity()
        self.assertEqual(word, "OK", arn)
        self.assertRegex(arn, r"^arn:aws:sts::123456789012:assumed-role/grantwright-demo/")

    def test_the_aws_cli_is_the_assumed_role(self):
        aws = Path(sys.executable).parent / "aws"
        done = subprocess.run([str(aws), "sts", "get-caller-identity"], env=agent_env(),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("assumed-role/grantwright-demo/", json.loads(done.stdout)["Arn"])

    def test_what_needs_a_person_says_so_and_works_in_the_same_process_afterwards(self):
        params = {"bucket": "demo", "prefix": f"export/{doors.fresh()}/"}
        boto = self.boto(agent_env("aws.s3-export", **params))
        word, text = boto.identity()
        self.assertEqual(word, "NO", text)
        self.assertIn("ApprovalPending", text)
        waiting = next(r for r in demo.bob.pending() if r["params"] == params)
        self.assertIn(waiting["request_id"], text)
        self.assertIn(demo.env["GRANTWRIGHT_CONSOLE"], text)
        word, text = boto.identity()
        self.assertEqual(word, "NO", text)
        self.assertEqual(len([r for r in demo.bob.pending() if r["params"] == params]), 1)
        self.assertEqual(demo.bob.approve(waiting["request_id"]).status, 200)
        word, arn = boto.identity()
        self.assertEqual(word, "OK", arn)
        self.assertIn("assumed-role/grantwright-demo/", arn)


SDKS = {"boto3": [sys.executable, "-c", BOTO]}
if (node.folder(ROOT) / "node_modules/@aws-sdk/client-sts").exists():
    SDKS["JavaScript v3"] = ["node", str(ROOT / "tests/peers/aws.mjs"), str(node.folder(ROOT))]
if golang.ready(ROOT, "awsgo"):
    SDKS["Go v2"] = [str(golang.binary(ROOT, "awsgo"))]
SDKS["Rust"] = [str(BIN / "examples" / "aws")]
if java.ready(ROOT):
    SDKS["Java v2"] = java.command(ROOT)


def waiting(params):
    return next(r for r in demo.bob.pending() if r["params"] == params)


class Metadata(unittest.TestCase):
    """`grantwright sidecar --imds`."""

    @classmethod
    def setUpClass(cls):
        home = cls.home = scratch("imds")
        home.mkdir()
        operator = (demo.dir / "operator.token").read_text()
        joined = call(demo.env["GRANTWRIGHT_CONSOLE"], "POST", "/api/v1/agents/demo-agent/join", {},
                      {"Authorization": f"Bearer {operator}"})
        (home / "join.token").write_text(joined.json["join_token"])
        (home / "join.token").chmod(0o600)
        text = (demo.dir / "sidecar.toml").read_text()
        for key, value in (("trust_bundle", f"{demo.dir}/keys/ca.pem"), ("listen", "127.0.0.1:0"),
                           ("socket", f"{home}/s.sock")):
            text = re.sub(rf"(?m)^{key} = .*", f'{key} = "{value}"', text)
        (home / "sidecar.toml").write_text(text)
        cls.prefix = f"imds/{doors.fresh()}/"
        cls.servers = []

    @classmethod
    def tearDownClass(cls):
        for server in cls.servers:
            server.kill()

    def serve(self, scope):
        for server in self.servers:
            server.kill()
        self.port = free_port()
        self.servers.append(Process([
            GRANTWRIGHT, "sidecar", "--config", self.home / "sidecar.toml", "--imds", f"127.0.0.1:{self.port}",
            "--imds-scope", f"{scope}?bucket=demo&prefix={self.prefix}"]))
        until("instance metadata", 30, lambda: self.up())

    def up(self):
        try:
            return self.call("GET", "/latest/meta-data/").status
        except OSError:
            assert self.servers[-1].code() is None, self.servers[-1].said()

    def call(self, method, path, **headers):
        return call(f"http://127.0.0.1:{self.port}", method, path,
                    headers={k.replace("_", "-"): v for k, v in headers.items()})

    def token(self, **more):
        return self.call("PUT", "/latest/api/token", X_aws_ec2_metadata_token_ttl_seconds="60", **more)

    def env(self):
        return clean_env(AWS_EC2_METADATA_SERVICE_ENDPOINT=f"http://127.0.0.1:{self.port}", AWS_REGION=REGION,
                         AWS_DEFAULT_REGION=REGION, AWS_ENDPOINT_URL_STS=recorder.url, AWS_MAX_ATTEMPTS="1",
                         AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null",
                         AWS_EC2_METADATA_V1_DISABLED="true", HOME=str(SCRATCH))

    def test_the_protocol_and_every_sdk(self):
        self.serve("aws.s3-read")
        role = "/latest/meta-data/iam/security-credentials/"
        self.assertEqual(self.call("GET", role).status, 401, "version 1 is not served")
        for bad in ({}, {"X_aws_ec2_metadata_token_ttl_seconds": "0"},
                    {"X_aws_ec2_metadata_token_ttl_seconds": "21601"}):
            self.assertEqual(self.call("PUT", "/latest/api/token", **bad).status, 400, bad)
        for foreign in ({"X_Forwarded_For": "10.0.0.1"}, {"Host": "rebound.example"},
                        {"Origin": "http://127.0.0.1"}):
            self.assertEqual(self.token(**foreign).status, 403, foreign)
        token = self.token().body.decode()
        shown = {"X_aws_ec2_metadata_token": token}
        self.assertEqual(self.call("GET", role, X_aws_ec2_metadata_token="x").status, 401)
        self.assertEqual(self.call("GET", role, **shown).body, b"aws.s3-read")
        self.assertEqual(self.call("GET", f"{role}admin", **shown).status, 404)
        keys = self.call("GET", f"{role}aws.s3-read", **shown).json
        self.assertEqual((keys["Code"], keys["Type"]), ("Success", "AWS-HMAC"))
        self.assertRegex(keys["Expiration"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        for sdk, command in SDKS.items():
            with self.subTest(sdk=sdk):
                it = Boto(self.env(), command)
                word, arn = it.identity()
                it.close()
                self.assertEqual(word, "OK", arn)
                self.assertIn("assumed-role/grantwright-demo/", arn)

    @unittest.skipUnless(os.geteuid() == 0, "needs another user")
    def test_another_user_is_not_answered(self):
        self.serve("aws.s3-read")
        script = ("import http.client as h; c = h.HTTPConnection('127.0.0.1', %d); c.request('PUT', "
                  "'/latest/api/token', headers={'X-aws-ec2-metadata-token-ttl-seconds': '60'}); "
                  "print(c.getresponse().status)" % self.port)
        done = subprocess.run(["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups",
                               "/usr/bin/python3", "-c", script], capture_output=True, text=True)
        self.assertEqual(done.stdout.strip(), "403", done.stderr)

    def test_what_waits_is_said_and_given_after_the_vote(self):
        self.serve("aws.s3-export")
        role = "/latest/meta-data/iam/security-credentials/aws.s3-export"
        shown = {"X_aws_ec2_metadata_token": self.token().body.decode()}
        said = self.call("GET", role, **shown).json
        self.assertEqual(said["Code"], "ApprovalPending")
        request_id = waiting({"bucket": "demo", "prefix": self.prefix})["request_id"]
        self.assertIn(request_id, said["Message"])
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        self.assertEqual(self.call("GET", role, **shown).json["Code"], "Success")

    def test_it_is_for_loopback_only(self):
        done = subprocess.run([str(GRANTWRIGHT), "sidecar", "--config", str(self.home / "sidecar.toml"),
                               "--imds", "0.0.0.0:1", "--imds-scope", "aws.s3-read"], capture_output=True,
                              text=True, timeout=20)
        self.assertEqual(done.returncode, 2)
        self.assertIn("127.0.0.0/8", done.stderr)


class Protocol(unittest.TestCase):
    def get(self, scope, **params):
        query = "&".join(f"{k}={v}" for k, v in params.items())
        return call(doors.tcp, "GET", f"/aws/{scope}?{query}",
                    headers={"Authorization": doors.aws_token})

    def test_the_answer_is_the_container_protocols(self):
        reply = self.get("aws.s3-read", **READ)
        self.assertEqual(reply.status, 200, reply)
        for field in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration"):
            self.assertTrue(reply.json[field], reply)

    def test_pending_is_403_with_code_and_message(self):
        params = {"bucket": "demo", "prefix": f"{doors.fresh()}/"}
        reply = self.get("aws.s3-export", **params)
        self.assertEqual((reply.status, reply.json["code"]), (403, "ApprovalPending"), reply)
        request_id = next(r for r in demo.bob.pending() if r["params"] == params)["request_id"]
        self.assertIn(request_id, reply.json["message"])
        doors.cancel(request_id)

    def test_denied_is_said_so(self):
        params = {"bucket": "demo", "prefix": f"{doors.fresh()}/"}
        self.get("aws.s3-export", **params)
        request_id = next(r for r in demo.bob.pending() if r["params"] == params)["request_id"]
        demo.bob.deny(request_id, reason="too much")
        reply = self.get("aws.s3-export", **params)
        self.assertEqual(reply.status, 403, reply)
        self.assertTrue(reply.json["code"] and reply.json["message"])
        self.assertNotEqual(reply.json["code"], "ApprovalPending")

    def test_the_general_door_gives_the_same_kind(self):
        reply = doors.ask("aws.s3-read", {"bucket": "demo", "prefix": f"{doors.fresh()}/"})
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual(set(reply.json["credential"]),
                         {"AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"})

    def test_too_short_for_sts(self):
        reply = doors.ask("aws.s3-read", READ, ttl="10m")
        self.assertEqual((reply.status, reply.code), (400, "ttl_too_short"), reply)


class Sent(unittest.TestCase):
    def form(self, scope, people=()):
        prefix = f"sent/{doors.fresh()}/"
        before = len(recorder.named("AssumeRole"))
        reply = doors.ask(scope, {"bucket": "demo", "prefix": prefix})
        request_id = reply.json["request_id"]
        for person in people:
            person.approve(request_id)
        if people:
            reply = doors.get(request_id)
        self.assertEqual(reply.status, 200, reply)
        calls = recorder.named("AssumeRole")[before:]
        self.assertEqual(len(calls), 1, "one ask, one call to STS")
        return prefix, request_id, calls[0]

    @staticmethod
    def tags(form):
        out, n = {}, 1
        while f"Tags.member.{n}.Key" in form:
            out[form[f"Tags.member.{n}.Key"]] = form[f"Tags.member.{n}.Value"]
            n += 1
        return out

    def test_the_session_is_exactly_the_request(self):
        for scope, people, approvers in (("aws.s3-read", (), ""), ("aws.s3-export", (demo.bob,), "bob")):
            with self.subTest(scope):
                prefix, request_id, form = self.form(scope, people)
                self.assertLessEqual(int(form["DurationSeconds"]), 900)
                self.assertEqual(form["SourceIdentity"], "demo-agent")
                self.assertIn(request_id, form["RoleSessionName"])
                tags = self.tags(form)
                self.assertEqual((tags["agent"], tags["request"]), ("demo-agent", request_id))
                self.assertEqual(tags.get("approvers", ""), approvers)
                policy = json.loads(form["Policy"])
                self.assertLessEqual(len(form["Policy"]), 2048)
                for statement in policy["Statement"]:
                    self.assertEqual(statement["Effect"], "Allow")
                    actions = statement["Action"]
                    for action in [actions] if isinstance(actions, str) else actions:
                        self.assertIn(action, ("s3:GetObject", "s3:ListBucket"))
                    resources = statement["Resource"]
                    for resource in [resources] if isinstance(resources, str) else resources:
                        if "s3:ListBucket" in actions:
                            self.assertEqual(resource, "arn:aws:s3:::demo")
                            self.assertIn(f"{prefix}*", json.dumps(statement["Condition"]))
                        else:
                            self.assertEqual(resource, f"arn:aws:s3:::demo/{prefix}*")

    def test_narrowing_narrows_the_session(self):
        prefix = f"wide/{doors.fresh()}/"
        request_id = doors.ask("aws.s3-export", {"bucket": "demo", "prefix": prefix}).json["request_id"]
        reply = demo.bob.vote("narrow", request_id, params={"prefix": f"{prefix}only/"})
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual(doors.get(request_id).status, 200)
        form = recorder.named("AssumeRole")[-1]
        self.assertIn(f"arn:aws:s3:::demo/{prefix}only/*", form["Policy"])
        self.assertNotIn(f"{prefix}*", form["Policy"])


class Faults(unittest.TestCase):
    def tearDown(self):
        recorder.mode = "pass"

    def ask(self, mode, key):
        recorder.mode = mode
        params = {"bucket": "demo", "prefix": f"fault/{key}/"}
        before = len(recorder.named("AssumeRole"))
        reply = doors.ask("aws.s3-read", params, idempotency_key=key)
        recorder.mode = "pass"
        again = doors.ask("aws.s3-read", params, idempotency_key=key)
        return reply, again, len(recorder.named("AssumeRole")) - before

    def test_a_definite_refusal_is_mint_failed_and_final(self):
        reply, again, calls = self.ask("refuse", doors.fresh("key"))
        self.assertEqual((reply.status, reply.code), (502, "mint_failed"), reply)
        self.assertEqual((again.status, again.code), (502, "mint_failed"), again)
        self.assertEqual(calls, 1)
        state = demo.bob.request(reply.json["request_id"])["state"]
        self.assertEqual(state, "failed")

    def test_a_lost_answer_is_outcome_unknown_and_never_repeated(self):
        reply, again, calls = self.ask("lose", doors.fresh("key"))
        self.assertEqual((reply.status, reply.code), (502, "outcome_unknown"), reply)
        self.assertEqual((again.status, again.code), (502, "outcome_unknown"), again)
        self.assertEqual(calls, 1)
        request_id = reply.json["request_id"]
        self.assertEqual(demo.bob.request(request_id)["state"], "unknown")
        self.assertEqual(doors.get(request_id).json["state"], "unknown")

    def test_an_answer_that_outlives_the_ask_is_not_delivered(self):
        reply, again, calls = self.ask("wide", doors.fresh("key"))
        self.assertEqual(reply.status, 502, reply)
        self.assertNotIn("credential", reply.json)
        self.assertEqual((again.status, calls), (502, 1), again)


class AtRest(unittest.TestCase):
    def test_sealed_credentials_are_not_readable_anywhere(self):
        reply = doors.ask("aws.s3-read", {"bucket": "demo", "prefix": f"rest/{doors.fresh()}/"})
        secret = reply.json["credential"]
        time.sleep(0.2)
        for path in demo.dir.rglob("*"):
            if path.is_file():
                text = path.read_bytes()
                for name in ("SecretAccessKey", "SessionToken"):
                    self.assertNotIn(secret[name].encode(), text, path)

    def test_the_log_verifies_at_the_end(self):
        code, report = demo.cli_json("audit", "verify")
        self.assertEqual(code, 0, report)
