"""A MinIO of our own: S3 and STS that honour session policies."""

import os
import urllib.error
import urllib.request
from pathlib import Path

from . import golang
from .ports import free_port
from .server import Server


class Minio:
    access_key, secret_key = "minio-root-user", "minio-root-secret"

    def __init__(self, root, folder, port=None, **env):
        folder = Path(folder)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{port or free_port()}"
        self.server = Server("minio", [
            golang.binary(root, "minio"), "server", "--quiet", "--address",
            self.url.split("//", 1)[1], "--console-address", f"127.0.0.1:{free_port()}",
            folder / "data"], folder,
            env={**os.environ, "MINIO_ROOT_USER": self.access_key,
                 "MINIO_ROOT_PASSWORD": self.secret_key, "MINIO_BROWSER": "off",
                 "HOME": str(folder), **env})
        self.server.until("an answer", 60, self._up)

    def _up(self):
        try:
            with urllib.request.urlopen(f"{self.url}/minio/health/ready", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self):
        self.server.stop()
