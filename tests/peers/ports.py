"""Ports of loopback for servers that must be told one before they start."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

# Below what Linux gives to those who ask for any port and to calls going out: what is picked here stays
# free while its server gets ready.
RANGE = range(15000, 32000)
_held = []


def free_port():
    """A port that nobody listens on, and that no other process of these tests is given while this one lives."""
    folder = Path(tempfile.gettempdir()) / f"grantwright-ports-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for port in random.sample(RANGE, 200):
        lock = open(folder / str(port), "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        _held.append(lock)
        return port
    raise RuntimeError(f"no port of {RANGE} is free")
