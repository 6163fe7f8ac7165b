"""Asks an upload commit of hf_xet for its progress at intervals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class ProgressReports:
    """Calls `on_report` with hf_xet's report on all files of a commit together, until it ends.

    hf_xet would do so too, but makes a report on each single file as well. For hundreds of small
    files that takes longer than anything else that is done with a report. As in hf_xet, this is
    done in a thread, so that a busy event loop does not hide progress.
    """

    def __init__(self, commit: Any, on_report: Callable[[Any], object]) -> None:
        self._commit = commit
        self._on_report = on_report
        self._ended = threading.Event()

    def begin(self, interval: float) -> None:
        """Report every so many seconds."""

        def run() -> None:
            while not self._ended.wait(interval):
                self._on_report(self._commit.progress())

        threading.Thread(target=run, name="asyncpush-xet-progress", daemon=True).start()

    def end(self) -> None:
        """Report no more."""
        self._ended.set()

    def finish(self) -> None:
        """Report a last time, after hf_xet has finished."""
        self.end()
        self._on_report(self._commit.progress())
