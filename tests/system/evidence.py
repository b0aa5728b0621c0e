"""Logs with a rich past, exported, taken apart and written anew; and both verifiers to judge them."""

import base64
import functools
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from harness import BIN, ROOT, Demo, call

sys.path.insert(0, str(ROOT / "tests" / "verifier"))


READ = {}


def second():
    """The second verifier's module; None where `cryptography` is missing."""
    try:
        import verify
        return verify
    except ImportError:
        return None


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(label, value):
    return hashlib.sha256(f"grantwright/{label}/v1\0".encode() + canonical(value)).hexdigest()


def rich_past(demo):
    """Routine, approved, denied, narrowed, questioned, withdrawn, cancelled, revoked, and a passkey's."""
    from passkey import Browser, Passkey
    doors = demo.doors
    said = {}
    for n in range(3):
        said[f"routine{n}"] = doors.ask("demo.read", {"dataset": doors.fresh()}).json["request_id"]
    two = said["two"] = doors.pending("demo.escalate")
    demo.bob.approve(two)
    demo.carol.approve(two)
    doors.get(two)
    said["denied"] = doors.pending()
    demo.bob.deny(said["denied"])
    one = said["one"] = doors.pending()
    demo.bob.approve(one)
    doors.get(one)
    asked = said["asked"] = doors.pending()
    demo.carol.call("POST", f"/api/v1/requests/{asked}/ask",
                    {"digest": demo.carol.request(asked)["digest"], "text": "which one?"})
    doors.call("POST", f"/v1/requests/{asked}/answer", {"text": "the small one"})
    demo.carol.approve(asked)
    doors.get(asked)
    narrowed = said["narrowed"] = doors.pending()
    demo.bob.call("POST", f"/api/v1/requests/{narrowed}/narrow",
                  {"digest": demo.bob.request(narrowed)["digest"], "params": {"rows": 5}})
    doors.get(narrowed)
    taken = said["withdrawn"] = doors.pending()
    demo.bob.approve(taken)
    demo.bob.call("POST", f"/api/v1/requests/{taken}/withdraw",
                  {"digest": demo.bob.request(taken)["digest"]})
    doors.cancel(taken)
    console = demo.env["GRANTWRIGHT_CONSOLE"]
    browser, passkey = Browser(console), Passkey(console)
    assert browser.enrol(demo.env["GRANTWRIGHT_ENROL_BOB"], passkey).status == 200
    bob = Browser(console)
    bob.sign_in(passkey)
    signed = said["signed"] = doors.pending("demo.rotate-root")
    assert bob.approve(signed, demo.bob.request(signed)["digest"], passkey).status == 200
    assert doors.get(signed).status == 200
    lease = doors.get(signed).json.get("lease_id")
    if lease:
        demo.bob.call("POST", f"/api/v1/leases/{lease}/revoke", {})
    return said


class Log:
    """A log as its files: what a verifier is given."""

    def __init__(self, files, vkey, skey=None):
        self.files, self.vkey, self.skey = dict(files), vkey, skey

    @classmethod
    def of_folder(cls, path, vkey, skey=None):
        base = Path(path)
        return cls({str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()},
                   vkey, skey)

    def copy(self):
        return Log(self.files, self.vkey, self.skey)

    @property
    def size(self):
        return int(self.files["checkpoint"].split(b"\n")[1])

    def leaves(self):
        out = []
        for path in sorted(p for p in self.files if p.startswith("tile/entries/")):
            bundle = self.files[path]
            while bundle:
                end = 2 + int.from_bytes(bundle[:2], "big")
                out.append(bundle[2:end])
                bundle = bundle[end:]
        return out

    def events(self):
        return [json.loads(leaf) for leaf in self.leaves()]

    def tiles_of(self, leaves):
        """The same log with these leaves (fewer than 256), its tiles anew, its checkpoint as it was."""
        assert 0 < len(leaves) < 256, len(leaves)
        out = self.copy()
        out.files = {p: b for p, b in self.files.items() if not p.startswith("tile/")}
        width = len(leaves)
        entries = b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)
        out.files[f"tile/entries/000.p/{width}"] = entries
        hashes = b"".join(hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves)
        out.files[f"tile/0/000.p/{width}"] = hashes
        return out

    def signed(self, leaves, skey=None):
        """A log of these leaves that the log's own key signs: what its holder could write."""
        out = self.tiles_of(leaves)
        name = self.vkey.split("+")[0]
        text = f"{name}\n{len(leaves)}\n{base64.b64encode(root(leaves)).decode()}\n"
        out.files["checkpoint"] = sign(text, skey or self.skey).encode()
        return out

    def case(self, kept=(), recovery=None):
        return {"vkey": self.vkey, "recovery": recovery, "kept": list(kept), "files": self.files}


def root(leaves):
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\1" + level[i] + level[i + 1]).digest()
                 for i in range(0, len(level) - 1, 2)]
        # A node without a sibling rises as it is.
        level = pairs + (level[-1:] if len(level) % 2 else [])
    return level[0]


def sign(text, skey):
    """A note signed with `PRIVATE+KEY+name+hint+base64` (golang.org/x/mod/sumdb/note)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    _, _, name, hint, key = skey.strip().split("+", 4)
    seed = base64.b64decode(key)[1:]
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(text.encode())
    return f"{text}\n\u2014 {name} {base64.b64encode(bytes.fromhex(hint) + signature).decode()}\n"


def new_skey(name):
    """A key as golang.org/x/mod/sumdb/note writes it, and the key that verifies."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    key = Ed25519PrivateKey.generate()
    public = b"\1" + key.public_key().public_bytes_raw()
    hint = hashlib.sha256(name.encode() + b"\n" + public).hexdigest()[:8]
    seed = base64.b64encode(b"\1" + key.private_bytes_raw()).decode()
    return f"PRIVATE+KEY+{name}+{hint}+{seed}", f"{name}+{hint}+{base64.b64encode(public).decode()}"


class First:
    """Our verifier, kept running: a log a line, a report a line."""

    def __init__(self):
        program = BIN / "examples" / "judge"
        self.last = {}
        self.child = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def give(self, case):
        """Only what differs from the last log that was given whole: most of a changed log is as it was."""
        files, last = case["files"], self.last
        changed = {path: data for path, data in files.items() if last.get(path) != data}
        told = {"whole": False, "gone": [path for path in last if path not in files]}
        if 2 * len(changed) > len(files):
            changed, told, self.last = files, {"whole": True}, dict(files)
        framed = [(path, len(data)) for path, data in changed.items()]
        head = json.dumps({**case, **told, "files": framed}).encode() + b"\n"
        self.child.stdin.write(b"".join([head, *changed.values()]))
        self.child.stdin.flush()

    def take(self):
        line = self.child.stdout.readline()
        assert line, "our verifier ended"
        return json.loads(line)

    def end(self):
        self.child.stdin.close()
        return self.child.wait(20)


def of_the_same(work):
    """The same for a label and the very value that was given before; values are not changed."""
    known = {}

    def again(label, value):
        kept = known.get((label, id(value)))
        if kept is None or kept[0] is not value:
            if len(known) >= 4096:
                known.clear()
            kept = known[label, id(value)] = (value, work(label, value))
        return kept[1]
    return again


def judge_second(case):
    """The second verifier on the same log, in this process. A leaf that it read before, which is the same
    bytes, it does not read again, nor what is in it: campaigns change one of hundreds."""
    verify = second()
    import leaf
    import log
    import rules
    verify.read_leaf = READ.setdefault("leaf", functools.lru_cache(4096)(leaf.read_leaf))
    rules.digest_of = READ.setdefault("digest", of_the_same(leaf.digest_of))
    try:
        source = log.Tiles(case["files"].get)
        report = verify.Verifier(source, case["vkey"], case["kept"], recovery=case["recovery"]).run()
    except log.CannotVerify as e:
        return {"exit": 2, "findings": [], "why": str(e)}
    return {"exit": 0 if report["ok"] else 1,
            "findings": [[f["leaf"], f["rule"]] for f in report["findings"]]}


class Judged:
    """Of a test: both verifiers judge logs that were changed, class by class, and say what they say of it."""

    def campaign(self, first, name, count, change, ours=(1, 2), theirs=(1, 2), kept=(), recovery=None):
        """`change(number)` gives a changed log; `ours` and `theirs` are the exit codes that are right."""
        seen = {"ours": 0, "theirs": 0}
        for number in range(count):
            case = change(number).case(kept, recovery)
            first.give(case)
            second = judge_second(case)
            for who, verdict, wanted in (("ours", first.take(), ours), ("theirs", second, theirs)):
                self.assertIn(verdict["exit"], wanted, f"{name} {number}, {who}: {verdict}")
                seen[who] += verdict["exit"] != 0
                if verdict["exit"] == 1:
                    self.assertTrue(verdict["findings"], name)
        print(f"     {name}: {count} changes, detected by the first verifier {seen['ours']}, "
              f"by the second {seen['theirs']}", flush=True)
