"""Company sign-in and `on_behalf_of`, against a real OpenID provider (npm `oidc-provider`)."""

import base64
import hashlib
import html
import json
import os
import re
import subprocess
import unittest
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from harness import GRANTWRIGHT, ROOT, Demo, Process, call, clean_env, scratch, until
from peers import node
from peers.ports import free_port


class Provider:
    """The provider, listening."""

    def __init__(self, redirect, port=None, **more):
        self.port = port or free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.child = subprocess.Popen(
            ["node", str(ROOT / "tests" / "peers" / "oidc.mjs"), str(node.folder(ROOT))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.child.stdin.write(json.dumps({"port": self.port, "redirect": redirect, **more}))
        self.child.stdin.close()
        if "listening" not in self.child.stdout.readline():
            raise AssertionError("the provider did not start")

    def end(self):
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()


class Browser:
    """Cookies by host and port, no redirect followed by itself."""

    def __init__(self):
        self.jars = {}

    def get(self, url):
        parts = urlsplit(url)
        base = f"http://{parts.netloc}"
        jar = self.jars.setdefault(parts.netloc, {})
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        headers = {"Accept": "application/json"}
        if jar:
            headers["Cookie"] = "; ".join(f"{k}={v}" for k, v in jar.items())
        reply = Raw(base, path, headers)
        for name, value in reply.headers:
            if name.lower() == "set-cookie":
                for key, morsel in SimpleCookie(value).items():
                    if morsel["max-age"] == "0" or morsel.value == "":
                        jar.pop(key, None)
                    else:
                        jar[key] = morsel.value
        return reply

    def at_provider(self, url, who):
        """Signs `who` in there; gives the address of the callback."""
        for _ in range(10):
            if "/interaction/" in url and "as=" not in url:
                url += f"?as={who}"
            reply = self.get(url)
            if reply.status not in (302, 303):
                raise AssertionError(f"{url}: {reply.status} {reply.body[:300]}")
            base = f"http://{urlsplit(url).netloc}"
            url = reply.location if reply.location.startswith("http") else base + reply.location
            if "/oidc/callback" in url or "state=" in url and "code=" in url:
                return url
        raise AssertionError("the provider sends us round and round")


class Raw:
    def __init__(self, base, path, headers):
        import http.client
        parts = urlsplit(base)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            self.status, self.headers, self.body = answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    @property
    def location(self):
        return next(v for k, v in self.headers if k.lower() == "location")

    @property
    def json(self):
        return json.loads(self.body)


demo = provider = broker = None


def setUpModule():
    global demo, provider, broker
    reason = node.prepare(ROOT, print)
    if reason:
        raise unittest.SkipTest(reason)
    demo = Demo()
    console = demo.env["GRANTWRIGHT_CONSOLE"]
    provider = Provider(f"{console}/oidc/callback")
    # The demo's own broker gives way to one that knows the provider, on the same ports.
    demo.kill_broker()
    text = (demo.dir / "broker.toml").read_text()
    lines = []
    for line in text.splitlines():
        if line.strip().startswith("grpc ="):
            line = f'grpc = "{urlsplit(demo.env["GRANTWRIGHT_BROKER"]).netloc}"'
        if line.strip().startswith("http ="):
            line = f'http = "127.0.0.1:{urlsplit(console).port}"'
        if line.strip().startswith("public_url"):
            line = f'public_url = "{console}"'
        lines.append(line)
    lines += ["[oidc]", f'issuer = "{provider.issuer}"', 'client_id = "grantwright"',
              'scopes = ["profile", "groups"]', 'groups_claim = "groups"', 'first_login = "pending"',
              'max_staleness = "1h"', "[oidc.groups]", '"data-approvers" = "reviewers"']
    own = demo.dir / "oidc.toml"
    own.write_text("\n".join(lines) + "\n")
    own.chmod(0o600)
    broker = Process([GRANTWRIGHT, "broker", "--config", own], env=clean_env())
    until("the broker with a provider", 30, lambda: _ready(console))


def _ready(console):
    if broker.code() is not None:
        raise AssertionError(broker.said())
    try:
        return call(console, "GET", "/readyz").status == 200
    except OSError:
        return False


def tearDownModule():
    if broker:
        broker.term()
    if provider:
        provider.end()
    if demo:
        demo.__exit__()


def console():
    return demo.env["GRANTWRIGHT_CONSOLE"]


def operator(method, path, body=None):
    token = (demo.dir / "operator.token").read_text().strip()
    return call(console(), method, path, body, {"Authorization": f"Bearer {token}"})


def link(person, subject):
    reply = operator("POST", f"/api/v1/people/{person}/account", {"subject": subject})
    assert reply.status == 200, reply


def sign_in(who, browser=None, start="/oidc/start"):
    """The whole way; gives the browser and the callback's answer."""
    browser = browser or Browser()
    begun = browser.get(console() + start)
    assert begun.status == 303, (begun.status, begun.body)
    back = browser.at_provider(begun.location, who)
    return browser, browser.get(back), back


def id_token(who, client="another", redirect=None):
    """An ID token of `who` for `client`, as that client's own sign-in gets it."""
    verifier = base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
    redirect = redirect or f"{console()}/oidc/callback"
    ask = {"client_id": client, "response_type": "code", "scope": "openid", "redirect_uri": redirect,
           "code_challenge": challenge.decode(), "code_challenge_method": "S256", "state": "s"}
    back = Browser().at_provider(f"{provider.issuer}/auth?{urlencode(ask)}", who)
    code = parse_qs(urlsplit(back).query)["code"][0]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect,
            "client_id": client, "code_verifier": verifier}
    reply = call(provider.issuer, "POST", "/token", raw=urlencode(form).encode(),
                 headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert reply.status == 200, reply
    return reply.json["id_token"]


class SignIn(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        link("bob", "u-bob")

    def test_invariant_12_a_linked_account_signs_in_and_its_groups_are_a_leaf(self):
        browser, done, _ = sign_in("u-bob", start="/oidc/start?next=/session")
        self.assertEqual((done.status, done.location), (303, "/session"), done.body)
        session = browser.get(console() + "/session")
        self.assertEqual((session.json["human"], session.json["how"]), ("bob", "oidc"))
        claims = [e for e in demo.leaves() if e["kind"] == "groups_claimed"]
        self.assertEqual(claims[-1]["human"], "bob")
        self.assertEqual(claims[-1]["groups"], ["reviewers"], "mapped; `staff` means nothing here")
        self.assertEqual(claims[-1]["subject"], "u-bob")

    def test_the_sign_in_page_leads_there_and_back(self):
        page = call(console(), "GET", "/signin?next=%2Flog%3Foutcome%3Ddenied",
                    headers={"Accept": "text/html"})
        way = html.unescape(re.search(r'href="(/oidc/start[^"]*)"', page.body.decode())[1])
        _, done, _ = sign_in("u-bob", start=way)
        self.assertEqual((done.status, done.location), (303, "/log?outcome=denied"), done.body)

    def test_invariant_12_a_callback_counts_once_and_in_its_own_browser(self):
        browser = Browser()
        begun = browser.get(console() + "/oidc/start")
        kept = dict(browser.jars[urlsplit(console()).netloc])
        query = parse_qs(urlsplit(begun.location).query)
        self.assertEqual(query["code_challenge_method"], ["S256"])
        self.assertEqual(query["redirect_uri"], [f"{console()}/oidc/callback"])
        back = browser.at_provider(begun.location, "u-bob")
        stranger = Browser().get(back)
        self.assertEqual((stranger.status, stranger.json["code"]), (403, "oidc_not_begun"))
        twisted = Browser()
        _ = twisted.get(console() + "/oidc/start")
        self.assertEqual(twisted.get(back).json["code"], "oidc_not_begun", "another sign-in's state")
        mixed = browser.get(back + "&iss=https%3A%2F%2Fevil.example") if "iss=" not in back else None
        if mixed is not None:
            self.assertEqual(mixed.json["code"], "oidc_refused")
        self.assertEqual(browser.get(back).status, 303)
        self.assertEqual(browser.get(back).json["code"], "oidc_not_begun", "the cookie is gone")
        browser.jars[urlsplit(console()).netloc].update(kept)
        self.assertEqual(browser.get(back).status, 403, "nor with the cookie of then")

    def test_invariant_10_an_account_is_nobody_until_an_operator_says_whose_it_is(self):
        _, done, _ = sign_in("u-stranger")
        self.assertEqual((done.status, done.json["code"]), (403, "not_linked"))
        people = operator("GET", "/api/v1/people").json
        waiting = [w for w in people["waiting"] if w["subject"] == "u-stranger"]
        self.assertEqual([w["name"] for w in waiting], ["stranger"])
        # The e-mail address is bob's in every token of this provider: it makes nobody bob.
        self.assertEqual(demo.bob.call("POST", "/api/v1/people/bob/account",
                                       {"subject": "u-x"}).status, 403, "operators only")
        again = operator("POST", "/api/v1/people/carol/account", {"subject": "u-bob"})
        self.assertEqual((again.status, again.code), (400, "identity-once"))
        link("carol", "u-stranger")
        _, done, _ = sign_in("u-stranger")
        self.assertEqual(done.status, 303)
        self.assertFalse([w for w in operator("GET", "/api/v1/people").json["waiting"]
                          if w["subject"] == "u-stranger"])
        unlinked = operator("POST", "/api/v1/people/carol/account",
                            {"subject": "u-stranger", "unlink": True})
        self.assertEqual((unlinked.status, unlinked.json["accounts"]), (200, []))
        self.assertEqual(sign_in("u-stranger")[1].status, 403)

    def test_no_open_redirect(self):
        for odd in ("//evil.example", "https://evil.example", "/%5Cevil.example"):
            _, done, _ = sign_in("u-bob", start=f"/oidc/start?next={odd}")
            self.assertEqual(done.location, "/", odd)


class OnBehalfOf(unittest.TestCase):
    def ask(self, token, scope="demo.export", **params):
        body = {"scope": scope, "params": params or {"dataset": "orders", "rows": 10},
                "reason": "for a person", "on_behalf_of": token}
        return call(demo.env["GRANTWRIGHT_SIDECAR"], "POST", "/v1/credentials", body,
                    {"Authorization": f"Bearer {agent_token()}"})

    def test_invariant_10_the_proven_person_is_in_the_terms_and_never_eligible(self):
        link("bob", "u-bob")
        asked = self.ask(id_token("u-bob", "grantwright"), dataset="behalf", rows=10)
        self.assertEqual(asked.status, 202, asked)
        id_ = asked.json["request_id"]
        leaf = [e for e in demo.leaves() if e["kind"] == "requested" and e["request_id"] == id_][0]
        self.assertEqual(leaf["terms"]["on_behalf_of"], "bob")
        request = demo.carol.call("GET", f"/api/v1/requests/{id_}").json
        self.assertEqual(request["card"]["who"]["on_behalf_of"], "bob")
        digest = {"digest": request["digest"]}
        own = demo.bob.call("POST", f"/api/v1/requests/{id_}/approve", digest)
        self.assertEqual((own.status, own.code), (403, "on_behalf_of"))
        other = demo.carol.call("POST", f"/api/v1/requests/{id_}/approve", digest)
        self.assertEqual(other.status, 200, other)

    def test_invariant_15_what_is_not_proven_never_enters(self):
        good = id_token("u-bob", "grantwright")
        head, claims, signature = good.split(".")
        text = lambda part: base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        forged = json.loads(base64.urlsafe_b64decode(claims + "==="))
        flipped = ("A" if signature[9] != "A" else "B")
        bad = {
            "words": "bob",
            "another client's": id_token("u-bob", "another"),
            "another subject": f"{head}.{text({**forged, 'sub': 'u-carol'})}.{signature}",
            "a longer life": f"{head}.{text({**forged, 'exp': forged['exp'] + 9})}.{signature}",
            "no signature": f"{text({'alg': 'none'})}.{claims}.",
            "a shared secret": f"{text({'alg': 'HS256'})}.{claims}.{signature}",
            "a flipped letter": f"{head}.{claims}.{signature[:9]}{flipped}{signature[10:]}",
        }
        for what, token in bad.items():
            reply = self.ask(token, dataset="forged", rows=1)
            self.assertEqual((reply.status, reply.code), (400, "on_behalf_of_unverified"), what)
        nobody = self.ask(id_token("u-nobody", "grantwright"), dataset="forged", rows=1)
        self.assertEqual((nobody.status, nobody.code), (403, "on_behalf_of_unknown"))
        asked = [e for e in demo.leaves() if e["kind"] == "requested"
                 and e["terms"]["params"].get("dataset") == "forged"]
        self.assertEqual(asked, [])

    def test_every_allowed_algorithm_verifies(self):
        link("bob", "u-bob")
        kept = scratch("keys")
        for n, alg in enumerate(("RS256", "EdDSA")):
            global provider
            with self.subTest(alg):
                before = provider
                before.end()
                # Same issuer, at first new keys: they are read again when a token's key is unknown.
                provider = Provider(f"{console()}/oidc/callback", alg=alg, port=before.port, kept=str(kept))
                reply = until(f"{alg} is believed", 45, lambda: self.believed(alg, n), step=1)
                self.assertEqual(reply.status, 202, reply)

    def believed(self, alg, n):
        reply = self.ask(id_token("u-bob", "grantwright"), dataset=f"{alg.lower()}{n}", rows=10)
        return reply if reply.status == 202 else None

    def test_the_log_still_proves_itself(self):
        code, report = demo.cli_json("audit", "verify")
        self.assertEqual((code, report["ok"]), (0, True), report)


def agent_token():
    with open(demo.env["GRANTWRIGHT_TOKEN_FILE"], encoding="ascii") as file:
        return file.read().strip()
