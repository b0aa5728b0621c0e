"""A PostgreSQL of our own: a fresh cluster, TCP on loopback with passwords, a superuser without."""

import os
import shutil
import subprocess
from pathlib import Path

from .ports import free_port
from .server import Server


def programs():
    """The newest installation's folder of programs, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"),
                   key=lambda p: float(p.parts[-3]))
    return found[-1].parent if found else None


class Postgres:
    """`root` is the superuser's name; over the socket in `folder` it needs no password."""

    root = "postgres"

    def __init__(self, folder):
        self.bin = programs()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        data = self.folder / "data"
        if os.geteuid() == 0:
            # initdb refuses root.
            shutil.chown(self.folder, "nobody")
            for parent in self.folder.parents:
                if not parent.stat().st_mode & 0o001:
                    parent.chmod(parent.stat().st_mode | 0o001)
        subprocess.run([*self._as_nobody(), self.bin / "initdb", "--no-sync", "--auth-local=trust",
                        "--auth-host=scram-sha-256", f"--username={self.root}", "--encoding=UTF8",
                        "-D", data], check=True, stdin=subprocess.DEVNULL, capture_output=True)
        self.server = Server("postgres", [
            *self._as_nobody(), self.bin / "postgres", "-D", data, "-k", self.folder,
            "-p", self.port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
            "-c", "max_connections=200"], self.folder)
        self.server.until("an answer", 30, lambda: self._up())

    def _as_nobody(self):
        if os.geteuid() != 0:
            return []
        return ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]

    def _up(self):
        return subprocess.run([self.bin / "pg_isready", "-q", "-h", self.folder, "-p",
                               str(self.port)]).returncode == 0

    def sql(self, text, database="postgres"):
        """As the superuser; returns the output's lines."""
        done = subprocess.run(
            [self.bin / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", self.root,
             "-h", self.folder, "-p", str(self.port), "-d", database, "-c", text],
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{text}: {done.stderr.strip()}")
        return done.stdout.splitlines()

    def client(self, username, password, text, database="postgres"):
        """A person's or program's own `psql`, over TCP; (exit code, output, errors)."""
        done = subprocess.run(
            [self.bin / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-w",
             "-h", "127.0.0.1", "-p", str(self.port), "-U", username, "-d", database, "-c", text],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env={**os.environ, "PGPASSWORD": password})
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    def session(self, username, password, database="postgres"):
        """A session that stays open; a `psql` that reads from a pipe."""
        return subprocess.Popen(
            [self.bin / "psql", "-X", "-q", "-A", "-t", "-w", "-h", "127.0.0.1", "-p",
             str(self.port), "-U", username, "-d", database],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PGPASSWORD": password})

    def stop(self):
        self.server.stop()
