"""A server of somebody else's: started on loopback, ended by its own id."""

import atexit
import subprocess
import time
from pathlib import Path

_alive = []


class Server:
    """One child process with its log in `folder`."""

    def __init__(self, name, command, folder, env=None):
        self.name, self.log = name, Path(folder) / f"{name}.log"
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL,
                                          stdout=log, stderr=log, env=env)
        self.pid = self.child.pid
        _alive.append(self)

    def until(self, what, seconds, probe):
        deadline = time.monotonic() + seconds
        while True:
            if self.child.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.child.returncode}:\n{self.said()}")
            value = probe()
            if value:
                return value
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: {what} not within {seconds} s:\n{self.said()}")
            time.sleep(0.05)

    def said(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        if self in _alive:
            _alive.remove(self)


@atexit.register
def _end():
    for server in list(_alive):
        server.stop()
