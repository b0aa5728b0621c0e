"""A small proxy in front of a real peer: remembers what was sent, and can misbehave on request."""

import http.client
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl


class Recorder:
    """Forwards every POST to 127.0.0.1:`port`. `mode`: pass, refuse (a definite no), lose (the peer
    acts, its answer is cut off), wide (the answer outlives what was asked)."""

    def __init__(self, port):
        self.port, self.mode, self.calls = port, "pass", []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                recorder.handle(self)

            do_GET = do_POST

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def named(self, action):
        return [form for form in self.calls if form.get("Action") == action]

    def handle(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        self.calls.append(form)
        mode = self.mode if form.get("Action") == "AssumeRole" else "pass"
        if mode == "refuse":
            text = (b'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error>'
                    b"<Type>Sender</Type><Code>AccessDenied</Code><Message>not allowed</Message>"
                    b"</Error><RequestId>0</RequestId></ErrorResponse>")
            return self.answer(handler, 403, {"Content-Type": "text/xml"}, text)
        peer = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {k: v for k, v in handler.headers.items()
                   if k.lower() not in ("connection", "transfer-encoding")}
        peer.request(handler.command, handler.path, body, headers)
        answer = peer.getresponse()
        text = answer.read()
        peer.close()
        if mode == "lose":
            # Reset, not closed: nothing of the answer arrives.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
            handler.connection.close()
            return None
        if mode == "wide":
            at = text.index(b"<Expiration>") + len(b"<Expiration>")
            text = text[:at] + b"2099" + text[at + 4:]
        return self.answer(handler, answer.status,
                           {"Content-Type": answer.getheader("Content-Type", "text/xml")}, text)

    @staticmethod
    def answer(handler, status, headers, text):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)
