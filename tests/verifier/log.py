"""The second verifier's hashes, notes, and places where a log can be read. docs/log-format.md is what it
was written from; it shares no code with the first verifier."""

import base64
import hashlib
import json
import re
import sqlite3
import tarfile
import urllib.request
import zlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

WIDTH = 256
MAX_FILE, MAX_BUNDLE = WIDTH * 65537, 4 << 30


class CannotVerify(Exception):
    """Nothing can be said: exit code 2."""


class Wrong(Exception):
    """A rule is broken: a finding."""
    def __init__(self, rule, detail=""):
        super().__init__(detail or f"it breaks the rule `{rule}`")
        self.rule = rule


def need(ok, rule, detail=""):
    if not ok:
        raise Wrong(rule, detail)


def leaf_hash(entry):
    return hashlib.sha256(b"\0" + entry).digest()


class Tree:
    """A growing RFC 6962 tree: the roots of its complete subtrees, largest first."""
    def __init__(self):
        self.size, self.peaks = 0, []
    def add(self, hash_):
        at = self.size
        while at & 1:
            hash_ = hashlib.sha256(b"\1" + self.peaks.pop() + hash_).digest()
            at >>= 1
        self.peaks.append(hash_)
        self.size += 1
        return self
    def root(self):
        root = self.peaks[-1] if self.peaks else hashlib.sha256(b"").digest()
        for left in reversed(self.peaks[:-1]):
            root = hashlib.sha256(b"\1" + left + root).digest()
        return root


def unbase64(text):
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("base64 that is not canonical")
    return raw


class Vkey:
    def __init__(self, text):
        try:
            self.name, self.hint, key = text.strip().split("+", 2)
            raw = unbase64(key)
        except ValueError:
            raise CannotVerify("the verifier key is not <name>+<hint>+<key>") from None
        if raw[:1] != b"\1" or len(raw) != 33 or key_id(self.name, raw) != self.hint:
            raise CannotVerify("the verifier key is not an Ed25519 key under this name")
        self.text, self.key = text.strip(), Ed25519PublicKey.from_public_bytes(raw[1:])


class Checkpoint:
    """A signed note (C2SP signed-note, tlog-checkpoint), opened with one key; ValueError if it is none."""
    def __init__(self, note, vkey):
        self.note = note
        self.origin, size, root, *more = self.signed(note, vkey).split("\n")
        if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size) or "" in more or len(unbase64(root)) != 32:
            raise ValueError("a malformed checkpoint")
        self.size, self.root = int(size), unbase64(root)
    @staticmethod
    def signed(note, vkey):
        """The text that the key signed, without its last newline."""
        body, empty, lines = note.removesuffix("\n").rpartition("\n\n")
        if len(note) > 65536 or re.search("[\0-\x09\x0b-\x1f]", note) or not empty or note[-1:] != "\n":
            raise ValueError("no signed note")
        signed = False
        for line in lines.split("\n"):
            dash, name, value = line.split(" ")
            blob = unbase64(value)
            if dash != "\u2014" or len(blob) < 5:
                raise ValueError("a line that is no signature")
            if name == vkey.name and blob[:4].hex() == vkey.hint:
                try:
                    vkey.key.verify(blob[4:], (body + "\n").encode())
                    signed = True
                except InvalidSignature:
                    raise ValueError("the signature does not verify") from None
        if not signed:
            raise ValueError("the key did not sign it")
        return body


class WitnessKey:
    """A key of C2SP tlog-cosignature: Ed25519 over the checkpoint and a time."""
    def __init__(self, text):
        try:
            self.name, hint, key = text.strip().split("+", 2)
            raw = unbase64(key)
        except ValueError:
            raise CannotVerify("a witness's key is not <name>+<hint>+<key>") from None
        if raw[:1] != b"\4" or len(raw) != 33 or key_id(self.name, raw) != hint:
            raise CannotVerify("a witness's key is not a cosigner's under this name")
        self.hint, self.key = hint, Ed25519PublicKey.from_public_bytes(raw[1:])
    def cosigned(self, point):
        """Whether it cosigned the checkpoint; Wrong where a line of its own does not verify."""
        body, _, lines = point.note.removesuffix("\n").rpartition("\n\n")
        for _, name, value in (line.split(" ") for line in lines.split("\n")):
            blob = unbase64(value)
            if name == self.name and blob[:4].hex() == self.hint:
                seconds = int.from_bytes(blob[4:12], "big")
                try:
                    said = f"cosignature/v1\ntime {seconds}\n{body}\n"
                    self.key.verify(blob[12:], said.encode())
                    return True
                except InvalidSignature:
                    raise Wrong("witness", f"the line of {name} does not verify") from None
        return False


def key_id(name, raw):
    return hashlib.sha256(name.encode() + b"\n" + raw).hexdigest()[:8]


def split_notes(text):
    """A file may hold several notes: each ends with its last signature line."""
    out, signed = [""], False
    for line in text.splitlines(keepends=True):
        signature = line.startswith("\u2014 ")
        out += [""] if signed and not signature else []
        signed = signature
        out[-1] += line
    return [note for note in out if note]


def numbered(folder, number):
    text = f"{number % 1000:03}"
    while number := number // 1000:
        text = f"x{number % 1000:03}/{text}"
    return f"{folder}/{text}"


class Tiles:
    """A log as files; `read(path)` gives the bytes of one, or None."""
    def __init__(self, read):
        self.read, cosigned = read, read("witnessed")
        self.notes = [read("checkpoint")]
        if self.notes[0] is None:
            raise CannotVerify("there is no checkpoint")
        while (more := read(numbered("checkpoints", len(self.notes) - 1))) is not None:
            self.notes.append(more)
        self.notes += [] if cosigned is None else [cosigned]
        size = (self.notes[0].split(b"\n") + [b""])[1]
        self.size = int(size) if re.fullmatch(rb"\d{1,18}", size) else 0
    def checkpoints(self):
        return [(None, note.decode(errors="replace")) for note in self.notes]
    def tile(self, kind, number, items):
        width, path = min(WIDTH, items - number * WIDTH), numbered(f"tile/{kind}", number)
        part = self.read(f"{path}.p/{width}") if width < WIDTH else None
        return (self.read(path) if part is None else part) or b""
    def leaves(self):
        absent = 0
        for first in range(0, self.size, WIDTH):
            bundle, at = self.tile("entries", first // WIDTH, self.size), 0
            absent = 0 if bundle else absent + 1
            for index in range(first, min(self.size, first + WIDTH) if absent < 64 else 0):
                end = at + 2 + int.from_bytes(bundle[at:at + 2], "big")
                if len(bundle) < max(end, at + 2):
                    break
                yield index, bundle[at + 2:end]
                at = end
            if absent >= 64:
                return
    def leaf_hash_at(self, index):
        return self.tile("0", index // WIDTH, self.size)[index % WIDTH * 32:][:32]
    def tiles(self, hashes):
        """The first leaf of each hash tile, leaves below each hash, the hashes, and what is served."""
        level, below = 0, 1
        while hashes:
            parts = [hashes[at:at + WIDTH] for at in range(0, len(hashes), WIDTH)]
            for number, mine in enumerate(parts):
                yield number * WIDTH * below, below, mine, self.tile(level, number, len(hashes))
            hashes, level, below = [], level + 1, below * WIDTH
            for part in (p for p in parts if len(p) == WIDTH):
                tree = Tree()
                hashes.append([tree.add(hash_) for hash_ in part][-1].root())
    def blob(self, digest):
        return self.read(f"blob/{digest}")
    def texts(self):
        number = 0
        while (page := self.read(numbered("texts", number))) is not None:
            for text in map(json.loads, page.decode().splitlines()):
                yield text["request_id"], text["name"], bytes.fromhex(text["salt"]), text["text"]
            number += 1


class Store:
    """A SQLite store, opened read-only."""
    def __init__(self, path):
        try:
            self.db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
            self.db.execute("BEGIN")
            self.db.execute("SELECT count(*) FROM head").fetchone()
        except sqlite3.Error as e:
            raise CannotVerify(f"`{path}`: {e}") from None
    def checkpoints(self):
        cosigned = "SELECT value FROM side WHERE kind = 'witnessed' AND key = CAST('newest' AS BLOB)"
        return [*self.db.execute("SELECT size, note FROM checkpoints ORDER BY size"),
                *((None, bytes(row[0]).decode(errors="replace")) for row in self.db.execute(cosigned))]
    def leaves(self):
        for index, body in self.db.execute("SELECT idx, body FROM leaves ORDER BY idx"):
            yield index, body if isinstance(body, bytes) else str(body).encode()
    def leaf_hash_at(self, index):
        sql = "SELECT hashes FROM tiles WHERE level = 0 AND idx = ?"
        tile = self.db.execute(sql, (index // WIDTH,)).fetchone()
        if tile and len(tile[0]) == 32 * WIDTH:
            return tile[0][index % WIDTH * 32:][:32]
        row = self.db.execute("SELECT hash FROM leaves WHERE idx = ?", (index,)).fetchone()
        return row[0] if row else b""
    def tiles(self, _hashes):
        return ()
    def blob(self, digest):
        row = self.db.execute("SELECT body FROM blobs WHERE digest = ?", (bytes.fromhex(digest),)).fetchone()
        return row and row[0]
    def texts(self):
        return self.db.execute("SELECT request_id, name, salt, body FROM texts")


def files_at(base):
    """The files below a folder's or a log's address."""
    def read(name):
        try:
            with urllib.request.urlopen(f"{base.rstrip('/')}/{name}", timeout=30) as answer:
                return answer.read(MAX_FILE)
        except OSError as e:
            if getattr(e, "code", 404) == 404 and (base.startswith("file:") or hasattr(e, "code")):
                return None
            raise CannotVerify(f"{base}/{name}: {e}") from None
    return Tiles(read)


def bundle(path):
    known = ("format", "checkpoint", "checkpoints", "tile", "blob", "texts", "keys.txt", "README.txt")
    files, total = {}, 0
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                parts, total = member.name.split("/"), total + member.size
                if (not member.isfile() or parts[0] not in known or {"..", ""} & set(parts)
                        or member.name in files or member.size > MAX_FILE or total > MAX_BUNDLE):
                    raise CannotVerify(f"the bundle holds {member.name!r}, which no bundle has")
                files[member.name] = archive.extractfile(member).read()
    except (OSError, EOFError, tarfile.TarError, ValueError, zlib.error) as e:
        raise CannotVerify(f"`{path}` is not a whole bundle: {e}") from None
    if files.get("format") != b"grantwright-bundle/v1\n":
        raise CannotVerify("the bundle's `format` is not grantwright-bundle/v1")
    return Tiles(files.get)


def opened(place):
    """A folder of tiles, a bundle, the address of a log, or `sqlite:///path`."""
    if place.startswith("sqlite://"):
        return Store(place.removeprefix("sqlite://"))
    if place.startswith(("http://", "https://")) or Path(place).is_dir():
        return files_at(place if "://" in place else Path(place).resolve().as_uri())
    return bundle(place)
