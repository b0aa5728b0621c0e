"""Debian packages, where we may install them."""

import fcntl
import os
import shutil
import subprocess


def install(packages, say):
    """Installs what is named; returns None or the reason why not."""
    if not packages:
        return None
    if os.geteuid() != 0:
        return f"not root: `apt-get install {' '.join(packages)}` is yours to run"
    if not shutil.which("apt-get"):
        return "no apt-get here"
    say(f"   apt-get install {' '.join(packages)}")
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    # apt-get does not wait for another of its kind.
    with open("/run/lock/grantwright-tests-apt", "w", encoding="utf-8") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for command in (["apt-get", "update", "-qq"],
                        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]):
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode != 0 and command[1] == "install":
                return f"apt-get failed: {done.stdout.strip().splitlines()[-1:]}"
    return None
