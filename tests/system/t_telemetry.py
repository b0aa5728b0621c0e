"""What broker and sidecar say of themselves: JSON lines where the configuration wants them, metrics in
Prometheus' text, and no secret in either."""

import json
import os
import re
import signal
import unittest

from harness import Demo, GRANTWRIGHT, Process, SIDECAR, alive, call, clean_env, until

demo = doors = sidecar = broker = None


def setUpModule():
    """The demo's broker and sidecar give way to the same with another form of their log."""
    global demo, doors, sidecar, broker
    demo = Demo()
    doors = demo.doors
    for pid in (demo.broker_pid, demo.sidecar_pid):
        os.kill(pid, signal.SIGKILL)
        until("its end", 10, lambda: not alive(pid))
    at = {"grpc": demo.env["GRANTWRIGHT_BROKER"].rsplit("/", 1)[1],
          "http": demo.env["GRANTWRIGHT_CONSOLE"].rsplit("/", 1)[1].replace("localhost", "127.0.0.1")}
    text = (demo.dir / "broker.toml").read_text()
    for key, value in at.items():
        text = re.sub(rf'(?m)^{key} = .*', f'{key} = "{value}"', text)
    own = demo.dir / "json-broker.toml"
    own.write_text('log_format = "json"\n' + text)
    own.chmod(0o600)
    broker = Process([GRANTWRIGHT, "broker", "--config", own], env=clean_env())
    other = demo.dir / "json-sidecar.toml"
    port = doors.tcp.rsplit(":", 1)[1]
    other.write_text('log_format = "json"\nlog = "debug"\n' + re.sub(
        r"(?m)^listen = .*", f'listen = "127.0.0.1:{port}"', (demo.dir / "sidecar.toml").read_text()))
    sidecar = Process([SIDECAR, "--config", other], env=clean_env())
    until("the sidecar's stream", 30, ready, 0.1)


def ready():
    assert sidecar.code() is None and broker.code() is None, sidecar.said() + broker.said()
    try:
        return call(doors.tcp, "GET", "/readyz").status == 200
    except OSError:
        return False


def tearDownModule():
    for it in (sidecar, broker):
        if it:
            it.kill()
    demo.__exit__()


def series(text):
    """Name to value, of Prometheus' text; each has its help and its type."""
    found, told = {}, set()
    for line in text.splitlines():
        if line.startswith("# "):
            told.add(tuple(line.split()[1:3]))
            continue
        name, value = re.fullmatch(r"([a-z_]+)(?:\{[^}]*\})? (-?[0-9.eE+]+)", line).groups()
        found[name] = float(value)
        assert ("HELP", name) in told and ("TYPE", name) in told, name
    return found


class Json(unittest.TestCase):
    def lines(self, process):
        out = []
        for line in process.log.read_text().splitlines():
            it = json.loads(line)
            self.assertRegex(it["timestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
            self.assertIn(it["level"], ("ERROR", "WARN", "INFO", "DEBUG", "TRACE"))
            self.assertTrue(it["target"], it)
            out.append(it)
        return out

    def test_21_every_line_is_an_object_and_no_secret_is_in_any(self):
        credential = doors.ask("demo.read", {"dataset": doors.fresh()}).json["credential"]["token"]
        waiting = doors.pending()
        demo.bob.approve(waiting)
        told = doors.get(waiting).json["credential"]["token"]
        doors.call("POST", "/v1/credentials", {}, {"Authorization": "Bearer not-the-token"})
        doors.call("GET", "/v1/requests/x", headers={"Origin": "http://evil.example"})
        os.kill(sidecar.pid, signal.SIGHUP)
        until("the reload's line", 20, lambda: "configuration was read again" in sidecar.log.read_text())
        for process in (broker, sidecar):
            said = self.lines(process)
            self.assertTrue(said)
            text = process.log.read_text()
            for secret in (credential, told, doors.token, doors.aws_token, "not-the-token",
                           demo.bob.token_file.read_text(), (demo.dir / "operator.token").read_text()):
                self.assertNotIn(secret.strip(), text)
        listening = next(it for it in self.lines(sidecar) if it.get("message") == "listening")
        self.assertEqual(listening["tcp"], doors.tcp.removeprefix("http://"))


class Metrics(unittest.TestCase):
    def scrape(self):
        reply = call(doors.tcp, "GET", "/metrics")
        self.assertEqual(reply.status, 200)
        self.assertTrue(reply.headers["content-type"].startswith("text/plain; version=0.0.4"), reply.headers)
        return series(reply.body.decode())

    def test_each_counts_what_it_says(self):
        before = self.scrape()
        params = {"dataset": doors.fresh()}
        for _ in range(3):
            self.assertEqual(doors.ask("demo.read", params).status, 200)
        self.assertEqual(doors.call("GET", "/v1/scopes", headers={"Authorization": "Bearer wrong"}).status, 401)
        self.assertEqual(doors.ask("demo.drop-tables", {}).status, 403)
        after = self.scrape()
        grown = {name.removeprefix("grantwright_sidecar_"): after[name] - before[name] for name in after}
        self.assertEqual((grown["from_memory_total"], grown["granted_total"]), (2, 1), grown)
        self.assertGreaterEqual(grown["asked_total"], 2)
        self.assertGreaterEqual(grown["guarded_total"], 1)
        self.assertGreaterEqual(grown["refused_total"], 1)
        # A reload, as the test before may have asked for, opens the stream anew.
        until("the stream", 30, lambda: self.scrape()["grantwright_sidecar_attended"] == 1)
        self.assertEqual(after["grantwright_sidecar_log_inconsistent"], 0)
        self.assertGreater(after["grantwright_sidecar_certificate_seconds"], 0)
        self.assertGreater(after["grantwright_sidecar_checkpoint_size"], 0)


if __name__ == "__main__":
    unittest.main()
