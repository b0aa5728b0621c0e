"""Two suites may want the same peer at the same time: one of them makes it."""

import contextlib
import fcntl
from pathlib import Path


@contextlib.contextmanager
def held(root, name):
    """Whoever comes second waits until the first is done."""
    folder = Path(root) / "target" / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
