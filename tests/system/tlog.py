"""An independent reader of a C2SP tlog-tiles log: the page that a second implementation takes."""

import base64
import hashlib

WIDTH = 256


def leaf_hash(data):
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def root(hashes):
    """RFC 6962: the left part is the largest power of two below the size."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << ((len(hashes) - 1).bit_length() - 1)
    return node_hash(root(hashes[:split]), root(hashes[split:]))


def path_of(number):
    text = f"{number % 1000:03}"
    number //= 1000
    while number:
        text = f"x{number % 1000:03}/{text}"
        number //= 1000
    return text


class Checkpoint:
    def __init__(self, note):
        text, _, signatures = note.partition("\n\n")
        self.text = text + "\n"
        self.signatures = signatures
        self.origin, size, hash_, *_ = text.split("\n")
        self.size, self.root = int(size), base64.b64decode(hash_)

    def signed_by(self, vkey, verify):
        """`verify(public key, signature, message)` raises where the signature is wrong."""
        name, _, rest = vkey.partition("+")
        hint, _, key = rest.partition("+")
        raw = base64.b64decode(key)
        assert raw[0] == 1, "not an Ed25519 key"
        assert hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4].hex() == hint, "key hash"
        for line in self.signatures.splitlines():
            dash, signer, value = line.split(" ")
            blob = base64.b64decode(value)
            if dash == "\u2014" and signer == name and blob[:4].hex() == hint:
                verify(raw[1:], blob[4:], self.text.encode())
                return
        raise AssertionError(f"no signature of {name}")


class Log:
    """`fetch(path)` gives the bytes at a path below the log's address."""

    def __init__(self, fetch):
        self.fetch = fetch

    def checkpoint(self):
        return Checkpoint(self.fetch("/checkpoint").decode())

    def _tiles(self, kind, size):
        full, part = divmod(size, WIDTH)
        for number in range(full):
            yield self.fetch(f"/tile/{kind}/{path_of(number)}")
        if part:
            yield self.fetch(f"/tile/{kind}/{path_of(full)}.p/{part}")

    def hashes(self, size):
        return [tile[i:i + 32] for tile in self._tiles("0", size) for i in range(0, len(tile), 32)]

    def entries(self, size):
        out = []
        for bundle in self._tiles("entries", size):
            while bundle:
                length = int.from_bytes(bundle[:2], "big")
                out.append(bundle[2:2 + length])
                bundle = bundle[2 + length:]
        return out


def check_proof(text, leaf):
    """C2SP tlog-proof: the leaf's inclusion in the checkpoint that the proof carries."""
    head, _, note = text.partition("\n\n")
    lines = head.split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1", lines[0]
    rest = [line for line in lines[1:] if not line.startswith("extra ")]
    assert rest[0].startswith("index "), rest
    index, hashes = int(rest[0][6:]), [base64.b64decode(line) for line in rest[1:]]
    checkpoint = Checkpoint(note)
    # RFC 9162, section 2.1.3.2.
    assert index < checkpoint.size
    node, last, at = leaf_hash(leaf), checkpoint.size - 1, index
    for hash_ in hashes:
        assert last > 0, "proof too long"
        if at & 1 or at == last:
            node = node_hash(hash_, node)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            node = node_hash(node, hash_)
        at >>= 1
        last >>= 1
    assert last == 0, "proof too short"
    assert node == checkpoint.root, "the proof leads to another root"
    return index, checkpoint
