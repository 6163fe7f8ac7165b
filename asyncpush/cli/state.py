"""Which pushes of a manifest are done: JSON lines beside it, for `asyncpush many --continue`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncpush.cli.files import append_durably


class DoneFile:
    """`MANIFEST.state.jsonl`. A row stands for one push, by the fingerprint of its entry.

    It says what the manifest said and where it went, nothing of the files: an entry whose source
    has changed since is still done, until the manifest is run without `--continue`.
    """

    def __init__(self, manifest: Path) -> None:
        self.path = manifest.with_name(f"{manifest.name}.state.jsonl")

    def read(self) -> dict[str, dict[str, Any]]:
        """The rows by fingerprint. A line that was cut short stands for a push not done."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        rows = {}
        for line in lines:
            try:
                row = json.loads(line)
                rows[str(row["fingerprint"])] = row
            except (ValueError, TypeError, KeyError):
                continue
        return rows

    def forget(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)

    def add(self, fingerprint: str, row: Mapping[str, Any]) -> None:
        """Remember one push as done, also across a power cut. Blocks until it is on the disk."""
        row = {"fingerprint": fingerprint, "time": time.time(), **row}
        append_durably(self.path, json.dumps(row).encode() + b"\n")


def fingerprint(written: Mapping[str, Any], endpoint: str) -> str:
    """Of what an entry says, and of the Hub it is for.

    >>> fingerprint({"repo_id": "me/a", "source": "a"}, "local")[:8]
    'a9f3c9a6'
    """
    said = json.dumps([endpoint, written], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()
