"""The log outside the broker: tiles, bundles and addresses, two verifiers of ours, Go's readers, receipts
and witnesses."""

import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from harness import (GRANTWRIGHT, ROOT, SCRATCH, Demo, Process, alive, call, cli, copy_store, scratch,
                     until)
from peers.ports import free_port
import evidence
from peers import golang

demo = doors = None
past = {}
tiles = bundle = None


def setUpModule():
    global demo, doors, tiles, bundle
    demo = Demo()
    doors = demo.doors
    past.update(evidence.rich_past(demo))
    tiles, bundle = scratch("tiles"), scratch("bundle")
    code, out, err = demo.cli("audit", "tiles", "--to", tiles)
    assert code == 0, out + err
    code, out, err = demo.cli("audit", "bundle", "--to", bundle, "--texts")
    assert code == 0, out + err


def tearDownModule():
    demo.__exit__()


def second(*arguments):
    done = subprocess.run(["python3", ROOT / "tests/system/stored.py", *map(str, arguments), "--json"],
                          capture_output=True, text=True, timeout=60)
    try:
        return done.returncode, json.loads(done.stdout)
    except ValueError:
        raise AssertionError(f"{done.returncode} {done.stdout} {done.stderr}")


def answers(base):
    try:
        return call(base, "GET", "/checkpoint").status == 200
    except OSError:
        return False


def key():
    return ["--vkey", demo.env["GRANTWRIGHT_LOG_VKEY"]]


class Places(unittest.TestCase):
    """One log, wherever it lies, is proven by both verifiers."""

    def test_a_store_tiles_an_address_and_a_bundle_are_proven_alike(self):
        kept = ["--checkpoint", demo.env["GRANTWRIGHT_CHECKPOINT"]]
        for flag, place in (("--store", demo.env["GRANTWRIGHT_STORE"]), ("--dir", tiles),
                            ("--store", demo.env["GRANTWRIGHT_LOG"]), ("--bundle", bundle)):
            with self.subTest(str(place)):
                # The sidecar's checkpoint may be newer than what was exported.
                old = [] if place in (tiles, bundle) else kept
                code, report = demo.cli_json("audit", "verify", flag, place, *old,
                                             env={"GRANTWRIGHT_CHECKPOINT": ""})
                self.assertEqual((code, report["ok"], report["findings"]), (0, True, []), report)
                if evidence.second():
                    code, other = second(place, *key(), *old)
                    self.assertEqual((code, other["ok"], other["findings"]), (0, True, []), other)
                    self.assertEqual(other["requests"], report["requests"])

    def test_an_export_over_an_earlier_one_is_brought_up_to_date(self):
        doors.ask("demo.read", {"dataset": doors.fresh()})
        again = scratch("again")
        for _ in range(2):
            code, done = demo.cli_json("audit", "tiles", "--to", again)
            self.assertEqual(code, 0, done)
            doors.ask("demo.read", {"dataset": doors.fresh()})
        code, report = demo.cli_json("audit", "verify", "--dir", again,
                                     env={"GRANTWRIGHT_CHECKPOINT": ""})
        self.assertEqual((code, report["leaves"]), (0, done["leaves"]), report)

    def test_the_bundle_explains_itself_and_holds_no_secret(self):
        folder = scratch("unpacked")
        folder.mkdir()
        shutil.unpack_archive(bundle, folder, "gztar")
        self.assertIn("grantwright audit verify --bundle", (folder / "README.txt").read_text())
        self.assertIn(demo.env["GRANTWRIGHT_LOG_VKEY"], (folder / "keys.txt").read_text())
        text = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
        self.assertNotIn(demo.bob.token_file.read_bytes(), text)
        self.assertNotIn((Path(demo.dir) / "keys/log.skey").read_bytes().strip(), text)

    def test_nothing_is_verified_by_default(self):
        empty = scratch("empty")
        empty.mkdir()
        junk = empty.parent / "junk"
        junk.write_bytes(b"not a bundle" * 100)
        for arguments in (("--dir", empty), ("--dir", "/no/such/folder"), ("--bundle", "/no/such"),
                          ("--bundle", junk), ("--bundle", empty), ("--store", "http://127.0.0.1:9/log"),
                          ("--store", "ftp://x/log")):
            code, out, err = demo.cli("audit", "verify", *arguments, "--json")
            self.assertEqual(code, 2, (arguments, out, err))

    def test_spoilt_folders_and_bundles_are_refused_with_leaf_and_reason(self):
        def spoil(change):
            folder = scratch("spoilt")
            shutil.copytree(tiles, folder)
            change(folder)
            code, report = demo.cli_json("audit", "verify", "--dir", folder,
                                         env={"GRANTWRIGHT_CHECKPOINT": ""})
            self.assertIn(code, (1, 2), report)
            return code, report

        def at(folder, pattern):
            return next(p for p in sorted(folder.rglob(pattern)) if p.is_file())
        entries = next((tiles / "tile/entries").rglob("*.p/*"), None) or at(tiles, "entries/*")
        relative = entries.relative_to(tiles)

        def cut(folder):
            (folder / relative).write_bytes(entries.read_bytes()[:-40])
        code, report = spoil(cut)
        self.assertEqual((code, report["findings"][0]["rule"]), (1, "truncated"), report)
        code, report = spoil(lambda f: (f / relative).unlink())
        self.assertEqual((code, report["findings"][0]["leaf"]), (1, 0), report)
        code, report = spoil(lambda f: shutil.rmtree(f / "tile/0"))
        self.assertEqual((code, report["findings"][0]["rule"]), (1, "tile"), report)
        code, report = spoil(lambda f: shutil.rmtree(f / "blob"))
        self.assertEqual((code, report["findings"][0]["rule"]), (1, "blob"), report)
        code, report = spoil(lambda f: (f / "checkpoint").unlink())
        self.assertEqual(code, 2, report)
        big = b"x" * (17 << 20)
        code, report = spoil(lambda f: (f / relative).write_bytes(big))
        self.assertEqual(code, 1, report)
        raw = bundle.read_bytes()
        middle = len(raw) // 2
        for spoilt in (raw[:-20], raw[:middle] + bytes([raw[middle] ^ 0xff]) + raw[middle + 1:]):
            file = scratch("spoilt").parent / "b.tar.gz"
            file.write_bytes(spoilt)
            code, out, err = demo.cli("audit", "verify", "--bundle", file, "--json")
            self.assertEqual(code, 2, out + err)

    def test_a_leaf_from_the_future_is_found(self):
        log = evidence.Log.of_folder(tiles, demo.env["GRANTWRIGHT_LOG_VKEY"],
                                     (Path(demo.dir) / "keys/log.skey").read_text())
        last = max(i for i, e in enumerate(log.events()) if e["kind"] == "requested")
        leaves = log.leaves()[:last]
        leaf = json.loads(leaves[-1])
        leaf["at"] = "2091-01-01T00:00:00Z"
        leaves[-1] = evidence.canonical(leaf)
        folder = scratch("future")
        for path, data in log.signed(leaves).files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        code, report = demo.cli_json("audit", "verify", "--dir", folder, env={"GRANTWRIGHT_CHECKPOINT": ""})
        self.assertEqual(code, 1, report)
        self.assertIn([last - 1, "time"], [[f["leaf"], f["rule"]] for f in report["findings"]])


class Specified(unittest.TestCase):
    """docs/log-format.md and the vectors are enough for a second verifier."""

    def setUp(self):
        if not evidence.second():
            self.skipTest("the second verifier needs `cryptography`")
        import leaf
        self.leaf = leaf

    def vectors(self, name):
        return json.loads((ROOT / f"crates/domain/tests/vectors/{name}.json").read_text())

    def taken(self, body):
        """Whether these are the bytes of a value in canonical form."""
        try:
            value = json.loads(body.decode(), object_hook=self.leaf.Row)
            return self.leaf.canonical(value, 1).encode() == body
        except (self.leaf.Wrong, ValueError, RecursionError):
            return False

    def test_the_page_names_every_kind_and_field_that_the_second_verifier_takes(self):
        """docs/log-format.md and docs/log-format.json say the same, kind by kind and field by field."""
        page, shapes = (ROOT / "docs/log-format.md").read_text(), self.leaf.FORMAT["$defs"]
        kinds = [ref["$ref"].rpartition("/")[2] for ref in self.leaf.FORMAT.oneOf]
        self.assertEqual({vector["kind"] for vector in self.vectors("leaves")}, set(kinds))
        self.assertEqual(len(kinds), len(set(kinds)))
        for kind in kinds:
            row = re.search(rf"(?m)^\| (?:`\w+`, )*`{kind}`(?:, `\w+`)* \| (.*?) \|", page)
            self.assertTrue(row, f"{kind}: a row of a table")
            fields, required = shapes[kind].properties, shapes[kind].required
            told = dict(re.findall(r"`(\w+)(\??)`", re.sub(r" \(.*?\)", "", row[1])))
            every = ("kind", "at", "digest", "request_id") if "request_id" in fields else ("kind", "at")
            self.assertLessEqual(set(every), set(required), kind)
            wanted = {name: "" if name in required else "?" for name in fields if name not in every}
            if kind in ("account_linked", "account_unlinked"):
                self.assertLessEqual(wanted.items(), told.items(), kind)
            elif kind == "epoch_started":
                # Without its signature it is a leaf still, and the rule `epoch-signature` broken.
                self.assertEqual({**wanted, "signature": ""}, told, kind)
            else:
                self.assertEqual(wanted, told, kind)
        # The objects within: a sentence says what is in one, or parentheses do, beside what it may hold.
        inside = {"ACCOUNT": r"`account` \(", "BOUNDS": r"\(name to (?=`template`)", "PROOF": r"\(`proof`: ",
                  "PUBLIC_KEY": r"`public_key` \(", "REGISTERED": r"`attributes` \("}
        for shape in (name for name in shapes if name.isupper()):
            fields, required = shapes[shape].properties, shapes[shape].required
            wanted = {name: "" if name in required else "?" for name in fields}
            if shape in inside:
                text = re.search(inside[shape] + r"(.*?)\)", page, re.S)[1]
                told = dict(re.findall(r"(\w+)(\??)", " ".join(re.findall("`([^`]+)`", text))))
                self.assertLessEqual(wanted.items(), told.items(), shape)
            else:
                text = re.sub(r"\([^()]*\)", "", page.split(f"\n`{shape.lower()}`: ")[1])
                told = dict(re.findall(r"`(\w+)(\??)`", re.split(r"[.:]\s", text)[0]))
                self.assertEqual(wanted, told, shape)

    def test_what_the_schema_says_twice_it_says_alike(self):
        form = self.leaf.FORMAT
        kinds = {ref["$ref"].rpartition("/")[2]: form["$defs"][ref["$ref"].rpartition("/")[2]] for ref in form.oneOf}
        groups, follow = form.groups, form.phases
        for kind, shape in kinds.items():
            self.assertEqual(shape.properties.kind, {"const": kind})
            self.assertLessEqual(set(shape.required), set(shape.properties), kind)
        of_requests = {kind for kind, shape in kinds.items() if "request_id" in shape.properties}
        self.assertEqual(set(groups.authority), kinds.keys() - of_requests - set(groups.begin))
        self.assertEqual(set(groups.later) - {"ended"}, of_requests - {"requested"})
        self.assertEqual(set(groups.later), {kind for then in follow.values() for kind in then})
        self.assertEqual(set(groups.open), set(follow.pending))
        self.assertEqual(set(groups.in_time), set(follow.approved) - {"cancelled", "expired"})
        for named in (form.registers.keeps, form.registers.new, form.registers.ends, form.registers.ends_rights):
            self.assertLessEqual(named.keys(), kinds.keys())
        for rows in form.registers.ends.values():
            self.assertLessEqual({row["in"] for row in rows}, {kept["in"] for kept in form.registers.keeps.values()})

    def test_the_vectors_of_leaves_and_digests_hold_for_the_second_verifier(self):
        leaf = self.leaf
        for vector in self.vectors("leaves"):
            body = vector["leaf"].encode()
            self.assertEqual(leaf.digest("vector", body), vector["digest"], vector["name"])
            # As a leaf, a proof is any object; what a passkey signs is a rule.
            if "proof" not in json.loads(body):
                self.assertEqual(leaf.read_leaf(body).kind, vector["kind"])
            for other in (body + b"\n", b" " + body, body[:-1], body * 2, body.replace(b"{", b"{ ", 1),
                          body.replace(b"kind", b"k\\u0069nd", 1), body[:-1] + b',"zz":1}',
                          body.replace(b'Z"', b'.000Z"', 1), body.replace(b'"kind":"', b'"kind":"x', 1)):
                with self.assertRaises(leaf.Wrong, msg=other):
                    leaf.read_leaf(other)
        for vector in self.vectors("commitments"):
            said = bytes.fromhex(vector["salt"]) + vector["text"].encode()
            self.assertEqual(leaf.digest("commitment", said), vector["digest"], vector["name"])
        for vector in self.vectors("requests"):
            self.assertEqual(leaf.digest_of("request", json.loads(vector["canonical"])), vector["digest"])

    def test_the_vectors_of_canonical_form_hold_for_the_second_verifier(self):
        for vector in self.vectors("canonical"):
            value = json.loads(bytes.fromhex(vector["input_hex"]))
            self.assertEqual(self.leaf.canonical(value), vector["canonical"], vector["name"])
            self.assertTrue(self.taken(vector["canonical"].encode()), vector["name"])
        for vector in self.vectors("refused"):
            self.assertFalse(self.taken(bytes.fromhex(vector["input_hex"])), vector["name"])

    def test_the_vectors_of_parameters_hold_for_the_second_verifier(self):
        for vector in self.vectors("params"):
            value = vector.get("taken", vector["value"])
            fits = self.leaf.fits(self.leaf.Row(vector["spec"]), value)
            self.assertEqual(bool(fits), "taken" in vector, vector["name"])

    def test_a_scope_whose_pattern_is_none_is_a_finding_of_the_second_verifier(self):
        """What it turns into a finding instead of falling over it."""
        with self.assertRaises(self.leaf.MALFORMED):
            self.leaf.fits(self.leaf.Row(type="string", pattern="("), "sales")


class Receipts(unittest.TestCase):
    def receipt(self):
        reply = doors.ask("demo.read", {"dataset": doors.fresh()})
        file = Path(tempfile.mkdtemp(dir=SCRATCH)) / "receipt.json"
        file.write_text(json.dumps(reply.json))
        return reply.json, file

    def test_a_credentials_receipt_is_small_and_holds_offline(self):
        answer, file = self.receipt()
        self.assertLessEqual(len(json.dumps(answer["receipt"])), 2048)
        code, facts = demo.cli_json("audit", "receipt", file)
        self.assertEqual((code, facts["ok"]), (0, True), facts)
        self.assertEqual(facts["leaf"]["request_id"], answer["request_id"])
        self.assertEqual(demo.leaves()[facts["index"]]["lease_id"], answer["lease_id"])
        file.write_text(json.dumps(answer["receipt"]))
        self.assertEqual(demo.cli("audit", "receipt", file)[0], 0)

    def test_one_that_was_changed_or_is_anothers_does_not_hold(self):
        (answer, file), (other, _) = self.receipt(), self.receipt()
        file.write_text(json.dumps({**answer, "receipt": other["receipt"]}))
        self.assertEqual(demo.cli("audit", "receipt", file)[0], 1)
        leaf = json.loads(base64.b64decode(answer["receipt"]["leaf"]))
        leaf["expires_at"] = "2091-01-01T00:00:00Z"
        forged = {**answer["receipt"], "leaf": base64.b64encode(evidence.canonical(leaf)).decode()}
        for text in (json.dumps(forged), json.dumps({**answer["receipt"], "proof": other["receipt"]["proof"]})):
            file.write_text(text)
            self.assertEqual(demo.cli("audit", "receipt", file)[0], 1)
        for text in ("", "{}", "[]", '{"receipt": 1}', "x" * 100):
            file.write_text(text)
            self.assertEqual(demo.cli("audit", "receipt", file)[0], 2, text)
        code, _, _ = demo.cli("audit", "receipt", file, env={"GRANTWRIGHT_LOG_VKEY": ""})
        self.assertEqual(code, 2)


class Witness(unittest.TestCase):
    def test_the_demos_witness_cosigns_and_its_checkpoint_is_evidence(self):
        url = demo.env["GRANTWRIGHT_LOG"]
        base, path = url.rsplit("/log", 1)[0], "/log/witnessed"
        size = len(demo.leaves())

        def witnessed():
            reply = call(base, "GET", path)
            return reply.status == 200 and int(reply.body.split(b"\n")[1]) >= size and reply.body
        note = until("the witness cosigns", 10, witnessed, 0.2)
        self.assertIn(demo.env["GRANTWRIGHT_WITNESS_VKEY"].split("+")[0].encode(), note)
        file = scratch("witnessed").parent / "note"
        file.write_bytes(note)
        code, report = demo.cli_json("audit", "verify", "--checkpoint", file, "--checkpoint",
                                     demo.env["GRANTWRIGHT_CHECKPOINT"])
        self.assertEqual((code, report["rollback"]), (0, "none"), report)

    def test_witnesses_vouch_from_store_and_bundle_to_both_verifiers(self):
        with Demo() as other:
            size = len(other.leaves())

            def witnessed():
                reply = call(other.env["GRANTWRIGHT_LOG"].rsplit("/log", 1)[0], "GET", "/log/witnessed")
                return reply.status == 200 and int(reply.body.split(b"\n")[1]) >= size
            until("the witness cosigns", 30, witnessed, 0.2)
            self.assertEqual(other.stop(), 0)
            # It was kept: nobody serves it any more.
            key, vkey = other.env["GRANTWRIGHT_WITNESS_VKEY"], other.env["GRANTWRIGHT_LOG_VKEY"]
            bundle = scratch("cosigned").parent / "cosigned.tar.gz"
            self.assertEqual(other.cli("audit", "bundle", "--to", bundle)[0], 0)
            code, out, _ = cli("witness", "--dir", scratch("stranger"), "--init", "w.example/x", "--json")
            stranger = json.loads(out)["vkey"]
            for name, place in (("store", ()), ("bundle", ("--bundle", bundle))):
                code, report = other.cli_json("audit", "verify", *place, "--witness", key)
                self.assertEqual(code, 0, report)
                self.assertGreaterEqual(report["witnessed"]["size"], size, name)
                code, report = other.cli_json("audit", "verify", *place, "--witness", key, "--witness", stranger)
                self.assertEqual((code, report["findings"][0]["rule"]), (1, "witness"), name)
                code, report = other.cli_json("audit", "verify", *place, "--witness", key, "--witness", stranger,
                                              "--witness-quorum", "1")
                self.assertEqual(code, 0, report)
                for witness, expected in ((key, 0), (stranger, 1), ("nonsense", 2)):
                    done = subprocess.run(
                        [sys.executable, str(ROOT / "tests/system/stored.py"), "--json", "--vkey", vkey, "--witness",
                         witness, str(bundle) if place else other.env["GRANTWRIGHT_STORE"]],
                        capture_output=True, text=True, timeout=120)
                    if "No module named 'cryptography'" not in done.stderr:
                        self.assertEqual(done.returncode, expected, f"{name}: {done.stdout}{done.stderr}")

    def test_a_verification_goes_on_from_the_one_before(self):
        with Demo() as other:
            kept = scratch("verified").parent / "verified"
            code, report = other.cli_json("audit", "verify", "--resume", kept)
            self.assertEqual((code, report.get("resumed_from")), (0, None), report)
            self.assertEqual(kept.stat().st_mode & 0o777, 0o600)
            size = report["leaves"]
            other.doors.ask("demo.read", {"dataset": other.doors.fresh()})
            code, report = other.cli_json("audit", "verify", "--resume", kept)
            self.assertEqual((code, report["resumed_from"]), (0, size), report)
            self.assertGreater(report["leaves"], size)
            kept.write_bytes(kept.read_bytes()[:-1])
            code, problem = other.cli_json("audit", "verify", "--resume", kept)
            self.assertEqual(code, 2, problem)
            self.assertIn("damaged", json.dumps(problem))

    def test_a_store_behind_its_witness_appends_and_issues_nothing(self):
        with Demo() as other:
            early = copy_store(other.store, scratch("early"))
            for _ in range(3):
                other.doors.ask("demo.read", {"dataset": other.doors.fresh()})
            size = len(other.leaves())

            def seen():
                reply = call(other.env["GRANTWRIGHT_LOG"].rsplit("/log", 1)[0], "GET", "/log/witnessed")
                return reply.status == 200 and int(reply.body.split(b"\n")[1]) >= size
            until("the witness has seen it", 10, seen, 0.2)
            self.assertEqual(other.stop(), 0)
            other.judged = False
            for name in ("", "-wal", "-shm"):
                Path(f"{other.store}{name}").unlink(missing_ok=True)
            shutil.copy2(early, other.store)
            # Only the witness remembers now.
            Path(other.env["GRANTWRIGHT_CHECKPOINT"]).unlink()
            other.start()

            def stopped():
                ready = call(other.env["GRANTWRIGHT_CONSOLE"], "GET", "/readyz")
                return b"log_inconsistent" in ready.body
            until("the broker stops", 10, stopped, 0.2)
            reply = other.doors.ask("demo.read", {"dataset": other.doors.fresh()})
            self.assertEqual((reply.status, reply.code), (503, "log_inconsistent"), reply)

    def test_a_gate_holds_issuing_back_while_the_witness_is_away(self):
        with Demo() as other:
            folder = Path(other.dir)
            broker = folder / "broker.toml"
            witness = json.loads((folder / "witness.ready").read_text())["pid"]
            subprocess.run(["kill", str(other.broker_pid)], check=True)
            until("the broker ends", 20, lambda: not alive(other.broker_pid))
            text = broker.read_text() + '\n[log.witnessing]\ngate = true\nmost_behind = "1s"\n'
            config = folder / "gated.toml"
            config.write_text(text)
            gated = Process([GRANTWRIGHT, "broker", "--config", config])
            try:
                until("the broker is back", 20, (folder / "broker.ready").exists)
                ok = until("it issues", 20, lambda: other.doors.ask(
                    "demo.read", {"dataset": other.doors.fresh()}).status == 200, 0.3)
                self.assertTrue(ok)
                subprocess.run(["kill", str(witness)], check=True)
                time.sleep(0.5)

                def refused():
                    reply = other.doors.ask("demo.read", {"dataset": other.doors.fresh()})
                    return reply.status == 503 and reply.code == "unwitnessed"
                until("it issues no more", 20, refused, 0.5)
            finally:
                gated.term()


class Sidecar(unittest.TestCase):
    def test_it_shows_the_checkpoints_that_it_saw_and_they_are_evidence(self):
        doors.ask("demo.read", {"dataset": doors.fresh()})
        reply = doors.call("GET", "/v1/checkpoints")
        self.assertEqual((reply.status, reply.headers["content-type"].split(";")[0]), (200, "text/plain"))
        self.assertEqual(call(doors.tcp, "GET", "/v1/checkpoints").status, 401)
        file = scratch("seen").parent / "seen"
        file.write_bytes(reply.body)
        code, report = demo.cli_json("audit", "verify", "--checkpoint", file)
        self.assertEqual((code, report["rollback"]), (0, "none"), report)
        # One that another history led to: the log is not the one that this sidecar saw.
        skey = (Path(demo.dir) / "keys/log.skey").read_text()
        name = demo.env["GRANTWRIGHT_LOG_VKEY"].split("+")[0]
        fork = base64.b64encode(bytes(32)).decode()
        file.write_bytes(reply.body + evidence.sign(f"{name}\n9\n{fork}\n", skey).encode())
        code, report = demo.cli_json("audit", "verify", "--checkpoint", file)
        self.assertEqual((code, report["rollback"]), (1, "found"), report)


class Go(unittest.TestCase):
    """golang.org/x/mod/sumdb/{note,tlog}: code that is not ours."""

    @classmethod
    def setUpClass(cls):
        missing = golang.prepare(ROOT, "tlog", print)
        if missing:
            raise unittest.SkipTest(missing)
        cls.tlog = golang.binary(ROOT, "tlog")

    def run_tlog(self, *arguments, **more):
        done = subprocess.run([str(self.tlog), *map(str, arguments)], capture_output=True, text=True,
                              timeout=60, **more)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def test_it_reads_every_tile_and_entry_and_proves_what_the_sidecar_saw(self):
        read = self.run_tlog("read", demo.env["GRANTWRIGHT_LOG"], demo.env["GRANTWRIGHT_LOG_VKEY"],
                             demo.env["GRANTWRIGHT_CHECKPOINT"])
        code, report = demo.cli_json("audit", "verify", "--store", demo.env["GRANTWRIGHT_LOG"])
        self.assertEqual((code, read["origin"]), (0, report["origin"]))
        self.assertLessEqual(read["size"], report["leaves"])

    def test_tesseras_fsck_finds_the_log_sound_and_a_spoilt_one_not(self):
        missing = golang.prepare(ROOT, "fsck", print)
        if missing:
            self.skipTest(missing)
        key = scratch("key").parent / "log.pub"
        key.write_text(demo.env["GRANTWRIGHT_LOG_VKEY"] + "\n")

        def fsck(url):
            return subprocess.run([str(golang.binary(ROOT, "fsck")), "--ui=false", f"--storage_url={url}/",
                                   f"--public_key={key}"], capture_output=True, text=True, timeout=60)
        done = fsck(demo.env["GRANTWRIGHT_LOG"])
        self.assertEqual((done.returncode, "Successfully" in done.stderr), (0, True), done.stderr[-500:])
        # The exported files, by any static server; then with one bit of one entry turned.
        folder = scratch("static")
        shutil.copytree(tiles, folder)
        port = free_port()
        server = Process([sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"], cwd=folder)
        try:
            base = f"http://127.0.0.1:{port}"
            until("the static server", 10, lambda: answers(base))
            done = fsck(base)
            self.assertEqual(done.returncode, 0, done.stderr[-500:])
            bundle_file = next(p for p in (folder / "tile/entries").rglob("*") if p.is_file())
            spoilt = bytearray(bundle_file.read_bytes())
            spoilt[100] ^= 1
            bundle_file.write_bytes(bytes(spoilt))
            self.assertNotIn("Successfully", fsck(base).stderr)
        finally:
            server.kill()

    def test_our_witness_cosigns_a_log_made_there_and_refuses_its_fork(self):
        skey, vkey = evidence.new_skey("go.example/log")
        folder = scratch("witness")
        code, made = (lambda c, o, e: (c, json.loads(o)))(
            *cli("witness", "--dir", folder, "--init", "witness.example/w1", "--json"))
        self.assertEqual(code, 0, made)
        (folder / "logs.txt").write_text(f"# a log of Go's\nlog {vkey}\n")
        ready = folder / "ready"
        command = [GRANTWRIGHT, "witness", "--dir", folder, "--listen", "127.0.0.1:0", "--ready-file", ready]
        witness = Process(command)
        until("the witness", 10, ready.exists)
        url = "http://" + json.loads(ready.read_text())["http"]
        done = self.run_tlog("log", url, made["vkey"], input=skey)
        self.assertEqual(done, {"cosigned": 557, "fork": "refused"})
        self.assertEqual(call(url, "POST", "/add-checkpoint", raw=b"old 0\n\nx\n1\n").status, 404)
        self.assertEqual(call(url, "POST", "/add-checkpoint", raw=b"junk").status, 400)
        self.assertEqual(call(url, "POST", "/add-checkpoint", raw=b"x" * 100_000).status, 413)
        # What it cosigned last outlives it: killed, it still refuses an older state.
        witness.kill()
        ready.unlink()
        witness = Process(command)
        until("the witness is back", 10, ready.exists)
        url = "http://" + json.loads(ready.read_text())["http"]
        done = subprocess.run([str(self.tlog), "log", url, made["vkey"]], input=skey, text=True,
                              capture_output=True, timeout=30)
        self.assertEqual((done.returncode, "409" in done.stderr), (1, True), done.stderr)
        self.assertEqual(witness.term(), 0)

    def test_a_witness_made_there_cosigns_our_log(self):
        with Demo() as other:
            folder = Path(other.dir)
            peer = subprocess.Popen([str(self.tlog), "witness", other.env["GRANTWRIGHT_LOG_VKEY"]],
                                    stdout=subprocess.PIPE, text=True)
            try:
                said = json.loads(peer.stdout.readline())
                subprocess.run(["kill", str(other.broker_pid)], check=True)
                until("the broker ends", 20, lambda: not alive(other.broker_pid))
                config = folder / "two.toml"
                config.write_text((folder / "broker.toml").read_text() + "\n".join([
                    "", "[[log.witness]]", f'vkey = "{said["vkey"]}"', f'url = "{said["url"]}"',
                    "[log.witnessing]", "quorum = 2", ""]))
                broker = Process([GRANTWRIGHT, "broker", "--config", config])
                until("the broker is back", 20, (folder / "broker.ready").exists)
                base = other.env["GRANTWRIGHT_LOG"].rsplit("/log", 1)[0]

                def both():
                    reply = call(base, "GET", "/log/witnessed")
                    return reply.status == 200 and reply.body
                for _ in range(2):
                    note = until("both cosign", 15, both, 0.2)
                    for name in (b"go.witness.test/one", b"demo.grantwright.example/witness"):
                        self.assertIn(name, note)
                    other.doors.ask("demo.read", {"dataset": other.doors.fresh()})
                broker.term()
            finally:
                peer.kill()
                peer.wait()
