"""Node packages of the vendors, under target/peers/node, made once from tests/peers/package.json;
and Debian's Chromium."""

import os
import shutil
import subprocess
from pathlib import Path

from . import apt

WANTED = "package.json"
DRAWERS = "slack_screens.json"
BROWSERS = ["chromium-headless-shell", "chromium"]


def folder(root):
    return Path(root) / "target" / "peers" / "node"


def drawers(root):
    """Where the packages are that draw Slack's messages."""
    return Path(root) / "target" / "peers" / "slack-screens"


def _wanted(name=WANTED):
    return (Path(__file__).parent / name).read_text()


def _made(place, name):
    stamp = place / "made-from.json"
    return stamp.exists() and stamp.read_text() == _wanted(name)


def ready(root):
    return _made(folder(root), WANTED)


def prepare(root, say):
    """Makes all of it where it is not there yet; returns None or the reason why not."""
    for tool, package in (("node", "nodejs"), ("npm", "npm")):
        if not shutil.which(tool):
            missing = apt.install([package], say)
            if missing:
                return missing
    return prepare_browser(say) or _make(folder(root), WANTED, say)


def prepare_browser(say):
    """Chromium without its own windows, or with them where Debian has no other; None or the reason why not.
    browser.mjs takes the first of these that is there."""
    if "CHROMIUM" in os.environ or any(Path("/usr/bin", name).exists() for name in BROWSERS):
        return None
    missing = apt.install(BROWSERS[:1], say)
    return missing and apt.install(BROWSERS[1:], say) and missing


def prepare_drawers(root, say):
    """As `prepare`, and what draws Slack's messages."""
    return prepare(root, say) or _make(drawers(root), DRAWERS, say)


def _make(place, name, say):
    if _made(place, name):
        return None
    say(f"   making {place}: npm install")
    place.mkdir(parents=True, exist_ok=True)
    (place / WANTED).write_text(_wanted(name))
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"],
                          cwd=place, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        return f"npm install failed: {done.stdout.strip()[-400:]}"
    (place / "made-from.json").write_text(_wanted(name))
    return None
