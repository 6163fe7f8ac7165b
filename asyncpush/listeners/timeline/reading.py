"""A timeline out of a file of events, which may hold many runs: `--events` appends."""

from __future__ import annotations

import os
from dataclasses import dataclass

from asyncpush.errors import SourceError
from asyncpush.listeners.timeline.build import Builder
from asyncpush.listeners.timeline.model import Timeline
from asyncpush.listeners.timeline.moments import read_moments


@dataclass(slots=True)
class Extent:
    """From when to when a file tells of a push."""

    push_id: str
    first: float
    last: float


def read_timeline(path: str | os.PathLike[str], push: str | None = None) -> tuple[Timeline, int]:
    """The timeline of the last run in a file, and how many other runs there are.

    A run is a push, or several whose times overlap, as those of `push_many` do. `push` names
    another one by the beginning of its push id, and is drawn alone. The file is read twice and
    never held in memory; lines that are no events are counted in `Timeline.skipped`.

    Raises `SourceError` when nothing in the file is an event of a push, or of that push, and
    `OSError` when it cannot be read.
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
    """Pushes that overlap, together; the last run is the one that began last."""
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
