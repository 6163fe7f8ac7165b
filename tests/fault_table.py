"""The fault table: one request at a time is made to fail, and what comes of it is a row.

A `Cell` is a fault and how the operation has to end; pushes, copies and syncs have cells of their
own. `pytest --table` prints the rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from asyncpush import AsyncPushError
from tests.faults import FaultLayer

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """One fault, and how the operation has to end: with `error`, or as if there had been none."""

    route: str
    kind: str
    nth: int = 1
    times: int = 1
    error: type[AsyncPushError] | None = None
    create_pr: bool = False

    def __str__(self) -> str:
        where = f"#{self.nth}" if self.nth > 1 else ""
        where += " (pull request)" if self.create_pr else ""
        again = " always" if self.times > 1 else ""
        return f"{self.route}{where}: {self.kind}{again}"


def cells(
    routes: Iterable[str], kinds: Iterable[str], *, nth: int = 1, create_pr: bool = False
) -> list[Cell]:
    """Faults that pass: each of these kinds on each of these routes."""
    kinds = tuple(kinds)
    return [Cell(route, kind, nth, create_pr=create_pr) for route in routes for kind in kinds]


def lasting_cells(
    routes: Iterable[str], errors: dict[str, type[AsyncPushError]], *, nth: int = 1
) -> list[Cell]:
    """Faults that do not pass, by the error that each of these kinds has to end in."""
    return [
        Cell(route, kind, nth, times=99, error=error)
        for route in routes
        for kind, error in errors.items()
    ]


@dataclass
class FaultReport:
    """Rows of the fault table."""

    rows: list[tuple[str, str, str, int, str]] = field(default_factory=list)

    def write(self, reporter: pytest.TerminalReporter) -> None:
        reporter.write_line("")
        reporter.write_line(f"{'fault':<46} {'the caller sees':<22} {'commits':>7}  bytes")
        for _, cell, seen, commits, stored in sorted(self.rows):
            reporter.write_line(f"{cell:<46} {seen:<22} {commits:>7}  {stored}")


@dataclass(frozen=True)
class FaultTable:
    """Makes the fault of a cell happen to an operation, and notes how that ended."""

    faults: FaultLayer
    report: FaultReport

    async def survive(self, cell: Cell, operation: Awaitable[T]) -> T:
        """The result of an operation that a fault befalls. A cell for each operation: requests are
        counted from here on."""
        before = len(self.faults.injected)
        self._add(cell)
        result = await operation
        assert len(self.faults.injected) > before, "the fault never happened"
        return result

    async def fail(self, cell: Cell, operation: Awaitable[object]) -> AsyncPushError:
        """The error in which an operation ends, that of the cell. No fault happens after it."""
        assert cell.error is not None
        self._add(cell)
        with pytest.raises(cell.error) as caught:
            await operation
        assert self.faults.injected, "the fault never happened"
        self.faults.rules.clear()
        assert caught.value.suggestion
        return caught.value

    def _add(self, cell: Cell) -> None:
        nth = self.faults.seen[cell.route] + cell.nth
        self.faults.add(cell.route, cell.kind, nth=nth, times=cell.times)

    def row(
        self, cell: Cell, stored: str, *, commits: int = 0, error: AsyncPushError | None = None
    ) -> None:
        seen = "success" if error is None else type(error).__name__
        self.report.rows.append((cell.route, str(cell), seen, commits, stored))
