"""Does the embedded Hub's disk store cost less CPU than a good client spends on sending?

    python benchmarks/hub_sink.py [MiB] [rounds]

A client process sends one file through a batch, parts four at a time and a completion, to a hub
process on loopback. CPU is `getrusage` of each process, user and system, by phase. The client does
what a careful uploader must: sha256 of the file, MD5 of every part, every ETag compared.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from asyncpush.localhub.blobs.disk import DiskStore
from asyncpush.localhub.lfs_server import Operation, add_routes

PIECE = 256 << 10
PARTS_AT_ONCE = 4
READ_BUFFER = 512 << 10


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def serve(root: str, part_size: int, pipe: Connection) -> None:
    async def anyone(request: web.Request, operation: Operation) -> None:
        del request, operation

    async def main() -> None:
        store = DiskStore(root, part_size=part_size)
        await store.start()
        app = web.Application()
        add_routes(app, store, anyone)
        runner = web.AppRunner(app, access_log=None, read_bufsize=READ_BUFFER)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        stop = asyncio.Event()

        def answer() -> None:
            if pipe.recv() == "stop":
                stop.set()
            pipe.send(cpu_seconds())

        asyncio.get_running_loop().add_reader(pipe.fileno(), answer)
        pipe.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await stop.wait()
        await runner.cleanup()

    asyncio.run(main())


class Sender:
    """The client: one file, sent with care."""

    def __init__(self, base_url: str, path: Path, hub: Connection) -> None:
        self._base_url = base_url
        self._path = path
        self._hub = hub

    async def run(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        fd = os.open(self._path, os.O_RDONLY)
        async with aiohttp.ClientSession() as session:
            mine, theirs, began = cpu_seconds(), self._hub_cpu(), time.perf_counter()
            digest = await asyncio.to_thread(_sha256, self._path)
            figures["client sha256"] = cpu_seconds() - mine
            figures["wall sha256"] = time.perf_counter() - began

            mine, began = cpu_seconds(), time.perf_counter()
            upload = await self._batch(session, digest)
            parts = await self._send(session, fd, upload)
            figures["client send"] = cpu_seconds() - mine
            figures["hub sink"] = self._hub_cpu() - theirs
            figures["wall send"] = time.perf_counter() - began

            theirs, began = self._hub_cpu(), time.perf_counter()
            body = {"oid": digest, "parts": parts}
            async with session.post(upload["href"], json=body) as answer:
                answer.raise_for_status()
            figures["hub complete"] = self._hub_cpu() - theirs
            figures["wall complete"] = time.perf_counter() - began
        os.close(fd)
        return figures

    def _hub_cpu(self) -> float:
        self._hub.send("cpu")
        seconds: float = self._hub.recv()
        return seconds

    async def _batch(self, session: aiohttp.ClientSession, oid: str) -> Any:
        url = f"{self._base_url}/me/model.git/info/lfs/objects/batch"
        size = self._path.stat().st_size
        body = {
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{"oid": oid, "size": size}],
        }
        async with session.post(url, json=body) as answer:
            answer.raise_for_status()
            batch = await answer.json(content_type=None)
        return batch["objects"][0]["actions"]["upload"]

    async def _send(
        self, session: aiohttp.ClientSession, fd: int, upload: Any
    ) -> list[dict[str, Any]]:
        header = upload["header"]
        chunk_size = int(header["chunk_size"])
        numbers = sorted(int(key) for key in header if key.isdigit())
        remaining = iter(numbers)
        size = os.fstat(fd).st_size
        done: list[dict[str, Any]] = []

        async def worker() -> None:
            for number in remaining:
                start = (number - 1) * chunk_size
                stop = min(start + chunk_size, size)
                md5 = hashlib.md5(usedforsecurity=False)
                async with session.put(
                    header[str(number)],
                    data=_pieces(fd, start, stop, md5),
                    headers={"Content-Length": str(stop - start)},
                ) as answer:
                    answer.raise_for_status()
                    etag = answer.headers["ETag"]
                if etag != f'"{md5.hexdigest()}"':
                    raise RuntimeError(f"part {number}: wrong ETag {etag}")
                done.append({"partNumber": number, "etag": etag})

        await asyncio.gather(*(worker() for _ in range(PARTS_AT_ONCE)))
        return done


async def _pieces(fd: int, start: int, stop: int, md5: Any) -> AsyncIterator[bytes]:
    """Read and hash 512 KiB in one thread hop, hand on half of it at a time."""

    def load(offset: int) -> bytes:
        data = os.pread(fd, min(2 * PIECE, stop - offset), offset)
        md5.update(data)
        return data

    while start < stop:
        data = await asyncio.to_thread(load, start)
        start += len(data)
        for offset in range(0, len(data), PIECE):
            yield data[offset : offset + PIECE]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(mebibytes: int, part_size: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        with path.open("wb") as file:
            for _ in range(mebibytes):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
        hub = context.Process(target=serve, args=(f"{folder}/hub", part_size, theirs))
        hub.start()
        theirs.close()  # so that a hub that fails is an EOFError here, and no long wait
        try:
            return asyncio.run(Sender(ours.recv(), path, ours).run())
        finally:
            ours.send("stop")
            hub.join()


def main() -> None:
    mebibytes, rounds = (int(text) for text in (sys.argv[1:] + ["1024", "3"][len(sys.argv) - 1 :]))
    gigabytes = mebibytes * (1 << 20) / 1e9
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"one file of {mebibytes} MiB, {rounds} rounds; median (lowest to highest) per GB")
    for part_size in (8_000_000, 16_000_000):
        print(f"\nparts of {part_size:,} bytes")
        runs = [measure(mebibytes, part_size) for _ in range(rounds)]
        for run in runs:
            run["client in all"] = run["client sha256"] + run["client send"]
            run["hub in all"] = run["hub sink"] + run["hub complete"]
        for name in runs[0]:
            values = sorted(run[name] / gigabytes for run in runs)
            unit = "s" if name.startswith("wall") else "CPU s"
            print(
                f"  {name:15} {statistics.median(values):6.2f} {unit:5}"
                f" ({values[0]:.2f} to {values[-1]:.2f})"
            )


if __name__ == "__main__":
    main()
