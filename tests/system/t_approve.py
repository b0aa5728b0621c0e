"""People decide: who may, on what, how often, and what ends a request."""

import json
import time
import unittest

from harness import Demo, together, until

demo = doors = alice = bob = carol = dave = None


def setUpModule():
    global demo, doors, alice, bob, carol, dave
    demo = Demo()
    doors, alice, bob, carol, dave = demo.doors, demo.alice, demo.bob, demo.carol, demo.dave


def tearDownModule():
    demo.__exit__()


class Case(unittest.TestCase):
    def refused(self, reply, status, code=None):
        self.assertEqual(reply.status, status, reply)
        problem = reply.json
        for field in ("type", "title", "status", "code", "detail", "next"):
            self.assertIn(field, problem, problem)
        if code:
            self.assertEqual(problem["code"], code, problem)

    def ok(self, reply):
        self.assertEqual(reply.status, 200, reply)
        return reply.json

    def state(self, request_id):
        return bob.request(request_id)["state"]


class Eligible(Case):
    def setUp(self):
        self.id = doors.pending()

    def tearDown(self):
        doors.cancel(self.id)

    def test_the_owner_is_refused_though_in_the_group(self):
        self.refused(alice.approve(self.id), 403, "self_approval")
        self.assertEqual(self.state(self.id), "pending")
        self.assertEqual(bob.request(self.id)["votes"], [])

    def test_the_owner_is_refused_in_every_way_to_approve(self):
        digest = bob.request(self.id)["digest"]
        self.refused(alice.vote("narrow", self.id, digest, params={"rows": 1}), 403, "self_approval")
        self.assertEqual(bob.request(self.id)["digest"], digest)

    def test_dave_reads_everything_and_decides_nothing(self):
        self.assertEqual(dave.request(self.id)["request_id"], self.id)
        self.assertIn(self.id, [r["request_id"] for r in dave.pending()])
        for word, more in (("approve", {}), ("deny", {}), ("ask", {"text": "why?"}),
                           ("narrow", {"params": {"rows": 1}})):
            self.refused(dave.vote(word, self.id, **more), 403, "not_in_group")
        self.assertEqual(bob.request(self.id)["votes"], [])
        self.assertEqual(self.state(self.id), "pending")

    def test_without_or_with_a_wrong_token(self):
        for headers in ({"Authorization": ""}, {"Authorization": "Bearer x"},
                        {"Authorization": "Bearer " + doors.token}):
            for method, path in (("GET", "/api/v1/requests?state=pending"),
                                 ("GET", f"/api/v1/requests/{self.id}"),
                                 ("POST", f"/api/v1/requests/{self.id}/approve")):
                reply = bob.call(method, path, {"digest": "x"} if method == "POST" else None,
                                 headers=headers)
                self.refused(reply, 401)

    def test_the_request_as_a_person_sees_it(self):
        seen = bob.request(self.id)
        for field in ("request_id", "state", "scope", "params", "reason", "digest", "agent", "needs",
                      "votes", "questions", "expires_at"):
            self.assertIn(field, seen)
        self.assertEqual(seen["scope"], "demo.export")
        self.assertEqual(seen["reason"], "a test")
        self.assertEqual(seen["agent"], "demo-agent")

    def test_not_found(self):
        self.refused(bob.call("GET", "/api/v1/requests/no-such"), 404)
        self.refused(bob.vote("approve", "no-such", digest="0" * 64), 404)

    def test_unknown_and_wrong_fields(self):
        digest = bob.request(self.id)["digest"]
        for body in ({"digest": digest, "human": "carol"}, {"digest": digest, "state": "granted"},
                     {"digest": digest, "strength": "passkey"}, {}, {"digest": 1}, [],
                     {"digest": digest, "reason": 1}):
            self.refused(bob.call("POST", f"/api/v1/requests/{self.id}/approve", body), 400)
        text = f'{{"digest":"{digest}","digest":"{digest}"}}'.encode()
        self.refused(bob.call("POST", f"/api/v1/requests/{self.id}/approve", raw=text,
                              headers={"Content-Type": "application/json"}), 400)
        self.assertEqual(self.state(self.id), "pending")

    def test_another_digest_is_a_conflict(self):
        digest = bob.request(self.id)["digest"]
        other = digest[:-1] + ("0" if digest[-1] != "0" else "1")
        for word, more in (("approve", {}), ("deny", {}), ("ask", {"text": "why?"}),
                           ("narrow", {"params": {"rows": 1}})):
            reply = bob.vote(word, self.id, other, **more)
            self.refused(reply, 409)
        self.assertEqual(self.state(self.id), "pending")


class Votes(Case):
    def test_bob_approves_and_the_agent_collects(self):
        request_id = doors.pending()
        seen = self.ok(bob.approve(request_id, reason="fine"))
        self.assertEqual(seen["state"], "approved")
        vote, = seen["votes"]
        self.assertEqual((vote["human"], vote["decision"], vote["channel"]), ("bob", "approve", "api"))
        self.assertTrue(vote["at"].endswith("Z"))
        self.assertEqual(doors.get(request_id).json["state"], "granted")
        self.assertEqual(self.state(request_id), "granted")
        self.refused(carol.approve(request_id), 409)
        self.refused(carol.deny(request_id), 409)

    def test_a_second_identical_vote_changes_nothing(self):
        request_id = doors.pending()
        self.ok(bob.approve(request_id))
        leaves = len(demo.events(request_id))
        seen = self.ok(bob.approve(request_id))
        self.assertEqual(len(seen["votes"]), 1)
        self.assertEqual(len(demo.events(request_id)), leaves)
        doors.cancel(request_id)

    def test_two_reviewers_means_two_people(self):
        request_id = doors.pending("demo.escalate")
        self.assertEqual(self.ok(bob.approve(request_id))["state"], "pending")
        self.assertEqual(self.ok(bob.approve(request_id))["state"], "pending")
        self.assertEqual(doors.get(request_id).status, 202)
        self.refused(alice.approve(request_id), 403, "self_approval")
        self.refused(dave.approve(request_id), 403, "not_in_group")
        self.assertEqual(self.state(request_id), "pending")
        self.assertEqual(self.ok(carol.approve(request_id))["state"], "approved")
        self.assertEqual(doors.get(request_id).json["state"], "granted")

    def test_two_votes_at_once_are_both_counted(self):
        request_id = doors.pending("demo.escalate")
        digest = bob.request(request_id)["digest"]
        replies = together(lambda: bob.approve(request_id, digest),
                           lambda: carol.approve(request_id, digest),
                           lambda: bob.approve(request_id, digest))
        self.assertEqual({r.status for r in replies}, {200}, replies)
        self.assertEqual(self.state(request_id), "approved")
        self.assertEqual(len([e for e in demo.events(request_id) if e["kind"] == "voted"]), 2)
        doors.cancel(request_id)

    def test_a_deny_ends_it_and_sticks(self):
        params = {"dataset": doors.fresh(), "rows": 10}
        request_id = doors.pending(params=params)
        self.assertEqual(self.ok(bob.deny(request_id, reason="too much"))["state"], "denied")
        told = doors.get(request_id)
        self.assertEqual((told.status, told.json["state"]), (200, "denied"), told)
        self.assertIn("too much", json.dumps(told.json))
        for key in (None, doors.fresh("key")):
            again = doors.ask("demo.export", params, reason="pretty please",
                              **({"idempotency_key": key} if key else {}))
            self.refused(again, 403, "denied")
        # The same agent, scope and parameters for less time is the same wish.
        self.refused(doors.ask("demo.export", params, ttl="5m"), 403, "denied")
        other = doors.ask("demo.export", {**params, "rows": 9})
        self.assertEqual(other.status, 202, other)
        doors.cancel(other.json["request_id"])
        self.refused(carol.approve(request_id), 409)

    def test_a_deny_ends_an_approved_request_too(self):
        request_id = doors.pending()
        self.ok(bob.approve(request_id))
        self.assertEqual(self.ok(carol.deny(request_id))["state"], "denied")
        self.assertEqual(doors.get(request_id).json["state"], "denied")

    def test_one_deny_beats_one_approval_of_two(self):
        request_id = doors.pending("demo.escalate")
        self.ok(bob.approve(request_id))
        self.assertEqual(self.ok(carol.deny(request_id))["state"], "denied")

    def test_an_approval_can_be_withdrawn_until_it_is_spent(self):
        request_id = doors.pending()
        self.ok(bob.approve(request_id))
        self.assertEqual(self.ok(bob.vote("withdraw", request_id))["state"], "pending")
        self.assertEqual(doors.get(request_id).status, 202)
        self.ok(bob.approve(request_id))
        self.assertEqual(doors.get(request_id).json["state"], "granted")
        self.refused(bob.vote("withdraw", request_id), 409)

    def test_withdrawing_counts_only_for_ones_own_approval(self):
        request_id = doors.pending()
        self.ok(bob.approve(request_id))
        reply = carol.vote("withdraw", request_id)
        self.assertGreaterEqual(reply.status, 400, reply)
        self.assertEqual(self.state(request_id), "approved")
        doors.cancel(request_id)

    def test_a_passkey_scope_takes_no_click(self):
        request_id = doors.pending("demo.rotate-root")
        for person in (bob, carol):
            self.refused(person.approve(request_id), 403, "passkey_required")
        self.refused(alice.approve(request_id), 403)
        self.assertEqual(self.state(request_id), "pending")
        self.assertEqual(self.ok(bob.deny(request_id))["state"], "denied")

    def test_a_vote_and_a_cancel_at_once_leave_one_truth(self):
        for _ in range(8):
            request_id = doors.pending()
            digest = bob.request(request_id)["digest"]
            together(lambda: bob.approve(request_id, digest), lambda: doors.cancel(request_id),
                     lambda: carol.deny(request_id, digest))
            state = self.state(request_id)
            self.assertIn(state, ("cancelled", "denied"))
            ends = [e["kind"] for e in demo.events(request_id)]
            self.assertNotIn("issued", ends)

    def test_a_deny_and_a_collect_at_once_leave_one_truth(self):
        for _ in range(8):
            request_id = doors.pending()
            digest = bob.request(request_id)["digest"]
            self.ok(bob.approve(request_id, digest))
            denied, got = together(lambda: carol.deny(request_id, digest),
                                   lambda: doors.get(request_id))
            if denied.status == 200:
                self.assertEqual(got.json["state"], "denied", (denied, got))
            else:
                self.assertEqual((denied.status, got.json["state"]), (409, "granted"))


class Questions(Case):
    def test_ask_answer_approve(self):
        request_id = doors.pending()
        seen = self.ok(bob.vote("ask", request_id, text="which report?"))
        question, = seen["questions"]
        self.assertEqual((question["by"], question["text"]), ("bob", "which report?"))
        told = doors.get(request_id)
        self.assertEqual(told.status, 202)
        self.assertIn("which report?", json.dumps(told.json["question"]))
        self.refused(carol.approve(request_id), 409, "question_open")
        answered = doors.call("POST", f"/v1/requests/{request_id}/answer", {"text": "the nightly one"})
        self.assertIn(answered.status, (200, 202), answered)
        question, = bob.request(request_id)["questions"]
        self.assertEqual(question["answer"], "the nightly one")
        self.assertEqual(self.ok(carol.approve(request_id))["state"], "approved")
        self.assertEqual(doors.get(request_id).json["state"], "granted")

    def test_while_open_only_the_asker_approves_which_closes_it(self):
        request_id = doors.pending()
        self.ok(bob.vote("ask", request_id, text="which ticket?"))
        self.refused(carol.approve(request_id), 409, "question_open")
        self.assertEqual(self.ok(bob.approve(request_id))["state"], "approved")
        self.assertEqual(doors.get(request_id).json["state"], "granted")

    def test_while_open_anyone_eligible_may_deny(self):
        request_id = doors.pending()
        self.ok(bob.vote("ask", request_id, text="which ticket?"))
        self.assertEqual(self.ok(carol.deny(request_id))["state"], "denied")

    def test_a_question_voids_an_earlier_approval(self):
        request_id = doors.pending("demo.escalate")
        self.ok(bob.approve(request_id))
        self.ok(carol.vote("ask", request_id, text="why now?"))
        doors.call("POST", f"/v1/requests/{request_id}/answer", {"text": "an incident"})
        self.assertEqual(self.ok(carol.approve(request_id))["state"], "pending")
        self.assertEqual(doors.get(request_id).status, 202)
        self.assertEqual(self.ok(bob.approve(request_id))["state"], "approved")
        self.assertEqual(doors.get(request_id).json["state"], "granted")

    def test_an_answer_without_a_question_is_refused(self):
        request_id = doors.pending()
        reply = doors.call("POST", f"/v1/requests/{request_id}/answer", {"text": "x"})
        self.assertEqual(reply.status, 409, reply)
        doors.cancel(request_id)

    def test_what_the_agent_says_is_text(self):
        request_id = doors.pending()
        self.ok(bob.vote("ask", request_id, text="why?"))
        words = "<b>x</b> ‮evil​ [link](http://x)"
        doors.call("POST", f"/v1/requests/{request_id}/answer", {"text": words})
        # The API gives the words as JSON; nothing but their place in `answer` changes.
        seen = bob.request(request_id)
        self.assertEqual(seen["state"], "pending")
        self.assertEqual(seen["votes"], [])
        doors.cancel(request_id)


class Narrow(Case):
    def test_fewer_rows_make_a_new_digest_and_count_as_approval(self):
        name = doors.fresh()
        request_id = doors.pending(params={"dataset": name, "rows": 1000})
        old = bob.request(request_id)["digest"]
        seen = self.ok(bob.vote("narrow", request_id, old, params={"rows": 10}))
        self.assertNotEqual(seen["digest"], old)
        self.assertEqual(seen["params"], {"dataset": name, "rows": 10})
        self.assertEqual(seen["state"], "approved")
        self.refused(carol.approve(request_id, old), 409)
        granted = doors.get(request_id).json
        self.assertEqual(granted["state"], "granted")
        from t_ask import claims
        said = json.dumps(claims(granted["credential"]["token"]))
        self.assertIn("10", said)
        self.assertNotIn("1000", said.replace(name, ""))

    def test_less_time(self):
        request_id = doors.pending()
        seen = self.ok(bob.vote("narrow", request_id, ttl="2m"))
        self.assertEqual(seen["state"], "approved")
        from t_ask import claims
        said = claims(doors.get(request_id).json["credential"]["token"])
        self.assertLessEqual(said["exp"] - said["iat"], 120)

    def test_the_agent_is_told_what_was_narrowed_and_why(self):
        request_id = doors.pending()
        why = "ten rows are a sample \u202e"
        reply = bob.vote("narrow", request_id, params={"rows": 10}, reason=why)
        self.assertEqual(reply.status, 200, reply)
        told = doors.get(request_id).json
        self.assertEqual(told["state"], "granted", told)
        self.assertIn("rows from 100 to 10", told["narrowed"])
        self.assertIn("ten rows are a sample", told["narrowed"])
        self.assertNotIn("\u202e", told["narrowed"])
        # The words lie beside the leaf, which commits to them.
        leaf = next(e for e in demo.events(request_id) if e["kind"] == "narrowed")
        self.assertNotIn("sample", json.dumps(leaf))
        self.assertIn("reason", leaf)
        code, report = demo.cli_json("audit", "verify")
        self.assertEqual((code, report["findings"]), (0, []))

    def test_whatever_is_not_narrower_is_refused(self):
        request_id = doors.pending(params={"dataset": doors.fresh("wide"), "rows": 100})
        digest = bob.request(request_id)["digest"]
        for body in ({"params": {"rows": 101}}, {"params": {"rows": 100}}, {"ttl": "15m"},
                     {"ttl": "20m"}, {"params": {"dataset": "other"}}, {},
                     {"params": {"rows": 10, "dataset": "other"}}, {"params": {"rows": 10}, "ttl": "1h"}):
            with self.subTest(str(body)):
                self.refused(bob.vote("narrow", request_id, digest, **body), 400)
        for body in ({"params": {"rows": 101}}, {"ttl": "20m"}, {"params": {"dataset": "other"}}):
            with self.subTest(str(body)):
                self.refused(bob.vote("narrow", request_id, digest, **body), 400, "not_narrower")
        for body in ({"params": {"rows": -1}}, {"params": {"rows": "1"}}, {"params": {"x": 1}},
                     {"params": []}, {"ttl": 60}, {"ttl": "0s"}):
            with self.subTest(str(body)):
                self.refused(bob.vote("narrow", request_id, digest, **body), 400)
        self.assertEqual(bob.request(request_id)["digest"], digest)
        doors.cancel(request_id)

    def test_narrowing_voids_earlier_votes(self):
        request_id = doors.pending("demo.escalate")
        self.ok(bob.approve(request_id))
        seen = self.ok(carol.vote("narrow", request_id, ttl="2m"))
        self.assertEqual(seen["state"], "pending")
        standing = bob.request(request_id)
        self.ok(bob.approve(request_id, standing["digest"]))
        self.assertEqual(self.state(request_id), "approved")
        self.assertEqual(doors.get(request_id).json["state"], "granted")

    def test_narrowing_a_passkey_scope_only_proposes(self):
        request_id = doors.pending("demo.rotate-root")
        reply = bob.vote("narrow", request_id, ttl="2m")
        if reply.status == 200:
            self.assertEqual(reply.json["state"], "pending")
        else:
            self.refused(reply, 403, "passkey_required")
        self.assertEqual(doors.get(request_id).status, 202)
        # Not denied: that would stick to the next test's ask.
        doors.cancel(request_id)
