"""The near-ideal sender: what this machine can do when only bytes are sent.

Threads, blocking sockets, sha256 with the GIL released, `sendfile`, 16 connections. No retries, no
journal, no progress, nothing verified. Options: connections; md5 (hash every part and compare its
ETag: the least that a client needs that verifies them).
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import mmap
import os
import queue
import socket
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.rivals.measuring import TOKEN, Figures, Job

BATCH = 256
HASH_THREADS = 2
READ = 1 << 20
_PIECE = 256 << 10


@dataclass(slots=True)
class File:
    path: Path
    name: str
    size: int
    oid: str = ""
    etags: dict[int, str] = field(default_factory=dict)
    left: int = 0
    upload: dict[str, Any] = field(default_factory=dict)
    verify: str = ""
    stored: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Part:
    file: File
    number: int
    offset: int
    size: int
    url: str


class Api(threading.local):
    """JSON calls, a kept connection for each thread."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    def post(self, url: str, body: Any, kind: str = "application/json") -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self._connection.request("POST", target, data, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{url}: {answer.status} {content[:300]!r}")
        return json.loads(content)


class Senders:
    """Threads that PUT parts, each on connections of its own."""

    def __init__(self, count: int, *, md5: bool) -> None:
        self._parts: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self._md5 = md5
        self._lock = threading.Lock()
        self.failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._work) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def add(self, parts: Sequence[Part]) -> None:
        for part in parts:
            self._parts.put(part)

    def close(self) -> None:
        for _ in self._threads:
            self._parts.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        connections: dict[str, socket.socket] = {}
        buffer = memoryview(mmap.mmap(-1, _PIECE))
        while (part := self._parts.get()) is not None:
            try:
                etag = self._put(part, connections, buffer)
            except BaseException as exc:
                self.failure = exc
                part.file.stored.set()
                continue
            with self._lock:
                part.file.etags[part.number] = etag
                part.file.left -= 1
                if not part.file.left:
                    part.file.stored.set()

    def _put(self, part: Part, connections: dict[str, socket.socket], buffer: memoryview) -> str:
        parts = urlsplit(part.url)
        connection = connections.get(parts.netloc)
        if connection is None:
            connection = connections[parts.netloc] = _connect(parts.scheme, parts.netloc)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.sendall(
            f"PUT {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Length: {part.size}\r\n\r\n".encode(),
            *((socket.MSG_MORE,) if parts.scheme == "http" else ()),
        )
        md5 = hashlib.md5(usedforsecurity=False)
        descriptor = os.open(part.file.path, os.O_RDONLY)
        try:
            offset, left = part.offset, part.size
            while left:
                if not self._md5 and parts.scheme == "http":
                    count = os.sendfile(connection.fileno(), descriptor, offset, left)
                else:
                    count = os.preadv(descriptor, [buffer[: min(left, _PIECE)]], offset)
                    if self._md5:
                        md5.update(buffer[:count])
                    connection.sendall(buffer[:count])
                offset += count
                left -= count
        finally:
            os.close(descriptor)
        etag = _etag(connection)
        if self._md5 and etag.strip('"') != md5.hexdigest():
            raise RuntimeError(f"wrong ETag {etag} of part {part.number}")
        return etag


def _connect(scheme: str, netloc: str) -> socket.socket:
    host, _, port = netloc.partition(":")
    connection = socket.create_connection((host, int(port or (443 if scheme == "https" else 80))))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if scheme == "https":
        return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    return connection


def _etag(connection: socket.socket) -> str:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(4096)
        if not piece:
            raise RuntimeError("the store closed the connection")
        received += piece
    status, *headers = received.decode("latin-1").split("\r\n")
    if " 200 " not in status:
        raise RuntimeError(status)
    return next(line[5:].strip() for line in headers if line.lower().startswith("etag:"))


def push(job: Job) -> None:
    api = Api(job.endpoint)
    folder = Path(job.folder)
    files = [
        File(path, path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    senders = Senders(int(job.options.get("connections", 16)), md5=bool(job.options.get("md5")))
    try:
        with ThreadPoolExecutor(4) as callers, ThreadPoolExecutor(HASH_THREADS) as hashers:
            chunks = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
            modes = list(callers.map(lambda chunk: _modes(api, job, chunk), chunks))
            lfs = [file for chunk in modes for file in chunk]
            together = _together(lfs)
            hashed = hashers.map(_hash, together)
            for chunk in hashed:
                senders.add(_batch(api, job, chunk))
            lines = list(callers.map(lambda file: _finish(api, file, senders), lfs))
    finally:
        senders.close()
    kept = {file.name for file in lfs}
    inline = [_inline(file) for file in files if file.name not in kept]
    header = {"key": "header", "value": {"summary": "benchmark", "description": ""}}
    body = b"\n".join(json.dumps(line).encode() for line in [header, *inline, *lines])
    api.post(f"/api/models/{job.repo}/commit/main", body, "application/x-ndjson")


def _modes(api: Api, job: Job, chunk: Sequence[File]) -> list[File]:
    body = [{"path": f.name, "size": f.size, "sample": _sample(f.path)} for f in chunk]
    answer = api.post(f"/api/models/{job.repo}/preupload/main", {"files": body})
    ways = {entry["path"]: entry["uploadMode"] for entry in answer["files"]}
    return [file for file in chunk if ways[file.name] == "lfs"]


def _together(files: Sequence[File]) -> list[list[File]]:
    """Small files share a batch call, large ones have theirs as soon as they are hashed."""
    chunks: list[list[File]] = []
    size = 0
    for file in files:
        if not chunks or len(chunks[-1]) >= BATCH or size + file.size > 16 * READ:
            chunks.append([])
            size = 0
        chunks[-1].append(file)
        size += file.size
    return chunks


def _sample(path: Path) -> str:
    with path.open("rb") as file:
        return base64.b64encode(file.read(512)).decode()


def _hash(chunk: list[File]) -> list[File]:
    # A page of its own: on some processors reads to addresses just above a page's start, where
    # `bytearray` lands, cost five times as much (0.5 CPU s per GiB here).
    buffer = mmap.mmap(-1, READ)
    view = memoryview(buffer)
    for item in chunk:
        digest = hashlib.sha256()
        with item.path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
        item.oid = digest.hexdigest()
    return chunk


def _batch(api: Api, job: Job, files: Sequence[File]) -> list[Part]:
    body = {
        "operation": "upload",
        "transfers": ["basic", "multipart"],
        "objects": [{"oid": file.oid, "size": file.size} for file in files],
        "hash_algo": "sha256",
    }
    answer = api.post(f"/{job.repo}.git/info/lfs/objects/batch", body)
    by_oid = {entry["oid"]: entry["actions"] for entry in answer["objects"]}
    return [part for file in files for part in _parts(file, by_oid[file.oid])]


def _parts(file: File, actions: dict[str, Any]) -> list[Part]:
    file.upload, file.verify = actions["upload"], actions["verify"]["href"]
    header = file.upload["header"]
    if "chunk_size" not in header:
        file.left = 1
        return [Part(file, 1, 0, file.size, file.upload["href"])]
    step = int(header["chunk_size"])
    numbers = sorted(int(key) for key in header if key.isdigit())
    file.left = len(numbers)
    return [
        Part(
            file,
            number,
            (number - 1) * step,
            min(step, file.size - (number - 1) * step),
            header[str(number)],
        )
        for number in numbers
    ]


def _finish(api: Api, file: File, senders: Senders) -> dict[str, Any]:
    file.stored.wait()
    if senders.failure is not None:
        raise senders.failure
    if "chunk_size" in file.upload["header"]:
        parts = [{"partNumber": n, "etag": file.etags[n]} for n in sorted(file.etags)]
        api.post(file.upload["href"], {"oid": file.oid, "parts": parts})
    api.post(file.verify, {"oid": file.oid, "size": file.size})
    value = {"path": file.name, "algo": "sha256", "oid": file.oid, "size": file.size}
    return {"key": "lfsFile", "value": value}


def _inline(file: File) -> dict[str, Any]:
    content = base64.b64encode(file.path.read_bytes()).decode()
    return {"key": "file", "value": {"path": file.name, "content": content, "encoding": "base64"}}


def main() -> None:
    job, figures = Job.given(), Figures()
    with figures.measuring():
        push(job)
    figures.print()


if __name__ == "__main__":
    main()
