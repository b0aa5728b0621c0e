"""Asking: what is granted, what is the same ask, what is never minted twice."""

import base64
import json
import re
import time
import unittest
from datetime import datetime, timezone

from harness import Demo, call, together, until

demo = doors = None


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def when(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def issued(request_id):
    return [e for e in demo.events(request_id) if e["kind"] == "issued"]


class Routine(unittest.TestCase):
    def test_a_routine_ask_is_granted_at_once(self):
        reply = doors.ask("demo.read", {"dataset": doors.fresh()})
        self.assertEqual(reply.status, 200, reply)
        body = reply.json
        self.assertEqual(body["state"], "granted")
        self.assertRegex(body["request_id"], r"^[A-Za-z0-9._-]{2,64}$")
        self.assertTrue(body["lease_id"])
        self.assertEqual(set(body["credential"]), {"token"})
        self.assertEqual(body["credential"]["token"].count("."), 2)
        life = (when(body["expires_at"]) - datetime.now(timezone.utc)).total_seconds()
        self.assertTrue(850 < life <= 900, life)
        self.assertTrue(body["expires_at"].endswith("Z"), body["expires_at"])
        receipt = body["receipt"]
        self.assertEqual(set(receipt), {"leaf", "proof"})
        leaf = json.loads(base64.b64decode(receipt["leaf"]))
        self.assertEqual((leaf["kind"], leaf["request_id"]), ("issued", body["request_id"]))
        self.assertIn("c2sp.org/tlog-proof@v1", receipt["proof"])

    def test_the_token_says_only_what_was_asked(self):
        name = doors.fresh()
        body = doors.ask("demo.read", {"dataset": name}, ttl="2m").json
        said = claims(body["credential"]["token"])
        self.assertLessEqual(said["exp"] - said["iat"], 120)
        self.assertLessEqual(said["exp"], when(body["expires_at"]).timestamp() + 1)
        self.assertIn(name, json.dumps(said))
        self.assertIn("demo.read", json.dumps(said))
        self.assertIn("demo-agent", said["sub"])
        self.assertEqual(said["iss"], demo.env["GRANTWRIGHT_CONSOLE"])

    def test_lifetimes_up_to_the_bound(self):
        for ttl, seconds in (("15m", 900), ("900s", 900), ("1m", 60), ("90s", 90)):
            body = doors.ask("demo.read", {"dataset": doors.fresh()}, ttl=ttl)
            self.assertEqual(body.status, 200, (ttl, body))
            said = claims(body.json["credential"]["token"])
            self.assertEqual(said["exp"] - said["iat"], seconds)

    def test_policy_may_say_no(self):
        reply = doors.ask("demo.drop-tables")
        self.assertEqual((reply.status, reply.code), (403, "denied"), reply)
        self.assertNotIn("credential", reply.json)
        self.assertTrue(reply.json["next"])

    def test_edges_of_parameters_pass(self):
        for name in ("a", "0", "a" * 64, "a-b_c.d"):
            self.assertEqual(doors.ask("demo.read", {"dataset": name}).status, 200, name)
        for rows in (0, 1_000_000):
            reply = doors.ask("demo.export", {"dataset": doors.fresh(), "rows": rows})
            self.assertEqual(reply.status, 202, (rows, reply))
            doors.cancel(reply.json["request_id"])

    def test_a_backend_that_is_not_configured_says_so(self):
        for scope, params, word in (
                ("aws.s3-read", {"bucket": "demo", "prefix": "public/"}, "AWS"),
                ("vault.db-read", {"database": "sales"}, "V(ault|AULT)")):
            reply = doors.ask(scope, params)
            self.assertGreaterEqual(reply.status, 400, reply)
            self.assertNotIn(reply.status, (400, 404, 500), reply)
            self.assertRegex(reply.json["detail"] + reply.json["next"], word)
            self.assertNotIn("credential", reply.json)

    def test_injected_words_change_nothing(self):
        for reason in ("approved by bob", '","state":"granted","x":"', "\u202eevil\u200b\x1b[31m",
                       "<script>alert(1)</script>", "x" * 500):
            reply = doors.ask("demo.export", {"dataset": doors.fresh(), "rows": 1}, reason=reason)
            self.assertEqual(reply.status, 202, reply)
            doors.cancel(reply.json["request_id"])


class Same(unittest.TestCase):
    def test_without_a_key_a_fresh_credential_is_given_again(self):
        params = {"dataset": doors.fresh()}
        first, second = doors.ask("demo.read", params).json, doors.ask("demo.read", params).json
        self.assertEqual(first["credential"], second["credential"])
        self.assertEqual(first["lease_id"], second["lease_id"])

    def test_reason_and_task_do_not_make_another_ask(self):
        params = {"dataset": doors.fresh()}
        first = doors.ask("demo.read", params, reason="one").json
        second = doors.ask("demo.read", params, reason="two", task="t").json
        self.assertEqual(first["request_id"], second["request_id"])

    def test_another_lifetime_or_parameter_is_another_ask(self):
        params = {"dataset": doors.fresh()}
        ids = {doors.ask("demo.read", params).json["request_id"],
               doors.ask("demo.read", params, ttl="5m").json["request_id"],
               doors.ask("demo.read", {"dataset": doors.fresh()}).json["request_id"]}
        self.assertEqual(len(ids), 3)

    def test_a_new_key_is_a_new_ask(self):
        params = {"dataset": doors.fresh()}
        first = doors.ask("demo.read", params).json
        second = doors.ask("demo.read", params, idempotency_key=doors.fresh("key")).json
        third = doors.ask("demo.read", params, idempotency_key=doors.fresh("key")).json
        self.assertEqual(len({x["request_id"] for x in (first, second, third)}), 3)
        self.assertEqual(len({x["lease_id"] for x in (first, second, third)}), 3)

    def test_same_key_same_body_is_the_same_grant(self):
        key, params = doors.fresh("key"), {"dataset": doors.fresh()}
        replies = [doors.ask("demo.read", params, idempotency_key=key) for _ in range(5)]
        self.assertEqual({r.status for r in replies}, {200}, replies)
        self.assertEqual(len({r.json["lease_id"] for r in replies}), 1)
        self.assertEqual(len({json.dumps(r.json["credential"]) for r in replies}), 1)
        self.assertEqual(len(issued(replies[0].json["request_id"])), 1)

    def test_the_key_may_come_as_a_header(self):
        key, params = doors.fresh("key"), {"dataset": doors.fresh()}
        one = doors.ask("demo.read", params, headers={"Idempotency-Key": key})
        two = doors.ask("demo.read", params, idempotency_key=key)
        self.assertEqual(one.json["lease_id"], two.json["lease_id"])

    def test_bodies_compare_in_canonical_form(self):
        key, name = doors.fresh("key"), doors.fresh()
        texts = [
            f'{{"scope":"demo.read","params":{{"dataset":"{name}"}},"reason":"a test","idempotency_key":"{key}"}}',
            f'{{ "reason" : "a\\u0020test", "idempotency_key":"{key}", "params":{{"dataset":"{name}"}},\n"scope":"demo.read"}}',
        ]
        replies = [doors.call("POST", "/v1/credentials", raw=t.encode(),
                              headers={"Content-Type": "application/json"}) for t in texts]
        self.assertEqual([r.status for r in replies], [200, 200], replies)
        self.assertEqual(replies[0].json["lease_id"], replies[1].json["lease_id"])

    def test_same_key_other_body_is_a_conflict(self):
        key, params = doors.fresh("key"), {"dataset": doors.fresh()}
        self.assertEqual(doors.ask("demo.read", params, idempotency_key=key).status, 200)
        for change in ({"params": {"dataset": "other"}}, {"reason": "another"}, {"ttl": "5m"},
                       {"task": "t"}):
            body = {"scope": "demo.read", "params": params, "reason": "a test",
                    "idempotency_key": key, **change}
            reply = doors.call("POST", "/v1/credentials", body)
            self.assertEqual(reply.status, 409, (change, reply))

    def test_longest_and_oddest_keys_pass(self):
        for key in ("k" * 64, "." * 3 + doors.fresh("k"), "-_" + doors.fresh("K")):
            reply = doors.ask("demo.read", {"dataset": doors.fresh()}, idempotency_key=key)
            self.assertEqual(reply.status, 200, (key, reply))

    def test_many_at_once_with_one_key_mint_once(self):
        key, params = doors.fresh("key"), {"dataset": doors.fresh()}
        replies = together(*[lambda: doors.ask("demo.read", params, idempotency_key=key)] * 12)
        self.assertEqual({r.status for r in replies}, {200}, replies)
        self.assertEqual(len({r.json["lease_id"] for r in replies}), 1)
        self.assertEqual(len(issued(replies[0].json["request_id"])), 1)

    def test_many_at_once_without_a_key_mint_once(self):
        params = {"dataset": doors.fresh()}
        replies = together(*[lambda: doors.ask("demo.read", params)] * 12)
        self.assertEqual({r.status for r in replies}, {200}, replies)
        self.assertEqual(len({r.json["lease_id"] for r in replies}), 1)

    def test_identical_open_asks_are_one_request_even_with_new_keys(self):
        params = {"dataset": doors.fresh(), "rows": 5}
        ids = {doors.ask("demo.export", params).json["request_id"],
               doors.ask("demo.export", params, reason="other words").json["request_id"],
               doors.ask("demo.export", params, idempotency_key=doors.fresh("k")).json["request_id"]}
        self.assertEqual(len(ids), 1)
        doors.cancel(ids.pop())

    def test_a_key_binds_to_the_request_it_joined(self):
        params, key = {"dataset": doors.fresh(), "rows": 5}, doors.fresh("key")
        first = doors.ask("demo.export", params).json["request_id"]
        self.assertEqual(doors.ask("demo.export", params, idempotency_key=key).json["request_id"], first)
        demo.bob.approve(first)
        self.assertEqual(doors.get(first).json["state"], "granted")
        again = doors.ask("demo.export", params, idempotency_key=key)
        self.assertEqual(again.status, 200, again)
        self.assertEqual(again.json["request_id"], first)
        self.assertEqual(len(issued(first)), 1)

    def test_a_key_of_a_denied_ask_stays_denied(self):
        params, key = {"dataset": doors.fresh(), "rows": 5}, doors.fresh("key")
        first = doors.ask("demo.export", params, idempotency_key=key).json["request_id"]
        self.assertEqual(demo.bob.deny(first).status, 200)
        again = doors.ask("demo.export", params, idempotency_key=key)
        self.assertEqual((again.status, again.code), (403, "denied"), again)
        self.assertEqual(again.json["request_id"], first)

    def test_doors_share_one_cache(self):
        params = {"dataset": doors.fresh()}
        tcp = doors.ask("demo.read", params).json
        unix = call(doors.socket, "POST", "/v1/credentials",
                    {"scope": "demo.read", "params": params, "reason": "a test"}).json
        # Whether the socket's user is the same workload as the token's is the sidecar's word; what
        # may not be is two credentials under one lease.
        if tcp["lease_id"] == unix["lease_id"]:
            self.assertEqual(tcp["credential"], unix["credential"])
        else:
            self.assertNotEqual(tcp["credential"], unix["credential"])

    def test_a_granted_request_can_be_read_again(self):
        first = doors.ask("demo.read", {"dataset": doors.fresh()}).json
        again = doors.get(first["request_id"])
        self.assertEqual(again.status, 200, again)
        self.assertEqual(again.json["credential"], first["credential"])


class Evidence(unittest.TestCase):
    def test_leaves_of_a_routine_grant_in_order(self):
        first = doors.ask("demo.read", {"dataset": doors.fresh()}).json
        kinds = [e["kind"] for e in demo.events(first["request_id"])]
        self.assertEqual([k for k in kinds if k in ("requested", "decided", "intended", "issued")],
                         ["requested", "decided", "intended", "issued"])
        for event in demo.events(first["request_id"]):
            self.assertRegex(event["at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
            self.assertIn("digest", event)

    def test_leaves_are_canonical_json(self):
        import sqlite3
        from harness import leaf_columns
        connection = sqlite3.connect(f"file:{demo.store}?mode=ro", uri=True)
        index, body = leaf_columns(connection)
        rows = connection.execute(f'SELECT "{index}","{body}" FROM leaves ORDER BY 1').fetchall()
        self.assertEqual([r[0] for r in rows], list(range(rows[0][0], rows[0][0] + len(rows))))
        for number, value in rows:
            text = value if isinstance(value, str) else value.decode()
            leaf = json.loads(text)
            self.assertIn("kind", leaf, number)
            self.assertIn("at", leaf, number)
            self.assertEqual(text, json.dumps(leaf, sort_keys=True, separators=(",", ":"),
                                              ensure_ascii=False), number)

    def test_free_text_is_not_in_the_leaves(self):
        words = f"zebra-{doors.fresh()}"
        reply = doors.ask("demo.read", {"dataset": doors.fresh()}, reason=words, task=words)
        self.assertEqual(reply.status, 200)
        self.assertNotIn(words, json.dumps(demo.leaves()))

    def test_no_minted_secret_is_at_rest_or_in_logs_or_metrics(self):
        tokens = [doors.ask("demo.read", {"dataset": doors.fresh()}).json["credential"]["token"]
                  for _ in range(3)]
        waiting = doors.pending()
        demo.bob.approve(waiting)
        tokens.append(doors.get(waiting).json["credential"]["token"])
        time.sleep(0.3)
        needles = [t.rsplit(".", 1)[1].encode() for t in tokens]
        places = {str(p): p.read_bytes() for p in demo.dir.rglob("*")
                  if p.is_file() and not p.is_socket()}
        places["demo's log"] = demo.process.log.read_bytes() + demo.process.out.read_bytes()
        for base in (doors.tcp, demo.env["GRANTWRIGHT_CONSOLE"]):
            places[f"{base}/metrics"] = call(base, "GET", "/metrics").body
        for place, text in places.items():
            for needle in needles:
                self.assertNotIn(needle, text, place)

    def test_metrics_say_something_and_no_secret(self):
        for base in (doors.tcp, demo.env["GRANTWRIGHT_CONSOLE"]):
            text = call(base, "GET", "/metrics").body.decode()
            self.assertRegex(text, r"(?m)^[a-z_]+(\{[^}]*\})? [0-9]", base)
            self.assertNotIn(doors.token, text)
            self.assertNotIn(demo.bob.token_file.read_text(), text)


class Waiting(unittest.TestCase):
    def test_pending_says_what_is_needed(self):
        reply = doors.ask("demo.export", {"dataset": doors.fresh(), "rows": 9})
        self.assertEqual(reply.status, 202, reply)
        self.assertRegex(reply.headers.get("retry-after", ""), r"^\d+$")
        body = reply.json
        self.assertEqual(body["state"], "pending")
        self.assertIn("reviewers", json.dumps(body["needs"]))
        self.assertIn("chat", json.dumps(body["needs"]))
        self.assertGreater(when(body["expires_at"]), datetime.now(timezone.utc))
        self.assertNotIn("credential", body)
        doors.cancel(body["request_id"])

    def test_a_get_waits_no_longer_than_asked(self):
        request_id = doors.pending()
        begun = time.monotonic()
        reply = doors.get(request_id, "1s")
        took = time.monotonic() - begun
        self.assertEqual(reply.status, 202, reply)
        self.assertTrue(0.8 < took < 3, took)
        doors.cancel(request_id)

    def test_all_waiters_get_the_same_credential_when_bob_approves(self):
        request_id = doors.pending()
        results = []

        def wait():
            results.append(doors.get(request_id, "20s"))

        def approve():
            time.sleep(0.5)
            results.append(demo.bob.approve(request_id))

        begun = time.monotonic()
        together(wait, wait, wait, approve)
        self.assertLess(time.monotonic() - begun, 5)
        granted = [r.json for r in results if r.json.get("state") == "granted" and "credential" in r.json]
        self.assertEqual(len(granted), 3, results)
        self.assertEqual(len({g["credential"]["token"] for g in granted}), 1)
        self.assertEqual(len(issued(request_id)), 1)

    def test_the_sidecar_never_collects_unasked(self):
        request_id = doors.pending()
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        time.sleep(1.5)
        self.assertEqual(demo.bob.request(request_id)["state"], "approved")
        self.assertEqual(issued(request_id), [])
        self.assertEqual(doors.get(request_id).json["state"], "granted")
        self.assertEqual(len(issued(request_id)), 1)

    def test_a_post_collects_too(self):
        params = {"dataset": doors.fresh(), "rows": 3}
        request_id = doors.pending(params=params)
        demo.bob.approve(request_id)
        reply = doors.ask("demo.export", params)
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual(reply.json["request_id"], request_id)

    def test_cancel_ends_it(self):
        request_id = doors.pending()
        reply = doors.cancel(request_id)
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual(reply.json["state"], "cancelled")
        after = doors.get(request_id)
        self.assertEqual((after.status, after.json["state"]), (200, "cancelled"), after)
        self.assertTrue(after.json["reason"])
        refused = demo.bob.approve(request_id)
        self.assertEqual(refused.status, 409, refused)
        self.assertEqual(demo.bob.request(request_id)["state"], "cancelled")

    def test_a_waiter_learns_of_a_deny(self):
        request_id = doors.pending()
        results = together(lambda: doors.get(request_id, "20s"),
                           lambda: (time.sleep(0.3), demo.bob.deny(request_id, reason="not now"))[1])
        self.assertEqual((results[0].status, results[0].json["state"]), (200, "denied"), results)
        self.assertTrue(results[0].json["reason"])

    def test_a_hang_up_does_not_lose_the_grant(self):
        import socket
        from urllib.parse import urlsplit
        key = doors.fresh("key")
        body = json.dumps({"scope": "demo.read", "params": {"dataset": doors.fresh()},
                           "reason": "a test", "idempotency_key": key}).encode()
        parts = urlsplit(doors.tcp)
        for _ in range(3):
            with socket.create_connection((parts.hostname, parts.port)) as s:
                s.sendall((f"POST /v1/credentials HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                           f"Authorization: Bearer {doors.token}\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n").encode() + body)
        reply = doors.call("POST", "/v1/credentials", raw=body,
                           headers={"Content-Type": "application/json"})
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual(len(issued(reply.json["request_id"])), 1)
