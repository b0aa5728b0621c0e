"""One request's life on each channel: a real broker and sidecar, the fakes as servers, and what
everybody saw."""

import base64
import hashlib
import hmac
import json
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from chat import Fake, Stage, Transcript, eventually, slack
from harness import call

# Each has a broker, people and a service of its own; a killed broker's desk is taken over after a while.
BESIDE = ("Slack", "Teams", "Webhook")


def collected(test, stage, request_id):
    """The agent fetches what was approved: narrower, and it is told so."""
    got = stage.demo.doors.get(request_id, wait="10s").json
    test.assertEqual(got["state"], "granted", got)
    test.assertIn("narrowed", got, got)
    claims = json.loads(base64.urlsafe_b64decode(got["credential"]["token"].split(".")[1] + "=="))
    test.assertLessEqual(claims["exp"] - claims["iat"], 300)
    test.assertIn("4000", json.dumps(claims), "the narrower number of rows")
    code, out, err = stage.demo.cli("audit", "verify")
    test.assertEqual(code, 0, out + err)
    return got


def asked(stage, request_id):
    """The agent sees the question, and answers."""
    pending = stage.demo.doors.get(request_id, wait="5s").json
    text = pending["question"]["text"]
    reply = stage.demo.doors.call("POST", f"/v1/requests/{request_id}/answer",
                                  {"text": "the weekly one, for *finance* <!channel>"})
    assert reply.status == 202, reply
    return text


class Slack(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.fake = Fake("slack")
        cls.stage = slack(cls.fake)

    @classmethod
    def tearDownClass(cls):
        cls.stage.end()
        cls.fake.end()

    def card(self, request_id, words=""):
        def found():
            for message in self.fake.do("messages", channel="C111"):
                text = json.dumps(message, ensure_ascii=False)
                if request_id in text and words in text and "thread_ts" not in message:
                    return message
            return None
        # A broker that was killed leaves its desk to the next one after a quarter of a minute.
        return eventually(f"a card with `{words}`", found, 45)

    def press(self, message, action, **more):
        done = self.fake.do("press", user="U0BOB", message=message, action=action, **more)
        self.assertTrue(done["acked"], done)
        self.assertLess(done["us"], 3_000_000, "Slack gives up")

    def whispered(self, words):
        def found():
            said = [json.dumps(w) for w in self.fake.do("whispers")]
            return next((text for text in said if words in text), None)
        return eventually(f"told alone: {words}", found)

    def view(self, n):
        return eventually("a form", lambda: self.fake.do("views")[n:n + 1])[0]

    def test_from_the_ask_to_the_credential(self):
        told = Transcript("slack")
        request_id = self.stage.ask("invoices")
        card = self.card(request_id)
        told.step("demo-agent", "asks; in the reviewers' conversation stands", lines(card))

        # Nobody's account: a link for that account alone, which its person confirms in the console.
        self.press(card, "gw_approve", to=self.stage.base)
        link = self.whispered("/link/")
        self.assertEqual(self.stage.votes(request_id), [])
        url = link[link.index("http://localhost"):].split('"')[0].split("\\")[0]
        self.stage.confirm("bob", url)
        told.step("U0BOB", "presses Approve, is told alone to link the account, and bob confirms it in the console")

        self.press(card, "gw_ask")
        view = self.view(0)
        done = self.fake.do("submit", user="U0BOB", view=view, values={
            "text": {"v": {"type": "plain_text_input", "value": "which report?"}}})
        self.assertTrue(done["acked"])
        self.card(request_id, "not answered yet")
        self.assertEqual(asked(self.stage, request_id), "which report?")
        card = self.card(request_id, "the weekly one")
        told.step("bob", "asks, and the agent answers; the card has both", lines(card))

        # The broker dies; the card stays true afterwards.
        self.stage.broker.kill()
        self.stage.start()
        self.press(card, "gw_narrow")
        done = self.fake.do("submit", user="U0BOB", view=self.view(1), values={
            "ttl": {"v": {"type": "static_select", "selected_option": {"value": "300"}}},
            "p_rows": {"v": {"type": "number_input", "value": "4000"}}})
        self.assertTrue(done["acked"])
        card = self.card(request_id, "approved through slack")
        told.step("bob", "narrows it, which approves the narrower; the broker was restarted meanwhile",
                  lines(card))
        votes = self.stage.votes(request_id)
        self.assertEqual([(v["human"], v["channel"], v["decision"]) for v in votes],
                         [("bob", "slack", "approve")])
        collected(self, self.stage, request_id)
        card = self.card(request_id, "issued as lease")
        self.assertNotIn("gw_approve", json.dumps(card))
        told.step("demo-agent", "collects the credential; the card says so", lines(card))
        threads = [m for m in self.fake.do("messages", channel="C111") if "thread_ts" in m]
        self.assertGreaterEqual(len(threads), 2, "question and answer are in the thread")
        self.assertEqual(self.fake.do("broken"), [], "Block Kit's bounds")
        told.compare(self)

    def test_requests_of_one_task_are_one_message(self):
        ids = [self.stage.ask(f"set-{n}", task="quarterly close") for n in "abc"]
        card = self.card(ids[2], ids[0])
        self.assertIn(ids[1], json.dumps(card))
        handles = {e["value"] for b in card["blocks"] if b["type"] == "actions" for e in b["elements"]}
        self.assertEqual(len(handles), 3, "one digest each")
        button = next(h for h in handles if ids[1] in h)
        # Linked by the API of the test above or not: whoever presses, only that request is meant.
        self.press(card, "gw_approve", value=button)
        eventually("told or done", lambda: self.stage.votes(ids[1])
                   or any("/link/" in json.dumps(w) for w in self.fake.do("whispers")))
        self.assertEqual((self.stage.votes(ids[0]), self.stage.votes(ids[2])), ([], []))
        self.assertEqual(self.fake.do("broken"), [])


def lines(message):
    """A message's text as a person reads it: a line for each block and break."""
    out = []

    def walk(node, into):
        if isinstance(node, list):
            for part in node:
                walk(part, into)
        elif isinstance(node, dict):
            kind = node.get("type")
            if kind == "date":
                into.append("‹time›")
            elif kind in ("rich_text_section", "rich_text_quote", "rich_text_preformatted"):
                inner = []
                walk(node["elements"], inner)
                text = "".join(inner).strip()
                out.append(f"> {text}" if kind == "rich_text_quote" else text)
            elif kind == "divider":
                out.append("---")
            elif kind == "actions":
                out.append(" ".join(f"[{e['text']['text']}]" for e in node["elements"]))
            elif kind == "context":
                out.append(" ".join(e["text"] for e in node["elements"]))
            elif "elements" in node:
                walk(node["elements"], into)
            elif isinstance(node.get("text"), str):
                into.append(node["text"])
    walk(message["blocks"], out)
    return "\n".join(line for line in out if line)


class Teams(unittest.TestCase):
    BOB = "0b0b0b0b-1111-2222-3333-444444444444"

    @classmethod
    def setUpClass(cls):
        cls.fake = Fake("teams")
        at = cls.fake.at
        cls.stage = Stage("teams", [
            "[channel.teams]", f'app_id = "{at["app"]}"', f'tenant = "{at["tenant"]}"',
            'secret_file = "secret"', 'service_hosts = ["127.0.0.1"]',
            f'service_url = "{at["service_url"]}"', f'authority = "{at["authority"]}"',
            f'metadata_url = "{at["metadata"]}"',
            "[channel.teams.conversations]", 'reviewers = "19:reviewers@thread.tacv2"'],
            secret=at["secret"])
        cls.serial = 0

    @classmethod
    def tearDownClass(cls):
        cls.stage.end()
        cls.fake.end()

    def card(self, words):
        def found():
            for message in self.fake.do("messages"):
                if words in json.dumps(message["card"], ensure_ascii=False):
                    return message["card"]
            return None
        return eventually(f"a card with `{words}`", found, 45)

    def press(self, card, title, **inputs):
        Teams.serial += 1
        actions = list(card.get("actions", []))
        for item in card["body"]:
            for inner in item.get("items", []):
                actions += inner.get("actions", [])
        action = next(a for a in actions if a["title"] == title)
        if action["type"] == "Action.ShowCard":
            action = action["card"]["actions"][0]
        done = self.fake.do("press", object_id=self.BOB, id=f"f:{Teams.serial}", action=action,
                            inputs=inputs, to=self.stage.base)
        self.assertEqual(done["status"], 200, done)
        return done["answer"]["value"]

    def test_from_the_ask_to_the_credential(self):
        told = Transcript("teams")
        request_id = self.stage.ask("invoices")
        card = self.card("invoices")
        told.step("demo-agent", "asks; in the reviewers' conversation stands", runs(card))
        linking = self.press(card, "Approve")
        self.assertEqual(self.stage.votes(request_id), [])
        self.stage.confirm("bob", linking["actions"][0]["url"])
        told.step("somebody", "presses Approve; the answer, to that account alone; bob confirms it in the console",
                  runs(linking))
        shown = self.press(card, "Ask", ask_text="which report?")
        self.assertIn("waits for the agent", json.dumps(shown))
        self.assertEqual(asked(self.stage, request_id), "which report?")
        card = self.card("the weekly one")
        told.step("bob", "asks, and the agent answers; the card has both", runs(card))
        self.stage.broker.kill()
        self.stage.start()
        preview = self.press(card, "Narrow", narrow_ttl="300s", narrow_number_rows="4000")
        self.assertEqual(self.stage.votes(request_id), [])
        told.step("bob", "narrows; what would be issued is shown first; the broker was restarted meanwhile",
                  runs(preview))
        shown = self.press(preview, "Narrow and approve")
        told.step("bob", "narrows and approves", runs(shown))
        votes = self.stage.votes(request_id)
        self.assertEqual([(v["human"], v["channel"]) for v in votes], [("bob", "teams")])
        collected(self, self.stage, request_id)
        card = self.card("issued as lease")
        self.assertNotIn("Action.Execute", json.dumps(card))
        told.step("demo-agent", "collects the credential; the card says so", runs(card))
        told.compare(self)

    def test_requests_of_one_task_are_one_card(self):
        ids = [self.stage.ask(f"set-{n}", task="quarterly close") for n in "abc"]
        card = self.card("3 requests of")
        self.assertNotIn("Action.ShowCard", json.dumps(card), "forms would share their names")
        handles = json.dumps(card)
        for request_id in ids:
            self.assertIn(request_id, handles)
        own = self.press(card, "Deny, ask or narrow")
        self.assertEqual([self.stage.votes(i) for i in ids], [[], [], []])
        self.assertIn("Deny", [a["title"] for a in own["actions"]])


def runs(card):
    out = []

    def walk(node):
        if isinstance(node, list):
            for part in node:
                walk(part)
        elif node.get("type") == "RichTextBlock":
            out.append("".join(run["text"] for run in node["inlines"]))
        elif node.get("type") == "TextBlock":
            out.append(node["text"])
        else:
            walk(node.get("items", []))
            titles = [a["title"] for a in node.get("actions", [])]
            if node.get("type") == "ActionSet" and titles:
                out.append(" ".join(f"[{t}]" for t in titles))
    walk(card["body"])
    out.append(" ".join(f"[{a['title']}]" for a in card.get("actions", [])))
    return "\n".join(line for line in out if line)


class Webhook(unittest.TestCase):
    SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

    @classmethod
    def setUpClass(cls):
        cls.heard, cls.serial = [], 0
        outer = cls

        class Tool(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                at, name = self.headers["webhook-timestamp"], self.headers["webhook-id"]
                good = outer.signature(name, at, body) in self.headers["webhook-signature"].split()
                self.send_response(204 if good else 401)
                self.end_headers()
                if good and name not in [n for n, _ in outer.heard]:
                    outer.heard.append((name, json.loads(body)))
        cls.server = ThreadingHTTPServer(("127.0.0.1", 0), Tool)
        cls.server.daemon_threads = True
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.stage = Stage("webhook", [
            "[channel.webhook]", f'url = "http://127.0.0.1:{cls.server.server_address[1]}/hook"',
            'secret_files = ["hook"]'], hook=cls.SECRET)

    @classmethod
    def tearDownClass(cls):
        cls.stage.end()
        cls.server.shutdown()
        cls.server.server_close()

    @classmethod
    def signature(cls, name, at, body):
        key = base64.b64decode(cls.SECRET.removeprefix("whsec_"))
        signed = hmac.new(key, f"{name}.{at}.".encode() + body, hashlib.sha256).digest()
        return "v1," + base64.b64encode(signed).decode()

    def told(self, request_id, kind):
        def found():
            mine = [m for _, m in self.heard if m["data"].get("request_id") == request_id]
            return next((m for m in reversed(mine) if m["type"] == kind), None)
        # A broker that was killed leaves the webhook to the next one after half a minute.
        return eventually(kind, found, 60)

    def decide(self, person, **fields):
        Webhook.serial += 1
        body = json.dumps(fields).encode()
        name, at = f"tool-{Webhook.serial}", str(int(time.time()))
        token = person.token_file.read_text()
        return call(self.stage.base, "POST", "/webhook/decisions", raw=body, headers={
            "Content-Type": "application/json", "Authorization": f"Bearer {token}",
            "webhook-id": name, "webhook-timestamp": at,
            "webhook-signature": self.signature(name, at, body)})

    def test_from_the_ask_to_the_credential(self):
        told = Transcript("webhook")
        demo, request_id = self.stage.demo, self.stage.ask("invoices")
        pending = self.told(request_id, "request.pending")
        told.step("the tool", "is told `request.pending`", shown(pending))

        def decision(message, word, **more):
            return {"to": message["data"]["from"], "decision": word, **message["data"]["handle"], **more}
        refused = self.decide(demo.alice, **decision(pending, "approve"))
        self.assertEqual((refused.status, refused.code), (403, "self_approval"))
        asks = self.decide(demo.bob, **decision(pending, "ask", text="which report?"))
        self.assertEqual(asks.status, 200, asks)
        self.assertEqual(asked(self.stage, request_id), "which report?")
        answered = self.told(request_id, "request.answered")
        told.step("the tool", "hands in bob's question, and is told `request.answered`", shown(answered))
        old = self.decide(demo.bob, **decision(pending, "approve"))
        self.assertEqual((old.status, old.code), (409, "not_seen"), old)
        self.stage.broker.kill()
        self.stage.start()
        narrowed = self.decide(demo.bob, **decision(answered, "narrow", ttl="300s", params={"rows": 4000}))
        self.assertEqual(narrowed.status, 200, narrowed)
        voted = self.told(request_id, "request.voted")
        told.step("the tool", "hands in that bob narrows and approves; the broker was restarted meanwhile",
                  shown(voted))
        votes = self.stage.votes(request_id)
        self.assertEqual([(v["human"], v["channel"]) for v in votes], [("bob", "webhook")])
        collected(self, self.stage, request_id)
        told.step("the tool", "is told `request.issued`", shown(self.told(request_id, "request.issued")))
        told.compare(self)


def shown(message):
    data = message["data"]
    card = data["card"]
    return "\n".join([
        f"type: {message['type']}", f"state: {data['state']}", f"card: {card['headline']}",
        f"says: {card['state']['sentence']}", *(f"narrowed: {n}" for n in card["state"]["narrowed"])])
