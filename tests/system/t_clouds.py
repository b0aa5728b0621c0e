"""The fake clouds judged by the vendors' own clients: Kubernetes, GitHub, Google, Azure; and a running broker
and sidecar at them: asked, approved, minted, used, revoked, refused, and killed before and after the mint."""

import base64
import json
import re
import unittest
from pathlib import Path
from urllib.parse import urlsplit

from chat import Fake
from harness import call, scratch, until
from peers import built, node
from stand import Proxy, Stand

ROOT = Path(__file__).resolve().parent.parent.parent


class Clouds(unittest.TestCase):
    def test_the_vendors_own_clients_speak_to_the_fakes(self):
        reason = node.prepare(ROOT, print)
        if reason:
            self.skipTest(reason)
        code, said = built.ignored(ROOT, "clouds")
        self.assertEqual(code, 0, said[-3000:])
        self.assertRegex(said, re.compile(r"^test result: ok\. [1-9]", re.M))


def scope(name, params, template, ttl=900):
    lines = "\n".join(f"params.{key} = {kind}" for key, kind in params.items())
    return f"""
[[scope]]
name = "cloud.{name}"
title = "Use {name}"
minter = "{name}"
ttl = {{ default_s = {ttl}, max_s = {max(ttl, 3600)} }}
{lines}
[scope.template]
{template}
"""


WORD = '{ type = "string", pattern = "[a-z][a-z0-9-]{0,20}", title = "What" }'
SCOPES = [
    scope("kubernetes", {"team": WORD},
          'namespace = "${team}"\nservice_account = "reader"\naudiences = ["https://data.example.com"]'),
    scope("github", {"repo": WORD},
          'installation = 12345\nrepositories = ["${repo}"]\npermissions = { contents = "read" }', 3600),
    scope("oauth", {"dataset": WORD},
          'audience = "https://reports.example.com"\nscopes = ["reports:${dataset}:read"]'),
    scope("gcp", {"bucket": '{ type = "s3-bucket" }', "prefix": '{ type = "s3-prefix" }'},
          'service_account = "reader@acme.iam.gserviceaccount.com"\n'
          'scopes = ["https://www.googleapis.com/auth/devstorage.read_only"]\n'
          '[[scope.template.boundary]]\nbucket = "${bucket}"\nprefix = "${prefix}"\n'
          'roles = ["roles/storage.objectViewer"]'),
    scope("azure", {"vault": WORD}, 'client_id = "11111111-2222-3333-4444-555555555555"\n'
          'scope = "https://${vault}.vault.azure.net/.default"', 5400),
]


def private(name, text):
    file = scratch(name)
    file.write_text(text)
    file.chmod(0o600)
    return file


class Life(unittest.TestCase):
    """Through a running broker and sidecar."""

    @classmethod
    def setUpClass(cls):
        cls.fake = Fake("clouds")
        cls.url = cls.fake.at["url"]
        cls.proxy = Proxy(urlsplit(cls.url).port)
        at = f"http://127.0.0.1:{cls.proxy.port}"
        key = cls.fake.at["app_key"]
        lines = "\n".join(key[n:n + 64] for n in range(0, len(key), 64))
        pem = private("app", f"-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n")
        provider = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/b"
        cls.stand = Stand([
            '\n[[minter]]\nname = "jwt-es256"\nkind = "jwt"\nalgorithm = "ES256"\n',
            f'[[minter]]\nname = "kubernetes"\nkind = "kubernetes"\naddress = "{at}"\n'
            f'token_file = "{private("sa", "own-kubernetes-token")}"\n',
            f'[[minter]]\nname = "github"\nkind = "github"\napi = "{at}"\napp = "4711"\n'
            f'private_key_file = "{pem}"\n',
            f'[[minter]]\nname = "oauth"\nkind = "oauth"\ntoken_endpoint = "{at}/token"\n'
            f'revocation_endpoint = "{at}/revoke"\nintrospection_endpoint = "{at}/introspect"\n'
            f'client_id = "grantwright"\nclient_secret_file = "{private("client", "client-secret")}"\n'
            'audience = "https://login.example.com"\n',
            f'[[minter]]\nname = "gcp"\nkind = "gcp"\nprovider = "{provider}"\nsts_endpoint = "{at}"\n'
            f'iam_credentials_endpoint = "{at}"\n',
            f'[[minter]]\nname = "azure"\nkind = "azure"\nauthority = "{at}"\n'
            'tenant = "66666666-7777-8888-9999-000000000000"\naudience = "api://AzureADTokenExchange"\n',
        ], SCOPES, asks=[f"cloud.{name}" for name in cls.PARAMS])

    @classmethod
    def tearDownClass(cls):
        for name, end in (("stand", "end"), ("proxy", "close"), ("fake", "end")):
            if hasattr(cls, name):
                getattr(getattr(cls, name), end)()

    PARAMS = {
        "kubernetes": {"team": "sales"}, "github": {"repo": "website"}, "oauth": {"dataset": "sales"},
        "gcp": {"bucket": "acme-exports", "prefix": "public/"}, "azure": {"vault": "payroll"},
    }
    #: The call that makes the credential.
    MAKES = {
        "kubernetes": b"/serviceaccounts/reader/token", "github": b"/access_tokens", "oauth": b"/token HTTP",
        "gcp": b":generateAccessToken", "azure": b"/oauth2/v2.0/token",
    }

    def granted(self, name):
        self.fake.do("lasts", seconds=3600 if name == "azure" else 600)
        reply, got = self.stand.granted(f"cloud.{name}", self.PARAMS[name])
        self.assertEqual(sorted(got), ["token"])
        self.stand.nowhere(got["token"])
        return reply, got["token"]

    def crashes(self, name):
        """Killed with the call under way: recorded as unknown, and never made again by asking again."""
        self.fake.do("lasts", seconds=3600 if name == "azure" else 600)
        scope, params, marker = f"cloud.{name}", self.PARAMS[name], self.MAKES[name]
        word = marker.decode().split(" ")[0]
        made = lambda: len(self.fake.do("calls", word=word))  # noqa: E731
        before = made()
        self.stand.killed(self.proxy, "before", marker, scope, params)
        self.assertEqual(made(), before, "it never reached the backend")
        request = self.stand.killed(self.proxy, "after", marker, scope, params, lambda: made() > before)
        self.assertEqual(made(), before + 1)
        self.granted(name)
        return request

    def ended(self, reply):
        code, out = self.stand.revoke(reply["lease_id"])
        self.assertEqual(code, 0, out)
        self.assertTrue(reply["revocable"])

    def endures(self, reply, token):
        """Said before, and by the revocation: it cannot be ended."""
        self.assertFalse(reply["revocable"])
        self.assertFalse(self.stand.lease(reply["lease_id"])["revocable"])
        _, out = self.stand.revoke(reply["lease_id"])
        self.assertIn(reply["expires_at"][:16], out)
        self.assertIn(token, self.fake.do("live"))

    def test_05_kubernetes(self):
        reply, token = self.granted("kubernetes")
        review = lambda: call(self.url, "POST", "/apis/authentication.k8s.io/v1/tokenreviews",  # noqa: E731
                              {"spec": {"token": token}}).json["status"]
        self.assertEqual(review()["user"]["username"], "system:serviceaccount:sales:reader")
        self.ended(reply)
        self.assertFalse(review()["authenticated"], "the API server refuses it")

    def test_08_kubernetes_killed(self):
        objects = self.fake.do("objects")
        request = self.crashes("kubernetes")
        # One object for the credential that was then granted; none for those that were lost.
        self.assertEqual(self.fake.do("objects"), objects + 1)
        self.assertIn("is gone", self.stand.event(request, "unknown")["detail"])

    def test_05_github(self):
        reply, token = self.granted("github")
        read = lambda: call(self.url, "GET", "/installation/repositories",  # noqa: E731
                            headers={"Authorization": f"Bearer {token}"}).status
        asked = json.loads(self.fake.do("calls", word="/access_tokens")[-1]["body"])
        self.assertEqual(asked, {"repositories": ["website"], "permissions": {"contents": "read"}})
        self.assertEqual(read(), 200)
        self.ended(reply)
        self.assertEqual(read(), 401)

    def test_08_github_killed(self):
        self.crashes("github")

    def test_05_oauth(self):
        reply, token = self.granted("oauth")
        active = lambda: call(self.url, "POST", "/introspect", raw=f"token={token}".encode()).json  # noqa: E731
        self.assertEqual(active(), {"active": True})
        self.ended(reply)
        self.assertEqual(active(), {"active": False})

    def test_08_oauth_killed(self):
        self.crashes("oauth")

    def test_05_gcp(self):
        reply, token = self.granted("gcp")
        self.assertIn(token, self.fake.do("live"))
        self.endures(reply, token)

    def test_08_gcp_killed(self):
        self.crashes("gcp")

    def test_05_azure(self):
        reply, token = self.granted("azure")
        claims = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        self.assertEqual(claims["appid"], "11111111-2222-3333-4444-555555555555")
        self.endures(reply, token)

    def test_08_azure_killed(self):
        self.crashes("azure")

    def test_05_released_by_its_agent_it_is_over_where_that_can_be(self):
        def works():
            if name == "kubernetes":
                return call(self.url, "POST", "/apis/authentication.k8s.io/v1/tokenreviews",
                            {"spec": {"token": token}}).json["status"]["authenticated"]
            return token in self.fake.do("live")
        for name in self.PARAMS:
            reply, token = self.granted(name)
            self.assertTrue(works(), name)
            done = self.stand.release(reply["request_id"])
            self.assertEqual(done["ended"], reply["revocable"], (name, done))
            self.assertEqual(works(), not reply["revocable"], name)
            if not done["ended"]:
                self.assertIn(reply["expires_at"][:16], done["effect"], "it says when it ends")

    def test_24_what_only_memory_can_end_is_not_said_to_end_after_a_restart(self):
        made = {name: self.granted(name)[0] for name in ("github", "kubernetes", "oauth")}
        able = lambda: {name for name, reply in made.items()  # noqa: E731
                        if self.stand.lease(reply["lease_id"])["revocable"]}
        self.assertEqual(able(), set(made))
        self.stand.kill()
        self.stand.start()
        self.assertEqual(able(), {"kubernetes"})
        _, out = self.stand.revoke(made["github"]["lease_id"])
        self.assertIn("it ends by itself at", out)
        until("the sidecar's stream", 30, lambda: call(
            self.stand.demo.env["GRANTWRIGHT_SIDECAR"], "GET", "/readyz").status == 200, 0.1)

    def test_07_a_definite_refusal_is_failed_and_nothing_is_delivered(self):
        for name, marker in self.MAKES.items():
            word = marker.decode().split(" ")[0]
            for status in (403, 429):
                self.fake.do("tell", word=word, say="status", status=status, text="{}")
                request = self.stand.approved(f"cloud.{name}", self.PARAMS[name])
                reply = self.stand.doors.get(request, wait="20s")
                self.fake.do("well")
                self.assertEqual((reply.status, reply.code), (502, "mint_failed"), (name, status, reply))
                self.assertEqual(self.stand.kinds(request)[-1], "failed")


if __name__ == "__main__":
    unittest.main()
