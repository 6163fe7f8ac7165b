"""Collects everything that is wrong with a source into one error, and notices for the user about
it."""

from __future__ import annotations

from asyncpush.errors import SourceError

PROBLEMS_SHOWN = 20
NOTICES_SHOWN = 10


class ProblemReport:
    """Collects problems, which stop the push, and notices, which do not. Notices are grouped by
    kind."""

    __slots__ = ("_notices", "problems")

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._notices: dict[str, list[str]] = {}

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def notice(self, kind: str, text: str) -> None:
        """Add a notice. The first `NOTICES_SHOWN` of each `kind` are shown, the others are only
        counted."""
        self._notices.setdefault(kind, []).append(text)

    @property
    def notices(self) -> tuple[str, ...]:
        """The notices, grouped by kind: the first few of each, then how many more there are."""
        shown: list[str] = []
        for kind, texts in self._notices.items():
            shown += texts[:NOTICES_SHOWN]
            if len(texts) > NOTICES_SHOWN:
                shown.append(f"{kind}: {len(texts) - NOTICES_SHOWN:,} more")
        return tuple(shown)

    def raise_problems(self, suggestion: str) -> None:
        """Raise one `SourceError` with every problem. Does nothing when there are none."""
        problems = self.problems
        if not problems:
            return
        if len(problems) == 1:
            raise SourceError(problems[0], problems=problems, suggestion=suggestion)
        lines = [f"{len(problems):,} problems with the files:"]
        lines += [f"  - {problem}" for problem in problems[:PROBLEMS_SHOWN]]
        if len(problems) > PROBLEMS_SHOWN:
            lines.append(f"  … and {len(problems) - PROBLEMS_SHOWN:,} more; .problems lists all")
        raise SourceError("\n".join(lines), problems=problems, suggestion=suggestion)
