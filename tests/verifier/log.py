"""The second verifier's hashes, signed notes, and the places where a log can be read.
docs/log-format.md is what it was written from; it shares no code with the first verifier."""

import base64
import hashlib
import json
import re
import tarfile
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

WIDTH, MOST_NOTES, MOST_TEXTS = 256, 10_000, 64
MAX_NOTE, MAX_FILE, MAX_BUNDLE = 65536, WIDTH * 65537, 4 << 30
BUNDLED = ("format", "checkpoint", "checkpoints", "tile", "blob", "texts", "keys.txt", "README.txt")
NOTE = re.compile("((?:[^\0-\x1f]*\n)+)\n((?:\u2014 [^ \0-\x1f]+ [A-Za-z0-9+/]+={0,2}\n)+)")
CHECKPOINT = re.compile("(.+)\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n(?:.+\n)*")


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


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def unbase64(text):
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("base64 that is not canonical")
    return raw


class Tree:
    """A growing RFC 6962 tree: the roots of its complete subtrees, largest first."""
    def __init__(self, hashes=()):
        self.size, self.peaks = 0, []
        for hash_ in hashes:
            self.add(hash_)
    def add(self, hash_):
        at = self.size
        while at & 1:
            hash_, at = sha256(b"\1", self.peaks.pop(), hash_), at >> 1
        self.peaks.append(hash_)
        self.size += 1
    def root(self):
        root = self.peaks[-1] if self.peaks else sha256()
        for left in reversed(self.peaks[:-1]):
            root = sha256(b"\1", left, root)
        return root


class Key:
    """An Ed25519 key, `<name>+<hint>+<base64>`: of a log, or of a witness: it signs times."""
    def __init__(self, text, witness=False):
        self.text, self.witness = text.strip(), witness
        try:
            self.name, self.hint, encoded = self.text.split("+", 2)
            raw = unbase64(encoded)
        except ValueError:
            raise CannotVerify("a key is not <name>+<hint>+<key>") from None
        id_, self.raw = sha256(self.name.encode(), b"\n", raw)[:4].hex(), raw[1:]
        if raw[:1] != (b"\4" if witness else b"\1") or len(raw) != 33 or id_ != self.hint:
            raise CannotVerify(f"what names {self.name!r} is no Ed25519 key of that name and use")
    def signed(self, note):
        """The text of a note that it signed, or None; ValueError where its line is wrong."""
        found = NOTE.fullmatch(note) if len(note) <= MAX_NOTE else None
        if not found:
            raise ValueError("no signed note")
        text, lines = found[1], [line.split(" ") for line in found[2].splitlines()]
        blobs = [unbase64(value) for _, name, value in lines if name == self.name]
        mine = [blob[4:] for blob in blobs if blob[:4].hex() == self.hint]
        for value in mine:
            said, time = text, int.from_bytes(value[:8], "big")
            if self.witness:
                said, value = f"cosignature/v1\ntime {time}\n{text}", value[8:]
            try:
                Ed25519PublicKey.from_public_bytes(self.raw).verify(value, said.encode())
            except InvalidSignature:
                raise ValueError(f"the signature of {self.name} does not verify") from None
        return text if mine else None


class Checkpoint:
    """A note (C2SP tlog-checkpoint) that a log's key signed; ValueError where it is none."""
    def __init__(self, note, key):
        self.note, text = note, key.signed(note)
        found = text and CHECKPOINT.fullmatch(text)
        if not found:
            raise ValueError("no checkpoint that the key signed")
        self.origin, self.size, self.root = found[1], int(found[2]), unbase64(found[3])


def split_notes(text):
    """A file may hold several notes: each ends with its last signature line."""
    return re.findall("(?:(?!\u2014 ).*\n)+(?:\u2014 .*\n)*|.+", text)


def numbered(folder, number):
    text = f"{number % 1000:03}"
    while number := number // 1000:
        text = f"x{number % 1000:03}/{text}"
    return f"{folder}/{text}"


def pages(read, folder, most):
    """Its files, up to the first that is not there."""
    for number in range(most + 1):
        page = read(numbered(folder, number))
        if page is None:
            return
        yield page
    raise CannotVerify(f"`{folder}` holds more files than a log has")


class Tiles:
    """A log as files; `read(path)` gives the bytes of one, or None."""
    def __init__(self, read):
        def note(path):
            found = read(path)
            if len(found or b"") > MAX_NOTE:
                raise CannotVerify(f"`{path}` is too large for a checkpoint")
            return found
        self.read, newest = read, note("checkpoint")
        # A site that has a page for every path would be read for ever.
        if "\n\n\u2014 ".encode() not in (newest or b""):
            raise CannotVerify("there is no checkpoint, or it is no signed note")
        notes = [newest, *pages(note, "checkpoints", MOST_NOTES), note("witnessed")]
        self.notes = [note.decode(errors="replace") for note in notes if note is not None]
        size = (self.notes[0].split("\n") + [""])[1]
        self.size = int(size) if re.fullmatch("[0-9]{1,18}", size) else 0
    def tile(self, kind, number, items):
        width, path = min(WIDTH, items - number * WIDTH), numbered(f"tile/{kind}", number)
        part = self.read(f"{path}.p/{width}") if width < WIDTH else None
        return (self.read(path) if part is None else part) or b""
    def leaves(self):
        """Up to the first that is not whole: the checkpoint then covers more."""
        for first in range(0, self.size, WIDTH):
            bundle, at = self.tile("entries", first // WIDTH, self.size), 0
            for _ in range(first, min(self.size, first + WIDTH)):
                end = at + 2 + int.from_bytes(bundle[at:at + 2], "big")
                if len(bundle) < max(at + 2, end):
                    return
                yield bundle[at + 2:end]
                at = end
    def tiles(self, hashes):
        """Each hash tile: its first leaf, leaves below a hash, what it must be, what is served."""
        level, below = 0, 1
        while hashes:
            parts = [hashes[at:at + WIDTH] for at in range(0, len(hashes), WIDTH)]
            for number, mine in enumerate(parts):
                served = self.tile(level, number, len(hashes))
                yield number * WIDTH * below, below, mine, served
            hashes = [Tree(part).root() for part in parts if len(part) == WIDTH]
            level, below = level + 1, below * WIDTH
    def blob(self, digest):
        return self.read(f"blob/{digest}")
    def texts(self):
        for page in pages(self.read, "texts", self.size * MOST_TEXTS):
            yield from map(json.loads, page.splitlines())


def files_at(base):
    """The files below a folder's or a log's address."""
    def read(name):
        try:
            with urllib.request.urlopen(f"{base.rstrip('/')}/{name}", timeout=30) as answer:
                return answer.read(MAX_FILE)
        except (OSError, HTTPException) as e:
            if getattr(e, "code", 404) == 404 and (base.startswith("file:") or hasattr(e, "code")):
                return None
            raise CannotVerify(f"{base}/{name}: {e}") from None
    return Tiles(read)


def bundle(path):
    files, total = {}, 0
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name, parts, total = member.name, member.name.split("/"), total + member.size
                large = member.size > MAX_FILE or total > MAX_BUNDLE
                if (large or not member.isfile() or name in files or parts[0] not in BUNDLED
                        or {"..", ""} & set(parts)):
                    raise CannotVerify(f"the bundle holds {name!r}, which no bundle has")
                files[name] = archive.extractfile(member).read()
    except (OSError, EOFError, tarfile.TarError, ValueError, zlib.error) as e:
        raise CannotVerify(f"`{path}` is not a whole bundle: {e}") from None
    if files.get("format") != b"grantwright-bundle/v1\n":
        raise CannotVerify("the bundle's `format` is not grantwright-bundle/v1")
    return Tiles(files.get)


def opened(place):
    """A folder of tiles, a bundle, or the address of a log."""
    if place.startswith(("http://", "https://")) or Path(place).is_dir():
        return files_at(place if "://" in place else Path(place).resolve().as_uri())
    return bundle(place)
