"""The official Python and TypeScript SDKs of the Model Context Protocol drive `grantwright mcp`, in both
generations of the protocol, over both of its transports and both of the sidecar's doors; the official
inspector's command line finds nothing to complain of."""

import asyncio
import json
import os
import socket
import subprocess
import tempfile
import time
import types
import unittest
from pathlib import Path

import httpx2
from mcp.client.client import Client  # the suite `python` brings it
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from harness import GRANTWRIGHT, ROOT, SCRATCH, Demo, Process, call, clean_env, is_shut, until
from peers import node

demo = doors = served = None
TOOLS = ["list_scopes", "request_credential", "wait_for_request", "answer_question",
         "release_credential"]
TCP = ("GRANTWRIGHT_SIDECAR", "GRANTWRIGHT_TOKEN_FILE")
SOCKET = ("GRANTWRIGHT_SIDECAR_SOCKET",)
WITH_NODE = (node.folder(ROOT) / "node_modules/@modelcontextprotocol/inspector").exists()


class Served:
    """`grantwright mcp --listen`: where it is, and its token."""

    def __init__(self):
        folder = Path(tempfile.mkdtemp(prefix="mcp-", dir=SCRATCH))
        ready, token = folder / "ready.json", folder / "token"
        self.process = Process([GRANTWRIGHT, "mcp", "--listen", "127.0.0.1:0", "--token-file", token,
                                "--ready-file", ready],
                               env=clean_env(**{name: demo.env[name] for name in TCP}))
        until("the server", 20, ready.exists)
        self.url = json.loads(ready.read_text())["url"]
        self.token_file, self.token = token, token.read_text()
        self.base = self.url.removesuffix("/mcp")

    def post(self, message, **headers):
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json",
                "Accept": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        raw = message if isinstance(message, bytes) else json.dumps(message).encode()
        return call(self.base, "POST", "/mcp", raw=raw,
                    headers={k: v for k, v in sent.items() if v is not None})


def setUpModule():
    global demo, doors, served
    demo = Demo()
    doors = demo.doors
    served = Served()


def tearDownModule():
    code = served.process.term()
    demo.__exit__()
    assert code == 0, served.process.said()


class NodeClient:
    """A TypeScript SDK, driven through tests/peers/mcp.mjs; looks like the Python SDK's client."""

    def __init__(self, sdk, **transport):
        self.told = {"sdk": sdk, **transport}
        self.waiting, self.told_progress, self.serial = {}, {}, 0

    async def __aenter__(self):
        self.child = await asyncio.create_subprocess_exec(
            "node", str(ROOT / "tests/peers/mcp.mjs"), str(node.folder(ROOT)),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 22)
        self.say(self.told)
        line = await asyncio.wait_for(self.child.stdout.readline(), 30)
        hello = json.loads(line)
        assert hello["connected"], hello
        self.protocol_version, self.instructions = hello["version"], hello["instructions"]
        self.server_info = types.SimpleNamespace(**hello["server"])
        self.reader = asyncio.ensure_future(self.read())
        return self

    async def __aexit__(self, *_):
        self.child.stdin.close()
        await asyncio.wait_for(self.child.wait(), 20)
        await self.reader

    def say(self, message):
        self.child.stdin.write(json.dumps(message).encode() + b"\n")

    async def read(self):
        while line := await self.child.stdout.readline():
            said = json.loads(line)
            if "progress" in said:
                it = said["progress"]
                await self.told_progress[said["id"]](it["progress"], it["total"], it["message"])
            elif not self.waiting[said["id"]].done():
                self.waiting[said["id"]].set_result(said)

    async def ask(self, method, progress_callback=None, **more):
        self.serial += 1
        number = self.serial
        self.waiting[number] = asyncio.get_running_loop().create_future()
        self.told_progress[number] = progress_callback
        self.say({"id": number, "method": method, "progress": progress_callback is not None, **more})
        try:
            said = await self.waiting[number]
        except asyncio.CancelledError:
            self.say({"cancel": number})
            raise
        assert "result" in said, said
        return said["result"]

    async def list_tools(self):
        tools = (await self.ask("tools/list"))["tools"]
        return types.SimpleNamespace(tools=[
            types.SimpleNamespace(name=it["name"], input_schema=it["inputSchema"]) for it in tools])

    async def call_tool(self, name, arguments, **more):
        result = await self.ask("tools/call", name=name, arguments=arguments, **more)
        return types.SimpleNamespace(
            is_error=result.get("isError", False), structured_content=result["structuredContent"],
            content=[types.SimpleNamespace(**it) for it in result["content"]])


class Story:
    """The same for each generation."""

    mode, names = None, TCP

    async def asyncSetUp(self):
        # Traces of every callback are for who looks for a fault.
        asyncio.get_running_loop().set_debug(False)

    def client(self):
        env = {name: demo.env[name] for name in self.names}
        server = StdioServerParameters(command=str(GRANTWRIGHT), args=["mcp"], env=env)
        quiet = open(os.devnull, "w")
        self.addCleanup(quiet.close)
        return Client(stdio_client(server, errlog=quiet), mode=self.mode)

    async def export(self, client, **more):
        arguments = {"scope": "demo.export", "params": {"dataset": doors.fresh(), "rows": 7},
                     "reason": "a test", **more}
        result = await client.call_tool("request_credential", arguments)
        self.assertFalse(result.is_error, result)
        self.assertEqual(result.structured_content["state"], "pending")
        self.assertIn("wait_for_request", result.content[0].text)
        return result.structured_content["request_id"]

    async def wait(self, client, request_id, seconds=20, **more):
        return await client.call_tool("wait_for_request",
                                      {"request_id": request_id, "seconds": seconds}, **more)

    async def after(self, seconds, does, *arguments, **named):
        await asyncio.sleep(seconds)
        reply = await asyncio.to_thread(does, *arguments, **named)
        self.assertEqual(reply.status, 200, reply)

    async def test_the_versions_and_the_tools(self):
        async with self.client() as client:
            self.assertEqual(client.protocol_version, self.version)
            self.assertEqual(client.server_info.name, "grantwright")
            self.assertIn("request_credential", client.instructions)
            tools = (await client.list_tools()).tools
            self.assertEqual([tool.name for tool in tools], TOOLS)
            for tool in tools:
                self.assertIs(tool.input_schema["additionalProperties"], False)
            listed = await client.call_tool("list_scopes", {})
            self.assertIn("demo.read", [s["name"] for s in listed.structured_content["scopes"]])

    async def test_a_routine_grant_and_its_release(self):
        async with self.client() as client:
            result = await client.call_tool("request_credential", {
                "scope": "demo.read", "params": {"dataset": doors.fresh()}, "ttl": "5m",
                "reason": "a test", "task": "T-1", "idempotency_key": doors.fresh("key")})
            self.assertFalse(result.is_error, result)
            body = result.structured_content
            self.assertEqual(body["state"], "granted")
            self.assertEqual(body["credential"]["token"].count("."), 2)
            self.assertNotIn(body["credential"]["token"], result.content[0].text)
            again = await self.wait(client, body["request_id"])
            self.assertEqual(again.structured_content["credential"], body["credential"])
            done = await client.call_tool("release_credential", {"request_id": body["request_id"]})
            self.assertFalse(done.is_error, done)
            self.assertIn(body["lease_id"], [e.get("lease_id") for e in
                                             demo.events(body["request_id"])])
            state = await asyncio.to_thread(doors.get, body["request_id"])
            self.assertNotIn("credential", state.json)

    async def test_a_wait_returns_the_credential_when_bob_approves(self):
        told = []

        async def progress(gone, total, message):
            told.append((gone, total, message))

        async with self.client() as client:
            request_id = await self.export(client)
            begun = time.monotonic()
            result, _ = await asyncio.gather(
                self.wait(client, request_id, 30, progress_callback=progress),
                self.after(7, demo.bob.approve, request_id))
            self.assertEqual(result.structured_content["state"], "granted")
            self.assertIn("credential", result.structured_content)
            self.assertLess(time.monotonic() - begun, 10)
            self.assertTrue(told, "no progress in 7 s")
            self.assertEqual(told, sorted(told))
            self.assertEqual({total for _, total, _ in told}, {30})

    async def test_a_wait_whose_time_is_up_is_pending(self):
        async with self.client() as client:
            request_id = await self.export(client)
            begun = time.monotonic()
            result = await self.wait(client, request_id, 1)
            self.assertLess(time.monotonic() - begun, 3)
            self.assertFalse(result.is_error, result)
            self.assertEqual(result.structured_content["state"], "pending")
            await client.call_tool("release_credential", {"request_id": request_id})
            self.assertEqual(demo.bob.request(request_id)["state"], "cancelled")

    async def test_a_wait_learns_of_a_deny(self):
        async with self.client() as client:
            request_id = await self.export(client)
            result, _ = await asyncio.gather(
                self.wait(client, request_id),
                self.after(0.5, demo.bob.deny, request_id, reason="not now"))
            self.assertEqual(result.structured_content["state"], "denied")
            self.assertIn("not now", result.structured_content["reason"])
            self.assertIn("denied", result.content[0].text)

    async def test_a_question_ends_the_wait_and_is_answered(self):
        async with self.client() as client:
            request_id = await self.export(client)
            result, _ = await asyncio.gather(
                self.wait(client, request_id),
                self.after(0.5, demo.bob.vote, "ask", request_id, text="which quarter?"))
            self.assertEqual(result.structured_content["question"]["text"], "which quarter?")
            self.assertIn("which quarter?", result.content[0].text)
            self.assertIn("answer_question", result.content[0].text)
            answered = await client.call_tool("answer_question", {"request_id": request_id,
                                                                  "text": "the second"})
            self.assertFalse(answered.is_error, answered)
            self.assertIn("the second", json.dumps(demo.bob.request(request_id)["questions"]))
            self.assertEqual(demo.bob.approve(request_id).status, 200)
            result = await self.wait(client, request_id)
            self.assertEqual(result.structured_content["state"], "granted")

    async def test_refusals_carry_the_problem(self):
        async with self.client() as client:
            for name, arguments, code in (
                ("request_credential", {"scope": "demo.drop-tables", "params": {},
                                        "reason": "a test"}, "denied"),
                ("request_credential", {"scope": "demo.read", "params": {"dataset": "d"},
                                        "ttl": "9h", "reason": "a test"}, "ttl_too_long"),
                ("wait_for_request", {"request_id": "no-such-request"}, None),
                ("list_scopes", {"everything": True}, "malformed"),
            ):
                result = await client.call_tool(name, arguments)
                self.assertIs(result.is_error, True, result)
                problem = result.structured_content
                for field in ("type", "title", "status", "code", "detail", "next"):
                    self.assertIn(field, problem)
                if code:
                    self.assertEqual(problem["code"], code)
                self.assertIn(problem["code"], result.content[0].text)

    async def test_a_cancelled_wait_leaves_the_request_and_the_session(self):
        async with self.client() as client:
            request_id = await self.export(client)
            waiting = asyncio.ensure_future(self.wait(client, request_id, 60))
            await asyncio.sleep(0.5)
            waiting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            result = await self.wait(client, request_id, 0)
            self.assertEqual(result.structured_content["state"], "pending")
            await client.call_tool("release_credential", {"request_id": request_id})


class OverHttp(Story):
    def client(self):
        http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {served.token}"}, timeout=90)
        self.addAsyncCleanup(http.aclose)
        return Client(streamable_http_client(served.url, http_client=http), mode=self.mode)


class OverNode(Story):
    over_http = True

    def client(self):
        if self.over_http:
            return NodeClient(self.sdk, url=served.url, token=served.token)
        return NodeClient(self.sdk, command=str(GRANTWRIGHT), args=["mcp"],
                          env={name: demo.env[name] for name in self.names})


class Stateless(Story, unittest.IsolatedAsyncioTestCase):
    mode, version = "auto", "2026-07-28"


class Handshake(Story, unittest.IsolatedAsyncioTestCase):
    mode, version, names = "legacy", "2025-11-25", SOCKET


class StatelessHttp(OverHttp, unittest.IsolatedAsyncioTestCase):
    mode, version = "auto", "2026-07-28"


class HandshakeHttp(OverHttp, unittest.IsolatedAsyncioTestCase):
    mode, version = "legacy", "2025-11-25"


@unittest.skipUnless(WITH_NODE, "no Node packages")
class TypeScriptHttp(OverNode, unittest.IsolatedAsyncioTestCase):
    sdk, version = "v2", "2026-07-28"


@unittest.skipUnless(WITH_NODE, "no Node packages")
class TypeScriptStdio(OverNode, unittest.IsolatedAsyncioTestCase):
    sdk, version, over_http = "v2", "2026-07-28", False


@unittest.skipUnless(WITH_NODE, "no Node packages")
class OlderTypeScriptHttp(OverNode, unittest.IsolatedAsyncioTestCase):
    sdk, version = "v1", "2025-11-25"


class Http(unittest.TestCase):
    """The transport by itself: who is let in, and that headers and body cannot disagree."""

    META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}

    def newest(self, method, **params):
        return {"jsonrpc": "2.0", "id": 7, "method": method, "params": {"_meta": self.META, **params}}

    def headers(self, method, **more):
        return {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": method, **more}

    def test_only_local_programs_with_the_token_are_let_in(self):
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        self.assertEqual(served.post(ping).status, 200)
        for status, headers in (
            (403, {"Origin": "http://127.0.0.1"}), (403, {"Origin": "null"}),
            (403, {"Host": "rebound.example"}), (403, {"X_Forwarded_For": "10.0.0.1"}),
            (401, {"Authorization": None}), (401, {"Authorization": "Bearer wrong"}),
            (401, {"Authorization": served.token}), (401, {"Authorization": f"Bearer {doors.token}"}),
            (415, {"Content_Type": "text/plain"}), (415, {"Content_Type": None}),
        ):
            self.assertEqual(served.post(ping, **headers).status, status, headers)
        self.assertEqual(served.post(b"{}" + b" " * (1 << 21)).status, 413)
        self.assertEqual(served.token_file.stat().st_mode & 0o777, 0o600)

    def test_there_is_one_method(self):
        for method in ("GET", "PUT", "DELETE"):
            reply = call(served.base, method, "/mcp",
                         headers={"Authorization": f"Bearer {served.token}"})
            self.assertEqual(reply.status, 405, method)

    def test_what_is_no_message_is_refused(self):
        for raw, code in ((b"{", -32700), (b"[]", -32600), (b'{"jsonrpc":"2.0","id":1}', -32600)):
            reply = served.post(raw)
            self.assertEqual((reply.status, reply.json["error"]["code"]), (400, code), raw)

    def test_headers_and_body_agree(self):
        good = served.post(self.newest("tools/list"), **self.headers("tools/list"))
        self.assertEqual((good.status, good.json["result"]["resultType"]), (200, "complete"))
        call_ = self.newest("tools/call", name="list_scopes", arguments={})
        named = self.headers("tools/call", Mcp_Name="list_scopes")
        self.assertEqual(served.post(call_, **named).status, 200)
        for message, headers in (
            (self.newest("tools/list"), {}),
            (self.newest("tools/list"), self.headers("tools/call")),
            (self.newest("tools/list"), self.headers("tools/list", MCP_Protocol_Version="2025-11-25")),
            (self.newest("tools/list"), {"MCP_Protocol_Version": "2026-07-28"}),
            (call_, self.headers("tools/call")),
            (call_, self.headers("tools/call", Mcp_Name="request_credential")),
            ({"jsonrpc": "2.0", "id": 7, "method": "tools/list"}, self.headers("tools/list")),
        ):
            reply = served.post(message, **headers)
            self.assertEqual((reply.status, reply.json["error"]["code"]), (400, -32020), headers)
        other = served.post({"jsonrpc": "2.0", "id": 7, "method": "tools/list"},
                            MCP_Protocol_Version="1999-01-01")
        self.assertEqual((other.status, other.json["error"]["code"]), (400, -32022))
        self.assertIn("2026-07-28", other.json["error"]["data"]["supported"])
        unknown = served.post(self.newest("tools/paint"), **self.headers("tools/paint"))
        self.assertEqual((unknown.status, unknown.json["error"]["code"]), (404, -32601))

    def test_a_client_that_takes_no_events_gets_json(self):
        reply = served.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                             "params": {"name": "list_scopes"}})
        self.assertEqual(reply.headers["content-type"], "application/json")
        self.assertFalse(reply.json["result"]["isError"])

    def test_an_older_session_begins_and_ends(self):
        hello = served.post({"jsonrpc": "2.0", "id": 1, "method": "initialize",
                             "params": {"protocolVersion": "2025-06-18", "capabilities": {}}})
        self.assertEqual(hello.json["result"]["protocolVersion"], "2025-06-18")
        session = hello.headers["mcp-session-id"]
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        self.assertEqual(served.post(note, Mcp_Session_Id=session).status, 202)
        self.assertEqual(served.post(ping, Mcp_Session_Id=session).status, 200)
        self.assertEqual(served.post(ping, Mcp_Session_Id="0" * 32).status, 404)
        ended = call(served.base, "DELETE", "/mcp", headers={
            "Authorization": f"Bearer {served.token}", "Mcp-Session-Id": session})
        self.assertEqual(ended.status, 204)
        self.assertEqual(served.post(ping, Mcp_Session_Id=session).status, 404)

    def test_28_connections_that_say_nothing_do_not_stay(self):
        at = ("127.0.0.1", int(served.base.rsplit(":", 1)[1]))
        lines = [socket.create_connection(at, timeout=30) for _ in range(300)]  # more than there are places
        self.addCleanup(lambda: [line.close() for line in lines])

        def is_let_in():
            try:
                return served.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}).status == 200
            except OSError:
                return False
        self.assertTrue(any(is_let_in() for _ in range(5)), "a newcomer, for whom the longest there leaves")
        until("the end of one beyond the places, and of the first", 60,
              lambda: is_shut(lines[-1]) and is_shut(lines[0]))
        until("a place", 60, is_let_in, 0.1)

    def test_who_hangs_up_gives_its_place_back(self):
        request_id = doors.pending()
        message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "wait_for_request", "arguments": {"request_id": request_id, "seconds": 600}}})
        for _ in range(80):  # more than there are places
            sock = socket.create_connection(("127.0.0.1", int(served.base.rsplit(":", 1)[1])))
            sock.sendall((f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {served.token}\r\n"
                          f"Content-Type: application/json\r\nAccept: text/event-stream\r\n"
                          f"Content-Length: {len(message)}\r\n\r\n{message}").encode())
            self.assertIn(b" 200 ", sock.recv(200))
            sock.close()
        until("a free place", 20, lambda: "error" not in served.post({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_scopes"}}).json)
        doors.cancel(request_id)


class Scopes(unittest.TestCase):
    """`list_scopes` says what is needed to plan."""

    def listed(self):
        reply = served.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                             "params": {"name": "list_scopes"}})
        return {it["name"]: it for it in reply.json["result"]["structuredContent"]["scopes"]}

    def test_each_scope_says_its_schema_who_decides_and_how_long_it_took(self):
        request_id = doors.pending()
        self.assertEqual(demo.bob.approve(request_id).status, 200)
        self.assertEqual(doors.get(request_id).json["state"], "granted")
        scopes = self.listed()
        schema = scopes["demo.export"]["params_schema"]
        self.assertEqual(sorted(schema["required"]), ["dataset", "rows"])
        self.assertEqual(schema["properties"]["rows"]["maximum"], 1_000_000)
        self.assertIs(schema["additionalProperties"], False)
        self.assertEqual(scopes["demo.read"]["approval"], {"people": "never"})
        self.assertEqual(scopes["demo.drop-tables"]["approval"], {"people": "denied"})
        asks = scopes["demo.escalate"]["approval"]
        self.assertEqual((asks["people"], asks["asks"][0]["quorum"]), ("always", 2))
        asks = scopes["demo.rotate-root"]["approval"]["asks"][0]
        self.assertEqual((asks["strength"], asks["groups"]), ("passkey", ["reviewers"]))
        self.assertNotIn("expected_wait_s", scopes["demo.read"])
        # The sidecar keeps a list for a minute, unless it is asked for what is not on it.
        doors.call("GET", "/aws/demo.nothing")
        self.assertGreaterEqual(self.listed()["demo.export"]["expected_wait_s"], 1)


@unittest.skipUnless(WITH_NODE, "no Node packages")
class Inspector(unittest.TestCase):
    def inspect(self, *arguments):
        done = subprocess.run(
            [str(node.folder(ROOT) / "node_modules/.bin/mcp-inspector"), "--cli", served.url,
             "--transport", "http", "--header", f"Authorization: Bearer {served.token}", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
            env=clean_env(HOME=str(SCRATCH)))
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        return json.loads(done.stdout)

    def test_its_command_line_lists_strictly_and_calls(self):
        listed = self.inspect("--method", "tools/list", "--strict")
        self.assertEqual([tool["name"] for tool in listed["tools"]], TOOLS)
        called = self.inspect("--method", "tools/call", "--tool-name", "request_credential",
                              "--tool-arg", "scope=demo.read", 'params={"dataset":"inspected"}',
                              "reason=a look")
        self.assertEqual(called["structuredContent"]["state"], "granted")


class Pipes(unittest.TestCase):
    def run_with(self, lines, **env):
        return subprocess.run([str(GRANTWRIGHT), "mcp"], input=lines, capture_output=True, text=True,
                              timeout=20, env=clean_env(**env))

    def test_standard_output_holds_messages_only_and_the_end_of_input_is_the_end(self):
        lines = ['{', '{"jsonrpc":"2.0","id":1,"method":"ping"}', '[]', 'x' * (1 << 21),
                 '{"jsonrpc":"2.0","method":"notifications/nothing"}']
        done = self.run_with("\n".join(lines), RUST_LOG="debug",
                             **{name: demo.env[name] for name in TCP})
        self.assertEqual(done.returncode, 0, done.stderr)
        said = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([m.get("error", {}).get("code") for m in said],
                         [-32700, None, -32600, -32700])
        self.assertNotIn(doors.token, done.stderr)

    def test_without_a_sidecar_it_says_what_to_set(self):
        done = self.run_with("")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("GRANTWRIGHT_SIDECAR", done.stderr)

    def test_the_token_goes_to_this_host_only(self):
        done = self.run_with("", GRANTWRIGHT_SIDECAR="http://sidecar.example:80",
                             GRANTWRIGHT_TOKEN_FILE=demo.env["GRANTWRIGHT_TOKEN_FILE"])
        self.assertEqual(done.returncode, 2, done.stderr)


class Token(unittest.IsolatedAsyncioTestCase):
    async def test_the_token_is_read_anew_since_it_changes_when_the_sidecar_starts(self):
        file = Path(tempfile.mkdtemp(dir=SCRATCH)) / "token"
        file.write_text("an-old-one")
        server = StdioServerParameters(command=str(GRANTWRIGHT), args=["mcp"], env={
            "GRANTWRIGHT_SIDECAR": doors.tcp, "GRANTWRIGHT_TOKEN_FILE": str(file)})
        with open(os.devnull, "w") as quiet:
            async with Client(stdio_client(server, errlog=quiet)) as client:
                refused = await client.call_tool("list_scopes", {})
                self.assertIs(refused.is_error, True)
                self.assertEqual(refused.structured_content["status"], 401)
                file.write_text(doors.token)
                self.assertFalse((await client.call_tool("list_scopes", {})).is_error)


del Story, OverHttp, OverNode
