"""A timeline of a push while it runs, or of its events file; and writing it to a file."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import PurePath

from asyncpush.errors import SourceError
from asyncpush.events import HashProgress, Record
from asyncpush.lazy_dataclass import dataclass
from asyncpush.listeners.timeline.build import Builder
from asyncpush.listeners.timeline.model import Timeline
from asyncpush.listeners.timeline.parsed_events import moment_of, read_moments


class TimelineRecorder:
    """A listener for one run. Pass `on_event` wherever a listener is accepted, such as
    `UploadConfig(events=)`.

    It keeps a few hundred bytes for each request and file, and no content.
    """

    def __init__(self) -> None:
        self._builder = Builder()

    def on_event(self, record: Record) -> None:
        if type(record.event) is not HashProgress:
            self._builder.add(moment_of(record))

    def timeline(self) -> Timeline:
        """The timeline of the events so far. What has not ended is cut off there."""
        return self._builder.timeline()


@dataclass(slots=True)
class Extent:
    """The time span of a push within a file."""

    push_id: str
    first: float
    last: float


def read_timeline(path: str | os.PathLike[str], push: str | None = None) -> tuple[Timeline, int]:
    """The timeline of the last run in a file, and how many other runs there are.

    A run is a push, or several whose times overlap, like those of `push_many`. `push` selects
    another one by the beginning of its push id; it is drawn alone. The file is read twice and never
    held in memory; lines that are not events are counted in `Timeline.skipped`.

    Raises `SourceError` when the file contains no event of a push, or of that push, and `OSError`
    when it cannot be read.
    """
    extents: dict[str, Extent] = {}
    skipped = 0
    for moment in read_moments(path):
        if moment is None:
            skipped += 1
            continue
        extent = extents.setdefault(
            moment.push_id, Extent(moment.push_id, moment.time, moment.time)
        )
        extent.first, extent.last = min(extent.first, moment.time), max(extent.last, moment.time)
    runs = group_runs(list(extents.values()))
    chosen = _choose(path, runs, push)
    builder = Builder(min(extent.first for extent in chosen))
    wanted = {extent.push_id for extent in chosen}
    for moment in read_moments(path):
        if moment is not None and moment.push_id in wanted:
            builder.add(moment)
    return builder.timeline(skipped=skipped), len(runs) - 1


def group_runs(extents: list[Extent]) -> list[list[Extent]]:
    """Groups pushes that overlap; the last run is the one that started last."""
    runs: list[list[Extent]] = []
    until = float("-inf")
    for extent in sorted(extents, key=lambda extent: extent.first):
        if not runs or extent.first > until:
            runs.append([])
        runs[-1].append(extent)
        until = max(until, extent.last)
    return runs


def _choose(
    path: str | os.PathLike[str], runs: list[list[Extent]], push: str | None
) -> list[Extent]:
    if not runs:
        raise SourceError(
            f"{os.fspath(path)} holds no events of a push",
            suggestion="name a file that `asyncpush push --events FILE` wrote",
        )
    if push is None:
        return runs[-1]
    found = [extent for run in runs for extent in run if extent.push_id.startswith(push)]
    if len(found) == 1:
        return found
    ids = [extent.push_id for run in runs for extent in run][-10:]
    raise SourceError(
        f"{os.fspath(path)} holds {len(found) or 'no'} pushes whose id begins with {push!r}",
        suggestion=f"the last ones in it are {', '.join(ids)}",
    )


ENDINGS = (".svg", ".json")

MISSING = "drawing a timeline needs matplotlib: pip install 'asyncpush[viz]'"


def check_target(path: PurePath) -> None:
    """Checks what can be checked before recording. Raises `ValueError` for a file name with an
    unknown ending, and `ImportError` naming the extra when the format needs one that is not
    installed."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path.name!r} must end in .svg (a picture) or .json (for Perfetto)")
    if path.suffix.lower() == ".svg" and find_spec("matplotlib") is None:
        raise ImportError(MISSING, name="matplotlib")


def render(timeline: Timeline, path: PurePath) -> bytes:
    """The content of a file with this name. Raises what `check_target` raises."""
    check_target(path)
    if path.suffix.lower() == ".json":
        from asyncpush.listeners.timeline.trace import trace_events

        return trace_events(timeline)
    try:
        from asyncpush.listeners.timeline.svg import draw_svg
    except ImportError as error:
        raise ImportError(MISSING, name=error.name) from error
    return draw_svg(timeline)
