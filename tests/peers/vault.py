"""A Vault of our own, from tests/peers/vault: in memory, or durable on raft with a file audit device."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from . import golang
from .server import Server

# What CONTRACT promises that the demo's token may do, and nothing more.
BROKER_POLICY = """
path "database/creds/db-read" { capabilities = ["read"] }
path "database/roles/db-read" { capabilities = ["read"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"""


class Refused(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body[:300]}")
        self.status, self.body = status, body


class Vault:
    def __init__(self, root, folder, durable=False, tls=None):
        """`tls`: files of certificate and key."""
        self.tls = tls
        self.binary = golang.binary(root, "vault")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.durable = durable
        self.listen = "127.0.0.1:0"
        self.start()

    def start(self):
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        more = []
        if self.durable:
            (self.folder / "raft").mkdir(exist_ok=True)
            more = ["-raft", self.folder / "raft", "-audit", self.folder / "audit.log"]
        if self.tls:
            more += ["-tls", ",".join(str(f) for f in self.tls)]
        self.server = Server("vault", [self.binary, "-listen", self.listen, "-ready", ready, *more],
                             self.folder)
        self.server.until("ready", 60, ready.exists)
        said = json.loads(ready.read_text())
        self.addr, self.root_token = said["addr"], said["root_token"]
        self.listen = self.addr.split("://", 1)[1]

    def call(self, method, path, body=None, token=None):
        """The answer as JSON, `None` where it is empty."""
        request = urllib.request.Request(
            f"{self.addr}/v1/{path}", method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": token or self.root_token, "X-Vault-Request": "true"})
        try:
            # Itself, on loopback: what is verified is what the broker verifies.
            trust = ssl._create_unverified_context() if self.tls else None
            with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
                text = answer.read()
        except urllib.error.HTTPError as fault:
            raise Refused(fault.code, fault.read().decode(errors="replace")) from None
        return json.loads(text) if text else None

    def token(self, policy, name="broker", **more):
        """A token with one policy, and not `default`."""
        self.call("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        made = self.call("POST", "auth/token/create",
                         {"policies": [name], "no_default_policy": True, "period": "1h", **more})
        return made["auth"]["client_token"]

    def database(self, postgres, connection, role="db-read", ttl="15m", max_ttl="1h"):
        """A database engine with one connection and one role of it, that may read table `sales`."""
        if "database/" not in self.call("GET", "sys/mounts")["data"]:
            self.call("POST", "sys/mounts/database", {"type": "database"})
        self.call("POST", f"database/config/{connection}", {
            "plugin_name": "postgresql-database-plugin", "allowed_roles": "*",
            "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:"
                              f"{postgres.port}/postgres?sslmode=disable",
            "username": "vault", "password": "vault-pass"})
        self.call("POST", f"database/roles/{role}", {
            "db_name": connection, "default_ttl": ttl, "max_ttl": max_ttl,
            "creation_statements": [
                "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' "
                "VALID UNTIL '{{expiration}}' IN ROLE readers;"]})

    def leases(self, prefix="database/creds/db-read"):
        try:
            return self.call("LIST", f"sys/leases/lookup/{prefix}")["data"]["keys"]
        except Refused as fault:
            if fault.status == 404:
                return []
            raise

    def stop(self):
        self.server.stop()
