"""How long a push would take on hosts that we have not got: arithmetic over measured costs.

    python -m benchmarks.scale

No traffic, no clock: what was measured here per GiB and per file, the Hub's published quota, and
which of them bounds first. Its tables stand in README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds, measured on one core of the machine that README.md describes.

    `beside` runs in threads on any core (hashlib and reads release the GIL); `loop` is the event
    loop's own thread, one core in each process.
    """

    beside: float
    loop: float
    inline_file: float = 0.3e-3
    lfs_object: float = 3.0e-3

    @property
    def per_gib(self) -> float:
        return self.beside + self.loop


# MD5, sha256, two reads; the socket, TCP and aiohttp: the table "Where a CPU second goes".
CHECKED = Costs(beside=1.65 + 0.70 + 0.2, loop=0.6 + 0.6)
UNCHECKED = Costs(beside=0.70 + 0.2, loop=0.6 + 0.6)
CHECKED_TLS = Costs(beside=CHECKED.beside, loop=CHECKED.loop + 1.2)


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    cores: int
    nic: float
    """Bits a second."""
    per_connection: float = 25e6
    """Bytes a second that a store lets one connection have: what the Hub's showed."""

    @property
    def wire(self) -> float:
        """GiB a second."""
        return self.nic / 8 / GIB


HOSTS = (
    Host("10 Gbit/s, 8 cores", 8, 10e9),
    Host("10 Gbit/s, 64 cores", 64, 10e9),
    Host("100 Gbit/s, 64 cores", 64, 100e9),
)


@dataclass(frozen=True, slots=True)
class Rate:
    """What a host can send, in GiB a second, and what it takes to send it."""

    rate: float
    bound: str
    processes: int
    cores: float
    connections: int


def bulk(host: Host, costs: Costs) -> Rate:
    """Large files from as many processes as it takes: the wire or the cores are full."""
    by_cores = host.cores / costs.per_gib
    rate = min(host.wire, by_cores)
    return Rate(
        rate,
        "wire" if rate == host.wire else "cores",
        ceil(rate * costs.loop),
        rate * costs.per_gib,
        ceil(rate * GIB / host.per_connection),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """The Hub's rules for many files. `quota` is API calls in five minutes, from
    https://huggingface.co/docs/hub/rate-limits (free: 1,000; Enterprise: 6,000)."""

    quota: int = 1000
    per_call: int = 256
    """Files in a preupload or LFS batch call."""
    per_check: int = 1000
    """Paths in a paths-info call, once to commit what is missing, once to verify."""
    commit_seconds_per_file: float = 0.6
    """The Hub commits about 100 LFS files a minute (`pipeline.preflight`)."""
    commit_seconds_per_inline: float = 0.01
    """Assumed, not measured."""


def calls(files: int, *, lfs: bool, commits: int, plan: Plan) -> int:
    """Calls of the Hub's API. Each LFS object has a verify call."""
    gathered = ceil(files / plan.per_call)
    checks = ceil(files / plan.per_check)
    return gathered + checks + commits + (gathered + files if lfs else 0)


def many(files: int, per_commit: int, *, lfs: bool, plan: Plan) -> dict[str, float]:
    """Hours that each limit takes; in a push some of them overlap. `lost s` is how many seconds of
    committing a kill loses at most: the commit in progress."""
    commits = ceil(files / per_commit)
    each = plan.commit_seconds_per_file if lfs else plan.commit_seconds_per_inline
    cost = CHECKED.lfs_object if lfs else CHECKED.inline_file
    return {
        "commits": commits,
        "calls": calls(files, lfs=lfs, commits=commits, plan=plan),
        "CPU h": files * cost / 3600,
        "quota h": calls(files, lfs=lfs, commits=commits, plan=plan) / plan.quota * 300 / 3600,
        "committing h": files * each / 3600,
        "lost s": per_commit * each,
    }


def lines() -> Iterator[str]:
    yield "| host | each part's ETag | GiB/s | bound | processes | cores | connections |"
    yield "|---|---|---|---|---|---|---|"
    for host in HOSTS:
        for name, costs in (
            ("checked", CHECKED),
            ("checked, TLS", CHECKED_TLS),
            ("not checked", UNCHECKED),
        ):
            r = bulk(host, costs)
            yield (
                f"| {host.name} | {name} | {r.rate:.2f} | {r.bound} | {r.processes}"
                f" | {r.cores:.1f} | {r.connections} |"
            )
    yield ""
    yield "| files | files a commit | commits | calls | CPU h | quota h | committing h | lost s |"
    yield "|---|---|---|---|---|---|---|---|"
    for files, per_commit, lfs, quota in (
        (1_000_000, 10_000, False, 1000),
        (1_000_000, 100, True, 1000),
        (1_000_000, 100, True, 6000),
        (10_000, 100, True, 1000),
    ):
        m = many(files, per_commit, lfs=lfs, plan=Plan(quota))
        kind = f"{files:,} {'LFS' if lfs else 'regular'}, quota {quota:,}"
        yield (
            f"| {kind} | {per_commit:,} | {m['commits']:,.0f} | {m['calls']:,.0f}"
            f" | {m['CPU h']:.2f} | {m['quota h']:.1f} | {m['committing h']:.1f}"
            f" | {m['lost s']:.0f} |"
        )


def main() -> None:
    print("\n".join(lines()))


if __name__ == "__main__":
    main()
