"""STS credentials at a real S3 that honours session policies: what was granted works, the next is denied.

MinIO mints for the demo's AWS scopes; it ignores role and session name, and enforces the session policy.
"""

import random
import sys
import unittest

import boto3
import botocore.exceptions
from botocore.config import Config
from harness import ROOT, Demo, scratch
from peers import golang
from peers.minio import Minio

demo = minio = root = None
BUCKETS = ("demo", "demo2", "other")
SEGMENTS = ("public", "public2", "a", "a.b", "x_y", "team-1", "2026", "p", "pu")
CONFIG = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=5,
                read_timeout=10, max_pool_connections=4)
# Fixed, so that a failure can be met again.
RANDOM = random.Random(20261121)


def setUpModule():
    global demo, minio, root
    missing = golang.prepare(ROOT, "minio", print)
    if missing:
        raise unittest.SkipTest(missing)
    minio = Minio(ROOT, scratch("minio"))
    root = s3(minio.access_key, minio.secret_key)
    for bucket in BUCKETS:
        root.create_bucket(Bucket=bucket)
    # A user with everything on S3: the session policy alone is what narrows.
    demo = Demo(AWS_ENDPOINT_URL_STS=minio.url, AWS_ACCESS_KEY_ID=minio.access_key,
                AWS_SECRET_ACCESS_KEY=minio.secret_key, AWS_REGION="us-east-1")


def tearDownModule():
    if demo:
        demo.__exit__()
    if minio:
        minio.stop()


def s3(key, secret, token=None):
    return boto3.client("s3", endpoint_url=minio.url, aws_access_key_id=key,
                        aws_secret_access_key=secret, aws_session_token=token,
                        region_name="us-east-1", config=CONFIG)


def granted(bucket, prefix):
    reply = demo.doors.ask("aws.s3-read", {"bucket": bucket, "prefix": prefix},
                           idempotency_key=demo.doors.fresh("k"))
    assert reply.status == 200, reply
    c = reply.json["credential"]
    return s3(c["AccessKeyId"], c["SecretAccessKey"], c["SessionToken"])


def allowed(client, bucket, key):
    """Whether this key can be read. It need not exist: what is not allowed is denied all the same."""
    try:
        client.get_object(Bucket=bucket, Key=key)["Body"].close()
        return True
    except botocore.exceptions.ClientError as fault:
        code = fault.response["Error"]["Code"]
        if code == "AccessDenied":
            return False
        if code == "NoSuchKey":
            return True
        raise


class Narrowed(unittest.TestCase):
    def test_05_one_prefix_is_read_and_the_next_is_denied(self):
        for key in ("public/one", "public/deep/two", "public2/three", "secret/four"):
            root.put_object(Bucket="demo", Key=key, Body=key.encode())
        root.put_object(Bucket="other", Key="public/five", Body=b"5")
        mine = granted("demo", "public/")
        self.assertEqual(mine.get_object(Bucket="demo", Key="public/one")["Body"].read(),
                         b"public/one")
        listed = mine.list_objects_v2(Bucket="demo", Prefix="public/")["Contents"]
        self.assertEqual([x["Key"] for x in listed], ["public/deep/two", "public/one"])
        for denied in (lambda: mine.get_object(Bucket="demo", Key="public2/three"),
                       lambda: mine.get_object(Bucket="demo", Key="secret/four"),
                       lambda: mine.get_object(Bucket="other", Key="public/five"),
                       lambda: mine.list_objects_v2(Bucket="demo"),
                       lambda: mine.list_objects_v2(Bucket="demo", Prefix="secret/"),
                       lambda: mine.list_objects_v2(Bucket="demo", Prefix="public"),
                       lambda: mine.put_object(Bucket="demo", Key="public/one", Body=b"x"),
                       lambda: mine.delete_object(Bucket="demo", Key="public/one"),
                       lambda: mine.list_buckets()["Buckets"][0]):
            with self.assertRaises((botocore.exceptions.ClientError, IndexError)):
                denied()

    def test_05_subset_1000_policies_and_keys(self):
        """What a credential can read is within bucket and prefix, for 1,000 (policy, key) pairs."""
        wrong, yes = [], 0
        for _ in range(100):
            bucket = RANDOM.choice(BUCKETS)
            prefix = "/".join(RANDOM.choices(SEGMENTS, k=RANDOM.randint(1, 3))) + "/"
            client = granted(bucket, prefix)
            for key_bucket, key in self.keys(bucket, prefix):
                want = key_bucket == bucket and key.startswith(prefix)
                yes += want
                if allowed(client, key_bucket, key) != want:
                    wrong.append((bucket, prefix, key_bucket, key, want))
        self.assertEqual(wrong, [])
        self.assertTrue(200 < yes < 800, f"{yes} of 1000 were within: the pairs show too little")

    @staticmethod
    def keys(bucket, prefix):
        """Ten near misses and hits."""
        other = RANDOM.choice([b for b in BUCKETS if b != bucket])
        word = RANDOM.choice(SEGMENTS)
        return [
            (bucket, prefix + word), (bucket, prefix + f"{word}/{word}"), (bucket, prefix + "*"),
            (bucket, prefix + f"{RANDOM.random()}"),
            (other, prefix + word), (bucket, prefix[:-1] + "2/" + word),
            (bucket, "x" + prefix + word), (bucket, prefix[:-1]),
            (bucket, "/".join(RANDOM.choices(SEGMENTS, k=RANDOM.randint(1, 4)))),
            (RANDOM.choice(BUCKETS), RANDOM.choice(SEGMENTS) + "/" + prefix + word),
        ]


if __name__ == "__main__":
    sys.exit("run tests/system/run minio")
