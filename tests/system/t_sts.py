"""STS without an AWS key: the broker is the OIDC issuer that MinIO verifies, and a real S3 enforces what was
granted. Roles on the way and sessions denied through IAM, against moto."""

import base64
import json
import sys
import unittest

import boto3
import botocore.exceptions
from botocore.config import Config
from harness import ROOT, Process, call, cli, scratch, until
from peers import golang
from peers.ports import free_port
from peers.minio import Minio
from recorder import Recorder
from stand import Stand

ROLE = "arn:aws:iam::123456789012:role/agents/reader"
HUB = "arn:aws:iam::123456789012:role/hub"
CONFIG = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=5,
                read_timeout=10)
# MinIO takes the policy of a web identity from a claim: here the audience, which names a built-in one.
AUDIENCE = "readwrite"
JWT = '\n[[minter]]\nname = "jwt-es256"\nkind = "jwt"\nalgorithm = "ES256"\n'

stand = minio = root = moto = recorder = None


def scope(name, minter, more=""):
    return f"""
[[scope]]
name = "{name}"
title = "Read {{prefix}} in {{bucket}}"
minter = "{minter}"
ttl = {{ default_s = 900, max_s = 3600 }}
params.bucket = {{ type = "s3-bucket", title = "Bucket" }}
params.prefix = {{ type = "s3-prefix", order = "prefix", title = "Prefix" }}
[scope.template]
role_arn = "{ROLE}"
{more}
[[scope.template.policy]]
actions = ["s3:GetObject"]
resources = ["arn:aws:s3:::${{bucket}}/${{prefix}}*"]
"""


def setUpModule():
    global stand, minio, root, moto, recorder
    missing = golang.prepare(ROOT, "minio", print)
    if missing:
        raise unittest.SkipTest(missing)
    port = free_port()
    moto = Process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
    until("moto", 60, lambda: _up(port), 0.1)
    recorder = Recorder(port)
    iam().create_role(Path="/agents/", RoleName="reader", AssumeRolePolicyDocument="{}")
    for name, text in (("key", "AKIAIOSFODNN7EXAMPLE"), ("secret", "wJalrXUtnFEMI")):
        file = scratch(name)
        file.write_text(text)
        file.chmod(0o600)
        FILES[name] = file
    # MinIO reads the issuer's document when it starts, so its port is chosen before.
    at = free_port()
    stand = Stand([
        JWT,
        f'[[minter]]\nname = "web"\nkind = "sts"\nregion = "us-east-1"\n'
        f'endpoint = "http://127.0.0.1:{at}"\nweb_identity_audience = "{AUDIENCE}"\n',
        f'[[minter]]\nname = "web-moto"\nkind = "sts"\nregion = "us-east-1"\n'
        f'endpoint = "{recorder.url}"\nweb_identity_audience = "sts.amazonaws.com"\n',
        f'[[minter]]\nname = "chained"\nkind = "sts"\nregion = "us-east-1"\n'
        f'endpoint = "{recorder.url}"\naccess_key_id_file = "{FILES["key"]}"\n'
        f'secret_access_key_file = "{FILES["secret"]}"\nchain = ["{HUB}"]\n'
        f'[minter.revoke]\niam_endpoint = "{recorder.url}"\n',
    ], [scope("s3.web", "web"), scope("s3.webmoto", "web-moto", 'transitive_tags = ["agent"]'),
        scope("s3.chained", "chained", 'external_id = "grantwright"')],
        asks=["s3.web", "s3.webmoto", "s3.chained"])
    minio = Minio(ROOT, scratch("minio"), port=at,
                  MINIO_IDENTITY_OPENID_CONFIG_URL=f"{stand.console}/.well-known/openid-configuration",
                  MINIO_IDENTITY_OPENID_CLIENT_ID=AUDIENCE,
                  MINIO_IDENTITY_OPENID_CLAIM_NAME="aud")
    root = s3(minio.access_key, minio.secret_key)
    for bucket in ("demo", "other"):
        root.create_bucket(Bucket=bucket)
    for bucket, key in (("demo", "public/one"), ("demo", "secret/two"), ("other", "public/three")):
        root.put_object(Bucket=bucket, Key=key, Body=key.encode())


FILES = {}


def _up(port):
    try:
        return call(f"http://127.0.0.1:{port}", "GET", "/moto-api/").status == 200
    except OSError:
        return False


def tearDownModule():
    for part in (stand and stand.end, minio and minio.stop, recorder and recorder.stop,
                 moto and moto.kill):
        if part:
            part()


def iam():
    return boto3.client("iam", endpoint_url=recorder.url, aws_access_key_id="a",
                        aws_secret_access_key="b", region_name="us-east-1")


def s3(key, secret, token=None):
    return boto3.client("s3", endpoint_url=minio.url, aws_access_key_id=key, aws_secret_access_key=secret,
                        aws_session_token=token, region_name="us-east-1", config=CONFIG)


def sts():
    return [form for form in recorder.calls if form.get("Action", "").startswith("AssumeRole")]


PARAMS = {"bucket": "demo", "prefix": "public/"}


class WebIdentity(unittest.TestCase):
    def test_05_no_aws_key_and_a_real_s3_enforces_what_was_granted(self):
        reply, got = stand.granted("s3.web", PARAMS)
        mine = s3(got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"])
        self.assertEqual(mine.get_object(Bucket="demo", Key="public/one")["Body"].read(), b"public/one")
        for bucket, key in (("demo", "secret/two"), ("other", "public/three")):
            with self.assertRaises(botocore.exceptions.ClientError) as fault:
                mine.get_object(Bucket=bucket, Key=key)
            self.assertEqual(fault.exception.response["Error"]["Code"], "AccessDenied")
        with self.assertRaises(botocore.exceptions.ClientError):
            mine.put_object(Bucket="demo", Key="public/one", Body=b"x")
        lease = stand.lease(reply["lease_id"])
        self.assertFalse(lease["revocable"], "said before anybody asked for its end")
        _, out = stand.revoke(reply["lease_id"])
        self.assertIn("cannot be recalled", out)
        stand.nowhere(got["SecretAccessKey"])

    def test_a_release_says_when_what_nothing_recalls_ends(self):
        reply, _ = stand.granted("s3.web", {"bucket": "demo", "prefix": "released/"})
        done = stand.release(reply["request_id"])
        self.assertFalse(done["ended"])
        self.assertIn(reply["expires_at"][:16], done["effect"])

    def test_the_token_carries_tags_and_source_identity(self):
        reply, _ = stand.granted("s3.webmoto", PARAMS)
        asked = sts()[-1]
        self.assertEqual(asked["Action"], "AssumeRoleWithWebIdentity")
        self.assertEqual((asked["RoleArn"], asked["RoleSessionName"], asked["DurationSeconds"]),
                         (ROLE, reply["request_id"], "900"))
        self.assertIn("arn:aws:s3:::demo/public/*", asked["Policy"])
        self.assertNotIn("Tags.member.1.Key", asked)
        body = asked["WebIdentityToken"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        self.assertEqual((claims["aud"], claims["sub"]),
                         ("sts.amazonaws.com", f"{stand.console}/broker"))
        self.assertEqual(claims["https://aws.amazon.com/source_identity"], "demo-agent")
        tags = claims["https://aws.amazon.com/tags"]
        self.assertEqual(tags["principal_tags"], {
            "agent": ["demo-agent"], "request": [reply["request_id"]], "approvers": ["bob"]})
        self.assertEqual(tags["transitive_tag_keys"], ["agent"])
        self.assertLessEqual(claims["exp"] - claims["iat"], 60)


class Chained(unittest.TestCase):
    def test_a_role_on_the_way_signs_the_call_for_the_scopes_role(self):
        reply, _ = stand.granted("s3.chained", PARAMS)
        hub = [a for a in sts() if a.get("RoleArn") == HUB]
        self.assertEqual([(a["Action"], a["RoleSessionName"]) for a in hub],
                         [("AssumeRole", "grantwright-broker")] * len(hub))
        asked = sts()[-1]
        self.assertEqual((asked["RoleArn"], asked["ExternalId"], asked["RoleSessionName"]),
                         (ROLE, "grantwright", reply["request_id"]))
        before = len(hub)
        stand.granted("s3.chained", {"bucket": "demo", "prefix": "more/"})
        self.assertEqual(len([a for a in sts() if a.get("RoleArn") == HUB]), before,
                         "the hub's session is kept")

    def test_a_session_is_denied_through_iam_and_only_that_one(self):
        """SECURITY: revocation theatre. What `revoke` says is what the role's policy then holds."""
        one, _ = stand.granted("s3.chained", {"bucket": "demo", "prefix": "one/"})
        two, _ = stand.granted("s3.chained", {"bucket": "demo", "prefix": "two/"})
        self.assertTrue(stand.lease(one["lease_id"])["revocable"])
        code, out = stand.revoke(one["lease_id"])
        self.assertEqual(code, 0, out)
        self.assertIn("denies everything", out)
        policy = iam().get_role_policy(RoleName="reader", PolicyName="GrantwrightRevoked")["PolicyDocument"]
        denied = [s for s in policy["Statement"]]
        self.assertTrue(all(s["Effect"] == "Deny" for s in denied))
        ids = [i for s in denied for i in s["Condition"]["StringEquals"]["aws:PrincipalTag/request"]]
        self.assertIn(one["request_id"], ids)
        self.assertNotIn(two["request_id"], ids)
        self.assertFalse(stand.event(one["request_id"], "revoked").get("still_valid", False))

    def test_a_session_that_its_agent_released_is_denied(self):
        reply, _ = stand.granted("s3.chained", {"bucket": "demo", "prefix": "released/"})
        done = stand.release(reply["request_id"])
        self.assertTrue(done["ended"], done)
        self.assertTrue(self._denied(reply["request_id"]))

    def test_a_role_that_is_gone_is_said_not_ended(self):
        reply, _ = stand.granted("s3.chained", {"bucket": "demo", "prefix": "gone/"})
        client = iam()
        for name in client.list_role_policies(RoleName="reader")["PolicyNames"]:
            client.delete_role_policy(RoleName="reader", PolicyName=name)
        client.delete_role(RoleName="reader")
        try:
            _, out = stand.revoke(reply["lease_id"])
            self.assertIn("not ended", out)
        finally:
            client.create_role(Path="/agents/", RoleName="reader", AssumeRolePolicyDocument="{}")
        # The queue goes on until the role denies it.
        until("the session is denied", 60, lambda: self._denied(reply["request_id"]), 0.5)

    @staticmethod
    def _denied(request):
        try:
            document = iam().get_role_policy(RoleName="reader", PolicyName="GrantwrightRevoked")
        except botocore.exceptions.ClientError:
            return False
        return request in json.dumps(document["PolicyDocument"])

    def test_05_a_chained_session_lasts_an_hour_at_most(self):
        faults = scope("s3.long", "chained").replace("max_s = 3600", "max_s = 7200")
        (stand.demo.dir / "scopes" / "long.toml").write_text(faults)
        try:
            code, out, err = stand.demo.cli("policy", "apply", stand.demo.dir, env={
                "GRANTWRIGHT_HUMAN_TOKEN_FILE": str(stand.demo.dir / "operator.token")})
            self.assertNotEqual(code, 0)
            self.assertIn("7200", out + err)
        finally:
            (stand.demo.dir / "scopes" / "long.toml").unlink()


class Setup(unittest.TestCase):
    def test_what_setup_prints_is_what_iam_takes(self):
        code, out, err = cli("aws", "setup", "--issuer", "https://broker.example.org", "--account",
                             "123456789012", "--role", "agents/printed", "--json")
        self.assertEqual(code, 0, err)
        made = json.loads(out)
        client = iam()
        client.create_open_id_connect_provider(Url=made["oidc_provider"]["Url"],
                                               ClientIDList=made["oidc_provider"]["ClientIDList"],
                                               ThumbprintList=[])
        arns = [p["Arn"] for p in client.list_open_id_connect_providers()["OpenIDConnectProviderList"]]
        self.assertIn(made["oidc_provider"]["Arn"], arns)
        client.create_role(Path="/agents/", RoleName="printed",
                           AssumeRolePolicyDocument=json.dumps(made["trust_policy"]))
        client.put_role_policy(RoleName="printed", PolicyName="revoke",
                               PolicyDocument=json.dumps(made["revocation_policy"]))
        statement = client.get_role(RoleName="printed")["Role"]["AssumeRolePolicyDocument"]["Statement"][0]
        self.assertEqual(statement["Principal"]["Federated"], made["oidc_provider"]["Arn"])

    def test_a_wildcard_is_refused(self):
        code, _, err = cli("aws", "setup", "--principal", "*", "--account", "123456789012", "--role", "r")
        self.assertEqual(code, 2, err)


if __name__ == "__main__":
    sys.exit("run tests/system/run sts")
