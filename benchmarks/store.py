"""A store that does next to nothing: PUTs are counted and thrown away, at the network's pace.

The kernel drops the bytes (`MSG_TRUNC`), so a core serves gigabytes a second, and the ETags were
known beforehand. What clients meet is shaped here: rate, latency, refusals, one slow connection.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from benchmarks.networks import Network

_STEP = 1 << 20
_SHAPED_STEP = 64 << 10
_SHAPED_BUFFER = 32 << 10
_UNREAD_BUFFER = 4 << 10
_HEAD_LIMIT = 64 << 10


@dataclass(slots=True)
class Traffic:
    """What came in since the last reset."""

    received: int = 0
    puts: int = 0
    refused: int = 0
    connections: int = 0
    most_in_flight: int = 0
    first: float = 0.0
    last: float = 0.0

    def output(self) -> dict[str, float]:
        return {**asdict(self), "seconds": self.last - self.first}


@dataclass(slots=True)
class _Pace:
    """Sleeps as long as the bytes taken so far need."""

    rate: float
    free_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, amount: int) -> None:
        with self.lock:
            now = time.monotonic()
            self.free_at = max(self.free_at, now - 0.005) + amount / self.rate
            wait = self.free_at - now
        if wait > 0:
            time.sleep(wait)


class SinkServer:
    """Listens on loopback; a thread for each connection. `PUT /{oid}/{part number}`."""

    def __init__(self, network: Network, tls: ssl.SSLContext | None = None) -> None:
        self._network = network
        self._tls = tls
        self._listener = socket.socket()
        if network.shaped:
            # Inherited by what is accepted: before anything is read, hardly anything has arrived.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD_BUFFER)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(512)
        self._lock = threading.Lock()
        self._in_flight = 0
        self._aggregate = _Pace(network.aggregate) if network.aggregate else None
        self._crawler: int | None = None
        self._expected = 0
        self._etags: Mapping[str, Sequence[str]] = {}
        self.stored: set[str] = set()
        self.traffic = Traffic()

    @property
    def url(self) -> str:
        scheme = "https" if self._tls is not None else "http"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self, etags: Mapping[str, Sequence[str]], expected: int) -> None:
        """Forget what was stored; `expected` bytes are coming."""
        with self._lock:
            self._etags = etags
            self._expected = expected
            self._crawler = None
            self.stored = set()
            self.traffic = Traffic()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            time.sleep(self._network.latency)
            if self._network.shaped:
                # Else megabytes would wait in the kernel's own buffers.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SHAPED_BUFFER)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with self._lock:
                self.traffic.connections += 1
            buffer = bytearray(_SHAPED_STEP if self._network.shaped else _STEP)
            while (head := _read_head(connection)) is not None:
                self._put(connection, head, memoryview(buffer))
        except (OSError, ValueError):
            pass  # the client went away, or was sent away
        finally:
            connection.close()

    def _put(self, connection: socket.socket, head: _Head, buffer: memoryview) -> None:
        if head.expects_continue:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        with self._flight(head.started) as admitted:
            if not admitted:
                self._refuse(connection, head.length)
                raise ValueError("refused")
            pace = self._pace()
            flags = 0 if self._tls is not None else socket.MSG_TRUNC
            left = head.length - head.started
            while left:
                # With MSG_TRUNC the kernel counts and drops: the buffer stays untouched.
                wanted = min(left, len(buffer))
                if flags:
                    count = connection.recv_into(buffer, wanted, flags)
                else:
                    count = connection.recv_into(buffer, wanted)
                if not count:
                    raise ValueError("cut off")
                left -= count
                self.traffic.received += count
                for limit in (pace, self._aggregate):
                    if limit is not None:
                        limit.take(count)
            time.sleep(self._network.latency)
            etag = self._etag(head.path)
        connection.sendall(
            f'HTTP/1.1 200 OK\r\nETag: "{etag}"\r\nContent-Length: 0\r\n\r\n'.encode()
        )

    def _etag(self, path: str) -> str:
        _, oid, number = path.partition("?")[0].split("/")
        etags = self._etags[oid]
        if number == "whole":
            self.stored.add(oid)
            return etags[0]
        return etags[int(number) - 1]

    @contextmanager
    def _flight(self, started: int) -> Iterator[bool]:
        with self._lock:
            self._in_flight += 1
            traffic = self.traffic
            traffic.first = traffic.first or time.monotonic()
            traffic.received += started
            limit = self._network.refuse_above
            admitted = limit is None or self._in_flight <= limit
            if admitted:
                traffic.puts += 1
                traffic.most_in_flight = max(traffic.most_in_flight, self._in_flight)
            else:
                traffic.refused += 1
        try:
            yield admitted
        finally:
            with self._lock:
                self._in_flight -= 1
                self.traffic.last = time.monotonic()

    def _pace(self) -> _Pace | None:
        """The rate of this PUT. The connection that comes when its share is in may crawl."""
        network, me = self._network, threading.get_ident()
        if network.crawl_after is not None:
            with self._lock:
                due = self.traffic.received >= network.crawl_after * self._expected
                if self._crawler is None and due:
                    self._crawler = me
            if self._crawler == me:
                return _Pace(network.crawl_rate)
        return _Pace(network.per_connection) if network.per_connection else None

    def _refuse(self, connection: socket.socket, length: int) -> None:
        connection.sendall(
            b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        # Closed with bytes unread, the answer would be lost in a reset.
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(2)
        scratch = bytearray(_STEP)
        while connection.recv_into(scratch):
            pass


@dataclass(frozen=True, slots=True)
class _Head:
    path: str
    length: int
    started: int
    """Bytes of the body that came with the head."""
    expects_continue: bool


def _read_head(connection: socket.socket) -> _Head | None:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(_HEAD_LIMIT)
        if not piece or len(received) > _HEAD_LIMIT:
            return None
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    request, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" not in headers:
        raise ValueError("a body without Content-Length")
    return _Head(
        request.split(" ")[1],
        int(headers["content-length"]),
        len(body),
        headers.get("expect") == "100-continue",
    )
