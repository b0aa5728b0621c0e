"""Restarts, kills, a broker that is away, a log that went back."""

import shutil
import signal
import sqlite3
import time
import unittest
from pathlib import Path

from harness import SIDECAR, Demo, Process, alive, call, scratch, signal_pid, store_files, until

# Each has demos of its own, and waits for clocks.
BESIDE = ("Restart", "Away", "HalfOpen", "WentBack")


def issued(demo, request_id):
    return [e for e in demo.events(request_id) if e["kind"] == "issued"]


def ready(base):
    try:
        return call(base, "GET", "/readyz").status == 200
    except OSError:
        return False


class Restart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.demo = Demo()

    @classmethod
    def tearDownClass(cls):
        cls.demo.__exit__()

    def test_a_pending_request_its_votes_and_questions_survive(self):
        demo, doors = self.demo, self.demo.doors
        two = doors.pending("demo.escalate")
        demo.bob.approve(two)
        asked = doors.pending()
        demo.bob.vote("ask", asked, text="which report?")
        approved = doors.pending()
        demo.bob.approve(approved)
        demo.restart()
        self.assertEqual(demo.carol.approve(two).json["state"], "approved")
        self.assertEqual(demo.carol.approve(asked).code, "question_open")
        self.assertEqual(doors.get(asked).json["question"]["text"], "which report?")
        self.assertEqual(demo.bob.request(approved)["state"], "approved")
        for request_id in (two, approved):
            self.assertEqual(doors.get(request_id).json["state"], "granted", request_id)
            self.assertEqual(len(issued(demo, request_id)), 1)
        doors.cancel(asked)

    def test_the_same_key_across_a_restart_is_the_same_request_and_no_second_mint(self):
        demo, doors = self.demo, self.demo.doors
        key, params = doors.fresh("key"), {"dataset": doors.fresh()}
        first = doors.ask("demo.read", params, idempotency_key=key)
        self.assertEqual(first.status, 200, first)
        pending_key, pending = doors.fresh("key"), {"dataset": doors.fresh(), "rows": 4}
        waiting = doors.ask("demo.export", pending, idempotency_key=pending_key).json["request_id"]
        time.sleep(0.5)
        demo.restart()
        again = doors.ask("demo.read", params, idempotency_key=key)
        # Acknowledged: it cannot be delivered again. Not yet acknowledged: the same credential.
        if again.status == 200:
            self.assertEqual(again.json["lease_id"], first.json["lease_id"])
            self.assertEqual(again.json["credential"], first.json["credential"])
        else:
            self.assertEqual((again.status, again.code), (410, "already_issued"), again)
            self.assertEqual(again.json["lease_id"], first.json["lease_id"])
        self.assertEqual(len(issued(demo, first.json["request_id"])), 1)
        other = doors.ask("demo.read", {"dataset": doors.fresh()}, idempotency_key=key)
        self.assertEqual(other.status, 409, other)
        self.assertEqual(doors.ask("demo.export", pending,
                                   idempotency_key=pending_key).json["request_id"], waiting)
        doors.cancel(waiting)

    def test_an_acknowledged_credential_is_not_delivered_again(self):
        """The sidecar alone begins anew: its memory is gone, the broker knows that it was received."""
        with Demo() as demo:
            doors, key = demo.doors, "an-acknowledged-key"
            params = {"dataset": doors.fresh()}
            body = doors.ask("demo.read", params, idempotency_key=key).json
            approved = doors.pending()
            demo.bob.approve(approved)
            first = doors.get(approved).json
            time.sleep(2.5)
            signal_pid(demo.sidecar_pid, signal.SIGTERM)
            until("the sidecar is gone", 10, lambda: not alive(demo.sidecar_pid))
            again = Process([SIDECAR, "--config", demo.dir / "sidecar.toml"])
            try:
                until("the sidecar is back", 15, lambda: ready(doors.tcp), 0.1)
                for lease, reply in ((body["lease_id"], doors.get(body["request_id"])),
                                     (body["lease_id"], doors.ask("demo.read", params,
                                                                  idempotency_key=key)),
                                     (first["lease_id"], doors.get(approved))):
                    self.assertEqual((reply.status, reply.code), (410, "already_issued"), reply)
                    self.assertEqual(reply.json["lease_id"], lease)
            finally:
                again.kill()
            self.assertEqual(len(issued(demo, body["request_id"])), 1)

    def test_a_deny_sticks_across_a_restart(self):
        demo, doors = self.demo, self.demo.doors
        params = {"dataset": doors.fresh(), "rows": 8}
        demo.bob.deny(doors.pending(params=params))
        demo.restart()
        reply = doors.ask("demo.export", params)
        self.assertEqual((reply.status, reply.code), (403, "denied"), reply)

    def test_tokens_of_the_door_change_and_their_files_stay(self):
        demo = self.demo
        old, file = demo.doors.token, demo.env["GRANTWRIGHT_TOKEN_FILE"]
        demo.restart()
        self.assertEqual(demo.env["GRANTWRIGHT_TOKEN_FILE"], file)
        self.assertNotEqual(demo.doors.token, old)
        reply = call(demo.doors.tcp, "POST", "/v1/credentials",
                     {"scope": "demo.read", "params": {"dataset": "x"}, "reason": "x"},
                     {"Authorization": f"Bearer {old}"})
        self.assertEqual(reply.status, 401, reply)


class Away(unittest.TestCase):
    def test_a_broker_that_is_away_is_503_and_a_fresh_credential_still_serves(self):
        with Demo() as demo:
            doors = demo.doors
            params = {"dataset": doors.fresh()}
            cached = doors.ask("demo.read", params).json
            waiting = doors.pending()
            signal_pid(demo.broker_pid)
            until("the broker is gone", 30, lambda: not alive(demo.broker_pid))
            begun = time.monotonic()
            reply = doors.ask("demo.read", {"dataset": doors.fresh()})
            self.assertEqual(reply.status, 503, reply)
            self.assertTrue(reply.json["next"])
            self.assertLess(time.monotonic() - begun, 15)
            self.assertEqual(doors.get(waiting).status, 503)
            self.assertEqual(doors.get(waiting, "1s").status, 503)
            again = doors.ask("demo.read", params)
            self.assertEqual(again.status, 200, again)
            self.assertEqual(again.json["credential"], cached["credential"])
            self.assertEqual(call(doors.tcp, "GET", "/healthz").status, 200)
            demo.stop()
            demo.start()
            self.assertEqual(doors.ask("demo.read", {"dataset": doors.fresh()}).status, 200)
            self.assertEqual(demo.bob.request(waiting)["state"], "pending")


class HalfOpen(unittest.TestCase):
    """The broker's connection stands and nothing comes by it any more, as behind a firewall that forgot it."""

    def test_a_connection_that_says_nothing_is_given_up_and_found_again(self):
        with Demo() as demo:
            doors = demo.doors

            def attended(wanted):
                text = call(doors.tcp, "GET", "/metrics").body.decode()
                return f"\ngrantwright_sidecar_attended {wanted}\n" in text
            params = {"dataset": doors.fresh()}
            cached = doors.ask("demo.read", params).json
            until("the stream", 30, lambda: attended(1), 0.1)
            signal_pid(demo.broker_pid, signal.SIGSTOP)
            try:
                # Pings every ten seconds, answered within ten; the rest is for a busy machine.
                begun = time.monotonic()
                until("the dead connection is found", 90, lambda: attended(0), 0.1)
                print(f"       found after {time.monotonic() - begun:.1f} s", flush=True)
                self.assertEqual(call(doors.tcp, "GET", "/readyz").json["why"], "broker_away")
                self.assertEqual(call(doors.tcp, "GET", "/healthz").status, 200)
                self.assertEqual(doors.ask("demo.read", params).json["credential"], cached["credential"])
            finally:
                signal_pid(demo.broker_pid, signal.SIGCONT)
            until("the stream again", 90, lambda: attended(1), 0.1)
            until("a fresh credential", 60,
                  lambda: doors.ask("demo.read", {"dataset": doors.fresh()}).status == 200, 0.2)


class WentBack(unittest.TestCase):
    def test_a_restored_backup_is_503_log_inconsistent_and_the_true_store_serves_again(self):
        with Demo() as demo:
            doors = demo.doors
            self.assertEqual(demo.stop(), 0)
            old = scratch("old")
            old.mkdir()
            for file in store_files(demo.store):
                shutil.copy2(file, old / file.name)
            demo.start()
            for _ in range(3):
                self.assertEqual(doors.ask("demo.read", {"dataset": doors.fresh()}).status, 200)
            demo.keeps(len(demo.leaves()) - 2)
            self.assertEqual(demo.stop(), 0)
            true = scratch("true")
            true.mkdir()
            for file in store_files(demo.store):
                shutil.move(file, true / file.name)
            for file in old.iterdir():
                shutil.copy2(file, demo.store.parent / file.name)
            size = len(demo.leaves())
            demo.start()
            for _ in range(2):
                reply = doors.ask("demo.read", {"dataset": doors.fresh()})
                self.assertEqual((reply.status, reply.code), (503, "log_inconsistent"), reply)
                time.sleep(0.5)
            self.assertNotIn("issued", [e["kind"] for e in demo.leaves()[size:]])

            def alarm():
                body = call(doors.tcp, "GET", "/metrics").body
                return b"\ngrantwright_sidecar_log_inconsistent 1\n" in body
            until("the sidecar's alarm", 30, alarm, 0.2)
            code, report = demo.cli_json("audit", "verify")
            self.assertEqual((code, report["rollback"]), (1, "found"), report)
            demo.stop()
            for file in store_files(demo.store):
                file.unlink()
            for file in true.iterdir():
                shutil.copy2(file, demo.store.parent / file.name)
            demo.start()
            reply = until("it serves again", 10, lambda: (
                lambda r: r if r.status == 200 else None)(
                    doors.ask("demo.read", {"dataset": doors.fresh()})), 0.2)
            self.assertEqual(reply.json["state"], "granted")
            until("the alarm is over", 30, lambda: not alarm(), 0.2)
            code, report = demo.cli_json("audit", "verify")
            self.assertEqual((code, report["ok"]), (0, True), report)

    def test_a_store_edited_at_rest_is_not_extended(self):
        with Demo() as demo:
            doors = demo.doors
            waiting = doors.pending()
            self.assertEqual(demo.stop(), 0)
            db = sqlite3.connect(demo.store)
            done = db.execute("UPDATE requests SET phase='approved' WHERE id=?", (waiting,))
            self.assertEqual(done.rowcount, 1)
            db.commit()
            db.close()
            try:
                demo.start(wait=30)
            except AssertionError:
                return  # Refusing to start on a table that contradicts the log is right.
            reply = doors.get(waiting)
            self.assertNotEqual(reply.json.get("state"), "granted", reply)
            self.assertEqual(issued(demo, waiting), [])
