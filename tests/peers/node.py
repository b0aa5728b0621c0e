"""Node modules for tests, under target/peers/node, installed once; and Debian's Chromium."""

import shutil
import subprocess
from pathlib import Path

from . import apt

WANTED = "package.json"


def folder(root):
    return Path(root) / "target" / "peers" / "node"


def prepare(root, say):
    """Makes both where they are not there yet; returns None or the reason why not."""
    for tool, package in (("node", "nodejs"), ("npm", "npm"), ("chromium", "chromium")):
        if not shutil.which(tool):
            missing = apt.install([package], say)
            if missing:
                return missing
    place, wanted = folder(root), (Path(__file__).parent / WANTED).read_text()
    stamp = place / WANTED
    if (place / "node_modules").is_dir() and stamp.exists() and stamp.read_text() == wanted:
        return None
    say(f"   making {place}: playwright-core")
    place.mkdir(parents=True, exist_ok=True)
    stamp.write_text(wanted)
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=place,
                          stdin=subprocess.DEVNULL, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode != 0:
        stamp.unlink()
        return f"npm install failed: {done.stdout.strip()[-300:]}"
    return None
