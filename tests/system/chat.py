"""What tests of chat share: the fakes as processes, a broker that knows them, people who link their
accounts, and a transcript of what everybody saw."""

import json
import os
import re
import subprocess
from urllib.parse import urlsplit

from harness import BIN, GRANTWRIGHT, ROOT, Demo, Process, call, clean_env, cli, until

FAKES = BIN / "examples" / "fakes"
TRANSCRIPTS = ROOT / "docs" / "transcripts"


class Fake:
    """The fake Slack, or the fake Bot Service, of `testkit`: one line asked, one line answered."""

    def __init__(self, which):
        self.child = subprocess.Popen([str(FAKES), which], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)
        self.at = json.loads(self.child.stdout.readline())

    def do(self, what, **more):
        self.child.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def end(self):
        self.child.stdin.close()
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()


def slack(fake, **more):
    """A broker that knows this fake Slack."""
    at = fake.at
    return Stage("slack", [
        "[channel.slack]", f'workspace = "{at["team"]}"', f'app = "{at["app"]}"',
        f'api = "{at["api"]}"', 'bot_token_file = "bot"', 'app_token_file = "app"',
        'signing_secret_file = "signing"',
        "[channel.slack.groups]", 'reviewers = "C111"', 'security = "C222"'],
        bot=at["bot"], app=at["app_token"], signing=at["secret"], **more)


class Stage:
    """A demo whose broker gave way to one with a channel, on the same ports; policies let votes come
    through it."""

    def __init__(self, channel, lines, limits=None, **secrets):
        self.demo = Demo()
        self.console = self.demo.env["GRANTWRIGHT_CONSOLE"]
        self.sessions = {}
        for file in (self.demo.dir / "policy").rglob("*.cedar"):
            text = file.read_text()
            file.write_text(text.replace('@channels("console,api")', f'@channels("console,api,{channel}")'))
        code, out, err = self.as_operator("policy", "apply", self.demo.dir)
        assert code == 0, out + err
        self.demo.kill_broker()
        text = (self.demo.dir / "broker.toml").read_text()
        port = urlsplit(self.console).port
        for key, value in (("grpc", urlsplit(self.demo.env["GRANTWRIGHT_BROKER"]).netloc),
                           ("http", f"127.0.0.1:{port}"), ("public_url", self.console)):
            text, count = re.subn(rf"(?m)^(\s*){key} = .*$", rf'\1{key} = "{value}"', text, count=1)
            assert count, key
        for key, value in (limits or {}).items():
            text, count = re.subn(rf"(?m)^(\s*){key} = .*$", rf"\1{key} = {value}", text, count=1)
            assert count, key
        for name, secret in secrets.items():
            file = self.demo.dir / name
            file.write_text(secret)
            file.chmod(0o600)
        self.config = self.demo.dir / f"{channel}.toml"
        self.config.write_text(text + "\n" + "\n".join(lines) + "\n")
        self.broker = None
        self.start()

    @property
    def base(self):
        return f"http://127.0.0.1:{urlsplit(self.console).port}"

    def start(self):
        self.broker = Process([GRANTWRIGHT, "broker", "--config", self.config], env=clean_env())

        def up():
            if self.broker.code() is not None:
                raise AssertionError(self.broker.said())
            try:
                return call(self.console, "GET", "/readyz").status == 200
            except OSError:
                return False
        until("the broker with a channel", 30, up)

    def end(self):
        self.broker.term()
        self.demo.__exit__()

    def as_operator(self, *arguments):
        return cli(*arguments, env=clean_env(
            GRANTWRIGHT_CONSOLE=self.console,
            GRANTWRIGHT_HUMAN_TOKEN_FILE=self.demo.dir / "operator.token"))

    def session(self, person):
        """The cookie of somebody who opened their own sign-in link."""
        if person not in self.sessions:
            token = (self.demo.dir / "operator.token").read_text().strip()
            made = call(self.console, "POST", f"/api/v1/people/{person}/link",
                        {"purpose": "login", "ttl": "1h"}, {"Authorization": f"Bearer {token}"})
            path = urlsplit(made.json["url"]).path
            reply = call(self.console, "GET", path)
            self.sessions[person] = reply.headers["set-cookie"].split(";")[0]
        return self.sessions[person]

    def confirm(self, person, url):
        """Somebody opens the page that links an account, signed in, and confirms."""
        path, cookie = urlsplit(url).path, self.session(person)
        page = call(self.console, "GET", path, headers={"Cookie": cookie, "Accept": "text/html"})
        assert page.status == 200, page
        csrf = re.search(rb'name="csrf" value="([^"]+)"', page.body)[1].decode()
        done = call(self.console, "POST", path, raw=f"csrf={csrf}".encode(), headers={
            "Cookie": cookie, "Origin": self.console, "Accept": "text/html",
            "Content-Type": "application/x-www-form-urlencoded"})
        assert done.status == 200, done

    def ask(self, dataset, rows=10_000, **fields):
        reply = self.demo.doors.ask("demo.export", {"dataset": dataset, "rows": rows},
                                    reason="nightly report for the sales team", **fields)
        assert reply.status == 202, reply
        return reply.json["request_id"]

    def votes(self, request_id):
        return self.demo.bob.request(request_id)["votes"]


class Transcript:
    """What everybody saw, without what differs from run to run; compared with docs/transcripts."""

    def __init__(self, channel):
        self.channel, self.lines = channel, []

    def step(self, who, what, *shown):
        self.lines.append(f"\n**{who}** {what}\n")
        for text in shown:
            self.lines += [f"    {line}" if line else "" for line in masked(text).splitlines()]

    def compare(self, test):
        text = f"# A request, from the ask to the credential: {self.channel}\n\n" \
            "Made by `tests/system/t_chat.py`; ids, hashes and moments are left out.\n" \
            + "\n".join(self.lines) + "\n"
        file = TRANSCRIPTS / f"{self.channel}.md"
        if os.environ.get("GRANTWRIGHT_BLESS"):
            TRANSCRIPTS.mkdir(exist_ok=True)
            file.write_text(text)
        test.maxDiff = None
        test.assertEqual(file.read_text(), text)


def masked(text):
    for pattern, mask in ((r"\br[0-9a-f]{32}\b", "‹request›"), (r"\bl[0-9a-f]{32}\b", "‹lease›"),
                          (r"\b[0-9a-f]{64}\b", "‹digest›"), (r"\bi-[0-9a-f]{10,}\b", "‹sidecar›"),
                          (r"\{\{(TIME|DATE)\([^)]*\)\}\}", "‹time›"), (r"localhost:\d+", "localhost"),
                          (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?Z| UTC)?", "‹time›"),
                          (r"\b\d\d:\d\d:\d\d UTC", "‹time›"), (r" on \d{4}-\d\d-\d\d", " on ‹day›"),
                          (r"\(now\)|\(in [^)]*\)|\([^()]* ago\)", "(…)"), (r"\buid:\d+\b", "uid:‹n›"),
                          (r"/link/[0-9a-f]+", "/link/‹code›"), (r"ends in \d+ (s|min)", "ends in …")):
        text = re.sub(pattern, mask, text)
    return text


def eventually(what, probe, seconds=20):
    return until(what, seconds, probe, step=0.05)
