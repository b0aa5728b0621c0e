"""Node packages of the vendors, under target/peers/node, made once from tests/peers/package.json;
and Debian's Chromium."""

import shutil
import subprocess
from pathlib import Path

from . import apt

WANTED = "package.json"


def folder(root):
    return Path(root) / "target" / "peers" / "node"


def _wanted():
    return (Path(__file__).parent / WANTED).read_text()


def ready(root):
    stamp = folder(root) / "made-from.json"
    return stamp.exists() and stamp.read_text() == _wanted()


def prepare(root, say):
    """Makes all of it where it is not there yet; returns None or the reason why not."""
    for tool, package in (("node", "nodejs"), ("npm", "npm"), ("chromium", "chromium")):
        if not shutil.which(tool):
            missing = apt.install([package], say)
            if missing:
                return missing
    if ready(root):
        return None
    place = folder(root)
    say(f"   making {place}: npm install")
    place.mkdir(parents=True, exist_ok=True)
    (place / WANTED).write_text(_wanted())
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"],
                          cwd=place, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        return f"npm install failed: {done.stdout.strip()[-400:]}"
    (place / "made-from.json").write_text(_wanted())
    return None
