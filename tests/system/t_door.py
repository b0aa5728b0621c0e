"""The sidecar's door: who may come in, and what is malformed."""

import http.client
import json
import os
import socket
import subprocess
import sys
import unittest
from urllib.parse import urlsplit

from harness import Demo, call

demo = doors = None


def setUpModule():
    global demo, doors
    demo = Demo()
    doors = demo.doors


def tearDownModule():
    demo.__exit__()


OPEN = ["/healthz", "/readyz", "/metrics"]
# Every door behind the guard: method and path.
GUARDED = [
    ("POST", "/v1/credentials"), ("GET", "/v1/requests/none"), ("DELETE", "/v1/requests/none"),
    ("POST", "/v1/requests/none/answer"), ("GET", "/aws/aws.s3-read?bucket=demo&prefix=public/"),
    ("GET", "/no-such-door"),
]
GOOD = {"scope": "demo.read", "params": {"dataset": "guard"}, "reason": "a test"}


def body_for(method):
    return GOOD if method == "POST" else None


def raw(data, timeout=10):
    """Bytes as they are, on one TCP connection; the status and all that was answered."""
    parts = urlsplit(doors.tcp)
    with socket.create_connection((parts.hostname, parts.port), timeout=timeout) as s:
        try:
            s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Answered before the end of what was sent.
        got = b""
        try:
            while chunk := s.recv(65536):
                got += chunk
        except ConnectionResetError:
            pass
    if not got.startswith(b"HTTP/1.1 "):
        return None, got
    return int(got[9:12]), got


def post(text, extra=""):
    data = text if isinstance(text, bytes) else text.encode()
    head = (f"POST /v1/credentials HTTP/1.1\r\nHost: {urlsplit(doors.tcp).netloc}\r\n"
            f"Authorization: Bearer {doors.token}\r\nContent-Type: application/json\r\n{extra}"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n").encode()
    return raw(head + data)


class Tokens(unittest.TestCase):
    def test_open_doors_want_none(self):
        for path in OPEN:
            self.assertEqual(call(doors.tcp, "GET", path).status, 200, path)

    def test_every_other_door_wants_one(self):
        for method, path in GUARDED:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "wrong"},
                            {"Authorization": ""}, {"Authorization": "Bearer "},
                            {"Authorization": "Basic " + doors.token},
                            {"Authorization": "Bearer " + doors.token[:-1]},
                            {"Authorization": "Bearer " + doors.token + "x"}):
                with self.subTest(f"{method} {path} {headers}"):
                    reply = call(doors.tcp, method, path, body_for(method), headers)
                    self.assertEqual(reply.status, 401, reply)

    def test_bearer_and_bare_both_open(self):
        for value in (f"Bearer {doors.token}", doors.token):
            reply = call(doors.tcp, "POST", "/v1/credentials", GOOD, {"Authorization": value})
            self.assertEqual(reply.status, 200, reply)

    def test_the_aws_token_opens_only_aws(self):
        for value in (f"Bearer {doors.aws_token}", doors.aws_token):
            for method, path in GUARDED[:4]:
                with self.subTest(f"{method} {path}"):
                    reply = call(doors.tcp, method, path, body_for(method),
                                 {"Authorization": value})
                    self.assertIn(reply.status, (401, 403), reply)
            reply = call(doors.tcp, "GET", GUARDED[4][1], headers={"Authorization": value})
            self.assertNotIn(reply.status, (401, 404), reply)

    def test_the_agents_token_opens_aws_too(self):
        reply = doors.call("GET", GUARDED[4][1])
        self.assertNotIn(reply.status, (401, 404), reply)

    def test_a_persons_token_is_not_the_agents(self):
        reply = call(doors.tcp, "POST", "/v1/credentials", GOOD,
                     {"Authorization": f"Bearer {demo.bob.token_file.read_text()}"})
        self.assertEqual(reply.status, 401, reply)

    def test_two_authorization_headers_are_not_one(self):
        status, got = raw((f"GET /v1/requests/none HTTP/1.1\r\nHost: {urlsplit(doors.tcp).netloc}\r\n"
                           f"Authorization: Bearer wrong\r\nAuthorization: Bearer {doors.token}\r\n"
                           "Connection: close\r\n\r\n").encode())
        self.assertIn(status, (400, 401, 403), got)


class Guard(unittest.TestCase):
    BAD = [
        {"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"}, {"Host": "[::1].evil"}, {"Host": "10.0.0.1"},
        {"Host": "0.0.0.0"},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost"},
        {"Forwarded": "for=1.2.3.4"}, {"X-Forwarded-For": "1.2.3.4"},
        {"X-Forwarded-Host": "x"}, {"X-Forwarded-Proto": "https"}, {"X-Forwarded-Port": "1"},
        {"X-Real-IP": "1.2.3.4"}, {"x-forwarded-for": ""},
    ]

    def test_refuses_foreign_hosts_origins_and_forwarding_everywhere(self):
        for method, path in GUARDED:
            for bad in self.BAD:
                with self.subTest(f"{method} {path} {bad}"):
                    reply = doors.call(method, path, body_for(method), bad)
                    self.assertEqual(reply.status, 403, reply)

    def test_guards_the_open_doors_too(self):
        for path in OPEN:
            for bad in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
                with self.subTest(f"{path} {bad}"):
                    self.assertEqual(call(doors.tcp, "GET", path, headers=bad).status, 403)

    def test_guards_the_unix_socket(self):
        for bad in ({"Origin": "http://evil.example"}, {"X-Forwarded-For": "1.2.3.4"}):
            reply = call(doors.socket, "POST", "/v1/credentials", GOOD, bad)
            self.assertEqual(reply.status, 403, reply)

    def test_loopback_names_are_not_foreign(self):
        port = urlsplit(doors.tcp).port
        for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
            reply = doors.call("POST", "/v1/credentials", GOOD, {"Host": host})
            self.assertEqual(reply.status, 200, reply)

    def test_refuses_a_missing_or_double_host(self):
        for hosts in ("", f"Host: {urlsplit(doors.tcp).netloc}\r\nHost: evil.example\r\n"):
            status, got = raw((f"GET /v1/requests/none HTTP/1.1\r\n{hosts}"
                               f"Authorization: Bearer {doors.token}\r\n"
                               "Connection: close\r\n\r\n").encode())
            self.assertIn(status, (400, 403), got)


class UnixSocket(unittest.TestCase):
    def test_the_same_user_needs_no_token(self):
        reply = call(doors.socket, "POST", "/v1/credentials", GOOD)
        self.assertEqual(reply.status, 200, reply)

    @unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
    def test_another_user_is_refused(self):
        # Even where every folder on the way lets them in.
        folder = os.path.dirname(doors.socket)
        modes = []
        while folder != "/":
            modes.append((folder, os.stat(folder).st_mode))
            os.chmod(folder, 0o755)
            folder = os.path.dirname(folder)
        mode = os.stat(doors.socket).st_mode
        os.chmod(doors.socket, 0o777)
        script = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(5)\n"
                  "s.connect(sys.argv[1])\n"
                  "b=b'{\"scope\":\"demo.read\",\"params\":{\"dataset\":\"guard\"},\"reason\":\"x\"}'\n"
                  "s.sendall(b'POST /v1/credentials HTTP/1.1\\r\\nHost: localhost\\r\\n'\n"
                  "b'Content-Type: application/json\\r\\nConnection: close\\r\\n'\n"
                  "b'Content-Length: %d\\r\\n\\r\\n' % len(b) + b)\n"
                  "print(s.recv(65536).decode())")
        try:
            done = subprocess.run(
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                 "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable,
                 "-c", script, doors.socket], capture_output=True, text=True, timeout=20)
        finally:
            os.chmod(doors.socket, mode)
            for folder, mode in modes:
                os.chmod(folder, mode)
        self.assertNotIn("granted", done.stdout)
        if done.stdout:
            self.assertRegex(done.stdout, r"^HTTP/1.1 40[13]", done.stderr)
        else:
            # Closed without a word is a refusal too; that the script could not run is none.
            self.assertRegex(done.stderr + "empty", "Reset|BrokenPipe|empty")
            self.assertNotRegex(done.stderr, "PermissionError|ModuleNotFound|command not found")


class Malformed(unittest.TestCase):
    def bad(self, label, text, want=400, extra="", code=None):
        with self.subTest(label):
            status, got = post(text if isinstance(text, (str, bytes)) else json.dumps(text), extra)
            self.assertEqual(status, want, got[:800])
            problem = json.loads(got.partition(b"\r\n\r\n")[2])
            for field in ("type", "title", "status", "code", "detail", "next"):
                self.assertIn(field, problem, problem)
            self.assertEqual(problem["status"], want)
            self.assertRegex(got.lower(), rb"content-type: application/problem\+json")
            if code:
                self.assertEqual(problem["code"], code, problem)
            return problem

    def test_a_good_ask_passes_so_that_the_bad_ones_mean_something(self):
        status, got = post(json.dumps(GOOD))
        self.assertEqual(status, 200, got)

    def test_not_json_at_all(self):
        for label, text in [("empty", ""), ("words", "hello"), ("array", "[]"), ("null", "null"),
                            ("string", '"x"'), ("cut", json.dumps(GOOD)[:-1]),
                            ("trailing", json.dumps(GOOD) + "{}"), ("two", json.dumps(GOOD) * 2),
                            ("not UTF-8", b'{"scope":"demo.read\xff"}'),
                            ("lone surrogate", json.dumps(GOOD).replace("a test", "\\ud800")),
                            ("comment", json.dumps(GOOD)[:-1] + ",/*x*/}"),
                            ("deep", '{"params":' * 200 + "1" + "}" * 200),
                            ("NaN", json.dumps(GOOD).replace('"guard"', "NaN")),
                            ("BOM", b"\xef\xbb\xbf" + json.dumps(GOOD).encode())]:
            self.bad(label, text)

    def test_unknown_missing_and_duplicate_fields(self):
        self.bad("unknown field", {**GOOD, "approver": "bob"})
        self.bad("unknown field state", {**GOOD, "state": "granted"})
        for name in ("scope", "params", "reason"):
            self.bad(f"missing {name}", {k: v for k, v in GOOD.items() if k != name})
        text = json.dumps(GOOD)
        self.bad("duplicate field", text[:-1] + ',"scope":"demo.read"}')
        self.bad("duplicate parameter", text.replace('"dataset": "guard"',
                                                     '"dataset":"guard","dataset":"guard"'))
        self.bad("duplicate by escape", text[:-1] + ',"sc\\u006fpe":"demo.read"}')

    def test_wrong_types(self):
        for label, change in [("scope", {"scope": 1}), ("scope null", {"scope": None}),
                              ("params list", {"params": []}), ("params null", {"params": None}),
                              ("reason", {"reason": 1}), ("ttl number", {"ttl": 900}),
                              ("task", {"task": {}}), ("key", {"idempotency_key": 1}),
                              ("on_behalf_of", {"on_behalf_of": 1}),
                              ("param number", {"params": {"dataset": 1}}),
                              ("param null", {"params": {"dataset": None}}),
                              ("param bool", {"params": {"dataset": True}}),
                              ("param list", {"params": {"dataset": ["guard"]}}),
                              ("param object", {"params": {"dataset": {}}})]:
            self.bad(label, {**GOOD, **change})

    def test_parameters(self):
        self.bad("unknown parameter", {**GOOD, "params": {"dataset": "guard", "limit": 1}})
        self.bad("missing parameter", {**GOOD, "params": {}})
        export = {"scope": "demo.export", "reason": "a test"}
        for label, rows in [("negative", -1), ("too many", 1_000_001), ("text", "10"),
                            ("float", 1.5), ("huge", 10**30), ("bool", True), ("null", None)]:
            self.bad(f"rows {label}", {**export, "params": {"dataset": "guard", "rows": rows}})
        self.bad("rows exponent", json.dumps(
            {**export, "params": {"dataset": "guard", "rows": 777}}).replace("777", "1e3"))
        self.bad("parameter of a scope without any",
                 {"scope": "demo.rotate-root", "params": {"x": 1}, "reason": "a test"})
        for value in ("", "A", "-a", ".a", "_a", "a b", "a/b", "a*", "a?", "a,b", "a\n", "ä",
                      "a" * 65, "a\u200b", "../a", "${x}", "a\u0000"):
            self.bad(f"dataset {value!r}", {**GOOD, "params": {"dataset": value}})

    def test_buckets_and_prefixes(self):
        good = {"bucket": "demo", "prefix": "public/"}
        for bucket in ("", "ab", "a" * 64, "Demo", "de_mo", "-demo", "demo-", ".demo", "de..mo",
                       "192.168.1.1", "demo/x", "demo*", "xn--demo", "demo-s3alias", "d?mo"):
            self.bad(f"bucket {bucket!r}", {"scope": "aws.s3-read", "reason": "a test",
                                            "params": {**good, "bucket": bucket}})
        for prefix in ("", "/", "public", "/public/", "public//", "a//b/", "./", "../", "a/../b/",
                       "a/./b/", "a*/", "a?/", "a b/", "a,b/", "ä/", "${aws:username}/",
                       "a" * 200 + "/", "public/x"):
            self.bad(f"prefix {prefix!r}", {"scope": "aws.s3-read", "reason": "a test",
                                            "params": {**good, "prefix": prefix}})

    def test_idempotency_keys(self):
        for key in ("", "a" * 65, "a b", "a/b", "ä", "a\n", "a:b"):
            self.bad(f"body key {key!r}", {**GOOD, "idempotency_key": key})
        for key in ("a" * 65, "a b", "a/b"):
            self.bad(f"header key {key!r}", GOOD, extra=f"Idempotency-Key: {key}\r\n")
        self.bad("two that differ", {**GOOD, "idempotency_key": "one"},
                 extra="Idempotency-Key: two\r\n")

    def test_lifetimes(self):
        for ttl in ("", "0s", "0m", "-5m", "+5m", "15", "m", "15d", "15 m", " 15m", "15m ", "1.5m",
                    "1h30m", "15M", "1_0m", "\u0661\u0665m", "99999999999999999999999h", "0x10s",
                    "1e2s"):
            self.bad(f"ttl {ttl!r}", {**GOOD, "ttl": ttl})

    def test_lifetimes_beyond_the_bounds_name_the_bound(self):
        problem = self.bad("too long", {**GOOD, "ttl": "16m"}, code="ttl_too_long")
        self.assertRegex(problem["detail"] + problem["next"], "15 ?m|900 ?s|15 min")
        self.bad("much too long", {**GOOD, "ttl": "1h"}, code="ttl_too_long")
        problem = self.bad("too short for STS", {
            "scope": "aws.s3-read", "params": {"bucket": "demo", "prefix": "public/"},
            "reason": "a test", "ttl": "5m"}, code="ttl_too_short")
        self.assertRegex(problem["detail"] + problem["next"], "15 ?m|900 ?s|15 min")

    def test_unknown_scope_and_request(self):
        self.bad("scope", {**GOOD, "scope": "demo.nothing"}, want=404)
        for method, path, body in [("GET", "/v1/requests/no-such-request", None),
                                   ("DELETE", "/v1/requests/no-such-request", None),
                                   ("POST", "/v1/requests/no-such-request/answer", {"text": "x"})]:
            reply = doors.call(method, path, body)
            self.assertEqual(reply.status, 404, reply)
        self.assertEqual(doors.call("GET", "/aws/aws.nothing?bucket=demo&prefix=a/").status, 404)

    def test_unknown_doors_and_methods(self):
        self.assertEqual(doors.call("GET", "/v2/credentials").status, 404)
        self.assertIn(doors.call("GET", "/v1/credentials").status, (404, 405))
        self.assertIn(doors.call("PUT", "/v1/requests/x").status, (404, 405))

    def test_waits(self):
        request_id = doors.pending()
        for wait in ("61s", "-1s", "x", "", "1", "1d"):
            reply = doors.get(request_id, wait)
            self.assertEqual(reply.status, 400, (wait, reply))
        self.assertEqual(doors.get(request_id, "0s").status, 202)
        doors.cancel(request_id)

    def test_answers(self):
        request_id = doors.pending()
        for body in ({}, {"text": 1}, {"text": ""}, {"text": "x", "by": "bob"}, []):
            reply = doors.call("POST", f"/v1/requests/{request_id}/answer", body)
            self.assertEqual(reply.status, 400, (body, reply))
        doors.cancel(request_id)

    def test_aws_queries(self):
        for query in ("", "bucket=demo", "bucket=demo&prefix=a/&x=1",
                      "bucket=demo&bucket=demo&prefix=a/", "bucket=demo&prefix=a", "bucket=%&prefix=a/",
                      "bucket=demo&prefix=%ff/"):
            with self.subTest(query):
                reply = doors.call("GET", f"/aws/aws.s3-read?{query}")
                self.assertEqual(reply.status, 400, reply)
                self.assertTrue(reply.json["code"] and reply.json["message"], reply)

    def test_too_large(self):
        self.bad("body", json.dumps({**GOOD, "reason": "x" * 5_000_000}), want=413)
        # An announced length is enough to refuse.
        parts = urlsplit(doors.tcp)
        status, got = raw((f"POST /v1/credentials HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                           f"Authorization: Bearer {doors.token}\r\n"
                           "Content-Length: 99999999999\r\nConnection: close\r\n\r\n{").encode())
        self.assertEqual(status, 413, got[:300])
        status, got = raw((f"GET /v1/requests/none HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                           f"Authorization: Bearer {doors.token}\r\nX-Fill: {'x' * 200_000}\r\n"
                           "Connection: close\r\n\r\n").encode())
        self.assertEqual(status, 431, got[:300])
        many = "".join(f"X-{n}: y\r\n" for n in range(2000))
        status, got = raw((f"GET /v1/requests/none HTTP/1.1\r\nHost: {parts.netloc}\r\n{many}"
                           "Connection: close\r\n\r\n").encode())
        self.assertEqual(status, 431, got[:300])

    def test_reasons_are_bounded(self):
        self.bad("empty reason", {**GOOD, "reason": ""})
        status, got = post(json.dumps({**GOOD, "reason": "x" * 20_000}))
        self.assertIn(status, (400, 413), got[:300])

    def test_smuggling_is_refused(self):
        parts = urlsplit(doors.tcp)
        head = (f"POST /v1/credentials HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                f"Authorization: Bearer {doors.token}\r\n")
        for label, lines in [("length and chunked", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
                             ("two lengths", "Content-Length: 5\r\nContent-Length: 6")]:
            with self.subTest(label):
                status, got = raw((head + lines + "\r\nConnection: close\r\n\r\n0\r\n\r\n").encode())
                self.assertEqual(status, 400, got[:300])


class Survives(unittest.TestCase):
    def test_still_serves_after_all_of_it(self):
        at, lines = urlsplit(doors.tcp), []
        for junk in (b"\0" * 1000, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0"):
            lines.append(socket.create_connection((at.hostname, at.port), timeout=10))
            self.addCleanup(lines[-1].close)
            lines[-1].sendall(junk)
        # While they are there, and when they are gone.
        self.assertEqual(doors.ask("demo.read", {"dataset": doors.fresh()}).status, 200)
        for line in lines:
            line.close()
        self.assertEqual(doors.ask("demo.read", {"dataset": doors.fresh()}).status, 200)
