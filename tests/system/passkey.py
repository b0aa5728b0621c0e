"""A browser with a passkey, in Python: it shares no code with what verifies it."""

import base64
import hashlib
import json
import os
import struct
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from harness import call


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Passkey:
    """One key on one device."""

    def __init__(self, origin, edwards=False):
        self.origin, self.rp_id = origin, urlsplit(origin).hostname
        self.id = os.urandom(32)
        self.key = (ed25519.Ed25519PrivateKey.generate() if edwards
                    else ec.generate_private_key(ec.SECP256R1()))

    def cose(self):
        public = self.key.public_key()
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return b"\xa4\x01\x01\x03\x27\x20\x06\x21\x58\x20" + public.public_bytes_raw()
        numbers = public.public_numbers()
        x, y = (n.to_bytes(32, "big") for n in (numbers.x, numbers.y))
        return b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20" + x + b"\x22\x58\x20" + y

    def data(self, flags):
        return hashlib.sha256(self.rp_id.encode()).digest() + struct.pack(">BI", flags, 0)

    def client(self, kind, challenge):
        return json.dumps({"type": kind, "challenge": challenge, "origin": self.origin,
                           "crossOrigin": False}).encode()

    def create(self, options):
        data = self.data(0x45) + bytes(16) + struct.pack(">H", len(self.id)) + self.id + self.cose()
        made = (b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x59"
                + struct.pack(">H", len(data)) + data)
        client = self.client("webauthn.create", options["challenge"])
        return {"response": {"clientDataJSON": b64(client), "attestationObject": b64(made)}}

    def get(self, options, flags=0x05):
        data, client = self.data(flags), self.client("webauthn.get", options["challenge"])
        signed = data + hashlib.sha256(client).digest()
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            signature = self.key.sign(signed)
        else:
            signature = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        return {"id": b64(self.id), "response": {
            "authenticatorData": b64(data), "clientDataJSON": b64(client),
            "signature": b64(signature)}}


class Browser:
    """Somebody at the console: a cookie, and what their pages send."""

    def __init__(self, console):
        self.console, self.cookie, self.csrf = console, None, None

    def call(self, method, path, body=None, **headers):
        sent = {"Accept": "application/json"}
        if method == "POST":
            sent["Origin"] = self.console
        if self.cookie:
            sent["Cookie"] = self.cookie
        if self.csrf:
            sent["X-CSRF-Token"] = self.csrf
        sent.update(headers)
        reply = call(self.console, method, path, body, sent)
        if "set-cookie" in reply.headers:
            self.cookie = reply.headers["set-cookie"].split(";")[0]
            session = call(self.console, "GET", "/session", headers={"Cookie": self.cookie})
            self.csrf = session.json["csrf"] if session.status == 200 else None
        return reply

    def post(self, path, body):
        return self.call("POST", path, body)

    def enrol(self, link, passkey):
        path = urlsplit(link).path
        options = self.post(f"{path}/options", {}).json
        return self.post(path, {"ticket": options["ticket"],
                                "credential": passkey.create(options["publicKey"])})

    def sign_in(self, passkey):
        options = self.post("/signin/options", {}).json
        return self.post("/signin", {"ticket": options["ticket"],
                                     "assertion": passkey.get(options["publicKey"])})

    def approve(self, request_id, digest, passkey, **fields):
        wanted = {"decision": "approve", "digest": digest}
        options = self.post(f"/requests/{request_id}/passkey/options", wanted)
        if options.status != 200:
            return options
        signed = passkey.get(options.json["publicKey"])
        return self.post(f"/requests/{request_id}/passkey",
                         {**wanted, "assertion": signed, **fields})
