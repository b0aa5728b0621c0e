"""The kill switch at a moderate size: many live leases of one agent are ended, with progress, and none is left."""

import base64
import os
import sys
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

from harness import call, until
from own import Own

# More than the calls that a person has in two seconds.
MANY = 450
SECRET = "0123456789abcdef0123456789abcdef"
MORE = """
[[introspection]]
client = "service"
secret_file = "service.secret"
audience = "https://kill.example.com"
"""
SCOPE = """
[[scope]]
name = "k.read"
title = "Read {dataset}"
minter = "jwt"
params.dataset = { type = "string", pattern = "[a-z0-9-]{1,63}" }
template = { audience = "https://kill.example.com", status = true }
"""
POLICY = '@id("k-read") @max_ttl("15m") permit (principal, action == Action::"issue", resource == Scope::"k.read");\n'
own = None


def setUpModule():
    global own
    own = Own(MORE, SCOPE, POLICY, secrets={"service.secret": SECRET}, GRANTWRIGHT_DEMO_ASKS_PER_SECOND="4000000000")


def tearDownModule():
    if own:
        own.end()


def filled(many):
    """As many credentials, each of its own request."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda n: own.granted("k.read", {"dataset": f"d-{n}"})["credential"]["token"],
                             range(many)))


def active(token):
    basic = base64.b64encode(f"service:{SECRET}".encode()).decode()
    reply = call(own.console, "POST", "/introspect", raw=f"token={token}".encode(),
                 headers={"Authorization": f"Basic {basic}"})
    assert reply.status == 200, reply
    return reply.json["active"]


def live():
    count, path = 0, "/api/v1/leases?state=live&agent=demo-agent"
    page = path
    while page:
        reply = own.demo.dave.call("GET", page).json
        count += sum(lease["state"] == "live" for lease in reply["leases"])
        page = f"{path}&before={reply['next']}" if "next" in reply else None
    return count


class Kill(unittest.TestCase):
    def test_24_0_every_choice_shows_and_ends_exactly_its_own(self):
        made = [own.granted("k.read", {"dataset": f"c-{n}"}, task=f"task {n % 2}") for n in range(6)]
        tokens = [reply["credential"]["token"] for reply in made]

        def choose(words, wanted):
            """What is shown, then ended; and nothing else is."""
            before = [active(token) for token in tokens]
            ids = {made[n]["lease_id"] for n in wanted}
            planned = own.revoke(*words, "--dry-run")
            self.assertEqual({lease["lease_id"] for lease in planned["leases"]}, ids, words)
            self.assertEqual(planned["revocable"], len(ids))
            self.assertEqual([active(token) for token in tokens], before, "a dry run ended it")
            done = own.revoke(*words)
            self.assertEqual({row["lease_id"] for row in done["ended"]}, ids, words)
            self.assertEqual((done["not_ended"], done["refused"]), ([], []))
            for row in done["ended"]:
                self.assertIn("inactive", row["effect"])
                self.assertGreaterEqual(row["ms"], 0)
            self.assertEqual([active(token) for token in tokens],
                             [was and n not in wanted for n, was in enumerate(before)], words)
        choose(["--request", made[0]["request_id"]], {0})
        choose(["--task", "task 1", "--agent", "demo-agent"], {1, 3, 5})
        self.assertEqual(own.revoke("--task", "another")["ended"], [])
        self.assertEqual(own.revoke("--owner", "bob")["ended"], [])
        choose(["--owner", "alice", "--scope", "k.read"], {2, 4})
        made = [own.granted("k.read", {"dataset": "c-9"}) for _ in range(2)]
        tokens = [reply["credential"]["token"] for reply in made]
        lease = own.revoke(made[0]["lease_id"])
        self.assertTrue(lease["ended"], lease)
        # Also what the demo's own story left.
        done = own.revoke("--all")
        self.assertIn(made[1]["lease_id"], {row["lease_id"] for row in done["ended"]})
        self.assertEqual([active(token) for token in tokens], [False, False])
        self.assertEqual(live(), 0)

    def test_24_1_all_leases_of_an_agent_are_ended_with_progress(self):
        tokens = filled(MANY)
        self.assertTrue(all(map(active, tokens[::100])))
        code, out, err = own.demo.cli("revoke", "--agent", "demo-agent", "--scope", "k.read", "--dry-run",
                                      person=own.demo.alice)
        self.assertEqual(code, 0, out + err)
        self.assertIn(f"{MANY} live credentials: {MANY} can be ended", out + err)
        self.assertTrue(all(map(active, tokens[::100])), "a dry run ended them")
        code, out, err = own.demo.cli("revoke", "--agent", "demo-agent", "--scope", "k.read",
                                      person=own.demo.alice, timeout=300)
        self.assertEqual(code, 0, out[-2000:] + err)
        for done in range(100, MANY, 100):
            self.assertIn(f"{done} of {MANY}", err, "progress")
        self.assertIn(f"{MANY} ended, 0 not ended, 0 refused", out)
        self.assertFalse(any(map(active, tokens[::50])))
        self.assertEqual(live(), 0)

    def test_24_2_the_switch_refuses_at_once_and_leaves_nothing(self):
        """More than the store tells at a time is told on pages; what is refused first is the agent's next ask."""
        tokens = filled(MANY)
        answers = []

        def switch():
            answers.append(own.demo.cli_json("agent", "revoke", "demo-agent", env={
                "GRANTWRIGHT_HUMAN_TOKEN_FILE": os.fspath(own.dir / "operator.token")}))
        worker = threading.Thread(target=switch)
        worker.start()
        worker.join(300)
        code, said = answers[0]
        self.assertEqual((code, said["agent"]), (0, "demo-agent"))
        # A slow machine's answer may come before the last has ended.
        until("nothing lives", 120, lambda: live() == 0, 0.5)
        self.assertFalse(any(map(active, tokens[::50])))
        reply = own.demo.doors.ask("k.read", {"dataset": "late"}, idempotency_key=own.demo.doors.fresh("k"))
        self.assertNotEqual(reply.status, 200, reply)
        code, out, err = own.demo.cli("audit", "verify")
        self.assertEqual(code, 0, out + err)


if __name__ == "__main__":
    sys.exit("run tests/system/run kill")
