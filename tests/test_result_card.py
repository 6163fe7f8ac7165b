from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from asyncpush.models import Activity, PlannedFile, UploadResult
from asyncpush.notebook import result_card
from tests.listeners.helpers import SHA

RESULT = UploadResult(
    repo_url="https://huggingface.co/me/m",
    commit_sha=SHA,
    commit_url=f"https://huggingface.co/me/m/commit/{SHA}",
    files_uploaded=("a.bin", "README.md"),
    bytes_transferred=3_000_000_000,
    bytes_deduplicated=0,
    verified=True,
    elapsed_seconds=30.0,
)


class Page(HTMLParser):
    """What a browser would show, and what it would follow."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def page(result: UploadResult) -> Page:
    shown = Page(result_card(result))
    assert shown.open == []
    return shown


def test_a_push_that_succeeded() -> None:
    shown = page(RESULT)
    assert shown.links == [RESULT.repo_url, RESULT.commit_url]
    for words in (
        "huggingface.co/me/m",
        "✓ verified",
        SHA[:10],
        "2 files · 3.00 GB sent in 30 s (100 MB/s)",
        "a.bin",
        "README.md",
    ):
        assert words in shown.text
    assert shown.tags <= {"div", "b", "a", "span", "details", "summary"}


def test_it_is_what_notebooks_show_where_something_was_pushed() -> None:
    import asyncpush.runtime  # noqa: F401

    assert RESULT._repr_html_() == result_card(RESULT)


def test_elsewhere_a_result_is_one_line_with_its_links() -> None:
    code = (
        "import sys; from asyncpush.models import UploadResult;"
        "print(UploadResult('https://h/<m', 'c' * 40, 'https://h/c', (), 0, 0, True, 1.0)"
        "._repr_html_());"
        "assert 'asyncpush.notebook' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == (
        '<a href="https://h/&lt;m">https://h/&lt;m</a>,'
        ' commit <a href="https://h/c">cccccccccc</a>\n'
    )


def test_text_from_elsewhere_is_escaped() -> None:
    hostile = replace(
        RESULT,
        repo_url='javascript:alert("x")',
        commit_url='https://hub/"><script>alert(1)</script>',
        pr_url="data:text/html,x",
        files_uploaded=("<img src=x onerror=alert(1)>",),
        warnings=("<b onclick=x>",),
    )
    shown = page(hostile)
    assert shown.links == ['https://hub/"><script>alert(1)</script>']
    assert "script" not in shown.tags
    assert "img" not in shown.tags
    assert "<img src=x onerror=alert(1)>" in shown.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verified": False}, "not verified"),
        ({"pr_url": "https://huggingface.co/me/m/discussions/1"}, "pull request"),
        ({"bytes_deduplicated": 5_000}, "5.00 kB already there"),
        ({"files_unchanged": ("x",)}, "1 unchanged"),
        ({"files_ignored": ("x", "y")}, "2 ignored"),
        ({"files_deleted": ("x",)}, "1 deleted"),
        ({"retries": 1}, "1 retry"),
        ({"retries": 1200}, "1,200 retries"),
        ({"warnings": ("no license",)}, "no license"),
        ({"files_uploaded": (), "bytes_transferred": 0}, "nothing new, still at"),
        ({"files_uploaded": (), "bytes_transferred": 0}, "0 files · 0 B sent"),
        ({"elapsed_seconds": 0.0}, "2 files · 3.00 GB sent"),
        ({"files_uploaded": tuple(f"f{n}" for n in range(1234))}, "and 1,134 more"),
    ],
)
def test_what_else_there_is_to_tell(change: dict[str, object], words: str) -> None:
    assert words in page(replace(RESULT, **change)).text  # type: ignore[arg-type]


def test_without_files_there_is_no_list_of_them() -> None:
    assert "details" not in page(replace(RESULT, files_uploaded=())).tags


def test_a_repo_without_a_url_has_a_card_too() -> None:
    assert "me/m" in page(replace(RESULT, repo_url="me/m", commit_sha="")).text


def test_a_dry_run_says_what_would_be_done() -> None:
    plan = (
        PlannedFile("a.bin", 2_000_000, "lfs"),
        PlannedFile("old.bin", 1_000, "unchanged"),
    )
    shown = page(replace(RESULT, plan=plan))
    assert "dry run, nothing was changed" in shown.text
    assert "2 files, 2.00 MB to send" in shown.text
    assert "a.bin (lfs)" in shown.text
    assert "commit" not in shown.text


ACTIVITY = Activity(
    0.5,
    tuple(n * 1_000_000 for n in (0, 0, 1, 2, 3, 3, 2, 0, 0, 0)),
    (
        ("commit", (0.0,) * 8 + (0.5, 0.4)),
        ("hash", (0.5, 0.5) + (0.0,) * 8),
        ("send", (0.0, 0.04) + (1.5,) * 5 + (0.0,) * 3),
    ),
)


def test_the_card_has_the_timeline_in_small() -> None:
    shown = page(replace(RESULT, activity=ACTIVITY))
    assert {"svg", "path"} <= shown.tags
    assert "throughput over 5.00 s, at most 6.00 MB/s" in shown.text
    assert "hash ■ send ■ commit" in " ".join(shown.text.split())
    html = result_card(replace(RESULT, activity=ACTIVITY))
    curve, *lanes = re.findall(r'<path d="([^"]*)"', html)
    assert curve.startswith("M0 40L0.0 40.0H48.0")
    assert "L192.0 0.0H240.0" in curve  # the highest
    assert lanes == [
        "M0.0 44H96.0v5H0.0Z",
        "M96.0 51H336.0v5H96.0Z",  # a little of a slice is left out
        "M384.0 58H480.0v5H384.0Z",
    ]


def test_the_picture_is_small_whatever_the_push() -> None:
    restless = tuple(float(n % 2) for n in range(128))
    kinds = ("call", "commit", "hash", "retry", "send", "wait")
    activity = Activity(1e6, (10**12,) * 128, tuple((kind, restless) for kind in kinds))
    assert len(result_card(replace(RESULT, activity=activity))) < 30_000


def test_a_push_too_short_for_a_course_has_no_picture() -> None:
    short = Activity(0.01, (1, 2, 3), (("send", (0.01,) * 3),))
    assert "svg" not in page(replace(RESULT, activity=short)).tags
