"""The simulated networks between client and store, and the shortest possible time on each."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

HUB_ROUND_TRIPS = 7
"""Calls of a push that wait for each other: head, preupload, batch, complete, verify, commit, and
the look at the commit. (The official client spares the last, and asks for the head another way.)"""


@dataclass(frozen=True, slots=True)
class Network:
    """Shaping done by the server; bytes per second, seconds.

    Attributes:
        per_connection: what one connection carries.
        aggregate: what all of them carry together.
        latency: one round trip: waited once per connection and once per request.
        refuse_above: PUTs in flight above which the store answers 503.
        crawl_after: share of the bytes after which one connection crawls at `crawl_rate`.
        tls: the store uses TLS, with a certificate that the clients are set to trust.
    """

    per_connection: float | None = None
    aggregate: float | None = None
    latency: float = 0.0
    refuse_above: int | None = None
    crawl_after: float | None = None
    crawl_rate: float = 1e6
    tls: bool = False

    @property
    def shaped(self) -> bool:
        return self.per_connection is not None or self.aggregate is not None

    def describe(self) -> str:
        words = []
        if self.per_connection is not None:
            words.append(f"{self.per_connection / 1e6:g} MB/s a connection")
        if self.aggregate is not None:
            words.append(f"{self.aggregate / 1e6:g} MB/s in all")
        if self.latency:
            words.append(f"{self.latency * 1000:g} ms")
        if self.refuse_above is not None:
            words.append(f"503 above {self.refuse_above} connections")
        if self.crawl_after is not None:
            words.append(f"one connection crawls at {self.crawl_rate / 1e6:g} MB/s")
        if self.tls:
            words.append("TLS")
        return ", ".join(words) or "unthrottled loopback"


def ideal_seconds(network: Network, parts: Sequence[int], connections: int) -> float:
    """The time of a sender that computes nothing: `parts` in order over so many connections.

    Every part waits for its answer before its connection takes the next; the calls to the Hub that
    wait for each other are counted, a crawling connection is not.
    """
    connections = min(connections, network.refuse_above or connections)
    hub = HUB_ROUND_TRIPS * network.latency
    if not parts or not network.shaped:
        waves = -(-len(parts) // connections)
        return hub + network.latency * (waves + bool(parts))
    free = [network.latency] * min(connections, len(parts))
    for size in parts:
        began = heapq.heappop(free)
        sending = size / network.per_connection if network.per_connection else 0.0
        heapq.heappush(free, began + sending + network.latency)
    done = max(free)
    if network.aggregate is not None:
        done = max(done, sum(parts) / network.aggregate + 2 * network.latency)
    return hub + done
