"""Bounds: open requests, asks per second, the life of a pending request."""

import time
import unittest

from harness import Demo, until


class Open(unittest.TestCase):
    def test_at_least_20_open_requests_then_429_then_room_again(self):
        with Demo() as demo:
            doors, ids, refused = demo.doors, [], None
            for _ in range(60):
                reply = doors.ask("demo.export", {"dataset": doors.fresh(), "rows": 1})
                if reply.status != 202:
                    refused = reply
                    break
                ids.append(reply.json["request_id"])
            self.assertGreaterEqual(len(ids), 20)
            self.assertIsNotNone(refused, "60 open requests and no end")
            self.assertEqual(refused.status, 429, refused)
            self.assertRegex(refused.headers.get("retry-after", ""), r"^\d+$")
            self.assertTrue(refused.json["next"])
            # An identical ask joins an open one; that is no new request.
            again = doors.ask("demo.read", {"dataset": doors.fresh()})
            self.assertIn(again.status, (200, 429))
            doors.cancel(ids.pop())
            reply = doors.ask("demo.export", {"dataset": doors.fresh(), "rows": 1})
            self.assertEqual(reply.status, 202, reply)


class Rate(unittest.TestCase):
    def test_at_least_50_asks_per_second_then_429(self):
        with Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND="50") as demo:
            doors = demo.doors
            time.sleep(1.2)
            served, refused = 0, []
            begun = time.monotonic()
            while time.monotonic() - begun < 30 and len(refused) < 5:
                reply = doors.ask("demo.read", {"dataset": doors.fresh()},
                                  idempotency_key=doors.fresh("k"))
                if reply.status == 200:
                    served += 1
                else:
                    refused.append(reply)
            self.assertGreaterEqual(served, 50)
            self.assertTrue(refused, f"{served} asks in {time.monotonic() - begun:.1f} s and no end")
            self.assertEqual({r.status for r in refused}, {429}, refused)
            self.assertRegex(refused[0].headers.get("retry-after", ""), r"^\d+$")
            time.sleep(1.2)
            self.assertEqual(doors.ask("demo.read", {"dataset": doors.fresh()}).status, 200)


class Life(unittest.TestCase):
    def test_a_pending_request_expires_and_that_is_a_deny(self):
        with Demo(GRANTWRIGHT_DEMO_PENDING_TTL="2s") as demo:
            doors = demo.doors
            request_id = doors.pending()
            begun = time.monotonic()
            reply = doors.get(request_id, "10s")
            took = time.monotonic() - begun
            self.assertEqual((reply.status, reply.json["state"]), (200, "expired"), reply)
            self.assertTrue(reply.json["reason"])
            self.assertTrue(1 < took < 6, took)
            late = demo.bob.approve(request_id)
            self.assertEqual(late.status, 409, late)
            self.assertEqual(demo.bob.request(request_id)["state"], "expired")
            self.assertNotIn(request_id, [r["request_id"] for r in demo.bob.pending()])
            # An expiry is no person's deny: asking again is allowed.
            again = doors.pending()
            self.assertNotEqual(again, request_id)

    def test_a_question_pauses_the_clock_for_at_most_one_more_life(self):
        with Demo(GRANTWRIGHT_DEMO_PENDING_TTL="2s") as demo:
            request_id = demo.doors.pending()
            self.assertEqual(demo.bob.vote("ask", request_id, text="why?").status, 200)
            time.sleep(2.4)
            self.assertEqual(demo.bob.request(request_id)["state"], "pending")
            until("it expires all the same", 5,
                  lambda: demo.bob.request(request_id)["state"] == "expired", 0.1)

    def test_an_expiry_holds_while_the_broker_is_away(self):
        with Demo(GRANTWRIGHT_DEMO_PENDING_TTL="2s") as demo:
            request_id = demo.doors.pending()
            demo.stop()
            time.sleep(2.5)
            demo.start()
            late = demo.bob.vote("approve", request_id, demo.bob.request(request_id)["digest"])
            self.assertEqual(late.status, 409, late)
            self.assertEqual(demo.doors.get(request_id).json["state"], "expired")
