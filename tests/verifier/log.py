"""The second verifier's hashes, keys and signed notes, and the places where a log can be read.
docs/log-format.md is what it was written from; it shares no code with the first verifier."""

import base64
import functools
import hashlib
import json
import operator
import re
import tarfile
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

WIDTH, MOST_NOTES, MOST_TEXTS = 256, 10_000, 64
MAX_NOTE, MAX_FILE, MAX_BUNDLE = 65536, WIDTH * 65537, 4 << 30
BUNDLED = ("format", "checkpoint", "checkpoints", "tile", "blob", "texts", "keys.txt", "README.txt")
NOTE = re.compile("((?:[^\0-\x1f]*\n)+)\n((?:\u2014 [^\\s\0-\x1f]+ [A-Za-z0-9+/]+={0,2}\n)+)")
CHECKPOINT = re.compile("(.+)\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n(?:.+\n)*")

class Row(dict):
    """An object of a leaf, and what is kept of it; a field that is absent is None."""
    __slots__, __setattr__ = (), dict.__setitem__
    def __getattr__(self, field):
        # From now on it is found at once: to Python a missing attribute is an exception each time. Names that
        # mean something to Python itself stay out of its classes.
        if not field.startswith("__"):
            setattr(Row, field, property(operator.methodcaller("get", field)))
        return self.get(field)

class CannotVerify(Exception):
    """Nothing can be said: exit code 2."""

class Wrong(Exception):
    """A rule is broken, a finding: which, and how."""

def need(ok, *said, fault=Wrong):
    if not ok:
        raise fault(*said)

sure = functools.partial(need, fault=CannotVerify)

def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

def unbase64(text):
    raw = base64.b64decode(text, validate=True)
    sure(base64.b64encode(raw).decode() == text, "base64 that is not canonical", fault=ValueError)
    return raw

def verifies(algorithm, key, signature, message):
    try:
        if algorithm == "EdDSA":
            return Ed25519PublicKey.from_public_bytes(key).verify(signature, message) is None
        point = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), key)
        return point.verify(signature, message, ECDSA(SHA256())) is None
    except InvalidSignature:
        return False

class Tree:
    """An RFC 6962 tree: by level, the roots of its complete subtrees."""
    def __init__(self, hashes):
        self.levels = [hashes]
        while len(row := self.levels[-1]) > 1:
            self.levels.append([sha256(b"\1", *pair) for pair in zip(row[::2], row[1::2])])
    def root(self, size):
        """Of its first leaves, as notes write it."""
        lone = [row[(size >> level) - 1] for level, row in enumerate(self.levels) if size >> level & 1] or [sha256()]
        return base64.b64encode(functools.reduce(lambda right, left: sha256(b"\1", left, right), lone)).decode()

class Key:
    """An Ed25519 key, `<name>+<hint>+<base64 of 33 bytes>`: of a log, or of a witness, which signs times."""
    def __init__(self, text, witness=False):
        self.text, self.witness = text.strip(), witness
        found = re.fullmatch(r"([^+]*)\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})", self.text)
        sure(found, "a key is not <name>+<hint>+<key>")
        self.name, self.hint, raw = found[1], found[2], base64.b64decode(found[3])
        right = raw[0] == (4 if witness else 1) and sha256(self.name.encode(), b"\n", raw)[:4].hex() == self.hint
        sure(right, f"what names {self.name!r} is no Ed25519 key of that name and use")
        self.raw = raw[1:]
    def signed(self, note):
        """The text of a note that it signed, or None; ValueError where its line is wrong."""
        found = len(note) <= MAX_NOTE and NOTE.fullmatch(note)
        sure(found, "no signed note", fault=ValueError)
        text, lines = found[1], re.findall("\u2014 (.+) (.+)\n", found[2])
        blobs = [unbase64(value) for name, value in lines if name == self.name]
        mine = [blob[4:] for blob in blobs if blob[:4].hex() == self.hint]
        for value in mine:
            said = f"cosignature/v1\ntime {int.from_bytes(value[:8], 'big')}\n{text}" if self.witness else text
            good = verifies("EdDSA", self.raw, value[8:] if self.witness else value, said.encode())
            sure(good, f"the signature of {self.name} does not verify", fault=ValueError)
        return text if mine else None
    def checkpoint(self, note):
        """What a note (C2SP tlog-checkpoint) promises; None where it is none that this log's key signed."""
        try:
            text = self.signed(note)
            found = text and CHECKPOINT.fullmatch(text)
            return found and unbase64(found[3]) and Row(note=note, origin=found[1], size=int(found[2]), root=found[3])
        except ValueError:
            return None

def split_notes(text):
    """A file may hold several notes: each ends with its last signature line."""
    return re.findall("(?:(?!\u2014 ).*\n)+(?:\u2014 .*\n)*|.+", text)

def numbered(folder, number):
    *first, last = (digits.zfill(3) for digits in f"{number:,}".split(","))
    return "/".join([folder, *(f"x{digits}" for digits in first), last])

def pages(read, folder, most):
    """Its files, up to the first that is not there."""
    for number in range(most + 1):
        if (page := read(numbered(folder, number))) is None:
            return
        yield page
    raise CannotVerify(f"`{folder}` holds more files than a log has")

class Tiles:
    """A log as files; `read(path)` gives the bytes of one, or None."""
    def __init__(self, read):
        def note(path):
            found = read(path)
            sure(len(found or b"") <= MAX_NOTE, f"`{path}` is too large for a checkpoint")
            return found
        self.read, newest = read, note("checkpoint")
        # A site that has a page for every path would be read for ever.
        sure("\n\n\u2014 ".encode() in (newest or b""), "there is no checkpoint, or it is no signed note")
        notes = [newest, *pages(note, "checkpoints", MOST_NOTES), note("witnessed")]
        self.notes = [note.decode(errors="replace") for note in notes if note is not None]
        size = self.notes[0].split("\n")[1]
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
    def tiles(self, levels):
        """Of each hash tile that is not that of the tree, the first leaf below what differs."""
        for level, hashes in enumerate(levels[::8]):
            for number, first in enumerate(range(0, len(hashes), WIDTH)):
                served, mine = self.tile(level, number, len(hashes)), hashes[first:first + WIDTH]
                wrong = [at for at, hash_ in enumerate(mine) if served[32 * at:32 * at + 32] != hash_]
                yield from [first + at << 8 * level for at in wrong[:1]]
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
            if getattr(e, "code", 404 if base.startswith("file:") else 0) == 404:
                return None
            raise CannotVerify(f"{base}/{name}: {e}") from None
    return Tiles(read)

def bundle(path):
    files, total = {}, 0
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name, parts, total = member.name, member.name.split("/"), total + member.size
                sure(member.isfile() and name not in files and parts[0] in BUNDLED and not {"..", ""} & set(parts)
                     and member.size <= MAX_FILE and total <= MAX_BUNDLE, f"no bundle holds {name!r}")
                files[name] = archive.extractfile(member).read()
    except (OSError, EOFError, tarfile.TarError, ValueError, zlib.error) as e:
        raise CannotVerify(f"`{path}` is not a whole bundle: {e}") from None
    sure(files.get("format") == b"grantwright-bundle/v1\n", "the bundle's `format` is not grantwright-bundle/v1")
    return Tiles(files.get)

def opened(place):
    """A folder of tiles, a bundle, or the address of a log."""
    if place.startswith(("http://", "https://")) or Path(place).is_dir():
        return files_at(place if "://" in place else Path(place).resolve().as_uri())
    return bundle(place)
