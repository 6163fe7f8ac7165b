"""`hf upload` and `asyncpush push`, both by Xet, while the embedded Hub has the same faults.

    python -m benchmarks.faults                 every fault, each client
    python -m benchmarks.faults --mb 256 stall  some of them, with more bytes

Each run has a Hub of its own. What a client says is not believed: the files are downloaded and
compared, and the commits counted. Bytes are those of request bodies that the Hub has read.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush.localhub import LocalHub, serve_in_thread

REPO = "local/m"
TOKEN = "hf_benchmark"
CLIENTS = ("hf", "asyncpush")

FAULTS: dict[str, Sequence[str]] = {
    "none": (),
    "503 bursts": ("xet-write-token=503:1-2", "xorb=503:1-2", "shard=503:1", "commit=503:1-2"),
    "reset": ("preupload=reset:1", "xorb=reset-mid-body:1", "shard=reset-unanswered:1"),
    "stall": ("xorb=stall:1",),
    "lost commit answer": ("commit=reset-after:1",),
    "commit answered 504": ("commit=504-after:1",),
    "expired token": (),  # after preupload the Hub accepts none that it gave out before
}


@dataclass(slots=True)
class Run:
    """One client against one Hub. `outcome` is what was found, not what the client said."""

    client: str
    fault: str
    outcome: str = ""
    seconds: float = 0.0
    sent: int = 0
    peak: int = 0
    said: str = field(default="", repr=False)

    def row(self) -> str:
        return (
            f"{self.fault:<20} {self.client:<10} {self.outcome:<34} {self.seconds:>6.1f} s"
            f" {self.sent / 1e6:>7.1f} MB {self.peak / 1e6:>6.0f} MB"
        )


HEADER = f"{'fault':<20} {'client':<10} {'outcome':<34} {'wall':>8} {'bytes':>10} {'memory':>9}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("faults", nargs="*", help=f"some of: {', '.join(FAULTS)}")
    parser.add_argument("--mb", type=int, default=32, help="size of the largest file")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds until one has hung")
    parser.add_argument("--client", action="append", choices=CLIENTS, help="one alone")
    given = parser.parse_args(words)
    if unknown := set(given.faults) - set(FAULTS):
        parser.error(f"no such faults: {', '.join(sorted(unknown))}")
    print(HEADER)
    for fault in given.faults or FAULTS:
        for client in given.client or CLIENTS:
            run = measured(client, fault, given.mb, given.limit)
            print(run.row(), flush=True)
            if run.outcome != ONE_COMMIT:
                print(f"    it said: {run.said}", flush=True)


def measured(client: str, fault: str, megabytes: int, limit: float) -> Run:
    """One run, in a temporary folder that is removed."""
    run = Run(client, fault)
    with tempfile.TemporaryDirectory(prefix="asyncpush-faults-") as scratch:
        source = Path(scratch, "source")
        write_source(source, megabytes)
        with hub_with(fault, Path(scratch, "hub"), run) as hub:
            environment = environment_of(
                hub, Path(scratch, "home"), expires=fault.startswith("exp")
            )
            _run(run, command_of(client, source), environment, limit)
            if not run.outcome:
                run.outcome = outcome(hub, source)
    return run


def write_source(folder: Path, megabytes: int) -> None:
    folder.mkdir()
    generator = random.Random(megabytes)
    with (folder / "model.safetensors").open("wb") as file:
        for _ in range(megabytes):
            file.write(generator.randbytes(1_000_000))
    (folder / "vocab.bin").write_bytes(generator.randbytes(1_000_000))
    (folder / "config.json").write_text(json.dumps({"a": 1}))
    (folder / "README.md").write_text("# a model\n")


@contextmanager
def hub_with(fault: str, root: Path, run: Run) -> Iterator[LocalHub]:
    """A Hub with that fault, which counts the bytes it is sent."""
    hub: LocalHub

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            run.sent += request.content.total_bytes

    @web.middleware
    async def expire(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if request.match_info.route.name == "preupload" and not revoked:
            revoked.append(True)
            hub.revoke_tokens()
        return response

    revoked: list[bool] = []
    middlewares = [count, expire] if fault == "expired token" else [count]
    users = {"local": TOKEN}
    with serve_in_thread(root, users=users, faults=FAULTS[fault], middlewares=middlewares) as hub:
        yield hub


def environment_of(hub: LocalHub, home: Path, *, expires: bool) -> dict[str, str]:
    """The same for both clients: a token, or a login as `hf auth login` stores it."""
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = kept | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "ASYNCPUSH_CACHE": str(home / "asyncpush"),
    }
    if not expires:
        return environment | {"HF_TOKEN": TOKEN}
    login = hub.log_in()
    (home / "token").write_text(login.access_token)
    config = configparser.ConfigParser(interpolation=None)
    config["me"] = {
        "hf_token": login.access_token,
        "refresh_token": login.refresh_token,
        "expires_at": str(int(login.expires_at)),
    }
    with (home / "stored_tokens").open("w") as file:
        config.write(file)
    return environment


def command_of(client: str, source: Path) -> list[str]:
    if client == "hf":
        return [str(Path(sys.executable).with_name("hf")), "upload", REPO, str(source), "."]
    words = ["push", REPO, str(source), "--transfer", "xet", "--quiet"]
    return [sys.executable, "-m", "asyncpush", *words]


def _run(run: Run, command: list[str], environment: dict[str, str], limit: float) -> None:
    """Wait for it, watching its memory; after `limit` it is killed."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        while process.poll() is None:
            run.peak = max(run.peak, _peak_memory(process.pid))
            if time.perf_counter() - began > limit:
                process.kill()
                process.wait()
                run.outcome = f"hung: killed after {limit:.0f} s"
            time.sleep(0.02)
        run.seconds = time.perf_counter() - began
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    reporting = [line for line in lines if "Error" in line or "✗" in line]
    run.said = (reporting or lines or ["nothing"])[-1].strip()[:200]
    if process.returncode and not run.outcome:
        run.outcome = f"failed, exit code {process.returncode}"


def _peak_memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


ONE_COMMIT = "one right commit"


def outcome(hub: LocalHub, source: Path) -> str:
    """What the Hub holds after a client has said that all is well."""
    for path in sorted(source.iterdir()):
        try:
            with _get(f"{hub.url}/{REPO}/resolve/main/{path.name}") as answer:
                received = hashlib.file_digest(answer, "sha256").digest()
        except HTTPError as error:
            return f"false success: {path.name} {error.code}"
        with path.open("rb") as file:
            if received != hashlib.file_digest(file, "sha256").digest():
                return f"false success: {path.name} differs"
    with _get(f"{hub.url}/api/models/{REPO}/commits/main") as answer:
        history = json.loads(answer.read())
    count = len(history) - 1  # the first is the repo's own
    return ONE_COMMIT if count == 1 else f"{count} commits, where there should be one"


def _get(url: str) -> HTTPResponse:
    answer = urlopen(Request(url, headers={"Authorization": f"Bearer {TOKEN}"}), timeout=60)
    assert isinstance(answer, HTTPResponse)
    return answer


if __name__ == "__main__":
    main()
