"""Somebody who holds the database and the log's key: whatever they write, the tree, its tiles and
every signed checkpoint are made to fit. What still gives them away is what they cannot make."""

import base64
import json
import sqlite3
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

import tlog


def canonical(leaf):
    """RFC 8785 for what leaves hold: strings, integers, booleans, arrays, objects with plain keys."""
    return json.dumps(leaf, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Forger:
    def __init__(self, store, key_file):
        self.db = sqlite3.connect(store)
        rows = self.db.execute("SELECT idx, body FROM leaves ORDER BY idx").fetchall()
        self.leaves = [json.loads(body) for _, body in rows]
        assert [index for index, _ in rows] == list(range(len(rows)))
        # PRIVATE+KEY+name+hint+key, as Go's note package writes it.
        _, _, self.name, hint, key = Path(key_file).read_text().strip().split("+", 4)
        raw = base64.b64decode(key)
        assert raw[0] == 1, "an Ed25519 key"
        self.hint, self.key = bytes.fromhex(hint), ed25519.Ed25519PrivateKey.from_private_bytes(raw[1:])

    def index(self, **fields):
        """The one leaf with these fields."""
        found = [n for n, leaf in enumerate(self.leaves)
                 if all(leaf.get(name) == value for name, value in fields.items())]
        assert len(found) == 1, (fields, found)
        return found[0]

    def seal(self):
        """Writes the leaves, and what commits to them."""
        bodies = [canonical(leaf) for leaf in self.leaves]
        hashes = [tlog.leaf_hash(body) for body in bodies]
        self.db.executemany("UPDATE leaves SET body=?, hash=? WHERE idx=?",
                            [(body, hash_, n) for n, (body, hash_) in enumerate(zip(bodies, hashes))])
        for level, index, held in self.db.execute("SELECT level, idx, hashes FROM tiles").fetchall():
            width = 256 ** level
            ends = range(index * 256 * width, (index * 256 + len(held) // 32) * width, width)
            tile = b"".join(tlog.root(hashes[n:n + width]) for n in ends)
            self.db.execute("UPDATE tiles SET hashes=? WHERE level=? AND idx=?", (tile, level, index))
        for size, note in self.db.execute("SELECT size, note FROM checkpoints").fetchall():
            lines = note.split("\n\n")[0].split("\n")
            lines[2] = base64.b64encode(tlog.root(hashes[:size])).decode()
            self.db.execute("UPDATE checkpoints SET note=? WHERE size=?",
                            (self.signed("\n".join(lines) + "\n"), size))
        # What a witness cosigned cannot be made to fit, and is not missed by who was told of no witness.
        self.db.execute("DELETE FROM side WHERE kind = 'witnessed'")
        self.db.commit()
        self.db.close()

    def signed(self, text):
        value = base64.b64encode(self.hint + self.key.sign(text.encode())).decode()
        return f"{text}\n\u2014 {self.name} {value}\n"
