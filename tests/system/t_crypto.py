"""Signatures, checked by a library that is not ours: tokens, checkpoints, receipts."""

import base64
import json
import unittest
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from harness import Demo, call
from tlog import Checkpoint, Log, check_proof, root

demo = doors = None


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def ed25519(key, signature, message):
    Ed25519PublicKey.from_public_bytes(key).verify(signature, message)


def fetch(path):
    url = urlsplit(demo.env["GRANTWRIGHT_LOG"])
    return call(f"{url.scheme}://{url.netloc}", "GET", url.path + path).body


class Tokens(unittest.TestCase):
    def test_any_service_can_check_a_token_with_the_published_keys(self):
        base = demo.env["GRANTWRIGHT_CONSOLE"]
        found = call(base, "GET", "/.well-known/openid-configuration").json
        keys = call(base, "GET", urlsplit(found["jwks_uri"]).path).json["keys"]
        token = doors.ask("demo.read", {"dataset": doors.fresh()}).json["credential"]["token"]
        head, body, signature = token.split(".")
        header = json.loads(unb64(head))
        key = next(k for k in keys if k["kid"] == header["kid"])
        self.assertEqual((header["alg"], key["kty"], key["crv"]), ("EdDSA", "OKP", "Ed25519"))
        ed25519(unb64(key["x"]), unb64(signature), f"{head}.{body}".encode())
        self.assertEqual(json.loads(unb64(body))["iss"], found["issuer"])

    def test_keys_stay_over_a_restart_so_that_tokens_stay_good(self):
        base = demo.env["GRANTWRIGHT_CONSOLE"]
        before = call(base, "GET", "/jwks").json
        demo.restart()
        after = call(demo.env["GRANTWRIGHT_CONSOLE"], "GET", "/jwks").json
        self.assertEqual(before, after)


class Checkpoints(unittest.TestCase):
    def test_the_logs_and_the_sidecars_are_signed_by_the_named_key(self):
        doors.ask("demo.read", {"dataset": doors.fresh()})
        vkey = demo.env["GRANTWRIGHT_LOG_VKEY"]
        log = Log(fetch)
        head = log.checkpoint()
        head.signed_by(vkey, ed25519)
        with open(demo.env["GRANTWRIGHT_CHECKPOINT"], encoding="utf-8") as file:
            kept = Checkpoint(file.read())
        kept.signed_by(vkey, ed25519)
        self.assertEqual(kept.origin, head.origin)
        hashes = log.hashes(head.size)
        self.assertEqual(root(hashes), head.root)
        self.assertEqual(root(hashes[:kept.size]), kept.root)


class Receipts(unittest.TestCase):
    def test_a_receipt_proves_itself(self):
        for body in (doors.ask("demo.read", {"dataset": doors.fresh()}).json for _ in range(5)):
            leaf = base64.b64decode(body["receipt"]["leaf"])
            index, checkpoint = check_proof(body["receipt"]["proof"], leaf)
            checkpoint.signed_by(demo.env["GRANTWRIGHT_LOG_VKEY"], ed25519)
            said = json.loads(leaf)
            self.assertEqual((said["kind"], said["request_id"]), ("issued", body["request_id"]))
            self.assertEqual(demo.leaves()[index], said)
