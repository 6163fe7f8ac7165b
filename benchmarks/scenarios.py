"""The questions, declared: what is pushed, over what, by whom, and what we hold ourselves to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.files import MIB, FileSet
from benchmarks.networks import Network

GIB = 1 << 30
PART_SIZE = 8_000_000
LOOPBACK = Network()
CONNECTIONS = 16

Metric = Literal[
    "wall",
    "cpu",
    "peak_rss",
    "lag_p99",
    "lag_worst",
    "step_slowdown",
    "sent",
    "bytes_sent",
    "sent_share",
    "ideal",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender: a rival's program, its options, its name in the table."""

    label: str
    rival: str
    options: dict[str, Any] = field(default_factory=dict)
    files: FileSet | None = None
    point: tuple[str, float] | None = None
    """The line that it is a point of, and where: for a chart of costs against a share."""


@dataclass(frozen=True, slots=True)
class Target:
    """`of`'s median against that of the best of `to`; alone, its own value.

    `of` may name the metric of a contender; `to` of "ideal" is the network's ideal time.
    """

    metric: Metric
    of: str
    to: tuple[str, ...] = ()
    at_most: float | None = None
    at_least: float | None = None
    minus: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything about one question. `quick` are smaller files for a look at whether it works."""

    name: str
    title: str
    files: FileSet
    quick: FileSet
    entries: tuple[Entry, ...]
    network: Network = LOOPBACK
    part_size: int = PART_SIZE
    targets: tuple[Target, ...] = ()
    store: Literal["sink", "disk", "s3", "xet"] = "sink"
    bandwidth: float | None = None
    """The limit that the contenders were given, for the ideal time."""

    def sized(self, *, quick: bool) -> Scenario:
        if not quick:
            return self
        entries = tuple(replace(entry, files=None) for entry in self.entries)
        return replace(self, files=self.quick, entries=entries)


OURS, UNCHECKED, OFFICIAL, NPM, IDEAL, IDEAL_MD5 = (
    "asyncpush",
    "asyncpush, no ETag check",
    "official LFS",
    "npm client",
    "near-ideal",
    "near-ideal with MD5",
)
FROM_MEMORY = {"asyncpush from memory, LFS": "lfs", "asyncpush from memory, Xet": "xet"}
ours = Entry(OURS, "asyncpush")
unchecked = Entry(UNCHECKED, "asyncpush", {"verify_etag": False})
official = Entry(OFFICIAL, "official")
xet = Entry("official Xet", "official-xet", {"xet": True})
ours_xet = Entry("asyncpush Xet", "asyncpush-xet", {"transfer": "xet"})
ours_lfs = Entry("asyncpush LFS", "asyncpush", {"transfer": "lfs"})
npm = Entry(NPM, "npm")
ideal = Entry(IDEAL, "ideal", {"connections": CONNECTIONS})
ideal_md5 = Entry(IDEAL_MD5, "ideal", {"connections": CONNECTIONS, "md5": True})

bare = Entry("bare aiohttp", "bare")
CHECKED = "bare aiohttp, checked"
checked = Entry(CHECKED, "bare", {"checked": True})

ALL = (ours, unchecked, official, npm, ideal, ideal_md5)
SLOW = Network(per_connection=25e6, latency=0.03)
LONE = FileSet(1, GIB)


FLOOR_OF_A_START = "bare aiohttp"


def _start(label: str, who: str, *more: str) -> Entry:
    """A script that pushes once: `rivals/start.py` run as a file, so that no package is imported
    with it."""
    script = str(Path(__file__).parent / "rivals" / "start.py")
    words = ["python", "-P", script, who, "{endpoint}", "{repo}", "{folder}", *more]
    return Entry(label, "program", {"command": words})


def _fixed(*counts: int) -> tuple[Entry, ...]:
    return tuple(Entry(f"{count} parts", "asyncpush", {"fixed_parts": count}) for count in counts)


def _best_fixed(*counts: int) -> tuple[Target, ...]:
    """Steered, a push takes hardly longer than with whichever of these numbers is best."""
    to = tuple(entry.label for entry in _fixed(*counts))
    return (Target("wall", OURS, to, at_most=1.15),)


def _killed(*shares: float) -> tuple[Entry, ...]:
    return tuple(Entry(f"at {share:.0%}", "killed", {"kill_at": share}) for share in shares)


def _killed_fixed(*shares: float) -> tuple[Entry, ...]:
    """As many parts at once as the network needs, from the start: no limit that has to find out
    loses less."""
    return tuple(
        Entry(f"at {share:.0%}, 4 parts", "killed", {"kill_at": share, "fixed_parts": 4})
        for share in shares
    )


def _cpu(limit: float, unchecked_limit: float) -> tuple[Target, ...]:
    return (
        Target("cpu", OURS, (OFFICIAL,), at_most=limit),
        Target("cpu", UNCHECKED, (OFFICIAL,), at_most=unchecked_limit),
    )


def _changed(*shares: float) -> tuple[Entry, ...]:
    """Both engines of ours and the official client's Xet, with a share of the bytes changed."""
    return tuple(
        replace(
            entry,
            label=f"{share:.0%}: {entry.label}",
            options={**entry.options, "changed": share},
            point=(entry.label, share),
        )
        for share in shares
        for entry in (ours_xet, ours_lfs, xet)
    )


def _no_slower(*shares: float) -> tuple[Target, ...]:
    return tuple(
        Target(
            metric,
            f"{share:.0%}: {ours_xet.label}",
            (f"{share:.0%}: {xet.label}",),
            at_most=1.03,
        )
        for share in shares
        for metric in ("wall", "cpu")
    )


LAGGING = (
    Entry(OURS, "asyncpush", {"lag": True}),
    Entry("asyncpush on uvloop", "asyncpush", {"lag": True, "uvloop": True}),
)

LAG = (
    Target("lag_p99", OURS, at_most=0.005),
    Target("lag_worst", OURS, at_most=0.025),
)

XET = (
    Target("wall", ours_xet.label, (xet.label,), at_most=1.03),
    Target("cpu", ours_xet.label, (xet.label,), at_most=1.03),
    Target("peak_rss", ours_xet.label, (xet.label,), at_most=1.0),
)

BUCKETS = (
    Entry("asyncpush sync", "buckets"),
    Entry("asyncpush, unverified", "buckets", {"unverified": True}),
    Entry("official sync_bucket", "buckets", {"official": True, "xet": True}),
    Entry("official, checked", "buckets", {"official": True, "xet": True, "checked": True}),
)

NO_SLOWER_HALF_THE_MEMORY = (
    Target("wall", "asyncpush sync", ("official sync_bucket",), at_most=1.0),
    Target("cpu", "asyncpush sync", ("official sync_bucket",), at_most=1.0),
    Target("peak_rss", "asyncpush sync", ("official sync_bucket",), at_most=0.5),
)

NEAR_IDEAL = (
    # MD5 alone takes longer than the near-ideal sender's whole push: like is held against like.
    Target("wall", OURS, (IDEAL_MD5,), at_most=1.3),
    Target("wall", UNCHECKED, (IDEAL,), at_most=1.3),
)

SCENARIOS = (
    Scenario(
        "slow-file",
        "one file, 25 MB/s a connection, 30 ms",
        FileSet(1, 256 * MIB),
        FileSet(1, 32 * MIB),
        (ours, unchecked, official, npm, ideal),
        SLOW,
        targets=(
            Target("wall", OURS, (OFFICIAL,), at_most=0.1),
            Target("wall", OURS, ("ideal",), at_most=1.25),
        ),
    ),
    Scenario(
        "slow-files",
        "8 files, 25 MB/s a connection, 30 ms",
        FileSet(8, 64 * MIB),
        FileSet(8, 4 * MIB),
        (ours, unchecked, official, npm, ideal),
        SLOW,
        targets=(
            Target("wall", OURS, (OFFICIAL,), at_most=0.5),
            Target("wall", OURS, ("ideal", "cpu floor"), at_most=1.25),
        ),
    ),
    Scenario(
        "one-file",
        "one file, unthrottled",
        LONE,
        FileSet(1, 64 * MIB),
        ALL,
        targets=(*_cpu(1.8, 0.95), *NEAR_IDEAL),
    ),
    Scenario(
        "one-file-tls",
        "one file over TLS",
        LONE,
        FileSet(1, 64 * MIB),
        ALL,
        Network(tls=True),
        targets=(*_cpu(1.6, 0.95), *NEAR_IDEAL),
    ),
    Scenario(
        "many-files",
        "8 files, unthrottled: hashing and sending overlap",
        FileSet(8, 128 * MIB),
        FileSet(8, 16 * MIB),
        (ours, unchecked, official, ideal, ideal_md5),
        targets=(
            *NEAR_IDEAL,
            # Hashing and sending overlap: on one core, that is one which never waits.
            Target("wall", OURS, ("cpu floor",), at_most=1.15),
        ),
    ),
    Scenario(
        "small-files",
        "2,000 small text files: they ride in the commit",
        FileSet(2000, 1 << 10, 20 << 10, "prose"),
        FileSet(300, 1 << 10, 20 << 10, "prose"),
        (ours, official, npm, ideal),
        targets=(
            Target("wall", OURS, (OFFICIAL,), at_most=0.9),
            Target("cpu", OURS, (OFFICIAL,), at_most=0.75),
            Target("wall", OURS, (IDEAL,), at_most=1.3),
        ),
    ),
    Scenario(
        "small-objects",
        "500 LFS objects of 64 KB",
        FileSet(500, 64_000),
        FileSet(60, 64_000),
        (ours, unchecked, official, npm, bare, checked, ideal),
        targets=(
            Target("wall", OURS, (OFFICIAL,), at_most=0.5),
            Target("wall", OURS, (IDEAL,), at_most=1.6),
            Target("wall", OURS, (bare.label,), at_most=1.4),
            Target("wall", OURS, (CHECKED,), at_most=1.1),
        ),
    ),
    Scenario(
        "small-objects-far",
        "500 LFS objects of 64 KB, 30 ms",
        FileSet(500, 64_000),
        FileSet(60, 64_000),
        (ours, official, npm, bare, checked, ideal),
        Network(latency=0.03),
        targets=(
            Target("wall", OURS, (OFFICIAL,), at_most=0.2),
            Target("wall", OURS, (IDEAL,), at_most=1.6),
            Target("wall", OURS, (CHECKED,), at_most=1.1),
        ),
    ),
    Scenario(
        "bulk",
        "200 repos of 5 files, 30 ms",
        FileSet(1000, 2 << 10, 64 << 10, "models"),
        FileSet(50, 2 << 10, 64 << 10, "models"),
        (
            Entry("push_many", "bulk", {"client": "asyncpush"}),
            Entry("official, a loop", "bulk", {"client": "official"}),
        ),
        Network(latency=0.03),
        targets=(Target("wall", "push_many", ("official, a loop",), at_most=0.2),),
    ),
    Scenario(
        "tiny-files",
        "10,000 and 100,000 tiny files",
        FileSet(10_000, 200, 0, "prose"),
        FileSet(500, 200, 0, "prose"),
        (
            replace(ours, label="10,000 files"),
            Entry("100,000 files", "asyncpush", files=FileSet(100_000, 200, 0, "prose")),
        ),
        targets=(
            Target("wall", "100,000 files", ("10,000 files",), at_most=11),
            Target("peak_rss", "10,000 files", at_most=120e6),
            Target("peak_rss", "100,000 files", at_most=250e6),
        ),
    ),
    Scenario(
        "memory",
        "peak memory, 1 and 6 GiB",
        LONE,
        FileSet(1, 64 * MIB),
        (
            replace(ours, label="1 GiB"),
            Entry("6 GiB", "asyncpush", files=FileSet(1, 6 * GIB, 0, "sparse")),
            official,
        ),
        targets=(
            Target("peak_rss", "1 GiB", at_most=90e6),
            Target("peak_rss", "6 GiB", at_most=90e6),
            Target("peak_rss", "6 GiB", ("1 GiB",), at_most=10e6, minus=True),
        ),
    ),
    Scenario(
        "lag",
        "event-loop lag beside one file",
        LONE,
        FileSet(1, 64 * MIB),
        LAGGING,
        targets=LAG,
    ),
    Scenario(
        "lag-tls",
        "event-loop lag beside one file over TLS",
        LONE,
        FileSet(1, 64 * MIB),
        LAGGING,
        Network(tls=True),
        targets=LAG,
    ),
    Scenario(
        "training",
        "NumPy steps on the same core beside a push",
        LONE,
        FileSet(1, 128 * MIB),
        (
            Entry(OURS, "training", {"client": "asyncpush"}),
            Entry("official run_as_future", "training", {"client": "official"}),
        ),
        targets=(Target("step_slowdown", OURS, at_most=0.1),),
    ),
    Scenario(
        "training-from-memory",
        "NumPy steps on the same core beside a push of a copy of their tensors",
        FileSet(1, 256 * MIB),
        FileSet(1, 64 * MIB),
        tuple(
            Entry(label, "training", {"client": "from memory", "transfer": transfer})
            for label, transfer in FROM_MEMORY.items()
        ),
        targets=tuple(Target("step_slowdown", label, at_most=0.1) for label in FROM_MEMORY),
        store="xet",  # it takes both, whatever the bytes
    ),
    Scenario(
        "again",
        "a folder that the Hub has already",
        LONE,
        FileSet(1, 64 * MIB),
        (
            Entry(OURS, "asyncpush", {"twice": True}),
            Entry(OFFICIAL, "official", {"twice": True}),
        ),
        targets=(Target("wall", OURS, (OFFICIAL,), at_most=0.1),),
    ),
    Scenario(
        "import",
        "import in a fresh interpreter",
        FileSet(1, 1024, 0, "prose"),
        FileSet(1, 1024, 0, "prose"),
        (
            Entry("import asyncpush", "import", {"module": "asyncpush"}),
            Entry("the front door", "import", {"module": "asyncpush.uploader"}),
            Entry("the runtime", "import", {"module": "asyncpush.runtime"}),
            Entry("import aiohttp", "import", {"module": "aiohttp"}),
            Entry("import huggingface_hub", "import", {"module": "huggingface_hub.hf_api"}),
        ),
        targets=(
            Target("cpu", "import asyncpush", ("import aiohttp",), at_most=1.15),
            # What a program pays that names push_to_hub or Uploader; the runtime is imported beside
            # its running loop.
            Target("cpu", "the front door", ("import aiohttp",), at_most=1.15),
        ),
    ),
    Scenario(
        "command",
        "one 1 KB file from the command line, start to exit",
        FileSet(1, 1024, 0, "prose"),
        FileSet(1, 1024, 0, "prose"),
        (
            Entry(
                "asyncpush push",
                "program",
                {
                    "command": [
                        "asyncpush",
                        "push",
                        "{repo}",
                        "{folder}",
                        "--endpoint",
                        "{endpoint}",
                    ]
                },
            ),
            Entry("hf upload", "program", {"command": ["hf", "upload", "{repo}", "{folder}", "."]}),
            _start("push_to_hub", "asyncpush", "{scratch}"),
            _start(FLOOR_OF_A_START, "aiohttp"),
            _start("bare aiohttp in an anyio task group", "anyio"),
        ),
        targets=(
            Target("wall", "asyncpush push", ("hf upload",), at_most=0.7),
            Target("cpu", "push_to_hub", (FLOOR_OF_A_START,), at_most=1.1),
        ),
    ),
    Scenario(
        "s3",
        "the same S3 server (rclone), 16 at once, hashes known",
        FileSet(1, 512 * MIB),
        FileSet(1, 32 * MIB),
        (
            Entry(OURS, "asyncpush", {"hashed": True}),
            Entry(UNCHECKED, "asyncpush", {"hashed": True, "verify_etag": False}),
            Entry(
                "s5cmd",
                "s5cmd",
                {
                    "command": [
                        *("s5cmd", "--endpoint-url", "{s3}", "cp", "--concurrency", "16"),
                        *("--part-size", "8", "{folder}/", "s3://{bucket}/{repo}/"),
                    ]
                },
            ),
            Entry(
                "rclone",
                "rclone",
                {
                    "command": [
                        *("rclone", "copy", "{folder}", ":s3:{bucket}/{repo}", "--config", ""),
                        *("--s3-endpoint", "{s3}", "--s3-provider", "Rclone", "--s3-env-auth"),
                        *("--s3-upload-concurrency", "16", "--s3-chunk-size", "8M"),
                        *("--s3-upload-cutoff", "8M"),
                    ]
                },
            ),
            Entry("boto3", "boto3", {"connections": 16, "part_size": 8 * MIB}),
        ),
        part_size=8 * MIB,
        targets=(Target("wall", OURS, ("s5cmd",), at_most=1 / 0.7),),
        store="s3",
    ),
    Scenario(
        "xet-file",
        "one file by Xet, all of it new",
        LONE,
        FileSet(1, 64 * MIB),
        (ours_xet, ours_lfs, xet),
        targets=XET,
        store="xet",
    ),
    Scenario(
        "xet-files",
        "8 files by Xet, all of them new",
        FileSet(8, 128 * MIB),
        FileSet(8, 8 * MIB),
        (ours_xet, ours_lfs, xet),
        targets=(*XET, Target("peak_rss", ours_xet.label, at_most=1e9)),
        store="xet",
    ),
    Scenario(
        "xet-changed",
        "one file pushed again, a share of its bytes changed",
        FileSet(1, 256 * MIB),
        FileSet(1, 16 * MIB),
        _changed(0.0, 0.01, 0.1, 0.5, 1.0),
        targets=_no_slower(0.0, 0.01, 0.1, 0.5, 1.0),
        store="xet",
    ),
    Scenario(
        "bucket-file",
        "one file to a bucket",
        LONE,
        FileSet(1, 64 * MIB),
        BUCKETS,
        targets=NO_SLOWER_HALF_THE_MEMORY,
        store="xet",
    ),
    Scenario(
        "bucket-files",
        "1,000 small files to a bucket",
        FileSet(1000, 64 << 10),
        FileSet(100, 64 << 10),
        BUCKETS,
        targets=NO_SLOWER_HALF_THE_MEMORY,
        store="xet",
    ),
    Scenario(
        "steering-fat",
        "parts at once, steered and fixed: 25 MB/s a connection",
        FileSet(1, 512 * MIB),
        FileSet(1, 32 * MIB),
        (ours, *_fixed(4, 8, 16, 32, 48)),
        SLOW,
        targets=_best_fixed(4, 8, 16, 32, 48),
    ),
    Scenario(
        "steering-thin",
        "parts at once, steered and fixed: 20 MB/s in all",
        FileSet(1, 128 * MIB),
        FileSet(1, 16 * MIB),
        (ours, *_fixed(2, 4, 8, 16, 32)),
        Network(aggregate=20e6, latency=0.03),
        targets=_best_fixed(2, 4, 8, 16, 32),
    ),
    Scenario(
        "steering-503",
        "parts at once, steered and fixed: 503 above 8 connections",
        FileSet(1, 256 * MIB),
        FileSet(1, 64 * MIB),
        (ours, *_fixed(2, 4, 8)),
        replace(SLOW, refuse_above=8),
        targets=_best_fixed(2, 4, 8),
    ),
    Scenario(
        "straggler",
        "one connection crawls at 1 MB/s near the end",
        FileSet(1, 512 * MIB),
        FileSet(1, 64 * MIB),
        (ours, unchecked, Entry("hashes known", "asyncpush", {"hashed": True})),
        replace(SLOW, crawl_after=0.8),
        targets=(
            # 16 connections carry as much as a core hashes: who hashes the file first, and each
            # part after, is held to that core; who knows the hashes, to the network.
            Target("wall", OURS, ("ideal", "cpu floor"), at_most=1.3),
            Target("wall", "hashes known", ("ideal",), at_most=1.3),
        ),
    ),
    Scenario(
        "killed",
        "killed at 25, 60 and 90 %, then pushed again: bytes in all over the size",
        FileSet(1, 256 * MIB),
        FileSet(1, 64 * MIB),
        (*_killed(0.25, 0.6, 0.9), *_killed_fixed(0.25, 0.6, 0.9)),
        Network(per_connection=60e6, aggregate=200e6, latency=0.03),
        targets=tuple(
            Target("sent_share", entry.label, at_most=1.15) for entry in _killed(0.25, 0.6, 0.9)
        ),
    ),
    Scenario(
        "bandwidth",
        "max_bandwidth of 50 MB/s",
        FileSet(1, 256 * MIB),
        FileSet(1, 64 * MIB),
        (Entry(OURS, "asyncpush", {"max_bandwidth": 50e6, "hashed": True}),),
        targets=(Target("sent", OURS, at_most=50e6 * 1.05, at_least=50e6 * 0.95),),
        bandwidth=50e6,
    ),
)


def named(names: list[str]) -> list[Scenario]:
    """The scenarios so named, or all of them. Raises `KeyError` for a name that there is not."""
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    return [by_name[name] for name in names] if names else list(SCENARIOS)
