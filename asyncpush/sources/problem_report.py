"""What is wrong with a source, all of it in one error, and notices for the user about it."""

from __future__ import annotations

from asyncpush.errors import SourceError

PROBLEMS_SHOWN = 20
NOTICES_SHOWN = 10


class ProblemReport:
    """Collects problems, which stop the push, and notices, which do not. Notices have kinds."""

    __slots__ = ("_notices", "problems")

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._notices: dict[str, list[str]] = {}

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def notice(self, kind: str, text: str) -> None:
        """Add a notice. Of each `kind` the first `NOTICES_SHOWN` are shown, the others counted."""
        self._notices.setdefault(kind, []).append(text)

    @property
    def notices(self) -> tuple[str, ...]:
        """Kind by kind; of each the first few, then how many more."""
        shown: list[str] = []
        for kind, texts in self._notices.items():
            shown += texts[:NOTICES_SHOWN]
            if len(texts) > NOTICES_SHOWN:
                shown.append(f"{kind}: {len(texts) - NOTICES_SHOWN:,} more")
        return tuple(shown)

    def raise_problems(self, suggestion: str) -> None:
        """Raise one `SourceError` with every problem, unless there is none."""
        problems = self.problems
        if not problems:
            return
        if len(problems) == 1:
            raise SourceError(problems[0], problems=problems, suggestion=suggestion)
        lines = [f"{len(problems):,} problems with what is to be pushed:"]
        lines += [f"  - {problem}" for problem in problems[:PROBLEMS_SHOWN]]
        if len(problems) > PROBLEMS_SHOWN:
            lines.append(f"  … and {len(problems) - PROBLEMS_SHOWN:,} more, all in .problems")
        raise SourceError("\n".join(lines), problems=problems, suggestion=suggestion)
