"""The client made with the AWS SDK for Rust, built once into target/peers/bin; its Cargo.lock lies beside it."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from . import lock

HERE = Path(__file__).parent / "awsrust"


def binary(root):
    return Path(root) / "target" / "peers" / "bin" / "awsrust"


def _stamp(root):
    return binary(root).with_suffix(".made-from")


def _wanted():
    sources = [HERE / "Cargo.toml", HERE / "Cargo.lock", HERE / "src/main.rs"]
    return hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()


def ready(root):
    return binary(root).exists() and _stamp(root).exists() and _stamp(root).read_text() == _wanted()


def prepare(root, say):
    """Builds it where it is not there yet (a minute); returns None or the reason why not."""
    with lock.held(root, "rust"):
        return None if ready(root) else _make(root, say)


def _make(root, say):
    place = binary(root)
    place.parent.mkdir(parents=True, exist_ok=True)
    made = Path(root).resolve() / "target" / "awsrust"
    say("   building the client of the AWS SDK for Rust: a minute, once")
    command = ["cargo", "build", "--locked", "--manifest-path", str(HERE / "Cargo.toml"), "--target-dir", str(made)]
    done = subprocess.run(command, cwd=HERE, stdin=subprocess.DEVNULL, text=True,
                          env=dict(os.environ, CARGO_TERM_COLOR="never"),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        return f"`{' '.join(command)}` failed: {done.stdout.strip()[-400:]}"
    # Replaced whole: another run may hold the old one open.
    shutil.copy2(made / "debug" / "awsrust", place.with_suffix(".new"))
    place.with_suffix(".new").rename(place)
    shutil.rmtree(made, ignore_errors=True)
    _stamp(root).write_text(_wanted())
    return None
