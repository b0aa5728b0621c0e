"""A PostgreSQL of our own: fresh folder, loopback port chosen by the system, ended at the end."""

import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from . import apt

USER = "postgres"


def _find(name):
    """The real binary, newest server first: wrappers on the path may do other things."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"),
                   key=lambda p: int(p.split("/")[4].split(".")[0]), reverse=True)
    return found[0] if found else shutil.which(name)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, folder, port, process):
        self.folder, self.port, self.process = folder, port, process
        self.url = f"postgres://postgres@127.0.0.1:{port}/postgres"

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _as_user(command):
    """`initdb` refuses root."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *command]


def start(root, say):
    """Returns (server, None) or (None, reason)."""
    if not _find("initdb"):
        missing = apt.install(["postgresql"], say)
        if missing:
            return None, missing
    if os.geteuid() == 0:
        done = subprocess.run(["id", USER], capture_output=True)
        if done.returncode != 0:
            return None, f"no user `{USER}` to run it as"
    folder = Path(tempfile.mkdtemp(prefix="grantwright-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, USER, USER)
    data, port = folder / "data", free_port()
    done = subprocess.run(
        _as_user([_find("initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "-E", "UTF8",
                  "--locale=C.UTF-8"]),
        capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        return None, f"initdb: {done.stderr.strip()[-300:]}"
    process = subprocess.Popen(
        _as_user([_find("postgres"), "-D", str(data), "-c", "listen_addresses=127.0.0.1",
                  "-p", str(port), "-k", str(folder), "-c", "max_connections=200"]),
        stdin=subprocess.DEVNULL, stdout=open(folder / "log", "w"), stderr=subprocess.STDOUT,
        cwd=folder)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ready = subprocess.run([_find("pg_isready"), "-h", "127.0.0.1", "-p", str(port)],
                               capture_output=True)
        if ready.returncode == 0:
            say(f"   PostgreSQL on 127.0.0.1:{port}")
            return Server(folder, port, process), None
        if process.poll() is not None:
            break
        time.sleep(0.1)
    text = (folder / "log").read_text()[-300:]
    process.kill()
    return None, f"PostgreSQL did not start: {text}"
