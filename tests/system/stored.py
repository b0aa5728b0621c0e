#!/usr/bin/env python3
"""The second verifier on a broker's own SQLite store, whose layout is no published format: `stored.py
sqlite:///PATH …`, and else as tests/verifier/verify.py."""

import sqlite3
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "verifier"))


class Store:
    """A store, opened read-only."""

    def __init__(self, path):
        self.db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        self.db.execute("BEGIN")
        rows = self.db.execute("SELECT size, note FROM checkpoints ORDER BY size").fetchall()
        # What the store says of a checkpoint is what the checkpoint says.
        assert all(note.split("\n")[1] == str(size) for size, note in rows), "a checkpoint's size"
        cosigned = self.db.execute("SELECT value FROM side WHERE kind = 'witnessed'"
                                   " AND key = CAST('newest' AS BLOB)").fetchall()
        self.notes = [note for _, note in rows] + [bytes(row[0]).decode() for row in cosigned]

    def leaves(self):
        rows = self.db.execute("SELECT idx, CAST(body AS BLOB) FROM leaves ORDER BY idx")
        for count, (index, body) in enumerate(rows):
            assert index == count, f"leaf {count} is missing, or there twice"
            yield body

    def tiles(self, _hashes):
        return ()

    def blob(self, digest):
        sql = "SELECT body FROM blobs WHERE digest = ?"
        row = self.db.execute(sql, (bytes.fromhex(digest),)).fetchone()
        return row and row[0]

    def texts(self):
        for request, name, salt, body in self.db.execute(
                "SELECT request_id, name, salt, body FROM texts"):
            yield {"request_id": request, "name": name, "salt": salt.hex(), "text": body}


def open_place(place):
    import log
    is_store = place.startswith("sqlite://")
    return Store(place.removeprefix("sqlite://")) if is_store else log.opened(place)


if __name__ == "__main__":
    import verify
    sys.exit(verify.main(open_place))
