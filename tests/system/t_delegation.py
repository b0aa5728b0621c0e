"""An agent hands another agent a narrower right: asked under, seen by reviewers, ended, verified."""

import unittest

from harness import SIDECAR, Demo, Process, call, clean_env, scratch, until
from own import sidecar_of

demo = doors = planner = None


class Planner:
    """A second agent, bob's, with a sidecar of its own at the demo's broker."""

    def __init__(self):
        self.home = sidecar_of(demo, "planner", owner="bob")
        self.process = Process([SIDECAR, "--config", self.home / "sidecar.toml"], env=clean_env())

        def ready():
            assert self.process.code() is None, self.process.said()
            try:
                return self.call("GET", "/readyz").status == 200
            except OSError:
                return False
        until("the planner's sidecar", 30, ready, 0.05)

    def call(self, method, path, body=None):
        return call(self.home / "s.sock", method, path, body)

    def hand(self, scopes, **fields):
        made = self.call("POST", "/v1/delegations", {"to": "demo-agent", "scopes": scopes, **fields})
        assert made.status == 201, made
        return made.json["delegation_id"]

    def end(self, delegation):
        return self.call("DELETE", f"/v1/delegations/{delegation}")


def setUpModule():
    global demo, doors, planner
    demo = Demo()
    doors = demo.doors
    planner = Planner()


def tearDownModule():
    planner.process.kill()
    # Its end judges the log by the verifier that is not ours.
    demo.__exit__()


def lease_of(request_id):
    _, listed = demo.cli_json("lease", "list", person=demo.alice)
    return next(it for it in listed["leases"] if it["request_id"] == request_id)


class Delegation(unittest.TestCase):
    def test_a_routine_ask_under_it_says_so_and_ends_with_it(self):
        name = doors.fresh()
        delegation = planner.hand({"demo.read": {"params": {"dataset": name}, "ttl": "5m"}})
        own = doors.ask("demo.read", {"dataset": name})
        under = doors.ask("demo.read", {"dataset": name}, delegation=delegation)
        self.assertEqual((own.status, under.status), (200, 200), under)
        self.assertNotEqual(own.json["lease_id"], under.json["lease_id"], "another right, another credential")
        again = doors.ask("demo.read", {"dataset": name}, delegation=delegation)
        self.assertEqual(again.json["lease_id"], under.json["lease_id"], "kept in memory by its delegation")
        asked = demo.events(under.json["request_id"])[0]
        self.assertEqual(asked["terms"]["delegation"], ["planner"])
        self.assertEqual(asked["terms"]["delegation_id"], delegation)
        self.assertEqual(asked["terms"]["ttl_s"], 300)
        ended = planner.end(delegation)
        self.assertEqual((ended.status, ended.json["state"]), (200, "ended"), ended)
        self.assertNotEqual(lease_of(under.json["request_id"])["state"], "live")
        self.assertEqual(lease_of(own.json["request_id"])["state"], "live", "its own right goes on")

        def refused():
            reply = doors.ask("demo.read", {"dataset": name}, delegation=delegation)
            return reply if reply.status != 200 else None
        reply = until("the sidecar forgets it", 30, refused)
        self.assertEqual((reply.status, reply.code), (403, "delegation_ended"), reply)

    def test_nothing_wider_is_asked_under_it(self):
        name = doors.fresh()
        delegation = planner.hand({"demo.export": {"params": {"dataset": name, "rows": 10}}})
        for scope, params, more in (
                ("demo.export", {"dataset": name, "rows": 11}, {}),
                ("demo.export", {"dataset": "other", "rows": 10}, {}),
                ("demo.read", {"dataset": name}, {})):
            reply = doors.ask(scope, params, delegation=delegation, **more)
            self.assertEqual((reply.status, reply.code), (403, "delegation_wider"), reply)
        for wrong in ("d-none", "no such!"):
            reply = doors.ask("demo.read", {"dataset": name}, delegation=wrong)
            self.assertEqual((reply.status, reply.code), (404, "delegation_unknown"), reply)
        # It is the demo agent's, and nobody else's: not even of who made it.
        body = {"scope": "demo.export", "params": {"dataset": name, "rows": 1}, "reason": "a test",
                "delegation": delegation}
        reply = planner.call("POST", "/v1/credentials", body)
        self.assertEqual((reply.status, reply.code), (404, "delegation_unknown"), reply)
        for body, code in (({"to": "demo-agent"}, "malformed"), ({"to": "nobody", "scopes": {"demo.read": {}}}, "delegate_unknown"),
                           ({"to": "planner", "scopes": {"demo.read": {}}}, "delegation_cycle"),
                           ({"to": "demo-agent", "scopes": {"demo.read": {"ttl": "1h"}}}, "delegation_wider"),
                           ({"to": "demo-agent", "scopes": {"demo.read": {}}, "ttl": "25h"}, "delegation_wider"),
                           ({"to": "demo-agent", "scopes": {"demo.read": {}}, "from": "demo-agent"}, "malformed")):
            reply = planner.call("POST", "/v1/delegations", body)
            self.assertEqual(reply.code, code, reply)

    def test_reviewers_see_the_chain_and_its_owners_do_not_decide(self):
        delegation = planner.hand({"demo.export": {}})
        request = doors.pending(delegation=delegation)
        seen = demo.carol.request(request)
        self.assertEqual(seen["card"]["who"]["delegation"], ["planner"])
        code, out, err = demo.cli("approval", "show", request, person=demo.carol)
        self.assertEqual(code, 0, out + err)
        self.assertIn("via planner", out.replace("`", ""))
        for owner, code in ((demo.bob, "delegate_approval"), (demo.alice, "self_approval")):
            vote = owner.approve(request)
            self.assertEqual((vote.status, vote.code), (403, code), vote)
        self.assertEqual(demo.carol.approve(request).status, 200)
        got = doors.get(request)
        self.assertEqual((got.status, got.json["state"]), (200, "granted"), got)
        planner.end(delegation)
        self.assertNotEqual(lease_of(request)["state"], "live")

    def test_what_still_waits_is_cancelled_with_it(self):
        delegation = planner.hand({"demo.export": {}})
        waiting, approved = doors.pending(delegation=delegation), doors.pending(delegation=delegation)
        self.assertEqual(demo.carol.approve(approved).status, 200)
        self.assertEqual(planner.end(delegation).status, 200)
        for request in (waiting, approved):
            got = doors.get(request)
            self.assertEqual((got.status, got.json.get("state")), (200, "cancelled"), got)

    def test_both_agents_list_it_and_a_command_runs_under_it(self):
        name = doors.fresh()
        delegation = planner.hand({"demo.read": {"params": {"dataset": name}}})
        for listed in (planner.call("GET", "/v1/delegations"), doors.call("GET", "/v1/delegations")):
            self.assertEqual(listed.status, 200, listed)
            mine = next(d for d in listed.json["delegations"] if d["delegation_id"] == delegation)
            self.assertEqual((mine["from"], mine["to"], mine["state"]), ("planner", "demo-agent", "live"))
        code, out, err = demo.cli("exec", "--scope", "demo.read", "--param", f"dataset={name}",
                                  "--delegation", delegation, "--", "true")
        self.assertEqual(code, 0, out + err)
        # Whoever it was handed to may give it up.
        self.assertEqual(doors.call("DELETE", f"/v1/delegations/{delegation}").json["state"], "ended")
        code, out, err = demo.cli("exec", "--scope", "demo.read", "--param", f"dataset={name}",
                                  "--delegation", delegation, "--", "true")
        self.assertNotEqual(code, 0)
        self.assertIn("delegation", out + err)

    def test_people_list_show_and_end_them_by_command(self):
        name = doors.fresh()
        delegation = planner.hand({"demo.export": {"params": {"dataset": name, "rows": 10}, "ttl": "5m"}}, passes=1)
        code, listed = demo.cli_json("delegation", "list", person=demo.carol)
        mine = next(d for d in listed["delegations"] if d["delegation_id"] == delegation)
        self.assertEqual((code, mine["state"], mine["owners"]), (0, "live", {"planner": "bob", "demo-agent": "alice"}))
        code, out, err = demo.cli("delegation", "list", person=demo.carol)
        self.assertEqual(code, 0, out + err)
        self.assertTrue(any(delegation in line and "planner → demo-agent" in line for line in out.splitlines()), out)
        code, out, err = demo.cli("delegation", "show", delegation, person=demo.carol)
        self.assertEqual(code, 0, out + err)
        for part in ("planner → demo-agent", f"demo.export: at most 5 min, dataset {name}, rows 10", "may be passed on",
                     "bob (planner's)"):
            self.assertIn(part, out)
        # She owns neither agent and is no operator.
        code, out, err = demo.cli("delegation", "end", delegation, person=demo.carol)
        self.assertEqual(code, 1, out + err)
        self.assertIn("owners and operators", out + err)
        code, out, err = demo.cli("delegation", "show", "d-none", person=demo.carol)
        self.assertEqual(code, 1, out + err)
        request = doors.pending(delegation=delegation, params={"dataset": name, "rows": 1})
        code, ended = demo.cli_json("delegation", "end", delegation, person=demo.bob)
        self.assertEqual((code, ended["state"]), (0, "ended"), ended)
        self.assertEqual(doors.get(request).json.get("state"), "cancelled")
        _, live = demo.cli_json("delegation", "list", person=demo.carol)
        self.assertNotIn(delegation, [d["delegation_id"] for d in live["delegations"]])
        _, every = demo.cli_json("delegation", "list", "--state", "all", person=demo.carol)
        self.assertIn(delegation, [d["delegation_id"] for d in every["delegations"]])

    def test_a_deny_is_not_washed_through_another_agent(self):
        delegation = planner.hand({"demo.export": {}})
        ask = {"scope": "demo.export", "params": {"dataset": doors.fresh(), "rows": 7}, "reason": "a test"}
        asked = planner.call("POST", "/v1/credentials", ask)
        self.assertEqual(asked.status, 202, asked)
        self.assertEqual(demo.carol.deny(asked.json["request_id"]).status, 200)
        through = doors.ask(ask["scope"], ask["params"], delegation=delegation)
        self.assertEqual((through.status, through.code), (403, "denied"), through)
        # And the other way: what was denied to who was sent.
        other = {**ask, "params": {"dataset": doors.fresh(), "rows": 7}}
        sent = doors.ask(other["scope"], other["params"], delegation=delegation)
        self.assertEqual(sent.status, 202, sent)
        self.assertEqual(demo.carol.deny(sent.json["request_id"]).status, 200)
        itself = planner.call("POST", "/v1/credentials", other)
        self.assertEqual((itself.status, itself.code), (403, "denied"), itself)

    def test_the_log_tells_it_and_is_proven(self):
        delegation = planner.hand({"demo.read": {}})
        done = doors.ask("demo.read", {"dataset": doors.fresh()}, delegation=delegation)
        self.assertEqual(done.status, 200, done)
        planner.end(delegation)
        kinds = [(e["kind"], e.get("delegation_id")) for e in demo.leaves()]
        self.assertIn(("delegated", delegation), kinds)
        self.assertIn(("delegation_ended", delegation), kinds)
        code, report = demo.cli_json("audit", "verify")
        self.assertEqual((code, report["findings"]), (0, []), report)
        code, out, err = demo.cli("audit", "show", done.json["request_id"])
        self.assertEqual(code, 0, out + err)
        self.assertIn("passed on by `planner`", out)


if __name__ == "__main__":
    unittest.main()
