"""Spoilt inputs at every door that reads evidence: refused with leaf and reason, never a crash, never believed;
what both verifiers read, by both.

A log that is cut, reordered, flipped, signed by another key, mixed with another, of another origin, dated
after now, too large or empty, as a folder, a bundle and at an address; receipts; checkpoints; what a
restore is given; files of a backend to compare. tests/system/t_audit.py spoils stores, t_tamper.py folders by
the thousand, t_log.py what a witness is asked.
"""

import base64
import datetime
import gzip
import http.server
import io
import json
import re
import shutil
import tarfile
import threading
import time
import unittest
from pathlib import Path

import evidence
from evidence import Log
from harness import Demo, copy_store, scratch
from t_reconcile import record

demo = log = foreign = store = None


def setUpModule():
    global demo, log, foreign, store
    if not evidence.second():
        raise unittest.SkipTest("the second verifier needs `cryptography`")
    demo = Demo()
    # Characters that end a line for some readers, though not in JSON.
    for reason in ("a test", "one\u2028two", "one\u0085two"):
        reply = demo.doors.ask("demo.read", {"dataset": demo.doors.fresh()}, reason=reason)
        assert reply.status == 200, reply
    log = exported(demo)
    store = copy_store(demo.store, scratch("store"))
    with Demo() as other:
        foreign = exported(other)


def tearDownModule():
    if demo:
        demo.__exit__()


def exported(of):
    place = scratch("tiles")
    code, out, err = of.cli("audit", "tiles", "--to", place)
    assert code == 0, out + err
    skey = (Path(of.dir) / "keys/log.skey").read_text()
    return Log.of_folder(place, of.env["GRANTWRIGHT_LOG_VKEY"], skey)


def run(*arguments, env=None, timeout=120):
    """Exit code, what was reported (JSON, or nothing), and all that was printed."""
    env = {"GRANTWRIGHT_CHECKPOINT": "", **(env or {})}
    code, out, err = demo.cli(*arguments, "--json", env=env, timeout=timeout)
    assert "panicked" not in err, err
    return code, json.loads(out) if out.startswith("{") else {}, out + err


def second(place, vkey, kept=None):
    """Exit code and report of the second verifier, in this process: what it does not catch fails the test."""
    from log import CannotVerify, opened, split_notes
    try:
        notes = (split_notes(kept.read_text()) or [""]) if kept else []
        report = evidence.second().Verifier(opened(str(place)), vkey, notes, now=int(time.time() * 1000)).run()
    except CannotVerify as e:
        return 2, {"said": str(e)}
    return 0 if report["ok"] else 1, report


def checkpoint(origin, size, root, skey):
    return evidence.sign(f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n", skey)


def spoilt():
    """What is wrong, the log, the exit code, and the rule of the first finding, where one is certain."""
    leaves, name = log.leaves(), log.vkey.split("+")[0]
    flipped = [bytes([leaves[5][0], leaves[5][1] ^ 1, *leaves[5][2:]])]
    yield "cut", log.tiles_of(leaves[:-1]), 1, "truncated"
    yield "reordered", log.tiles_of([*leaves[:4], leaves[5], leaves[4], *leaves[6:]]), 1, None
    yield "flipped", log.tiles_of(leaves[:5] + flipped + leaves[6:]), 1, None
    skey, _ = evidence.new_skey(name)
    yield "signed by another key", log.signed(leaves, skey), 2, None
    yield "leaves of another log", log.tiles_of(foreign.leaves()[:len(leaves)]), 1, None
    mixed = log.copy()
    mixed.files["checkpoint"] = foreign.files["checkpoint"]
    yield "the checkpoint of another log", mixed, 2, None
    other = log.copy()
    note = checkpoint("other.example/log", len(leaves), evidence.root(leaves), log.skey)
    other.files["checkpoint"] = note.encode()
    yield "of another origin", other, (1, 2), None
    late = json.loads(leaves[-1])
    late["at"] = "2091-01-01T00:00:00Z"
    yield "dated after now", log.signed([*leaves[:-1], evidence.canonical(late)]), 1, "time"
    large = log.copy()
    entries = next(path for path in large.files if path.startswith("tile/entries/"))
    large.files[entries] = b"x" * (17 << 20)
    yield "entries too large", large, (1, 2), None
    large = log.copy()
    large.files["checkpoint"] += b"x" * 70_000
    yield "a checkpoint too large", large, 2, None
    yield "nothing", Log({}, log.vkey), 2, None
    none = Log({"checkpoint": checkpoint(name, 0, b"\0" * 32, log.skey).encode()}, log.vkey)
    yield "no leaf", none, (1, 2), None


def folder_of(it):
    folder = scratch("log")
    folder.mkdir()
    for path, data in it.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def bundle_of(it):
    file = scratch("bundle.tar.gz")
    with tarfile.open(file, "w:gz") as out:
        for path, data in sorted({"format": b"grantwright-bundle/v1\n", **it.files}.items()):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return file


class Served:
    """Serves what `answer` gives for a path: a status, headers and chunks."""

    def __init__(self, answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, headers, chunks = answer(self.path.removeprefix("/log/"))
                self.send_response(status)
                for header in headers.items():
                    self.send_header(*header)
                self.end_headers()
                try:
                    for chunk in chunks:
                        self.wfile.write(chunk)
                except OSError:
                    pass

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_address[1]}/log"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def files(it):
    def answer(path):
        data = it.files.get(path)
        return (404, {}, []) if data is None else (200, {"Content-Length": str(len(data))}, [data])
    return answer


class Logs(unittest.TestCase):
    def judge(self, what, place, wanted, rule):
        for code, report, said in (run("audit", "verify", *place), (*second(place[1], log.vkey), "second")):
            self.assertIn(code, wanted if isinstance(wanted, tuple) else (wanted,), f"{what}: {said} {report}")
            self.assertFalse(report.get("ok"), f"{what}: {said}")
            if code == 1:
                first = report["findings"][0]
                self.assertTrue(isinstance(first["leaf"], int) and first["rule"] and first["detail"], said)
                self.assertEqual(first["rule"], rule or first["rule"], said)
            else:
                self.assertTrue(said.strip(), what)

    def test_what_is_whole_is_proven_at_each_door(self):
        with Served(files(log)) as url:
            for place in (("--dir", folder_of(log)), ("--bundle", bundle_of(log)), ("--store", url)):
                code, report, said = run("audit", "verify", *place)
                self.assertEqual((code, report["ok"]), (0, True), said)
                code, report = second(place[1], log.vkey)
                self.assertEqual((code, report.get("findings")), (0, []), report)

    def test_folders(self):
        for what, it, code, rule in spoilt():
            self.judge(what, ("--dir", folder_of(it)), code, rule)

    def test_bundles(self):
        for what, it, code, rule in spoilt():
            self.judge(what, ("--bundle", bundle_of(it)), code, rule)

    def test_addresses(self):
        for what, it, code, rule in spoilt():
            with Served(files(it)) as url:
                self.judge(what, ("--store", url), code, rule)

    def test_an_address_that_is_no_log(self):
        def endless():
            while True:
                yield b"x" * 65536
        whole = files(log)
        answers = {
            "a page for everything": lambda _: (200, {}, [b"<html>hello</html>"]),
            "only faults": lambda _: (500, {}, []),
            "a redirect": lambda _: (302, {"Location": "/log/checkpoint"}, []),
            "never an end": lambda path: (200, {}, endless()),
            "entries without an end": lambda path: (
                (200, {}, endless()) if path.startswith("tile/entries") else whole(path)),
            "less than it promised": lambda path: (200, {"Content-Length": "100000"}, [b"x"]),
        }
        for what, answer in answers.items():
            with Served(answer) as url:
                self.judge(what, ("--store", url), (1, 2), None)

    def test_without_a_key_nothing_is_proven(self):
        nameless = log.signed(log.leaves()[1:])
        code, report, said = run("audit", "verify", "--dir", folder_of(nameless),
                                 env={"GRANTWRIGHT_LOG_VKEY": ""})
        self.assertEqual((code, report.get("ok", False), "--vkey" in said), (2, False, True), said)
        code, report = second(folder_of(nameless), None)
        self.assertEqual((code, "no key was given" in report["said"]), (2, True), report)

    def test_what_else_reads_a_log(self):
        for what, it, _, _ in spoilt():
            place = folder_of(it)
            code, report, said = run("report", "soc2", "--dir", place)
            self.assertIn(code, (1, 2), f"{what}: {said}")
            self.assertFalse(report.get("verification", {}).get("ok"), f"{what}: {said}")
            # An export proves nothing: what it cannot read or misses it says, and gives nothing that is no event.
            code, out, err = demo.cli("audit", "export", "--format", "jsonl", "--dir", place)
            self.assertTrue(code in (0, 1, 2) and "panicked" not in err, f"{what}: {err}")
            self.assertTrue(code == 0 or err.strip(), what)
            missed = {"cut": 0, "flipped": 5, "entries too large": 0}.get(what)
            if missed is not None:
                self.assertEqual((code, f"leaf {missed} " in err), (1, True), f"{what}: {err}")
                file = scratch("export")
                code, _, err = demo.cli("audit", "export", "--format", "jsonl", "--dir", place, "--to", file)
                self.assertEqual((code, file.exists()), (1, False), f"{what}: {err}")
            for line in out.splitlines():
                json.loads(line)

    def test_texts_beside_the_leaves(self):
        file = scratch("texts.tar.gz")
        code, out, err = demo.cli("audit", "bundle", "--to", file, "--texts")
        self.assertEqual(code, 0, out + err)
        with tarfile.open(file) as archive:
            whole = Log({m.name: archive.extractfile(m).read() for m in archive}, log.vkey)
        text, *others = whole.files["texts/000"].split(b"\n")
        said = json.loads(text)
        for what, line, wanted in (
                ("as they are", text, 0), ("no JSON", b"{", 2), ("no object", b"[]", 2),
                ("other fields", b'{"a":1}', 2), ("no UTF-8", b"\xff\xfe", 2), ("deep", b"[" * 9000, 2),
                ("no salt", json.dumps({**said, "salt": "xx"}).encode(), 2),
                ("another text", json.dumps({**said, "text": said["text"] + "."}).encode(), 1)):
            it = whole.copy()
            it.files["texts/000"] = b"\n".join([line, *others])
            if wanted:
                self.judge(what, ("--bundle", bundle_of(it)), wanted, "commitment" if wanted == 1 else None)
                continue
            code, _, told = run("audit", "verify", "--bundle", bundle_of(it))
            self.assertEqual(code, 0, told)
            code, report = second(bundle_of(it), log.vkey)
            self.assertEqual((code, report.get("findings")), (0, []), report)

    def test_kept_checkpoints(self):
        place, note = folder_of(log), log.files["checkpoint"].decode()
        name, leaves = log.vkey.split("+")[0], log.leaves()
        skey, _ = evidence.new_skey(name)
        root = evidence.root(leaves)
        cases = {
            "nothing": ("", 2), "words": ("no checkpoint at all\n", 2), "cut": (note[:-20], 2),
            "flipped": (note.replace("\n\n", "\nx\n\n", 1), 2),
            "another log's": (foreign.files["checkpoint"].decode(), 2),
            "another key's": (checkpoint(name, len(leaves), root, skey), 2),
            "too large": ("x" * (17 << 20), 2),
            "one good, one not": (note + foreign.files["checkpoint"].decode(), 2),
            "another origin": (checkpoint("other.example/log", len(leaves), root, log.skey), 1),
            "of more leaves": (checkpoint(name, len(leaves) + 1, root, log.skey), 1),
            "another history": (checkpoint(name, len(leaves), b"\1" * 32, log.skey), 1),
        }
        file = scratch("kept")
        for what, (text, wanted) in cases.items():
            file.write_text(text)
            code, report, said = run("audit", "verify", "--dir", place, "--checkpoint", file)
            self.assertEqual((code, report.get("ok", False)), (wanted, False), f"{what}: {said}")
            self.assertEqual(second(place, log.vkey, file)[0], wanted, f"{what}, the second verifier")
        file.write_text(note)
        self.assertEqual(run("audit", "verify", "--dir", place, "--checkpoint", file)[0], 0)
        self.assertEqual(second(place, log.vkey, file)[0], 0)


class Receipts(unittest.TestCase):
    def test_spoilt_receipts_do_not_hold(self):
        leaves, name = log.leaves(), log.vkey.split("+")[0]

        def receipt(leaves, name=name, skey=log.skey, index=None):
            """Of the last of two leaves, or of one."""
            index = len(leaves) - 1 if index is None else index
            hashes = [base64.b64encode(evidence.root([leaf])).decode() for leaf in leaves]
            path = [] if len(leaves) == 1 else [hashes[1 - index]]
            note = checkpoint(name, len(leaves), evidence.root(leaves), skey)
            proof = "\n".join(["c2sp.org/tlog-proof@v1", f"index {index}", *path, "", note])
            return {"leaf": base64.b64encode(leaves[index]).decode(), "proof": proof}
        issued = next(leaf for leaf in leaves if b'"kind":"issued"' in leaf)
        two = [leaves[0], issued]
        file = scratch("receipt")

        def judge(value):
            file.write_text(value if isinstance(value, str) else json.dumps(value))
            return run("audit", "receipt", file)
        good = receipt(two)
        code, _, said = judge(good)
        self.assertEqual(code, 0, said)
        late = json.loads(issued)
        late["at"] = "2091-01-01T00:00:00Z"
        flipped = bytearray(base64.b64decode(good["leaf"]))
        flipped[10] ^= 1
        for what, value, wanted in (
                ("another key's", receipt(two, skey=evidence.new_skey(name)[0]), (1,)),
                ("another origin", receipt(two, name="other.example/log"), (1,)),
                ("dated after now", receipt([leaves[0], evidence.canonical(late)]), (1,)),
                ("another leaf's proof", {**good, "proof": receipt([leaves[1], issued])["proof"]
                                          .replace("index 1", "index 0")}, (1,)),
                ("a bit", {**good, "leaf": base64.b64encode(flipped).decode()}, (1,)),
                ("cut", {**good, "proof": good["proof"][:-10]}, (1, 2)),
                ("an empty log", {**good, "proof": good["proof"].replace("\n2\n", "\n0\n")}, (1, 2)),
                ("nothing", "", (2,)), ("too large", " " * (5 << 20), (2,))):
            code, report, said = judge(value)
            self.assertIn(code, wanted, f"{what}: {said}")
            self.assertFalse(report.get("ok"), said)


class Restores(unittest.TestCase):
    """What the ceremony is given, by an operator in a hurry or by somebody who wants the recovery key's word."""

    def setUp(self):
        self.dir = scratch("ceremony")
        self.dir.mkdir()
        keys = self.dir / "keys"
        shutil.copytree(Path(demo.dir) / "keys", keys)
        config = (Path(demo.dir) / "broker.toml").read_text()
        config, n = re.subn(r'(?m)^url = "sqlite://.*"$', f'url = "sqlite://{self.dir}/new.db"', config)
        self.assertEqual(n, 1)
        config, n = re.subn(r'(?ms)(^\[keys\]\n(?:#[^\n]*\n)*)dir = "[^"]*"$', rf'\1dir = "{keys}"', config)
        self.assertEqual(n, 1, config[:800])
        self.config = self.dir / "broker.toml"
        self.config.write_text(config)
        self.recovery = Path(demo.dir) / "recovery.key"

    def ceremony(self, backup, *more):
        code, report, said = run("restore", "--config", self.config, "--backup", backup,
                                 "--recovery-key", self.recovery, *more)
        return code, report, said

    def refused(self, what, backup, *more):
        code, report, said = self.ceremony(backup, *more)
        self.assertEqual((code, report.get("ok", False)), (2, False), f"{what}: {said}")
        self.assertTrue(said.strip(), what)
        self.assertFalse((self.dir / "new.db").exists(), what)
        self.assertFalse((self.dir / "keys/log.skey.epoch-1").exists(), what)

    def test_spoilt_backups_begin_no_epoch(self):
        whole, file = Path(store).read_bytes(), self.dir / "backup.db"
        spoilt = {"nothing": b"", "words": b"not a database at all" * 100,
                  "cut": whole[:len(whole) // 2 // 4096 * 4096]}
        for kind, other in ((b'"kind":"human_set"', b'"kind":"human_sat"'),
                            (b'"operator":true', b'"operator":tru1'), (b'"kind":"opened"', b'"kind":"openee"')):
            self.assertIn(kind, whole)
            spoilt[kind] = whole.replace(kind, other)
        for what, data in spoilt.items():
            file.write_bytes(data)
            self.refused(what, file, "--no-checkpoint")
        self.refused("absent", self.dir / "none.db", "--no-checkpoint")
        with Demo() as other:
            self.refused("another log's", copy_store(other.store, scratch("other")), "--no-checkpoint")

    def test_spoilt_checkpoints_begin_no_epoch(self):
        name, leaves = log.vkey.split("+")[0], log.leaves()
        note, size, file = log.files["checkpoint"].decode(), log.size, self.dir / "kept"
        skey, _ = evidence.new_skey(name)
        for what, text in {
                "nothing": "", "words": "no checkpoint\n", "cut": note[:-20],
                "another log's": foreign.files["checkpoint"].decode(),
                "another key's": checkpoint(name, size, evidence.root(leaves), skey),
                "another origin": checkpoint("other.example/log", size, evidence.root(leaves), log.skey),
                "another history": checkpoint(name, size, b"\1" * 32, log.skey),
                "two histories": "".join(checkpoint(name, size + 9000, bytes([n]) * 32, log.skey) for n in (1, 2)),
                "too large": "x" * (17 << 20)}.items():
            file.write_text(text)
            self.refused(what, store, "--checkpoint", file)
        code, _, said = run("restore", "--config", self.config, "--backup", store, "--recovery-key", self.recovery)
        self.assertEqual((code, "--checkpoint" in said), (2, True), said)
        for text in ("", "PRIVATE+KEY+x", evidence.new_skey("demo.grantwright.example/recovery")[0], log.skey):
            self.recovery = self.dir / "recovery.key"
            self.recovery.unlink(missing_ok=True)
            self.recovery.touch(mode=0o600)
            self.recovery.write_text(text)
            self.refused("another recovery key", store, "--no-checkpoint")
        # And what is sound does begin one.
        self.recovery = Path(demo.dir) / "recovery.key"
        file.write_text(note)
        code, report, said = self.ceremony(store, "--checkpoint", file)
        self.assertEqual((code, report.get("ok")), (0, True), said)


class Compared(unittest.TestCase):
    """`reconcile`, both kinds of files: nothing compared is nothing that agrees."""

    def test_spoilt_files_of_a_backend(self):
        now = datetime.datetime.now(datetime.timezone.utc)
        trail = record("ASIAOFOTHERS00000000", "x", now, agent="", bucketName="demo", key="x")
        trail["userIdentity"]["arn"] = "arn:aws:sts::123456789012:assumed-role/others/x"
        late = {**trail, "eventTime": "2091-01-01T00:00:00Z"}
        entry = {"time": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "type": "response", "auth": {},
                 "request": {"id": "r", "operation": "read", "path": "sys/health"}, "response": {}}
        later = {**entry, "time": "2091-01-01T00:00:00Z"}
        for kind, good, after in (("cloudtrail", trail, late), ("vault", entry, later)):
            line = json.dumps(good).encode() + b"\n"
            packed = gzip.compress(line * 50)
            flipped = bytearray(packed)
            flipped[len(flipped) // 2] ^= 0x10
            file = scratch("file")

            def judge(data, *more):
                file.write_bytes(data)
                return run("reconcile", kind, file, *more)
            for data in (line, packed):
                code, report, said = judge(data)
                self.assertEqual((code, report["malformed"]), (0, 0), said)
            for what, data, wanted in (
                    ("nothing", b"", (2,)), ("only white space", b"\n\n", (2,)), ("cut", packed[:-20], (2,)),
                    ("flipped", bytes(flipped), (2,)), ("no text", b"\xff\xfe\0" * 50 + b"\n", (2,)),
                    ("words", b"no json at all\n", (2,)), ("no events", b"{}\n" * 5, (2,)),
                    ("a line too long", b'{"a":"' + b"x" * (5 << 20) + b'"}\n' + line, (2,)),
                    ("one that is none among others", line + b'{"time":1}\n' + line, (1, 2)),
                    ("dated after now", line + json.dumps(after).encode() + b"\n", (1,))):
                code, report, said = judge(data)
                self.assertIn(code, wanted, f"{kind}, {what}: {said}")
                self.assertFalse(report.get("ok"), f"{kind}, {what}: {said}")
            # A log without leaves is nothing to compare with.
            code, report, said = judge(line, "--dir", folder_of(Log({}, log.vkey)))
            self.assertEqual((code, report.get("ok", False)), (2, False), said)
            state = scratch("state")
            for text in ("", "{", "[]", json.dumps({"origin": foreign.vkey.split("+")[0] + "x"})):
                state.write_text(text)
                code, report, said = judge(line, "--state", state)
                self.assertEqual((code, report.get("ok", False)), (2, False), said)
