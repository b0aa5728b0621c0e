"""The command line, as people and scripts use it."""

import json
import unittest

from harness import Demo, cli

demo = doors = None


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


class Approval(unittest.TestCase):
    def as_(self, person, *arguments):
        return demo.cli_json("approval", *arguments, person=person)

    def test_list_show_approve(self):
        request_id = doors.pending()
        code, listed = self.as_(demo.bob, "list")
        self.assertEqual(code, 0)
        self.assertIn(request_id, [r["request_id"] for r in listed["requests"]])
        code, shown = self.as_(demo.bob, "show", request_id)
        self.assertEqual((code, shown["request_id"], shown["state"]), (0, request_id, "pending"))
        code, done = self.as_(demo.bob, "approve", request_id)
        self.assertEqual((code, done["state"]), (0, "approved"), done)
        self.assertEqual(doors.get(request_id).json["state"], "granted")

    def test_a_refusal_is_1_and_the_code(self):
        request_id = doors.pending()
        for person, want in ((demo.alice, "self_approval"), (demo.dave, "not_in_group")):
            code, said = self.as_(person, "approve", request_id)
            self.assertEqual((code, said["code"]), (1, want), said)
            code, out, err = demo.cli("approval", "approve", request_id, person=person)
            self.assertEqual(code, 1)
            self.assertIn(want, out + err)
        doors.cancel(request_id)

    def test_an_old_digest_is_refused(self):
        request_id = doors.pending()
        code, said = self.as_(demo.bob, "approve", request_id, "--digest", "0" * 64)
        self.assertEqual(code, 1, said)
        self.assertEqual(demo.bob.request(request_id)["state"], "pending")
        doors.cancel(request_id)

    def test_deny_ask_narrow(self):
        denied, asked, narrowed = doors.pending(), doors.pending(), doors.pending()
        code, said = self.as_(demo.bob, "deny", denied, "--reason", "not now")
        self.assertEqual((code, said["state"]), (0, "denied"), said)
        code, said = self.as_(demo.bob, "ask", asked, "which report?")
        self.assertEqual((code, said["questions"][0]["text"]), (0, "which report?"), said)
        code, said = self.as_(demo.bob, "narrow", narrowed, "--param", "rows=1")
        self.assertEqual((code, said["params"]["rows"]), (0, 1), said)
        doors.cancel(asked)
        doors.cancel(narrowed)

    def test_hostile_text_does_not_reach_the_terminal(self):
        request_id = doors.pending(reason="calm\x1b[2J\x1b]0;owned\x07 \u202egnp.exe \u200bx\r\nDENIED")
        for arguments in (("list",), ("show", request_id)):
            code, out, err = demo.cli("approval", *arguments, person=demo.bob)
            self.assertEqual(code, 0, out + err)
            for bad in ("\x1b", "\x07", "\u202e", "\u200b", "\r"):
                self.assertNotIn(bad, out + err, (arguments, bad))
        doors.cancel(request_id)

    def test_a_missing_token_says_what_to_set(self):
        code, out, err = demo.cli("approval", "list")
        self.assertEqual(code, 2, out + err)
        self.assertIn("GRANTWRIGHT_HUMAN_TOKEN_FILE", out + err)


class Leases(unittest.TestCase):
    def test_list_and_revoke(self):
        body = doors.ask("demo.read", {"dataset": doors.fresh()}).json
        for person in (None, demo.bob):
            code, listed = demo.cli_json("lease", "list", person=person)
            self.assertEqual(code, 0, listed)
            lease = next(l for l in listed["leases"] if l["lease_id"] == body["lease_id"])
            for field in ("lease_id", "request_id", "scope", "state", "expires_at", "revocable"):
                self.assertIn(field, lease)
        for person in (demo.alice, demo.bob, demo.dave):
            body = doors.ask("demo.read", {"dataset": doors.fresh()}).json
            code, out, err = demo.cli("revoke", body["lease_id"], person=person)
            self.assertEqual(code, 0, (person.name, out, err))
            self.assertTrue(out.strip())

    def test_a_revoked_lease_is_not_served_again(self):
        params = {"dataset": doors.fresh()}
        first = doors.ask("demo.read", params).json
        code, out, err = demo.cli("revoke", first["lease_id"], person=demo.alice)
        self.assertEqual(code, 0, out + err)
        from harness import until
        until("the sidecar evicts it", 3, lambda: doors.ask("demo.read", params).json.get("lease_id")
              != first["lease_id"], 0.1)

    def test_an_unknown_lease_is_1(self):
        code, out, err = demo.cli("revoke", "no-such-lease", person=demo.bob)
        self.assertEqual(code, 1, out + err)


class Mcp(unittest.TestCase):
    TOOLS = {"list_scopes", "request_credential", "wait_for_request", "answer_question",
             "release_credential"}

    @classmethod
    def setUpClass(cls):
        code, out, err = cli("mcp")
        if "does not serve" in out + err:
            raise unittest.SkipTest("`grantwright mcp` is not in this build")

    def session(self):
        import subprocess
        from harness import GRANTWRIGHT, clean_env
        env = {k: demo.env[k] for k in ("GRANTWRIGHT_SIDECAR", "GRANTWRIGHT_TOKEN_FILE")}
        child = subprocess.Popen([str(GRANTWRIGHT), "mcp"], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                 env=clean_env(**env))
        self.addCleanup(lambda: (child.kill(), child.wait(), child.stdin.close(),
                                 child.stdout.close()))
        serial = [0]

        def ask(method, **params):
            serial[0] += 1
            child.stdin.write(json.dumps({"jsonrpc": "2.0", "id": serial[0], "method": method,
                                          "params": params}) + "\n")
            child.stdin.flush()
            while True:
                said = json.loads(child.stdout.readline())
                if said.get("id") == serial[0]:
                    return said["result"]
        ask("initialize", protocolVersion="2025-06-18", capabilities={},
            clientInfo={"name": "e2e", "version": "1"})
        child.stdin.write('{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        child.stdin.flush()
        return ask, lambda name, **arguments: ask("tools/call", name=name, arguments=arguments)

    def test_the_tools_and_a_whole_story(self):
        ask, tool = self.session()
        self.assertLessEqual(self.TOOLS, {t["name"] for t in ask("tools/list")["tools"]})
        self.assertIn("demo.read", json.dumps(tool("list_scopes")))
        got = tool("request_credential", scope="demo.read", params={"dataset": doors.fresh()},
                   reason="a test")["structuredContent"]
        self.assertEqual(got["state"], "granted")
        waiting = tool("request_credential", scope="demo.export",
                       params={"dataset": doors.fresh(), "rows": 1},
                       reason="a test")["structuredContent"]
        self.assertEqual(waiting["state"], "pending")
        demo.bob.vote("ask", waiting["request_id"], text="why?")
        tool("answer_question", request_id=waiting["request_id"], text="because")
        demo.bob.approve(waiting["request_id"])
        done = tool("wait_for_request", request_id=waiting["request_id"], seconds=5)
        self.assertEqual(done["structuredContent"]["state"], "granted")

    def test_a_refusal_is_an_error_with_the_problem(self):
        _, tool = self.session()
        said = tool("request_credential", scope="demo.drop-tables", params={}, reason="a test")
        self.assertIs(said["isError"], True)
        self.assertEqual(said["structuredContent"]["code"], "denied")

    def test_releasing_a_pending_request_cancels_it(self):
        _, tool = self.session()
        waiting = doors.pending()
        tool("release_credential", request_id=waiting)
        self.assertEqual(demo.bob.request(waiting)["state"], "cancelled")


class Help(unittest.TestCase):
    def test_help_and_version(self):
        for arguments in (("--help",), ("demo", "--help"), ("audit", "verify", "--help")):
            code, out, err = cli(*arguments)
            self.assertEqual(code, 0, err)
            self.assertGreater(len(out), 100)
        code, out, _ = cli("--version")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"^grantwright \d")

    def test_wrong_usage_is_2(self):
        for arguments in (("nothing",), ("audit",), ("approval", "approve"), ("--nothing",)):
            self.assertEqual(cli(*arguments)[0], 2, arguments)
