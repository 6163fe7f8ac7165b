"""What is shown of many problems and notices, and what is counted."""

from __future__ import annotations

import pytest

from asyncpush.errors import SourceError
from asyncpush.sources.problem_report import NOTICES_SHOWN, PROBLEMS_SHOWN, ProblemReport


def test_no_problem_raises_nothing() -> None:
    ProblemReport().raise_problems("try again")


@pytest.mark.parametrize("more", [0, 1], ids=["all shown", "one counted"])
def test_problems_are_shown_up_to_a_number(more: int) -> None:
    report = ProblemReport()
    for number in range(PROBLEMS_SHOWN + more):
        report.problem(f"<{number}>")

    with pytest.raises(SourceError) as caught:
        report.raise_problems("try again")

    text = str(caught.value)
    assert [f"<{n}>" in text for n in range(PROBLEMS_SHOWN)] == [True] * PROBLEMS_SHOWN
    assert (f"<{PROBLEMS_SHOWN}>" in text) is False
    assert ("… and 1 more; .problems lists all" in text) is bool(more)
    assert text.endswith("\n  next: try again")
    assert caught.value.problems == tuple(report.problems)


@pytest.mark.parametrize("more", [0, 1], ids=["all shown", "one counted"])
def test_notices_are_shown_up_to_a_number_of_each_kind(more: int) -> None:
    report = ProblemReport()
    for number in range(NOTICES_SHOWN + more):
        report.notice("colours", f"<{number}>")
        report.notice("shapes", "a shape") if number == 0 else None

    shown = [f"<{n}>" for n in range(NOTICES_SHOWN)]
    counted = ["colours: 1 more"] if more else []
    assert report.notices == (*shown, *counted, "a shape")
