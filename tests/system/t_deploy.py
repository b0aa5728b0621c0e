"""What is shipped: every key of the reference configurations is read; units and scripts are sound."""

import json
import re
import shutil
import subprocess
import unittest
from pathlib import Path

from harness import GRANTWRIGHT, ROOT, SIDECAR, Process, call, clean_env, cli, scratch, until
from peers.ports import free_port

CONFIG = ROOT / "deploy" / "config"
UNITS = ROOT / "deploy" / "systemd"
RULES = ROOT / "deploy" / "rules"


def replaced(text, **keys):
    for key, value in keys.items():
        text, count = re.subn(rf"(?m)^(# )?{key} = .*$", f"{key} = {value}", text, count=1)
        assert count, f"no key `{key}`"
    return text


class Rules(unittest.TestCase):
    """What an operator tries before anything is in force, without a broker."""

    def test_cases_are_tried_and_what_is_otherwise_is_said(self):
        rules = scratch("rules")
        shutil.copytree(RULES, rules)
        zone = ("--zone", "Europe/Berlin")
        self.assertEqual(cli("policy", "test", rules, *zone), (0, "✓ 12 cases, all as wanted\n", ""))
        # In another zone it is another hour: the same moment is before work there.
        code, out, err = cli("policy", "test", rules, "--zone", "America/New_York")
        self.assertEqual((code, err), (1, ""), out)
        self.assertRegex(out, r"tests/company\.toml:\d+: to production on a Monday.*\n    → want ask, got deny: ")
        code, out, err = cli("policy", "test", rules, "--zone", "America/New_York", "--json")
        said = json.loads(out)
        self.assertEqual((code, said["ok"], len(said["cases"])), (1, False, 12))
        self.assertEqual([it["ok"] for it in said["cases"]].count(False), 2)

        file = rules / "tests" / "company.toml"
        file.write_text(file.read_text() + "quorom = 1\n")
        code, out, err = cli("policy", "test", rules, *zone)
        self.assertEqual((code, err), (1, ""))
        self.assertRegex(out, r"^tests/company\.toml:\d+: unknown field `quorom`, expected one of [^\n]*\n1 fault\n$")

        file.unlink()
        code, out, err = cli("policy", "test", rules, *zone)
        self.assertEqual((code, out, err), (2, "", "there is no `[[case]]` in `tests`\n"))

        (rules / "policy" / "more.cedar").write_text("permit (principal, action, resource)\n")
        code, out, err = cli("policy", "test", rules, *zone)
        self.assertEqual(code, 1)
        self.assertIn("more.cedar:", out)

    def test_the_schema_is_of_the_scopes(self):
        code, out, err = cli("policy", "schema", RULES)
        self.assertEqual((code, err), (0, ""))
        self.assertIn('    "rows"?: Long,\n', out)
        self.assertNotIn("customer", out, "a sensitive parameter is not for policies")
        code, said, err = cli("policy", "schema", RULES, "--json")
        self.assertEqual(json.loads(said)["schema"].strip(), out.strip())


class Broker(unittest.TestCase):
    """The reference file, with the paths of a folder of ours, runs a broker."""

    @classmethod
    def setUpClass(cls):
        cls.dir = scratch("init")
        code, out, err = cli("init", "--dir", cls.dir, "--operator", "erin", "--trust-domain",
                             "example.org", "--json")
        assert code == 0, out + err
        cls.made = json.loads(out)

    def config(self, **keys):
        text = (CONFIG / "broker.toml").read_text()
        file = self.dir / "reference.toml"
        file.write_text(replaced(text, **{
            "grpc": '"127.0.0.1:0"', "http": '"127.0.0.1:0"', "public_url": '"auto"',
            "url": f'"sqlite://{self.store()}"', "dir": '"keys"',
            "ready_file": f'"{self.dir}/reference.ready"', **keys}))
        return file

    def store(self):
        text = Path(self.made["config"]).read_text()
        return (self.dir / re.search(r'"sqlite://([^"]+)"', text)[1]).resolve()

    def own_files(self, file):
        """Every file that a line in force names is one of ours; those of comments are not there."""
        made = []

        def own(found):
            name = Path(found[2]).name
            mine = self.dir / f"own-{len(made)}-{name}"
            mine.write_text((self.dir / "keys" / "ca.pem").read_text() if name.endswith(".pem") else "x")
            mine.chmod(0o600)
            made.append(mine)
            return f'{found[1]}"{mine}"'
        text = re.sub(r'(?m)^([a-z_]+_file = )"(/etc/[^"]+)"$', own, file.read_text())
        # Nobody outside is called.
        file.write_text(text.replace("https://vault.example.com:8200", "https://127.0.0.1:1"))
        return made

    def test_the_reference_configuration_runs(self):
        file = self.config()
        self.assertGreaterEqual(len(self.own_files(file)), 3)
        broker = Process([GRANTWRIGHT, "broker", "--config", file])
        ready = self.dir / "reference.ready"

        def up():
            assert broker.code() is None, broker.said()
            return ready.exists()
        try:
            until("the broker", 20, up)
            http = json.loads(ready.read_text())["http"]
            self.assertEqual(call(f"http://{http}", "GET", "/healthz").status, 200)
            # Up, and honest: without a policy it would refuse everything.
            waits = call(f"http://{http}", "GET", "/readyz")
            self.assertEqual((waits.status, b"policy" in waits.body), (503, True), waits)
            # As the first operator does: the one-time link, then the reference rules.
            token = self.dir / "erin.token"
            code, out, err = cli("login", self.made["code"], "--console", f"http://{http}", "--out", token)
            self.assertEqual(code, 0, out + err)
            erin = {"GRANTWRIGHT_CONSOLE": f"http://{http}", "GRANTWRIGHT_HUMAN_TOKEN_FILE": str(token)}
            code, out, err = cli("policy", "apply", RULES, "--zone", "Europe/Berlin", "--json", env=erin)
            self.assertEqual(code, 0, out + err)
            applied = json.loads(out)
            self.assertEqual(applied["scopes"], ["customers.export", "deploy.run", "reports.read"])
            code, out, err = cli("policy", "check", RULES, "--zone", "Europe/Berlin", "--json")
            self.assertEqual(json.loads(out)["policy_set"], applied["policy_set"], out + err)
            self.assertEqual(call(f"http://{http}", "GET", "/readyz").status, 200)
            self.assertEqual(broker.term(), 0, broker.said())
        finally:
            broker.kill()

    def test_every_section_in_comments_is_understood(self):
        """With all of it in force, and one fault: it is the only one, beside an export to four places."""
        file = self.config(grpc='"nowhere"')
        text = re.sub(r"(?m)^# (\[+[a-z0-9_.]+\]+)$", r"\1", file.read_text())
        text = re.sub(r'(?m)^# ("?[a-z_-]+"? = \S.*)$', r"\1", text)
        file.write_text(text)
        code, out, err = cli("broker", "--config", file, timeout=20)
        self.assertEqual(code, 2, out + err)
        self.assertRegex(out + err, r"reference\.toml`:\s+listen\.grpc: `nowhere` [^\n]*:8443\s+"
                         r"export `siem`: want exactly one of [^\n]*\s*$")

    def test_an_unknown_key_is_refused_by_name(self):
        file = self.config()
        file.write_text("surprise = 1\n" + file.read_text())
        code, out, err = cli("broker", "--config", file, timeout=20)
        self.assertEqual(code, 2, out + err)
        self.assertIn("surprise", out + err)

    def test_every_fault_is_reported_at_once(self):
        file = self.config(grpc='"nowhere"', url='"mysql://x"', pending_ttl='"soon"')
        code, out, err = cli("broker", "--config", file, timeout=20)
        self.assertEqual(code, 2, out + err)
        for word in ("nowhere", "store.url", "pending_ttl"):
            self.assertIn(word, out + err)

    def test_every_key_of_the_code_is_in_the_reference(self):
        source = (ROOT / "crates/broker/src/config.rs").read_text() + "".join(
            file.read_text() for pattern in ("*/config.rs", "config/*.rs")
            for file in sorted((ROOT / "crates/broker/src").rglob(pattern)))
        reference = (CONFIG / "broker.toml").read_text()
        keys = set()
        for body in re.findall(r"(?:pub struct \w+|pub enum MinterSection) \{\n(.*?)\n\}", source, re.S):
            keys |= set(re.findall(r"(?m)^\s+(?:pub )?([a-z_]+): ", body))
        self.assertGreater(len(keys), 40)
        sections = {"listen", "store", "keys", "limits", "log", "minters", "witness", "witnessing",
                    "channel", "guards", "oidc", "exports", "file", "syslog", "webhook", "s3", "teams",
                    "slack", "groups", "conversations", "introspection", "login", "quiet", "revoke", "routing",
                    "shift"}
        for key in sorted(keys - sections):
            self.assertRegex(reference, rf"(?m)^(# )?{key} = ", f"`{key}` is not in broker.toml")

    def test_a_missing_or_open_key_stops_the_start(self):
        for name in sorted(p.name for p in (self.dir / "keys").iterdir()):
            # Certificates are public; a key of an algorithm that no minter uses is not read.
            # So it is with the authorities of issuers that only the reference configuration has.
            if name.endswith(".pem") or name == "jwt-es256.key" or name.startswith(("ssh-", "x509-")):
                continue
            key = self.dir / "keys" / name
            for label, change, back in (
                    ("open", lambda: key.chmod(0o644), lambda: key.chmod(0o600)),
                    ("absent", lambda: key.rename(f"{key}.away"),
                     lambda: Path(f"{key}.away").rename(key))):
                with self.subTest(f"{name} {label}"):
                    change()
                    try:
                        code, out, err = cli("broker", "--config", self.made["config"], timeout=20)
                    finally:
                        back()
                    self.assertEqual(code, 2, out + err)
                    self.assertIn(name, out + err)


class Sidecar(unittest.TestCase):
    def test_every_key_of_the_code_is_in_the_reference(self):
        source = (ROOT / "crates/sidecar/src/config.rs").read_text()
        reference = (CONFIG / "sidecar.toml").read_text()
        body = re.search(r"pub struct Config \{\n(.*?)\n\}", source, re.S)[1]
        # `source` is where the file lies, not a key of it.
        keys = set(re.findall(r"(?m)^\s+pub ([a-z_]+): ", body)) - {"source"}
        self.assertGreater(len(keys), 8)
        for key in keys:
            key = {"log_json": "log_format"}.get(key, key)
            self.assertRegex(reference, rf"(?m)^(# )?{key} = ", f"`{key}` is not in sidecar.toml")

    def test_an_unknown_key_is_refused_by_name(self):
        file = scratch("sidecar")
        file.write_text("surprise = 1\n" + (CONFIG / "sidecar.toml").read_text())
        done = subprocess.run([str(SIDECAR), "--config", str(file)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, env=clean_env(), timeout=20)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("surprise", done.stdout + done.stderr)


class Files(unittest.TestCase):
    def test_units_verify(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("no systemd-analyze here")
        units = sorted(UNITS.glob("*.service"))
        self.assertGreaterEqual(len(units), 2)
        folder = scratch("units")
        folder.mkdir()
        for unit in units:
            # The programs are not installed here; everything else is verified as it is.
            text = re.sub(r"(?m)^ExecStart=/\S+", "ExecStart=/bin/true", unit.read_text())
            (folder / unit.name).write_text(text)
        done = subprocess.run(["systemd-analyze", "verify", "--man=no",
                               *[str(folder / u.name) for u in units]],
                              capture_output=True, text=True, timeout=60)
        said = [l for l in done.stderr.splitlines() if any(u.name in l for u in units)]
        self.assertEqual((done.returncode, said), (0, []), done.stderr)

    def test_units_run_what_exists(self):
        for unit in UNITS.glob("*.service"):
            line = re.search(r"(?m)^ExecStart=(\S+) ?(.*)$", unit.read_text())
            name, words = Path(line[1]).name, line[2].split()
            self.assertIn(name, ("grantwright", "grantwright-sidecar"), unit.name)
            program = GRANTWRIGHT if name == "grantwright" else SIDECAR
            words = [w if w != words[-1] else "/no/such/file" for w in words]
            done = subprocess.run([str(program), *words], capture_output=True, text=True, timeout=20)
            # It understood the words, and missed the file.
            self.assertIn("/no/such/file", done.stderr, unit.name)

    def test_the_container_file_builds_what_exists(self):
        text = (ROOT / "deploy" / "Containerfile").read_text()
        # What it takes is what deploy/build makes.
        self.assertRegex(text, r"(?m)^RUN deploy/build$")
        taken = re.findall(r"/src/target/shipped/([a-z-]+) ", text)
        build = (ROOT / "deploy" / "build").read_text()
        made = re.findall(r'built\(.*"([a-z-]+)"\)', build)
        self.assertEqual(set(taken), set(made))
        self.assertEqual(set(taken), {"grantwright", "grantwright-sidecar"})
        # And what deploy/build wants is installed.
        wanted = re.search(r"\(Debian: ([^)]+)\)", build)[1].split()
        installed = re.search(r"apt-get install .*\\\n(.*)\\\n", text)[1].split()
        self.assertEqual(set(wanted) - set(installed), set())
        self.assertEqual(len(wanted), 3, wanted)
        self.assertRegex(text, r"(?m)^USER (?!root|0)")

    def test_the_readmes_links_exist(self):
        for page in ("README.md", "crates/README.md"):
            file = ROOT / page
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text()):
                if not target.startswith("http"):
                    self.assertTrue((file.parent / target).exists(), f"{page}: {target}")
