"""A Python environment with the vendors' own clients, under target/peers/venv, made once."""

import importlib.util
import subprocess
import sys
from pathlib import Path

WANTED = "requirements.txt"


def folder(root):
    return Path(root) / "target" / "peers" / "venv"


def python(root):
    return str(folder(root) / "bin" / "python")


def possible():
    return all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))


def _wanted():
    return (Path(__file__).parent / WANTED).read_text()


def ready(root):
    stamp = folder(root) / WANTED
    return stamp.exists() and stamp.read_text() == _wanted()


def prepare(root, say):
    """Makes it where it is not there yet; returns None or the reason why not."""
    if ready(root):
        return None
    place = folder(root)
    if not possible():
        return "this Python has no venv module (Debian: python3-venv)"
    say(f"   making {place}: moto, boto3, AWS CLI")
    place.parent.mkdir(parents=True, exist_ok=True)
    for command in ([sys.executable, "-m", "venv", str(place)],
                    [python(root), "-m", "pip", "install", "-q", "--disable-pip-version-check",
                     "-r", str(Path(__file__).parent / WANTED)]):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            return f"`{' '.join(command)}` failed: {done.stdout.strip()[-400:]}"
    (place / WANTED).write_text(_wanted())
    return None
