"""Which pushes of a manifest are done: JSON lines beside it, for `asyncpush many --continue`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncpush.cli.files import append_line, sync_folder


class DoneFile:
    """`MANIFEST.state.jsonl`. A row stands for one push, by the fingerprint of its entry.

    It says what the manifest said and where it went, nothing of the files: an entry whose source
    has changed since is still done, until the manifest is run without `--continue`.
    """

    def __init__(self, manifest: Path) -> None:
        self.path = manifest.with_name(f"{manifest.name}.state.jsonl")
        self.trouble: OSError | None = None
        """Why a push that is done is not remembered."""

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

    def open(self, *, anew: bool) -> None:
        """Make sure that it can be written, before anything starts; `anew` forgets what it says."""
        with open(self.path, "wb" if anew else "ab"):
            sync_folder(self.path.parent)

    def add(self, fingerprint: str, row: Mapping[str, Any]) -> None:
        """Remember one push as done, also across a power cut. Blocks until it is on the disk.

        When that fails (a full disk) the pushes go on, and `trouble` says so.
        """
        row = {"fingerprint": fingerprint, "time": time.time(), **row}
        try:
            append_line(self.path, json.dumps(row).encode() + b"\n")
        except OSError as error:
            self.trouble = error


def fingerprint(written: Mapping[str, Any], endpoint: str) -> str:
    """Of what an entry says, and of the Hub it is for.

    >>> fingerprint({"repo_id": "me/a", "source": "a"}, "local")[:8]
    '08e25d20'
    """
    said = json.dumps([endpoint, written], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()
