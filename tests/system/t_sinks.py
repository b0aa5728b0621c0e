"""The broker's durable exports, received by others: files, rsyslog over TLS, a webhook, a bucket of MinIO."""

import base64
import hashlib
import hmac
import json
import re
import socket
import ssl
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness import GRANTWRIGHT, ROOT, Process, call, cli, scratch, until

SECRET = b"a secret of thirty-two bytes,  ok"


class Broker:
    """A broker of our own with exports, and its operator."""

    def __init__(self, *sections):
        self.dir = scratch("sinks")
        code, out, err = cli("init", "--dir", self.dir, "--operator", "erin", "--trust-domain",
                             "example.org", "--json")
        assert code == 0, out + err
        made = json.loads(out)
        self.config = Path(made["config"])
        self.code = made["code"]
        text = self.config.read_text()
        self.ready = self.dir / "exports.ready"
        text = re.sub(r"(?m)^ready_file = .*\n", "", text)
        self.config.write_text(f'ready_file = "{self.ready}"\n{text}\n' + "\n".join(sections))
        self.serial = 0
        self.token = None
        self.start()

    def start(self):
        self.process = Process([GRANTWRIGHT, "broker", "--config", self.config])

        def up():
            assert self.process.code() is None, self.process.said()
            return self.ready.exists()
        until("the broker", 20, up)
        self.http = f"http://{json.loads(self.ready.read_text())['http']}"
        if not self.token:
            reply = call(self.http, "POST", "/api/v1/login", {"code": self.code})
            assert reply.status == 200, reply
            self.token = reply.json["token"]

    def act(self, times=1):
        """Makes leaves: people."""
        for _ in range(times):
            self.serial += 1
            reply = call(self.http, "POST", "/api/v1/people",
                         {"id": f"person{self.serial}"},
                         {"Authorization": f"Bearer {self.token}"})
            assert reply.status == 200, reply

    def size(self):
        found = re.search(r"(?m)^grantwright_log_leaves (\d+)$", self.metrics())
        return int(found[1])

    def metrics(self):
        return call(self.http, "GET", "/metrics").body.decode()

    def metric(self, name, sink):
        found = re.search(rf'(?m)^grantwright_export_{name}{{sink="{sink}"}} (\d+)$', self.metrics())
        return int(found[1])

    def stop(self):
        self.process.kill()


class Files(unittest.TestCase):
    def test_every_leaf_in_order_and_at_least_once_over_kills(self):
        file = scratch("out")
        broker = Broker(f'[[export]]\nname = "siem"\nformat = "ocsf"\n[export.file]\npath = "{file}"')
        try:
            def events():
                lines = file.read_text().splitlines() if file.exists() else []
                return [json.loads(line)["metadata"]["sequence"] for line in lines]
            for _ in range(3):
                broker.act(5)
                # Some come twice: they do not stand for others.
                until("all leaves", 15, lambda: len(set(events())) >= broker.size())
                broker.process.kill()
                broker.ready.unlink()
                broker.start()
            # Killed between the write and the cursor, it writes that batch again.
            self.assertEqual(list(dict.fromkeys(events())), list(range(broker.size())))
            self.assertEqual(file.stat().st_mode & 0o777, 0o600)
            until("no lag", 10, lambda: broker.metric("lag_leaves", "siem") == 0)
        finally:
            broker.stop()


class Syslog(unittest.TestCase):
    def test_rsyslog_receives_over_tls_what_the_log_holds(self):
        from peers import rsyslog
        missing = rsyslog.prepare(print)
        if missing:
            self.skipTest(missing)
        peer = rsyslog.Rsyslog(scratch("rsyslog"))
        broker = Broker(f'[[export]]\nname = "syslog"\nformat = "syslog"\n[export.syslog]\n'
                        f'address = "localhost:{peer.port}"\nca_file = "{peer.dir}/ca.pem"\n'
                        f'host = "broker-1"\nenterprise = 64512')
        try:
            broker.act(20)
            until("all leaves", 20, lambda: len(peer.received()) >= broker.size())
            # Stuck, it stops nothing; back, it gets what it missed.
            peer.stop()
            broker.act(5)
            until("a lag", 15, lambda: broker.metric("lag_leaves", "syslog") >= 5)
            until("a failure", 15, lambda: broker.metric("failures_total", "syslog") >= 1)
            peer.start()
            until("the rest", 40, lambda: len({line[5] for line in peer.received()}) >= broker.size())
            seen = []
            for pri, _, host, app, kind, data, text in peer.received():
                self.assertEqual((int(pri) // 8, host, app), (13, "broker-1", "grantwright"))
                leaf = json.loads(text.strip().removeprefix("\ufeff").removeprefix("#357#273#277"))
                self.assertEqual(leaf["kind"], kind)
                seen.append(int(re.search(r' index="(\d+)"', data)[1]))
            self.assertEqual(sorted(set(seen)), list(range(broker.size())))
            first = list(dict.fromkeys(seen))
            self.assertEqual(first, sorted(first))
        finally:
            broker.stop()
            peer.stop()

    def test_a_receiver_of_another_authority_gets_nothing(self):
        from peers import rsyslog
        missing = rsyslog.prepare(print)
        if missing:
            self.skipTest(missing)
        peer, other = rsyslog.Rsyslog(scratch("rsyslog")), scratch("other")
        other.mkdir()
        rsyslog.certificates(other)
        broker = Broker(f'[[export]]\nname = "syslog"\nformat = "syslog"\n[export.syslog]\n'
                        f'address = "localhost:{peer.port}"\nca_file = "{other}/ca.pem"')
        try:
            until("a failure", 15, lambda: broker.metric("failures_total", "syslog") >= 1)
            self.assertEqual(peer.received(), [])
        finally:
            broker.stop()
            peer.stop()


    def test_a_connection_that_is_cut_delivers_nothing(self):
        from peers import rsyslog
        try:
            receiver = Cutter(scratch("cutter"), rsyslog)
        except ModuleNotFoundError as missing:
            self.skipTest(str(missing))
        broker = Broker(f'[[export]]\nname = "syslog"\nformat = "syslog"\n[export.syslog]\n'
                        f'address = "localhost:{receiver.port}"\nca_file = "{receiver.dir}/ca.pem"')
        try:
            broker.act(3)
            until("all leaves", 30, lambda: len(receiver.all()) >= broker.size())
            until("no lag", 30, lambda: broker.metric("lag_leaves", "syslog") == 0)
            self.assertEqual(receiver.all(), list(range(broker.size())))
            last, known = receiver.batches[-1], len(receiver.batches)
            # Whoever cuts a connection before anything of it was read has taken nothing.
            receiver.cuts = True
            broker.act(2)
            until("a failure", 30, lambda: broker.metric("failures_total", "syslog") >= 1)
            self.assertGreaterEqual(broker.metric("lag_leaves", "syslog"), 1)
            receiver.cuts = False
            until("the rest", 60, lambda: broker.metric("lag_leaves", "syslog") == 0)
            self.assertEqual(sorted(set(receiver.all())), list(range(broker.size())))
            # It said no good-bye after the batch before, which may have been cut off as well.
            self.assertEqual(receiver.batches[known][:len(last)], last)
        finally:
            broker.stop()
            receiver.stop()


class Cutter:
    """Receives syslog over TLS and says no good-bye; or ends each connection before it has read anything."""

    def __init__(self, folder, certifier):
        self.dir, self.cuts, self.batches = folder, False, []
        folder.mkdir()
        certifier.certificates(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self.listener = socket.create_server(("localhost", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, args=(context,), daemon=True).start()

    def serve(self, context):
        while True:
            try:
                tcp, _ = self.listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(tcp, server_side=True) as tls:
                    if self.cuts:
                        continue
                    data = b""
                    while part := tls.recv(65536):
                        data += part
                self.batches.append([int(n) for n in re.findall(rb' index="(\d+)"', data)])
            except OSError:
                pass

    def all(self):
        return [index for batch in list(self.batches) for index in batch]

    def stop(self):
        self.listener.close()


class Receiver:
    """Takes signed messages; refuses the first attempts of every seventh."""

    def __init__(self):
        self.taken, self.seen = [], set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                name, at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
                content = f"{name}.{at}.".encode() + body
                want = base64.b64encode(hmac.new(SECRET, content, hashlib.sha256).digest()).decode()
                genuine = f"v1,{want}" in self.headers["webhook-signature"].split(" ")
                event = json.loads(body)
                again = int(event["id"]) % 7 == 3 and name not in receiver.seen
                receiver.seen.add(name)
                status = 403 if not genuine else 503 if again else 204
                if status == 204:
                    receiver.taken.append((self.headers["Content-Type"], event))
                self.send_response(status)
                self.end_headers()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/events"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Webhook(unittest.TestCase):
    def test_cloud_events_arrive_signed_and_in_order(self):
        receiver = Receiver()
        secret = scratch("secret")
        secret.write_text("whsec_" + base64.b64encode(SECRET).decode())
        secret.chmod(0o600)
        broker = Broker(f'[[export]]\nname = "tool"\nformat = "cloudevents"\n[export.webhook]\n'
                        f'url = "{receiver.url}"\nsecret_files = ["{secret}"]')
        try:
            broker.act(3)
            until("all leaves", 30, lambda: len(receiver.taken) >= broker.size())
            self.assertEqual([int(e["id"]) for _, e in receiver.taken], list(range(broker.size())))
            for media, event in receiver.taken:
                self.assertEqual((media, event["specversion"]), ("application/cloudevents+json", "1.0"))
                self.assertTrue(event["type"].startswith("org.grantwright."))
        finally:
            broker.stop()
            receiver.stop()


class Bucket(unittest.TestCase):
    def test_objects_hold_every_leaf(self):
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            self.skipTest("boto3 is not in this Python")
        from peers import golang
        from peers.minio import Minio
        missing = golang.prepare(ROOT, "minio", print)
        if missing:
            self.skipTest(missing)
        minio = Minio(ROOT, scratch("minio"))
        s3 = boto3.client("s3", endpoint_url=minio.url, aws_access_key_id=minio.access_key,
                          aws_secret_access_key=minio.secret_key, region_name="us-east-1",
                          config=Config(s3={"addressing_style": "path"}))
        s3.create_bucket(Bucket="evidence")
        keys = scratch("keys")
        keys.mkdir()
        for name, text in (("id", minio.access_key), ("secret", minio.secret_key)):
            (keys / name).write_text(text)
            (keys / name).chmod(0o600)
        broker = Broker(f'[[export]]\nname = "bucket"\nformat = "ocsf"\n[export.s3]\n'
                        f'bucket = "evidence"\nprefix = "log/"\nregion = "us-east-1"\n'
                        f'endpoint = "{minio.url}"\naccess_key_id_file = "{keys}/id"\n'
                        f'secret_access_key_file = "{keys}/secret"\nevery = "1s"')

        def events():
            out = []
            for found in s3.list_objects_v2(Bucket="evidence", Prefix="log/").get("Contents", []):
                body = s3.get_object(Bucket="evidence", Key=found["Key"])["Body"].read()
                out += [json.loads(line)["metadata"]["sequence"] for line in body.splitlines()]
            return out
        try:
            for _ in range(2):
                broker.act(5)
                until("all leaves", 20, lambda: len(events()) >= broker.size())
            self.assertEqual(events(), list(range(broker.size())))
        finally:
            broker.stop()
            minio.stop()
