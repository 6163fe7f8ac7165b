"""Starting the server process on its core, and talking to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.files import WORK, StoredFile
from benchmarks.networks import Network
from benchmarks.s3server import serve_s3

BUCKET = "models"
KEYS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark-secret"}


class Server:
    """A running server process; `endpoint` is the Hub, `s3` the S3 server if there is one."""

    def __init__(
        self, process: subprocess.Popen[str], s3: str | None, ca: Path | None, store: str
    ) -> None:
        self._process = process
        self.keeps_bodies = store in ("xet", "disk")
        self.s3 = s3
        self.ca = ca
        self.endpoint = str(self._answer()["endpoint"])

    def reset(self, files: Sequence[StoredFile]) -> None:
        etags = {file.oid: file.md5s for file in files}
        expected = sum(file.size for file in files)
        answer = self._ask({"do": "reset", "etags": etags, "expected": expected})
        self.endpoint = str(answer["endpoint"])

    def stats(self) -> dict[str, Any]:
        return self._ask({"do": "stats"})

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the benchmark's server has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def serving(network: Network, part_size: int, *, store: str = "sink") -> Iterator[Server]:
    """The server on the last core, its data in a folder that goes with it."""
    WORK.mkdir(exist_ok=True)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=WORK, prefix="hub-")))
        ca = _certificate(root) if network.tls else None
        bucket = None
        if store == "s3":
            access, secret = KEYS.values()
            s3 = serve_s3(root / "s3", BUCKET, (access, secret), by=pinned(server=True))
            bucket = stack.enter_context(s3)
        settings = {
            "root": str(root / "hub"),
            "network": asdict(network),
            "part_size": part_size,
            "certificate": str(root / "server.pem"),
            "store": store,
            "s3": bucket,
            "bucket": BUCKET,
        }
        command = [sys.executable, "-m", "benchmarks.server", json.dumps(settings)]
        process = stack.enter_context(
            subprocess.Popen(
                [*pinned(server=True), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parent.parent,
                env={**os.environ, **KEYS},
            )
        )
        stack.callback(process.terminate)
        yield Server(process, bucket, ca, store)


def pinned(*, server: bool) -> list[str]:
    """The client has the first core, all else the last: what one does costs the other nothing."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2 or shutil.which("taskset") is None:
        return []
    return ["taskset", "-c", str(cores[-1] if server else cores[0])]


def _certificate(root: Path) -> Path:
    import trustme

    authority = trustme.CA()
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
        root / "server.pem"
    )
    authority.cert_pem.write_to_path(root / "ca.pem")
    return root / "ca.pem"
