"""Listens to a push, so that its timeline can be drawn when it has ended, however it ended."""

from __future__ import annotations

from asyncpush.events import HashProgress, Record
from asyncpush.listeners.timeline.build import Builder
from asyncpush.listeners.timeline.model import Timeline
from asyncpush.listeners.timeline.moments import moment_of


class TimelineRecorder:
    """A listener for one run: `on_event` goes where listeners go, such as `UploadConfig(events=)`.

    Keeps a few hundred bytes for each request and file, and no content.
    """

    def __init__(self) -> None:
        self._builder = Builder()

    def on_event(self, record: Record) -> None:
        if type(record.event) is not HashProgress:
            self._builder.add(moment_of(record))

    def timeline(self) -> Timeline:
        """What has been heard so far; what is under way ends where the listening ended."""
        return self._builder.timeline()
