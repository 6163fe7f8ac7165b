"""Whether Xet can be used on this machine: hf_xet is installed, and how it is configured."""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asyncpush.concurrency.threads import ProcessLock
from asyncpush.options import MIB, UploadConfig, hf_home, is_true
from asyncpush.transfers.interface import TransferFailedError, TransferLibrary

LOG_DESTINATION = "HF_XET_LOG_DEST"

_SYSTEMS = frozenset({"linux", "darwin", "win32"})
_MACHINES = frozenset({"x86_64", "amd64", "aarch64", "arm64"})


def is_installed() -> bool:
    return find_spec("hf_xet") is not None


_importing = ProcessLock()


def import_hf_xet() -> Any:
    """The module. Raises `ImportError`.

    While it is imported, hf_xet opens a log file in its cache folder, or logs to the terminal if it
    cannot. A thread then deletes old logs, for which it reads `/proc` with up to half of the file
    descriptors that the process may have. We send its log nowhere, unless the user asks for it.
    """
    with _importing:
        if "hf_xet" not in sys.modules and os.name == "posix" and not _asks_for_log():
            os.environ[LOG_DESTINATION] = os.devnull
            try:
                return import_module("hf_xet")
            finally:
                os.environ.pop(LOG_DESTINATION, None)
        return import_module("hf_xet")


def _asks_for_log() -> bool:
    return "RUST_LOG" in os.environ or any(name.startswith("HF_XET_LOG_") for name in os.environ)


def has_wheels(implementation: str, system: str, machine: str) -> bool:
    """Whether hf-xet publishes wheels for this Python, so that it is installed with asyncpush, as
    the environment marker in pyproject.toml says. The arguments are values from `platform` and
    `sys`."""
    return implementation == "CPython" and system in _SYSTEMS and machine.lower() in _MACHINES


def missing_reason() -> str:
    """Why hf_xet is not installed, and what to do."""
    here = platform.python_implementation(), sys.platform, platform.machine()
    if has_wheels(*here):
        return "hf-xet is not installed: pip install 'hf-xet>=1.8'"
    return (
        f"hf-xet is not installed, and has no wheels for {' '.join(here)}: use transfer='auto' or"
        " 'lfs', or build it from source (`pip install hf-xet`, which needs Rust)"
    )


SWITCH = "HF_HUB_DISABLE_XET"


def is_disabled() -> bool:
    """Whether `HF_HUB_DISABLE_XET` is set, read as the official client reads it."""
    return is_true(SWITCH)


def library() -> TransferLibrary:
    """hf_xet on this machine."""
    return TransferLibrary(
        route="xet",
        label="Xet",
        distribution="hf-xet",
        module="hf_xet",
        load=import_hf_xet,
        switch=SWITCH,
        installed=is_installed(),
        disabled=is_disabled(),
        missing_reason=missing_reason(),
        folder=cache_folder(),
    )


def unavailable_reason(config: UploadConfig) -> str | None:
    """Why Xet cannot be used, as far as this is known without asking a Hub, or None."""
    if config.transfer == "lfs":
        return "transfer='lfs' was set"
    if is_disabled():
        return f"{SWITCH} is set"
    return None if is_installed() else missing_reason()


FILE_MEMORY = 64 * MIB
"""The size of a xorb, which each large file fills while it is split into chunks: up to 64 MiB
(`MAX_XORB_BYTES` in xet-core's xorb_object/constants.rs, which no setting changes)."""

MOST_FILES = 8

XORB_MEMORY = 32 * MIB
"""The share of `max_memory` counted for each xorb that may be in flight. A xorb's 64 MiB stay in
memory while it is compressed and sent, so this allows twice `max_memory` for them: with the
default, two are sent at once."""

FEWEST_XORBS, MOST_XORBS = 2, 64

SMALL_FILE = 4 * MIB
"""Files of up to this many bytes need so little memory that they do not count as large."""

SMALL_FILES = 32
"""How many small files are read at the same time as the large ones. hf_xet asks the store about the
first chunk of each file and waits for the answer: with 50 ms a request, 1,000 files take 3 seconds
with this limit, 9 with its own default of 8."""

SMALL_FILES_MEMORY = 16 * MIB
"""How many bytes of small files are read at the same time."""

TINY_FILE = SMALL_FILES_MEMORY // SMALL_FILES
"""Files of up to this many bytes need not wait for memory."""

BLOCK_SIZE = "2mb"
"""hf_xet reads files in blocks, and keeps a block until all its chunks are sent. Its own default is
8 MB."""

REPORTED_BYTES = 64 << 10


def cache_folder() -> Path | None:
    """The folder for hf_xet's cache and log; None when there is no home directory."""
    try:
        return Path(os.environ.get("HF_XET_CACHE") or hf_home() / "xet")
    except RuntimeError:
        return None


def files_at_once(config: UploadConfig) -> int:
    """The number of large files that `max_memory` has room for."""
    files = min(max(config.max_memory // FILE_MEMORY, 1), MOST_FILES)
    return min(files, config.max_concurrent_files)


def streams_at_once(config: UploadConfig) -> int:
    """The number of streams that are sent as they arrive, each of which fills a xorb."""
    return min(max(config.max_memory // XORB_MEMORY, 1), MOST_XORBS)


def small_files_at_once(config: UploadConfig) -> int:
    """The number of small files that hf_xet reads at the same time."""
    return min(SMALL_FILES, config.max_concurrent_files)


def xorbs_at_once(config: UploadConfig) -> int:
    """The number of xorbs that are sent at the same time."""
    xorbs = min(max(config.max_memory // XORB_MEMORY, FEWEST_XORBS), MOST_XORBS)
    return min(xorbs, config.max_concurrent_parts)


def settings(config: UploadConfig) -> dict[str, Any]:
    """The settings for `XetConfig.with_config`."""
    wanted = {
        # Large files are limited by `XetEngine`, so that small ones need not wait behind them.
        "data.max_concurrent_file_ingestion": (files_at_once(config) + small_files_at_once(config)),
        "data.ingestion_block_size": BLOCK_SIZE,
        "client.ac_max_upload_concurrency": xorbs_at_once(config),
        "client.ac_initial_upload_concurrency": min(2, config.max_concurrent_parts),
        # Remember each xorb that was sent, so that after a killed push it is not sent again.
        "data.session_xorb_metadata_flush_max_count": 1,
        "client.retry_max_attempts": _bounded(config.max_retries),
        "client.retry_base_delay": f"{_bounded(config.initial_backoff_ms)}ms",
        # Report sent bytes in pieces so small that a slow connection does not look like a stall.
        "client.upload_reporting_block_size": REPORTED_BYTES,
        "client.connect_timeout": f"{_bounded(config.connect_timeout * 1000)}ms",
        # Turn off telemetry to the store: a commit waits for it, and nobody agreed to it.
        "telemetry.enabled": False,
    }
    return {name: value for name, value in wanted.items() if not _set_by_user(name)}


def _bounded(value: float) -> int:
    """A whole number that hf_xet accepts; as milliseconds, the largest one is 24 days."""
    return min(max(1, round(value)), 2**31 - 1)


def _set_by_user(name: str) -> bool:
    group, _, key = name.upper().partition(".")
    if "CONCURREN" in key and is_true("HF_XET_HIGH_PERFORMANCE", "HF_XET_HP"):
        return True
    if "UPLOAD_CONCURRENCY" in key and "HF_XET_FIXED_UPLOAD_CONCURRENCY" in os.environ:
        return True
    return any(variable in os.environ for variable in (f"HF_XET_{group}_{key}", f"HF_XET_{key}"))


_REFUSED = ("Token refresh failed", "Token refresh not expected", "401 Unauthorized")
"""Texts of hf_xet's errors when a token was no longer accepted, or expired and hf_xet was not told
how to get another one: there is no error type for it. They also contain URLs, in which any number
may occur."""


class XetFailedError(TransferFailedError):
    """hf_xet or the Xet store failed."""

    @property
    def refused(self) -> bool:
        """Whether another token might help."""
        return any(words in self.message for words in _REFUSED)
