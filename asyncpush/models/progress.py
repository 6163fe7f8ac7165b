"""How far a push is, and the course that it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Phase: TypeAlias = Literal["hashing", "uploading", "committing", "verifying", "done"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""In the order in which a push goes through them."""


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """A snapshot. `bytes_sent` never falls and never passes `total_bytes`.

    `phase` is "hashing", "uploading", "committing", "verifying" or "done".
    `bytes_per_second` counts what moved lately; `eta_seconds` is None while it cannot be told.

    Example:
        >>> progress = UploadProgress(512, 2048, "a.bin", 0, 1, "uploading", bytes_per_second=512.0)
        >>> f"{progress.phase} {progress.bytes_sent / progress.total_bytes:.0%}"
        'uploading 25%'
    """

    bytes_sent: int
    total_bytes: int
    current_file: str | None
    files_completed: int
    total_files: int
    phase: Phase = "hashing"
    bytes_per_second: float = 0.0
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """A push in small: what moved and what went on in equal slices of its time, at most 128.

    `sent` are bytes handed to the network. `busy` says for how many seconds of each slice something
    of a kind went on ("hash", "send", "call", "commit", "wait", "retry"); what goes on side by side
    adds up. A few kilobytes, however long the push was.
    """

    slice_seconds: float = 0.0
    sent: tuple[int, ...] = ()
    busy: tuple[tuple[str, tuple[float, ...]], ...] = ()
