"""Slack's own Python client against the fake: `slack_client.py API SECRET BODY TIMESTAMP SIGNATURE`.

Prints one line `ok …` for each thing that held; any other ending is a failure.
"""

import sys
import threading
import time

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.signature import SignatureVerifier
from slack_sdk.socket_mode import SocketModeClient
from slack_sdk.socket_mode.response import SocketModeResponse

api, secret, body, timestamp, signature = sys.argv[1:6]


def ok(what):
    print(f"ok {what}", flush=True)


def refused(error, call, **arguments):
    try:
        call(**arguments)
    except SlackApiError as e:
        assert e.response["error"] == error, (error, e.response.data)
        return
    raise AssertionError(f"not refused: {error}")


class At:
    def __init__(self, seconds):
        self.seconds = seconds

    def now(self):
        return self.seconds


def verifier(seconds, key=secret):
    return SignatureVerifier(key, clock=At(seconds))


now = float(timestamp)
assert verifier(now).is_valid(body, timestamp, signature)
assert verifier(now).generate_signature(timestamp=timestamp, body=body) == signature
assert not verifier(now).is_valid(body + " ", timestamp, signature)
assert not verifier(now, "other").is_valid(body, timestamp, signature)
assert not verifier(now + 301).is_valid(body, timestamp, signature)
assert not verifier(now - 301).is_valid(body, timestamp, signature)
ok("signatures: SignatureVerifier agrees, also on age")

web = WebClient(token="xoxb-fake", base_url=f"{api}/")
assert web.auth_test()["team_id"] == "T111"
words = [{"type": "rich_text", "elements": [
    {"type": "rich_text_section", "elements": [{"type": "text", "text": "hello"}]}]}]
sent = web.chat_postMessage(channel="C111", text="hello", blocks=words)
web.chat_update(channel="C111", ts=sent["ts"], text="hello again", blocks=words)
web.chat_postEphemeral(channel="C111", user="U1", text="alone")
assert web.users_info(user="U1")["user"]["team_id"] == "T111"
refused("message_not_found", web.chat_update, channel="C111", ts="1.1", text="x", blocks=words)
refused("channel_not_found", web.chat_postMessage, channel="general", text="x")
ok("the Web API answers WebClient")

long = [{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}]
refused("invalid_blocks", web.chat_postMessage, channel="C111", text="x", blocks=long)
refused("invalid_blocks", web.chat_postMessage, channel="C111", text="x", blocks=words * 51)
refused("invalid_auth", WebClient(token="xoxb-other", base_url=f"{api}/").chat_postMessage,
        channel="C111", text="x")
ok("bounds, scopes and tokens are enforced")

heard, answered = [], threading.Event()


def listen(client, request):
    heard.append(request)
    client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))
    answered.set()


socket = SocketModeClient(app_token="xapp-fake", web_client=web)
socket.socket_mode_request_listeners.append(listen)
socket.connect()
print("connected", flush=True)
assert answered.wait(20), "no envelope came"
assert heard[0].type == "interactive" and heard[0].payload["actions"][0]["action_id"] == "gw_approve"
time.sleep(0.3)
socket.close()
ok("SocketModeClient hears an envelope and acknowledges it")
