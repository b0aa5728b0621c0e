"""People at the console: links, sessions, passkeys; and a quorum that two passkeys signed, verified
offline from a copy of the database."""

import json
import sqlite3
import unittest
from pathlib import Path
from urllib.parse import urlsplit

from harness import Demo, call, copy_store, scratch, store_path
from passkey import Browser, Passkey

demo = doors = None


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


def console():
    return demo.env["GRANTWRIGHT_CONSOLE"]


def operator(method, path, body=None):
    token = (Path(demo.dir) / "operator.token").read_text()
    return call(console(), method, path, body, {"Authorization": f"Bearer {token}"})


def link(person, purpose):
    reply = operator("POST", f"/api/v1/people/{person}/link", {"purpose": purpose})
    assert reply.status == 200, reply
    return reply.json["url"]


class Sign(unittest.TestCase):
    def test_the_login_link_signs_bob_in_once(self):
        path = urlsplit(demo.env["GRANTWRIGHT_LOGIN_BOB"]).path
        bob = Browser(console())
        first = bob.call("GET", path)
        self.assertEqual((first.status, first.headers["location"]), (303, "/"), first)
        self.assertEqual(bob.call("GET", "/session").json["human"], "bob")
        page = call(console(), "GET", path, headers={"Accept": "text/html"})
        self.assertEqual(page.status, 410)
        self.assertIn(b"used already", page.body)
        self.assertIn("text/html", page.headers["content-type"])
        self.assertEqual(bob.call("GET", "/api/v1/requests").status, 401, "a session is no token")
        self.assertEqual(bob.post("/signout", {}).status, 303)
        bob.csrf = None
        self.assertEqual(bob.call("GET", "/session").status, 401)

    def test_two_passkeys_decide_and_the_log_proves_it(self):
        folder = Path(demo.dir)
        policies = {p.name: p.read_text() for p in sorted((folder / "policy").glob("*.cedar"))}
        scopes = {p.name: p.read_text() for p in sorted((folder / "scopes").glob("*.toml"))}
        changed = {name: two_people(text) for name, text in policies.items()}
        self.assertNotEqual(policies, changed)
        loaded = operator("POST", "/api/v1/policy", {"policies": changed, "scopes": scopes})
        self.assertEqual(loaded.status, 200, loaded)
        people = {}
        for name, url, edwards in [("bob", demo.env["GRANTWRIGHT_ENROL_BOB"], False),
                                   ("carol", link("carol", "enrol"), True)]:
            browser, passkey = Browser(console()), Passkey(console(), edwards)
            page = browser.call("GET", urlsplit(url).path, Accept="text/html")
            self.assertEqual(page.status, 200, page)
            self.assertEqual(browser.enrol(url, passkey).status, 200)
            again = browser.post(urlsplit(url).path + "/options", {})
            self.assertEqual((again.status, again.code), (410, "link_used"))
            again = Browser(console())
            self.assertEqual(again.sign_in(passkey).status, 200)
            self.assertEqual(again.call("GET", "/session").json["how"], "passkey")
            people[name] = (again, passkey)
        request_id = doors.pending("demo.rotate-root")
        digest = demo.bob.request(request_id)["digest"]
        refused = demo.bob.approve(request_id)
        self.assertEqual((refused.status, refused.code), (403, "passkey_required"))
        self.assertIn(f"/requests/{request_id}", refused.json["next"])
        for n, (browser, passkey) in enumerate(people.values()):
            voted = browser.approve(request_id, digest, passkey)
            self.assertEqual(voted.status, 200, voted)
            self.assertEqual(voted.json["state"], ["pending", "approved"][n])
        granted = doors.get(request_id)
        self.assertEqual(granted.json["state"], "granted", granted)
        # A verifier who has nothing but a copy of the database and the log's key.
        copy = copy_store(store_path(demo.env["GRANTWRIGHT_STORE"]), scratch("copy"))
        code, out, err = demo.cli("audit", "verify", "--json", "--store", f"sqlite://{copy}")
        report = json.loads(out)
        self.assertEqual((code, report["ok"]), (0, True), out + err)
        signed = [e for e in demo.events(request_id) if e["kind"] == "voted"]
        self.assertEqual([v["proof"]["kind"] for v in signed], ["passkey"] * 2)
        with sqlite3.connect(copy) as db:
            rows = b"".join(bytes(r[0]) for r in db.execute("SELECT value FROM side"))
        self.assertNotIn(people["bob"][0].cookie.split(":")[1].encode(), rows)

    def test_an_operator_ends_a_passkey(self):
        dave, passkey = Browser(console()), Passkey(console())
        self.assertEqual(dave.enrol(link("dave", "enrol"), passkey).status, 200)
        listed = operator("GET", "/api/v1/people/dave/passkeys").json["passkeys"]
        self.assertEqual([p["revoked"] for p in listed], [False])
        end = f"/api/v1/people/dave/passkeys/{listed[0]['credential_id']}/revoke"
        self.assertEqual(operator("POST", end, {}).status, 200)
        self.assertEqual(Browser(console()).sign_in(passkey).code, "passkey_unknown")
        self.assertEqual(operator("POST", end, {}).status, 404)


def two_people(policy):
    """The policy with two people where one passkey was asked for."""
    parts = policy.split("permit")
    return "permit".join(p.replace('@quorum("1")', '@quorum("2")') if "passkey" in p else p
                         for p in parts)
