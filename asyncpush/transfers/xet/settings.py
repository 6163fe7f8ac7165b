"""hf_xet's settings that follow from ours. What the user has set in the environment stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from asyncpush.options import MIB, UploadConfig, hf_home, is_true

FILE_MEMORY = 64 * MIB
"""A file that is cut into chunks fills a xorb of up to 64 MiB, and each xorb is held a second time
while it is compressed and sent. Measured: 8 files at once hold 1.2 GB, 2 hold half a GB."""

REPORTED_BYTES = 64 << 10

FEWEST_FILES, MOST_FILES = 2, 8
XORB_MEMORY = 16 * MIB
FEWEST_XORBS, MOST_XORBS = 4, 64


def cache_folder() -> Path | None:
    """Where hf_xet keeps its cache and writes its log; None when there is no home directory."""
    try:
        return Path(os.environ.get("HF_XET_CACHE") or hf_home() / "xet")
    except RuntimeError:
        return None


def files_at_once(config: UploadConfig) -> int:
    """How many files `max_memory` has room for."""
    files = min(max(config.max_memory // FILE_MEMORY, FEWEST_FILES), MOST_FILES)
    return min(files, config.max_concurrent_files)


def settings(config: UploadConfig) -> dict[str, Any]:
    """What `XetConfig.with_config` takes."""
    xorbs = min(max(config.max_memory // XORB_MEMORY, FEWEST_XORBS), MOST_XORBS)
    wanted = {
        "data.max_concurrent_file_ingestion": files_at_once(config),
        "client.ac_max_upload_concurrency": min(xorbs, config.max_concurrent_parts),
        "client.ac_initial_upload_concurrency": min(2, config.max_concurrent_parts),
        # Remember each xorb that was sent: a push that is killed sends it not again.
        "data.session_xorb_metadata_flush_max_count": 1,
        "client.retry_max_attempts": max(1, config.max_retries),
        "client.retry_base_delay": f"{max(1, round(config.initial_backoff_ms))}ms",
        # Sent bytes are reported in pieces so small that a slow line does not look like a stall.
        "client.upload_reporting_block_size": REPORTED_BYTES,
        "client.connect_timeout": f"{max(1, round(config.connect_timeout * 1000))}ms",
    }
    return {name: value for name, value in wanted.items() if not _set_by_user(name)}


def _set_by_user(name: str) -> bool:
    group, _, key = name.upper().partition(".")
    if "CONCURREN" in key and is_true("HF_XET_HIGH_PERFORMANCE", "HF_XET_HP"):
        return True
    return any(variable in os.environ for variable in (f"HF_XET_{group}_{key}", f"HF_XET_{key}"))
