"""Views to HTML, without a hub: whatever a name or a message holds, it stays a text."""

from __future__ import annotations

import doctest
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from asyncpush.localhub.pages import rendering, views
from asyncpush.localhub.pages.reading import folders
from asyncpush.localhub.pages.rendering import ago, render, size, visible
from asyncpush.localhub.pages.views import (
    Card,
    ChangedFile,
    Changes,
    Choice,
    Comment,
    CommitPage,
    CommitsPage,
    DiscussionPage,
    DiscussionRow,
    DiscussionsPage,
    ErrorPage,
    Fact,
    File,
    FilePage,
    FolderPage,
    Happening,
    Hint,
    IndexPage,
    Page,
    Pager,
    Pull,
    Repo,
    RepoRow,
    Revision,
    Row,
    Section,
    TextPreview,
)
from asyncpush.localhub.store.gitrepo import Commit
from asyncpush.localhub.store.names import RepoId
from tests.localhub.dom import Element, parse

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
NET = RepoId("model", "me", "net")
OID = "ab" * 20


def pages_that_say(text: str) -> Sequence[Page]:
    """Every kind of page, with `text` wherever somebody else decides what is there."""
    commit = Commit(OID, text, text, text, NOW, (OID,))
    repo = Repo(NET, text, private=True, gated=True, sdk=text)
    revision = Revision(text, OID, [Choice("branch", text, text)], 3)
    card = Card(text, [Fact(text, [text], 2)], Markup("<p>card</p>"), True, text)
    changed = [ChangedFile(text, "changed", 1, 2, True), ChangedFile(text, "deleted", 1)]
    row = DiscussionRow(1, text, "open", text, NOW, True, 2)
    events: list[Comment | Happening] = [Comment(text, NOW, Markup("")), Happening(text, NOW, text)]
    rows = [Row(text, text, True, last=commit), Row(text, text, False, 5, OID, commit)]
    preview = TextPreview(text, 3, True)
    return (
        IndexPage(text, [Section("space", 1, [RepoRow(NET, NOW, commit, True, text)], Pager(""))]),
        FolderPage(repo, revision, text, commit, rows, Pager(text, "/?p=1", "/?p=3"), card),
        FilePage(repo, revision, File(text, 5, OID, OID, 99), preview, commit),
        CommitsPage(repo, revision, [commit], Pager(text)),
        CommitPage(repo, commit, Changes(changed, 10)),
        DiscussionsPage(repo, [row], 1, 2, Pager("")),
        DiscussionPage(repo, row, events, Pull(text, [commit], Changes(changed, 2), OID)),
        ErrorPage(404, text, text, [Hint(text, text)]),
    )


# No slashes: they would make more folders of a path.
ODD = "<>&\"'`= \n\t\r\0\x1b\u202e\u2066{}%#?;-!]\N{HEBREW LETTER ALEF}\ud800"
TEXTS = st.lists(
    st.sampled_from([*ODD, "{{ 7*7 }}", "<script>", "-->", "&amp;", "javascript:"])
    | st.text(st.characters(exclude_characters="/"), max_size=4),
    min_size=1,
    max_size=12,
).map(lambda pieces: "".join(pieces) or "x")


@cache
def plain_pages() -> list[Element]:
    return [parse(render(page, NOW)) for page in pages_that_say("x")]


@pytest.mark.no_cover
@settings(deadline=None, max_examples=50)
@given(TEXTS)
def test_no_text_changes_a_pages_structure(text: str) -> None:
    for page, plain in zip(pages_that_say(text), plain_pages(), strict=True):
        document = parse(render(page, NOW).encode())

        assert document.shape == plain.shape, page.template
        for element, like in zip(document.all(), plain.all(), strict=True):
            for name in ("href", "src"):
                assert is_of_this_hub(element, like, name)


def is_of_this_hub(element: Element, like: Element, name: str) -> bool:
    """The same address, but for the text in it."""
    target, plain = element.attrs.get(name, "/"), like.attrs.get(name, "/")
    return target[:2] == plain[:2] and target.count("/") == plain.count("/")


@settings(deadline=None, max_examples=50)
@given(TEXTS)
def test_every_name_is_shown_whole(text: str) -> None:
    folder, file, *_ = pages_that_say(text)[1:]

    shown = parse(render(folder, NOW)).one("table", class_="files")
    assert [td.one("bdi").text for td in shown.all("td", class_="name")] == [visible(text)] * 2
    assert parse(render(file, NOW)).one("pre", class_="text").text == f"\n{visible(text)}"


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1))
def test_a_links_address_is_the_name_itself(name: str) -> None:
    href = views.Links("/me/net").blob(name, name)

    assert href.isascii()
    _, revision, path = (unquote(part) for part in href.removeprefix("/me/net/").split("/", 2))
    assert (revision, path) == (name, name)


def test_ordinary_text_is_left_alone() -> None:
    assert visible("naïve\tשלום\n👩‍🚀") == "naïve\tשלום\n👩‍🚀"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1_000, "1 kB"),
        (999_499, "999 kB"),
        (999_501, "1 MB"),
        (16_000_000, "16 MB"),
        (999_999_999_999, "1 TB"),
        (12_345_678_901_234, "12.3 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("past", "text"),
    [
        (timedelta(hours=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(minutes=59, seconds=59), "59 minutes ago"),
        (timedelta(hours=23), "23 hours ago"),
        (timedelta(days=30), "30 days ago"),
        (timedelta(days=31), "11 Feb 2026"),
    ],
)
def test_times(past: timedelta, text: str) -> None:
    assert ago(NOW - past, NOW) == text


@pytest.mark.parametrize("module", [folders, rendering, views])
def test_the_examples_in_the_docstrings(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]
