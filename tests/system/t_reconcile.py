"""`grantwright reconcile`: real credentials of STS and Vault, and what their backends' logs say of them."""

import datetime
import gzip
import json
import sys
import unittest

from harness import ROOT, Demo, Process, call, scratch, until
from peers import golang
from peers.ports import free_port
from peers.postgres import Postgres, programs
from peers.vault import BROKER_POLICY, Vault


def record(access_key, session, at, name="GetObject", agent="demo-agent", error=None, **parameters):
    """A record as CloudTrail delivers it."""
    out = {
        "eventVersion": "1.11", "eventTime": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": "s3.amazonaws.com", "eventName": name, "awsRegion": "us-east-1",
        "eventID": f"e-{name}-{access_key}", "eventType": "AwsApiCall", "recipientAccountId": "123456789012",
        "userIdentity": {
            "type": "AssumedRole", "principalId": f"AROAEXAMPLE:{session}", "accountId": "123456789012",
            "arn": f"arn:aws:sts::123456789012:assumed-role/grantwright-demo/{session}",
            "accessKeyId": access_key, "sessionContext": {"sourceIdentity": agent, "attributes": {}}},
        "requestParameters": parameters, "responseElements": None}
    if error:
        out["errorCode"] = error
    return out


class CloudTrail(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            import moto  # noqa: F401
        except ImportError:
            raise unittest.SkipTest("moto is not in this Python") from None
        port = free_port()
        cls.sts = Process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])

        def up():
            try:
                return call(f"http://127.0.0.1:{port}", "GET", "/moto-api/").status == 200
            except OSError:
                return False
        until("moto", 60, up, 0.1)
        cls.demo = Demo(AWS_ENDPOINT_URL_STS=f"http://127.0.0.1:{port}", AWS_REGION="us-east-1",
                        AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE",
                        AWS_SECRET_ACCESS_KEY="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
        cls.granted = [cls.demo.doors.ask("aws.s3-read", {"bucket": "demo", "prefix": f"p{n}/"}).json
                       for n in range(3)]

    @classmethod
    def tearDownClass(cls):
        cls.demo.__exit__()
        cls.sts.kill()

    def reconcile(self, *arguments):
        return self.demo.cli_json("reconcile", "cloudtrail", *arguments)

    def test_used_unused_outside_and_never_minted(self):
        now = datetime.datetime.now(datetime.timezone.utc)
        one, two = ((g["credential"]["AccessKeyId"], g["request_id"]) for g in self.granted[:2])
        folder = scratch("trail")
        folder.mkdir()
        good = [record(*one, now, bucketName="demo", key="p0/a"),
                record(*one, now, "ListObjectsV2", bucketName="demo", prefix="p0/"),
                record(*two, now, bucketName="demo", key="p2/secret", error="AccessDenied")]
        file = folder / "1.json.gz"
        file.write_bytes(gzip.compress(json.dumps({"Records": good}).encode()))
        code, told = self.reconcile(file)
        self.assertEqual((code, told["findings"], told["matched"]), (0, [], 3), told)
        states = {lease["request_id"]: lease["state"] for lease in told["leases"]}
        self.assertEqual([states[g["request_id"]] for g in self.granted], ["used", "refused", "never used"])
        bad = [record(*two, now, bucketName="demo", key="p0/other"),
               record(*one, now, "PutObject", bucketName="demo", key="p0/a"),
               record(*one, now, bucketName="elsewhere", key="p0/a"),
               record(*one, now + datetime.timedelta(hours=2), bucketName="demo", key="p0/a"),
               record("ASIANEVERMINTED00000", "by-hand", now, bucketName="demo", key="x"),
               record("ASIAOFOTHERS00000000", "x", now, agent="", bucketName="demo", key="x")]
        bad[-1]["userIdentity"]["arn"] = "arn:aws:sts::123456789012:assumed-role/others/x"
        file = folder / "2.json"
        file.write_text("\n".join(json.dumps(r) for r in bad) + "\n")
        code, told = self.reconcile(file)
        self.assertEqual(code, 1)
        self.assertEqual(told["counts"], {"outside": 3, "after-end": 1, "never-minted": 1}, told["findings"])
        self.assertEqual(told["unrelated"], 1)

    def test_it_remembers_where_it_was(self):
        now = datetime.datetime.now(datetime.timezone.utc)
        key, request = self.granted[2]["credential"]["AccessKeyId"], self.granted[2]["request_id"]
        folder = scratch("trail")
        folder.mkdir()
        file, state = folder / "log.json", folder / "state"
        line = json.dumps(record(key, request, now, bucketName="demo", key="p2/a")) + "\n"
        file.write_text(line * 3 + line[:40])
        for events in (3, 3):
            code, told = self.reconcile(file, "--state", state)
            self.assertEqual((code, told["events"], told["malformed"]), (0, events, 0))
        with open(file, "a") as out:
            out.write(line[40:] + line)
        code, told = self.reconcile(file, "--state", state)
        self.assertEqual((code, told["events"], told["malformed"]), (0, 5, 0))
        file.write_text("no json at all\n")
        code, out, err = self.demo.cli("reconcile", "cloudtrail", file, "--state", state)
        self.assertEqual(code, 2, out + err)

    def test_state_of_another_log_is_refused(self):
        state = scratch("state")
        state.write_text(json.dumps({"origin": "another.example/log"}))
        file = scratch("empty")
        file.write_text("")
        code, out, err = self.demo.cli("reconcile", "cloudtrail", file, "--state", state)
        self.assertEqual((code, "another.example" in err), (2, True), out + err)


class VaultLog(unittest.TestCase):
    """Vault's own audit device, in front of a real PostgreSQL."""

    @classmethod
    def setUpClass(cls):
        if not programs():
            raise unittest.SkipTest("no PostgreSQL here")
        missing = golang.prepare(ROOT, "vault", print)
        if missing:
            raise unittest.SkipTest(missing)
        cls.postgres = Postgres(scratch("postgres"))
        cls.postgres.sql("CREATE ROLE readers; CREATE ROLE vault LOGIN SUPERUSER PASSWORD 'vault-pass'")
        cls.vault = Vault(ROOT, scratch("vault"), durable=True)
        cls.vault.database(cls.postgres, "sales")
        cls.demo = Demo(VAULT_ADDR=cls.vault.addr, VAULT_TOKEN=cls.vault.token(BROKER_POLICY))

    @classmethod
    def tearDownClass(cls):
        cls.demo.__exit__()
        cls.vault.stop()
        cls.postgres.stop()

    def test_a_real_audit_log_is_matched_by_lease(self):
        granted = self.demo.doors.ask("vault.db-read", {"database": "sales"})
        self.assertEqual(granted.status, 200, granted)
        log, state = self.vault.folder / "audit.log", scratch("state")
        code, told = self.demo.cli_json("reconcile", "vault", log, "--state", state)
        self.assertEqual((code, told["findings"], told["malformed"]), (0, [], 0), told)
        self.assertEqual([(v["request_id"], v["used"]["minted"]) for v in told["leases"]],
                         [(granted.json["request_id"], True)])
        # Somebody goes to Vault without us.
        made = self.vault.call("GET", "database/creds/db-read")["lease_id"]
        before = told["events"]
        code, told = self.demo.cli_json("reconcile", "vault", log, "--state", state)
        self.assertEqual((code, told["counts"]), (1, {"never-minted": 1}), told)
        self.assertIn(made, told["findings"][0]["detail"])
        self.assertGreater(told["events"], before)
