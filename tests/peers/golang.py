"""Servers that come as Go modules, built once into target/peers/bin."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
MINIO = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
FSCK = "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4"
NAMES = ("vault", "minio")
# Clients of AWS, of which some seconds suffice to build.
CLIENTS = ("awsgo",)
# Installed as they are; the others are made from sources in this folder.
INSTALLED = {"minio": MINIO, "fsck": FSCK}


def binary(root, name):
    return Path(root) / "target" / "peers" / "bin" / name


def _wanted(name):
    """What the binary is made from, in one line."""
    if name in INSTALLED:
        return INSTALLED[name]
    sources = sorted(p for p in (HERE / name).iterdir() if p.suffix in (".go", ".mod", ".sum"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()


def _stamp(root, name):
    return binary(root, name).with_suffix(".made-from")


def ready(root, name):
    stamp = _stamp(root, name)
    return binary(root, name).exists() and stamp.exists() and stamp.read_text() == _wanted(name)


def prepare(root, name, say):
    """Builds it where it is not there yet (minutes); returns None or the reason why not."""
    if ready(root, name):
        return None
    if not shutil.which("go"):
        return "no Go toolchain here"
    place = binary(root, name)
    place.parent.mkdir(parents=True, exist_ok=True)
    say(f"   building {name} from its Go module: some minutes, once")
    # The compiler collects its garbage four times more seldom: a tenth less to do. What it makes is the same.
    env = dict(os.environ, CGO_ENABLED="0", GOBIN=str(place.parent.resolve()), GOGC="400")
    # Nobody debugs them: a fifth of the compiler's work is what a debugger would read.
    quick = ["-ldflags=-s -w", "-gcflags=all=-dwarf=false"]
    if name in INSTALLED:
        command, where = ["go", "install", *quick, INSTALLED[name]], None
    else:
        command, where = ["go", "build", *quick, "-o", str(place.resolve()), "."], HERE / name
    done = subprocess.run(command, cwd=where, env=env, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        return f"`{' '.join(command)}` failed: {done.stdout.strip()[-400:]}"
    _stamp(root, name).write_text(_wanted(name))
    return None
