"""The second verifier's hashes, notes and places where a log can be read. It shares no code with the
first one; docs/log-format.md is all it was written from."""

import base64
import hashlib
import json
import re
import sqlite3
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

WIDTH = 256
MAX_FILE = WIDTH * 65537
MAX_BUNDLE = 4 << 30


class CannotVerify(Exception):
    """Nothing can be said: exit code 2."""


class Wrong(Exception):
    """A rule is broken: a finding."""

    def __init__(self, rule, detail):
        super().__init__(detail)
        self.rule = rule


def leaf_hash(entry):
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """A growing RFC 6962 tree: the roots of its complete subtrees, largest first."""

    def __init__(self, size=0, peaks=()):
        self.size, self.peaks = size, list(peaks)

    def copy(self):
        return Tree(self.size, self.peaks)

    def add(self, hash_):
        at = self.size
        while at & 1:
            hash_ = node_hash(self.peaks.pop(), hash_)
            at >>= 1
        self.peaks.append(hash_)
        self.size += 1

    def root(self):
        if not self.peaks:
            return hashlib.sha256(b"").digest()
        root = self.peaks[-1]
        for left in reversed(self.peaks[:-1]):
            root = node_hash(left, root)
        return root


def included(leaf, index, size, proof, root):
    """RFC 9162, section 2.1.3.2."""
    if index >= size:
        return False
    node, last, hash_ = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            hash_ = node_hash(sibling, hash_)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            hash_ = node_hash(hash_, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and hash_ == root


def strict_base64(text):
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("base64 that is not canonical")
    return raw


class Vkey:
    def __init__(self, text):
        try:
            self.name, self.hint, key = text.strip().split("+", 2)
            raw = strict_base64(key)
        except ValueError:
            raise CannotVerify("the verifier key is not <name>+<hint>+<key>") from None
        digest = hashlib.sha256(self.name.encode() + b"\n" + raw).digest()
        if raw[:1] != b"\1" or len(raw) != 33 or digest[:4].hex() != self.hint:
            raise CannotVerify("the verifier key is not an Ed25519 key under this name")
        self.text, self.key = text.strip(), Ed25519PublicKey.from_public_bytes(raw[1:])


class Checkpoint:
    """A signed note (C2SP signed-note, tlog-checkpoint), opened with one key."""

    def __init__(self, note, vkey):
        if len(note) > 65536 or any(ord(c) < 32 and c != "\n" for c in note):
            raise ValueError("a note that is too long or holds control characters")
        body, empty, lines = note.removesuffix("\n").rpartition("\n\n")
        if not empty or not note.endswith("\n"):
            raise ValueError("a note without signatures")
        text, signed = body + "\n", False
        for line in lines.split("\n"):
            dash, name, value = line.split(" ")
            blob = strict_base64(value)
            if dash != "\u2014" or len(blob) < 5:
                raise ValueError("a line that is no signature")
            if name == vkey.name and blob[:4].hex() == vkey.hint:
                try:
                    vkey.key.verify(blob[4:], text.encode())
                except InvalidSignature:
                    raise ValueError("the signature does not verify") from None
                signed = True
        if not signed:
            raise ValueError("the key did not sign it")
        self.note = note
        self.origin, size, root, *more = text.split("\n")[:-1]
        if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size) or "" in more:
            raise ValueError("a malformed checkpoint")
        self.size, self.root = int(size), strict_base64(root)
        if len(self.root) != 32:
            raise ValueError("a malformed root")


def split_notes(text):
    """A file may hold several notes: each ends with its last signature line."""
    out, signed = [""], False
    for line in text.splitlines(keepends=True):
        signature = line.startswith("\u2014 ")
        if signed and not signature:
            out.append("")
        signed = signature
        out[-1] += line
    return [note for note in out if note]


def numbered(folder, number):
    text = f"{number % 1000:03}"
    number //= 1000
    while number:
        text = f"x{number % 1000:03}/{text}"
        number //= 1000
    return f"{folder}/{text}"


class Tiles:
    """A log as files; `read(path)` gives the bytes of one, or None."""

    def __init__(self, read):
        self.read = read
        newest = read("checkpoint")
        if newest is None:
            raise CannotVerify("there is no checkpoint")
        self.notes = [newest]
        while (more := read(numbered("checkpoints", len(self.notes) - 1))) is not None:
            self.notes.append(more)
        lines = newest.split(b"\n")
        self.size = int(lines[1]) if len(lines) > 1 and re.fullmatch(rb"\d{1,18}", lines[1]) else 0

    def checkpoints(self):
        return [(None, note.decode(errors="replace")) for note in self.notes]

    def _tile(self, kind, number, items):
        width = min(WIDTH, items - number * WIDTH)
        path = numbered(f"tile/{kind}", number)
        part = self.read(f"{path}.p/{width}") if width < WIDTH else None
        return self.read(path) if part is None else part

    def leaves(self):
        absent = 0
        for number in range(-(-self.size // WIDTH)):
            bundle = self._tile("entries", number, self.size)
            absent = absent + 1 if bundle is None else 0
            if absent >= 64:
                return
            at = 0
            for index in range(number * WIDTH, min(self.size, (number + 1) * WIDTH)):
                length = int.from_bytes((bundle or b"")[at:at + 2], "big")
                if len(bundle or b"") < at + 2 + length or not bundle[at:at + 2]:
                    break
                yield index, bundle[at + 2:at + 2 + length]
                at += 2 + length

    def leaf_hash_at(self, index):
        tile = self._tile("0", index // WIDTH, self.size) or b""
        return tile[index % WIDTH * 32:][:32]

    def tiles(self, hashes):
        """Each hash tile as it is served, with the hashes that the leaves give, and its first leaf."""
        level, below = 0, 1
        while hashes:
            for number in range(-(-len(hashes) // WIDTH)):
                mine = hashes[number * WIDTH:(number + 1) * WIDTH]
                yield number * WIDTH * below, below, mine, self._tile(level, number, len(hashes))
            full, tree = [], None
            for at in range(0, len(hashes) - WIDTH + 1, WIDTH):
                tree = Tree()
                for hash_ in hashes[at:at + WIDTH]:
                    tree.add(hash_)
                full.append(tree.root())
            hashes, level, below = full, level + 1, below * WIDTH

    def blob(self, digest):
        return self.read(f"blob/{digest}")

    def texts(self):
        number = 0
        while (page := self.read(numbered("texts", number))) is not None:
            for line in page.decode().splitlines():
                text = json.loads(line)
                yield text["request_id"], text["name"], bytes.fromhex(text["salt"]), text["text"]
            number += 1


class Store:
    """A SQLite store, opened read-only."""

    def __init__(self, path):
        if not Path(path).is_file():
            raise CannotVerify(f"there is no store `{path}`")
        try:
            self.db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
            self.db.execute("BEGIN")
            self.db.execute("SELECT count(*) FROM head").fetchone()
        except sqlite3.Error as e:
            raise CannotVerify(f"`{path}`: {e}") from None

    def checkpoints(self):
        return list(self.db.execute("SELECT size, note FROM checkpoints ORDER BY size"))

    def leaves(self):
        for index, body in self.db.execute("SELECT idx, body FROM leaves ORDER BY idx"):
            yield index, body if isinstance(body, bytes) else str(body).encode()

    def leaf_hash_at(self, index):
        tile = self.db.execute("SELECT hashes FROM tiles WHERE level = 0 AND idx = ?",
                               (index // WIDTH,)).fetchone()
        if tile and len(tile[0]) == 32 * WIDTH:
            return tile[0][index % WIDTH * 32:][:32]
        row = self.db.execute("SELECT hash FROM leaves WHERE idx = ?", (index,)).fetchone()
        return row[0] if row else b""

    def tiles(self, _hashes):
        return ()

    def blob(self, digest):
        row = self.db.execute("SELECT body FROM blobs WHERE digest = ?",
                              (bytes.fromhex(digest),)).fetchone()
        return row and row[0]

    def texts(self):
        return self.db.execute("SELECT request_id, name, salt, body FROM texts")


def folder(path):
    base = Path(path)

    def read(name):
        place = base / name
        if not place.is_file() or place.stat().st_size > MAX_FILE:
            return None
        return place.read_bytes()
    return Tiles(read)


def bundle(path):
    known = ("format", "checkpoint", "checkpoints", "tile", "blob", "texts", "keys.txt", "README.txt")
    files, total = {}, 0
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                parts = member.name.split("/")
                total += member.size
                if (not member.isfile() or parts[0] not in known or ".." in parts or "" in parts
                        or member.name in files or member.size > MAX_FILE or total > MAX_BUNDLE):
                    raise CannotVerify(f"the bundle holds {member.name!r}, which no bundle has")
                files[member.name] = archive.extractfile(member).read()
    except (OSError, EOFError, tarfile.TarError, ValueError, KeyError, zlib_error) as e:
        raise CannotVerify(f"`{path}` is not a whole bundle: {e}") from None
    if files.get("format") != b"grantwright-bundle/v1\n":
        raise CannotVerify("the bundle's `format` is not grantwright-bundle/v1")
    return Tiles(files.get)


def served(base):
    def read(name):
        try:
            with urllib.request.urlopen(f"{base.rstrip('/')}/{name}", timeout=30) as answer:
                return answer.read(MAX_FILE)
        except urllib.error.HTTPError as e:
            if e.code == 404:
                return None
            raise CannotVerify(f"{base}/{name} answers {e.code}") from None
        except OSError as e:
            raise CannotVerify(f"{base}/{name}: {e}") from None
    return Tiles(read)


def opened(place):
    """A folder of tiles, a bundle, the address of a log, or `sqlite:///path`."""
    if place.startswith(("http://", "https://")):
        return served(place)
    if place.startswith("sqlite://"):
        return Store(place.removeprefix("sqlite://"))
    return folder(place) if Path(place).is_dir() else bundle(place)


zlib_error = __import__("zlib").error
