"""The hub's pages over HTTP: what each shows, and what is said when there is nothing to show."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pygit2
import pytest

from asyncpush.localhub import LocalHub
from asyncpush.localhub.pages.reading import folders, history
from asyncpush.localhub.store.pulls import Discussions, Event
from tests.localhub.answers import Answer
from tests.localhub.conftest import HubClient, add, add_lfs, delete
from tests.localhub.dom import Element, parse

API = "/api/models/me/net"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)
CARD = b"""---
license: mit
tags: [tiny, demo]
---
# Net

A table:

| a | b |
|---|---|
| 1 | 2 |

![plot](img/plot.png) [more](docs/more.md) [web](https://example.com)
"""
# What somebody may call a file; the hub refuses control characters and backslashes.
ODD_NAMES = (
    "<script>alert(1)<",
    "a&amp;b",
    "\"'",
    "100%25",
    "q?a=b#c",
    "gpj.\u202eexe",
    "שלום.txt",
)


async def page(client: HubClient, path: str, *, status: int = 200, **options: Any) -> Element:
    """A page as somebody without a token sees it; its headers and its structure are checked."""
    answer = await client.get(path, token=options.pop("token", None), **options)
    assert answer.status == status, path
    return checked(answer)


def checked(answer: Answer) -> Element:
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    document = parse(answer.body)
    for element in document.all():
        assert element.tag not in ("script", "style", "iframe", "form", "base", "object", "embed")
        assert not [name for name in element.attrs if name == "style" or name.startswith("on")]
    return document


def names(document: Element) -> list[str]:
    return [cell.words for cell in document.one("table", class_="files").all("td", class_="name")]


def row_of(document: Element, name: str) -> Element:
    rows = document.one("table", class_="files").one("tbody").all("tr")
    (row,) = (row for row in rows if row.one("td", class_="name").one("bdi").text == name)
    return row


async def fill(client: HubClient) -> str:
    """A repo with a little of everything; the oid of its LFS object."""
    oid = await client.store(b"w" * 1_500_000)
    await client.commit(
        add("README.md", CARD),
        add("docs/more.md", b"# More\n\n[up](../README.md) and [here](#more)"),
        add("img/plot.png", PNG),
        add("config.json", b'{"a": 1}\n'),
        add_lfs("model.safetensors", oid),
        summary="Add the model",
        description="Trained\nfor long",
    )
    await client.commit(
        add("old.txt", b"old"),
        *(add(name) for name in ODD_NAMES),
        summary="Add the rest",
    )
    await client.commit(
        add("config.json", b"{}\n"), delete("old.txt"), query="?create_pr=1", summary="Change"
    )
    await client.post(f"{API}/branch/dev%2Fone")
    await client.post(f"{API}/tag/main", {"tag": "v1"})
    await client.post(f"{API}/discussions", {"title": "Why?", "description": "Say *why*."})
    await client.create("data", type="dataset")
    await client.create("app", type="space", sdk="gradio")
    return oid


# -- every page --


@pytest.mark.no_cover
async def test_every_link_of_every_page_leads_somewhere(client: HubClient) -> None:
    await fill(client)
    seen: set[str] = set()
    waiting = ["/", "/me/net"]

    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = await client.get(path, token=None)
        if answer.status == 302:
            targets = [answer.headers["Location"]]
        else:
            assert answer.status == 200, path
            targets = list(local_targets(answer))
        waiting += {target for target in targets} - seen - set(waiting)

    shown = {path for path in seen if "/resolve/" not in path and "/_pages/" not in path}
    assert {"/", "/me/net", "/me/net/tree/dev%2Fone", "/me/net/discussions/1"} <= shown
    assert {"/?type=dataset", "/datasets/me/data", "/spaces/me/app", "/me/net/tree/v1"} <= shown
    assert len(seen - shown) > 10


def local_targets(answer: Answer) -> Iterator[str]:
    if not answer.headers["Content-Type"].startswith("text/html"):
        return
    document = checked(answer)
    ids = {element.attrs["id"] for element in document.all() if "id" in element.attrs}
    for element in document.all():
        target = element.attrs.get("href") or element.attrs.get("src") or "https:"
        if target.startswith("#"):
            assert target[1:] in ids
        elif not target.startswith("https:"):
            assert target.startswith("/")
            yield target.partition("#")[0]


async def test_the_stylesheet_and_the_icon_may_be_kept(client: HubClient) -> None:
    document = await page(client, "/")

    style, icon = (link.attrs["href"] for link in document.all("link"))
    for path, kind in ((style, "text/css"), (icon, "image/svg+xml")):
        answer = await client.get(path, token=None)
        assert answer.headers["Content-Type"].partition(";")[0] == kind
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_pages_answer_head(client: HubClient) -> None:
    answer = await client.call("HEAD", "/me/net", token=None)

    assert (answer.status, answer.body) == (200, b"")


# -- all repos --


async def test_the_first_page_lists_repos_newest_first(client: HubClient, hub: LocalHub) -> None:
    for number, name in enumerate(("b", "c", "a")):
        await client.create(name)
        date_head(hub, name, 1_700_000_000 + number)
    date_head(hub, "net", 1_600_000_000)
    await client.create("d", type="dataset")

    document = await page(client, "/")

    models, datasets = document.all("section", class_="kind")
    assert [item.words for item in models.all("h3")] == ["me/a", "me/c", "me/b", "me/net"]
    assert [item.words for item in datasets.all("h3")] == ["me/d"]
    assert models.one("h2").words == "Models 4"


def date_head(hub: LocalHub, name: str, seconds: int) -> None:
    """Put a commit of that time on main."""
    with changing(hub, name) as git:
        commit_tree(git, git.revparse_single("main^{tree}").id, "dated", seconds)


async def test_many_repos_have_pages_of_their_own(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "REPOS_OF_EACH_TYPE", 2)
    monkeypatch.setattr(history, "REPOS_ON_A_PAGE", 2)
    for name in "abcd":
        await client.create(name)

    first = await page(client, "/")
    assert len(list(first.all("h3"))) == 2
    links = [link.words for link in first.all("a", href="/?type=model")]
    assert links == ["Models", "All 5 repos →"]

    last = await page(client, "/?type=model&p=2")
    assert len(list(last.all("h3"))) == 1
    assert last.one("nav", class_="pager").words == "← Previous 5–5 of 5 repos"
    assert (await page(client, "/?type=model&p=99")).words == last.words
    assert (await page(client, "/?type=space")).one("ul").words == "None yet."


async def test_an_empty_hub_says_how_to_push(client: HubClient) -> None:
    await client.call("DELETE", "/api/repos/delete", json={"organization": "me", "name": "net"})

    document = await page(client, "/")

    assert document.one("code").text == f"asyncpush push me/model out/ --endpoint {client.url}"


async def test_broken_repos_do_not_break_the_list(client: HubClient, hub: LocalHub) -> None:
    await client.create("headless")
    (hub.root / "models/me/headless.git/refs/heads/main").unlink()
    (hub.root / "models/me/gone.git").mkdir()

    document = await page(client, "/")

    assert sorted(item.words for item in document.all("h3")) == ["me/headless", "me/net"]


# -- a repo's files --


async def test_the_repo_page_shows_files_and_card(client: HubClient) -> None:
    oid = await fill(client)

    document = await page(client, "/me/net")

    assert names(document)[:3] == ["docs", "img", "\"'"]
    assert {"README.md", "config.json", "model.safetensors LFS"} <= set(names(document))
    model = row_of(document, "model.safetensors")
    assert model.one("td", class_="size").words == "1.5 MB"
    assert model.one("td", class_="size").one("span").attrs["title"] == "1,500,000 bytes"
    assert oid in model.one("span", class_="mark").attrs["title"]
    assert model.one("td", class_="last").words == "Add the model"
    assert row_of(document, "docs").one("td", class_="last").words == "Add the model"
    assert row_of(document, "old.txt").one("td", class_="last").words == "Add the rest"
    assert "Add the rest" in document.one("div", class_="bar").words
    card = document.one("section", class_="card")
    assert [fact.words for fact in card.one("dl").all("div")] == ["licensemit", "tagstinydemo"]
    assert card.one("h1").attrs["id"] == "card-net"
    assert [cell.text for cell in card.all("td")] == ["1", "2"]
    assert card.one("img").attrs["src"] == "/me/net/resolve/main/img/plot.png"


async def test_every_download_link_downloads(client: HubClient) -> None:
    await fill(client)
    document = await page(client, "/me/net")

    links = [link for cell in document.all("td", class_="get") for link in cell.all("a")]
    assert len(links) == len(names(document)) - len(["docs", "img"])
    for link in links:
        answer = await client.get(link.attrs["href"], token=None)
        assert answer.status == 200
        assert answer.headers["Content-Disposition"].startswith("attachment")


async def test_odd_names_are_shown_as_they_are(client: HubClient) -> None:
    await client.commit(*(add(f"{name}/{name}") for name in ODD_NAMES), summary="<b>&amp;\u202e")

    document = await page(client, "/me/net")
    visible = [name.replace("\u202e", "[U+202E]") for name in ODD_NAMES]
    assert names(document)[:-1] == sorted(visible)
    assert "<b>&amp;[U+202E]" in document.one("div", class_="bar").words
    for name, shown in zip(ODD_NAMES, visible, strict=True):
        link = row_of(document, shown).one("td", class_="name").one("a")
        folder = await page(client, link.attrs["href"])
        assert names(folder) == [shown]
        assert folder.one("nav", class_="path").words == f"net/{shown}"
        href = folder.one("tbody").one("td", class_="name").one("a").attrs["href"]
        assert href == f"/me/net/blob/main/{quote(name)}/{quote(name)}"
        assert (await page(client, href)).one("pre", class_="text").text == "\ntext"


async def test_datasets_and_spaces_have_pages(client: HubClient) -> None:
    await fill(client)

    assert (await page(client, "/datasets/me/data")).one("h1").words == "dataset me/data"
    assert (await page(client, "/spaces/me/app")).one("h1").words == "space me/app gradio"
    use = (await page(client, "/datasets/me/data")).one("details", class_="use")
    assert f"export HF_ENDPOINT={client.url} hf download me/data --repo-type dataset" in use.words


async def test_other_revisions_are_a_link_away(client: HubClient) -> None:
    await fill(client)

    menu = (await page(client, "/me/net")).one("details", class_="revisions")

    assert menu.one("summary").words == "main"
    assert {link.words: link.attrs["href"] for link in menu.all("a")} == {
        "dev/one": "/me/net/tree/dev%2Fone",
        "main": "/me/net",
        "PR #1": "/me/net/tree/refs%2Fpr%2F1",
        "v1": "/me/net/tree/v1",
    }
    pull = await page(client, "/me/net/tree/refs%2Fpr%2F1")
    assert row_of(pull, "config.json").one("td", class_="last").words == "Change"
    head = await client.head()
    assert (await page(client, f"/me/net/tree/{head}")).one("summary").words == head[:10]
    assert (await page(client, "/me/net/tree/refs%2Fheads%2Fmain")).one("summary").words == "main"


async def test_a_long_menu_is_cut(client: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_CHOICES", 2)
    for name in "abcd":
        await client.post(f"{API}/branch/{name}")

    menu = (await page(client, "/me/net")).one("details", class_="revisions")

    assert menu.words.endswith("a b and 3 more")


async def test_a_large_folder_has_pages(client: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "ROWS", 2)
    await client.commit(*(add(f"d/{name}") for name in "abc"), add("d/x/y"), add("d/e"))

    first = await page(client, "/me/net/tree/main/d")
    assert names(first) == ["x", "a"]
    assert first.one("nav", class_="pager").words == "1–2 of 5 items Next →"

    second = await page(client, first.one("a", rel="next").attrs["href"])
    assert names(second) == ["b", "c"]
    assert second.one("a", rel="prev").attrs["href"] == "/me/net/tree/main/d"

    third = await page(client, second.one("a", rel="next").attrs["href"])
    assert names(third) == ["e"]
    assert names(await page(client, "/me/net/tree/main/d?p=100")) == ["e"]


async def test_a_folder_of_ten_thousand_files_is_shown_in_pages(
    client: HubClient, hub: LocalHub
) -> None:
    with changing(hub) as git:
        builder = git.TreeBuilder()
        blob = git.create_blob(b"")
        for number in range(10_000):
            builder.insert(f"{number:05}", blob, pygit2.enums.FileMode.BLOB)
        commit_tree(git, builder.write())

    document = await page(client, "/me/net?p=49")

    assert names(document) == [f"{number:05}" for number in range(9_800, 10_000)]
    assert document.one("nav", class_="pager").words == "← Previous 9,801–10,000 of 10,000 items"


@contextmanager
def changing(hub: LocalHub, name: str = "net") -> Iterator[pygit2.Repository]:
    """A model's repository, for what no API call can make."""
    git = pygit2.Repository(str(hub.root / "models" / "me" / f"{name}.git"))
    try:
        yield git
    finally:
        git.free()


def commit_tree(
    git: pygit2.Repository, tree: pygit2.Oid, message: str = "", seconds: int = 1_700_000_000
) -> str:
    who = pygit2.Signature("someone", "a@b.c", seconds, 0)
    parent = git.revparse_single("main").id
    return str(git.create_commit("refs/heads/main", who, who, message, tree, [parent]))


async def test_a_repo_may_be_empty(client: HubClient) -> None:
    await client.commit(delete(".gitattributes"))

    document = await page(client, "/me/net")

    assert document.one("table").one("tbody").words == "This folder is empty."


@pytest.mark.parametrize("kind", ["a folder", "in LFS", "too large"])
async def test_only_a_small_text_is_a_card(
    client: HubClient, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    match kind:
        case "a folder":
            await client.commit(add("README.md/a"))
        case "in LFS":
            await client.commit(add_lfs("README.md", await client.store(b"# Hi")))
        case _:
            monkeypatch.setattr(folders, "MAX_CARD_BYTES", 3)
            await client.commit(add("README.md", b"# Hi"))

    document = await page(client, "/me/net")

    assert not list(document.all("section", class_="card"))


async def test_bad_metadata_and_long_cards_are_reported(client: HubClient) -> None:
    card = b"---\nlicense: 7\n---\n" + (b"w" * 99 + b"\n") * 1_001
    assert (await client.commit(add("docs/README.md", card))).status == 200

    document = await page(client, "/me/net/blob/main/docs/README.md")
    notes = [note.words for note in document.all("p", class_="note")]

    assert notes[0] == 'The metadata could not be read. "license" must be a string'
    assert notes[1].startswith("This is the beginning of a long text")


# -- who changed it last --


async def test_a_merge_changes_only_what_is_new_to_both_sides(client: HubClient) -> None:
    await client.commit(add("pulled"), query="?create_pr=1", summary="theirs")
    await client.commit(add("pushed"), summary="ours")
    await client.post(f"{API}/discussions/1/merge")

    document = await page(client, "/me/net")

    assert row_of(document, "pulled").one("td", class_="last").words == "theirs"
    assert row_of(document, "pushed").one("td", class_="last").words == "ours"


async def test_what_changed_long_ago_is_not_searched_for(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "COMMITS_LOOKED_AT", 1)
    await client.commit(add("d/old"), summary="older")
    await client.commit(add("d/new"), summary="newer")

    document = await page(client, "/me/net/tree/main/d")

    assert row_of(document, "new").one("td", class_="last").words == "newer"
    assert row_of(document, "old").one("td", class_="last").words == ""
    assert "older" not in (await page(client, "/me/net/blob/main/d/old")).words


async def test_a_folder_that_was_a_file_has_its_own_history(client: HubClient) -> None:
    await client.commit(add("a"), summary="a file")
    await client.commit(delete("a"), add("a/b"), summary="a folder")

    folder = await page(client, "/me/net/tree/main/a")

    assert row_of(folder, "b").one("td", class_="last").words == "a folder"


# -- a file --


@pytest.mark.parametrize(
    ("content", "shown", "about"),
    [
        pytest.param(b"a\n<b>\n", "a\n<b>", "6 B · 2 lines", id="text"),
        pytest.param(b"a", "a", "1 B · 1 line", id="no line end"),
        pytest.param(b"\n\na\r\nb\r\n", "\n\na\nb", "8 B · 4 lines", id="empty lines, CRLF"),
        pytest.param(b"\xef\xbb\xbfa", "a", "4 B · 1 line", id="byte order mark"),
        pytest.param("\u202eé\x1b[0m".encode(), "[U+202E]é␛[0m", "9 B · 1 line", id="controls"),
    ],
)
async def test_a_text_is_shown(client: HubClient, content: bytes, shown: str, about: str) -> None:
    await client.commit(add("a.txt", content))

    document = await page(client, "/me/net/blob/main/a.txt")

    # A browser leaves out the first line break in a <pre>.
    assert document.one("pre", class_="text").text == f"\n{shown}"
    assert document.one("div", class_="thin").words.startswith(about)
    numbers = document.one("pre", class_="numbers").text.split()
    assert numbers == [str(number + 1) for number in range(shown.count("\n") + 1)]


@pytest.mark.parametrize(
    ("limit", "value", "shown"),
    [
        pytest.param("MAX_TEXT_BYTES", 4, "\né", id="bytes, within a character"),
        pytest.param("MAX_TEXT_LINES", 1, "\né", id="lines"),
    ],
)
async def test_the_beginning_of_a_long_text_is_shown(
    client: HubClient, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, shown: str
) -> None:
    monkeypatch.setattr(folders, limit, value)
    await client.commit(add("a.txt", "é\né\n".encode()))

    document = await page(client, "/me/net/blob/main/a.txt")

    assert document.one("pre", class_="text").text == shown
    assert document.one("p", class_="note").words.startswith("This is the beginning of the file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "This file is empty.", id="empty"),
        pytest.param(b"a\0b", "This is a binary file.", id="with a zero byte"),
        pytest.param(b"\xff\xfe", "This is a binary file.", id="not UTF-8"),
        pytest.param(b"a\xc3", "This is a binary file.", id="cut within a character"),
    ],
)
async def test_what_is_no_text_is_not_shown(client: HubClient, content: bytes, words: str) -> None:
    await client.commit(add("a.txt", content))

    assert (await page(client, "/me/net/blob/main/a.txt")).one("p", class_="body").words == words


async def test_a_file_that_is_too_large_is_not_read(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_BLOB_BYTES", 1000)
    await client.commit(add("a.txt", b"a" * 1001))

    document = await page(client, "/me/net/blob/main/a.txt")

    assert document.one("p", class_="body").words == "1 kB are too much to show here."


async def test_a_file_in_lfs_shows_its_pointer(client: HubClient) -> None:
    oid = await fill(client)

    document = await page(client, "/me/net/blob/main/model.safetensors")

    details = document.one("dl", class_="details").words
    assert oid in details
    assert "1,500,000 bytes" in details
    assert "pointer" in details
    download = document.one("a", class_="button").attrs["href"]
    assert (await client.get(download, token=None)).body == b"w" * 1_500_000


async def test_images_are_shown_from_the_repo(client: HubClient) -> None:
    await client.commit(
        add("a.png", PNG), add_lfs("b.PNG", await client.store(PNG)), add("empty.png", b"")
    )

    for name in ("a.png", "b.PNG"):
        document = await page(client, f"/me/net/blob/main/{name}")
        image = document.one("main").one("img")
        assert image.attrs == {"src": f"/me/net/resolve/main/{name}", "alt": name}
        assert (await client.get(image.attrs["src"], token=None)).body == PNG
    assert not list((await page(client, "/me/net/blob/main/empty.png")).one("main").all("img"))


async def test_markdown_is_rendered_or_shown_as_it_was_written(client: HubClient) -> None:
    await fill(client)

    document = await page(client, "/me/net/blob/main/docs/more.md")
    assert document.one("div", class_="prose").one("h1").words == "More"
    up, here = (link.attrs["href"] for link in document.one("div", class_="prose").all("a"))
    assert (up, here) == ("/me/net/blob/main/README.md", "#card-more")

    (href,) = (link.attrs["href"] for link in document.all("a") if link.words == "Source")
    as_source = await page(client, href)
    assert as_source.one("pre", class_="text").text.startswith("\n# More\n")
    (href,) = (link.attrs["href"] for link in as_source.all("a") if link.words == "Rendered")
    assert href == "/me/net/blob/main/docs/more.md"


async def test_a_file_and_a_folder_redirect_to_each_other(
    client: HubClient,
) -> None:
    await fill(client)

    for wrong, right in (
        ("tree/main/config.json", "blob/main/config.json"),
        ("tree/main/docs/more.md/", "blob/main/docs/more.md"),
        ("blob/main/docs", "tree/main/docs"),
    ):
        answer = await client.get(f"/me/net/{wrong}", token=None)
        assert (answer.status, answer.headers["Location"]) == (302, f"/me/net/{right}")


# -- what only `git push` can bring --


@pytest.fixture
def pushed(client: HubClient, hub: LocalHub) -> str:
    """A commit with a submodule and a name that is not UTF-8."""
    with changing(hub) as git:
        submodule, blob = git.revparse_single("main").id, git.create_blob(b"x")
        tree = b"100644 caf\xe9\0" + blob.raw + b"160000 sub\0" + submodule.raw
        return commit_tree(git, git.odb.write(pygit2.enums.ObjectType.TREE, tree))


async def test_submodules_are_left_out_and_any_name_is_shown(
    client: HubClient, pushed: str
) -> None:
    document = await page(client, "/me/net")

    assert names(document) == ["caf\N{REPLACEMENT CHARACTER}"]
    assert document.one("tbody").one("td", class_="size").words == ""
    assert "(no message)" in document.one("div", class_="bar").words


async def test_a_commit_of_such_things_is_shown(client: HubClient, pushed: str) -> None:
    document = await page(client, f"/me/net/commit/{pushed}")

    changes = [item.words for item in document.one("ul", class_="changes").all("li")]
    assert changes == ["deleted .gitattributes 1.56 kB", "added caf�", "added sub"]


# -- history --


async def test_commits_are_listed_in_pages(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "COMMITS", 2)
    for number in range(4):
        await client.commit(add("a.txt"), summary=f"change {number}")

    first = await page(client, "/me/net/commits/main")
    assert titles(first) == ["change 3", "change 2"]
    assert first.one("nav", class_="pager").words == "Commits 1–2 Next →"

    second = await page(client, "/me/net/commits/main?p=1")
    assert titles(second) == ["change 1", "change 0"]
    assert second.one("a", rel="prev").attrs["href"] == "/me/net/commits/main"

    third = await page(client, second.one("a", rel="next").attrs["href"])
    assert titles(third) == ["initial commit"]
    beyond = await page(client, "/me/net/commits/main?p=9")
    assert beyond.one("nav", class_="pager").words == "← Previous No commits this far back"


def titles(document: Element) -> list[str]:
    return [link.words for link in document.one("ol", class_="commits").all("a", class_="title")]


async def test_a_commit_shows_its_message_and_files(client: HubClient) -> None:
    await fill(client)
    (_, model, initial) = (await client.get(f"{API}/commits/main")).json

    document = await page(client, f"/me/net/commit/{model['id']}")

    assert document.one("h2", class_="subject").words == "Add the model"
    assert document.one("pre", class_="message").text == "\nTrained\nfor long"
    assert model["id"] in document.one("dl").words
    changes = document.one("ul", class_="changes")
    assert [item.words for item in changes.all("li")] == [
        f"added README.md {len(CARD)} B",
        "added config.json 9 B",
        "added docs/more.md 44 B",
        f"added img/plot.png {len(PNG)} B",
        "added model.safetensors LFS 1.5 MB",
    ]
    first = await page(client, f"/me/net/commit/{initial['id']}")
    assert first.one("ul", class_="changes").words == "added .gitattributes 1.56 kB"
    assert "parent" not in first.one("dl").words


async def test_changed_and_deleted_files_show_both_sizes(client: HubClient) -> None:
    await client.commit(add("a", b"1"), add("b", b"12"))
    oid = (await client.commit(add("a", b"123"), delete("b"))).json["commitOid"]
    nothing = (await client.commit(add("a", b"123"))).json["commitOid"]

    document = await page(client, f"/me/net/commit/{oid}")

    changed, deleted = document.one("ul", class_="changes").all("li")
    assert (changed.words, deleted.words) == ("changed a 1 B → 3 B", "deleted b 2 B")
    assert (await page(client, deleted.one("a").attrs["href"])).one("pre", class_="text").text == (
        "\n12"
    )
    empty = await page(client, f"/me/net/commit/{nothing}")
    assert "Nothing: the files are as they were." in empty.words


async def test_a_large_commit_shows_its_beginning(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CHANGED_FILES", 2)
    oid = (await client.commit(*(add(name) for name in "abcde"))).json["commitOid"]

    document = await page(client, f"/me/net/commit/{oid}")

    assert document.one("h2", class_="bar").words == "5 changed files"
    assert [item.words for item in document.one("ul", class_="changes").all("li")] == [
        "added a 5 B",
        "added b 5 B",
        "and 3 more",
    ]


# -- discussions --


async def test_discussions_are_listed_in_pages(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "None yet." in (await page(client, "/me/net/discussions")).words
    monkeypatch.setattr(history, "ROWS", 2)
    await client.commit(add("a"), query="?create_pr=1", summary="a pull <request>")
    for title in ("question one", "question two"):
        await client.post(f"{API}/discussions", {"title": title, "description": "?"})
    await client.post(f"{API}/discussions/2/status", {"status": "closed", "comment": "Done."})

    first = await page(client, "/me/net/discussions")
    assert "2 open of 3 discussions" in first.one("h2", class_="bar").words
    assert [item.one("a").words for item in first.one("ul", class_="rows").all("li")] == [
        "question two",
        "question one",
    ]
    assert "closed question one #2 · local · just now · 1 comment" in first.words

    second = await page(client, first.one("a", rel="next").attrs["href"])
    assert "open a pull <request> PR #1" in second.one("ul", class_="rows").words


async def test_a_pull_request_shows_what_it_changes(client: HubClient) -> None:
    await fill(client)
    await client.post(f"{API}/discussions/1/comment", {"comment": "<i>Good</i> **work**"})
    await client.post(f"{API}/discussions/1/title", {"title": "Better title"})

    document = await page(client, "/me/net/discussions/1")

    assert document.one("header", class_="talk-head").one("h2").words == "Better title #1"
    description, comment = document.all("article")
    assert description.one("div", class_="prose").words == "No description."
    assert comment.one("div", class_="prose").words == "<i>Good</i> work"
    assert document.one("p", class_="happening").words.startswith(
        "local changed the title from “Change”"
    )
    assert titles(document) == ["Change"]
    assert [item.words for item in document.one("ul", class_="changes").all("li")] == [
        "changed config.json 9 B → 3 B",
        "deleted old.txt 3 B",
    ]


async def test_a_merged_pull_request_and_a_draft(client: HubClient) -> None:
    await client.commit(add("a"), query="?create_pr=1", summary="a pull request")
    await client.post(f"{API}/discussions", {"title": "a draft", "pullRequest": True})
    merged = (await client.post(f"{API}/discussions/1/merge")).json["mergeCommitId"]

    document = await page(client, "/me/net/discussions/1")
    assert document.one("span", class_="status").words == "merged"
    assert document.one("a", href=f"/me/net/commit/{merged}").words == "the merge commit"
    assert "local merged this" in document.words

    draft = await page(client, "/me/net/discussions/2")
    assert "0 commits" in draft.words
    assert "0 changed files" in draft.words


async def test_a_discussion_is_reported_in_order(client: HubClient, hub: LocalHub) -> None:
    await client.post(f"{API}/discussions", {"title": "a question", "description": "Why?"})
    for status in ("closed", "open"):
        await client.post(f"{API}/discussions/1/status", {"status": status})
    kept = Discussions(hub.root / "models/me/net.git")
    kept.save(kept.get(1), Event("locking-change", "local", {}))

    document = await page(client, "/me/net/discussions/1")

    assert [item.words.partition(" ·")[0] for item in document.all("p", class_="happening")] == [
        "local closed this",
        "local opened this again",
        "local locking-change",
    ]
    assert "Discussion by local" in document.words


# -- when there is nothing to show --


@pytest.mark.parametrize(
    ("path", "status", "title"),
    [
        pytest.param("/me/nope", 404, "No such repo", id="repo"),
        pytest.param("/datasets/me/net", 404, "No such repo", id="repo of another type"),
        pytest.param("/me/net.git", 404, "No such repo", id="name that no repo has"),
        pytest.param("/datasets/net", 404, "No such repo", id="half a name"),
        pytest.param("/me/nope/discussions/1", 404, "No such repo", id="page of no repo"),
        pytest.param("/me/net/tree/nope", 404, "No such revision", id="revision"),
        pytest.param("/me/net/commits/main~1", 404, "No such revision", id="git's own language"),
        pytest.param("/me/net/commit/" + "0" * 40, 404, "No such revision", id="commit"),
        pytest.param("/me/net/tree/main/nope", 404, "Nothing here", id="folder"),
        pytest.param("/me/net/blob/main/a/b", 404, "Nothing here", id="file"),
        pytest.param("/me/net/discussions/7", 404, "Nothing here", id="discussion"),
        pytest.param("/me/net/tree/main/a//b", 400, "This address is not valid", id="path"),
        pytest.param("/me/net/blob/main/.git/x", 400, "This address is not valid", id=".git"),
        pytest.param("/me/net?p=-1", 400, "This address is not valid", id="page number"),
        pytest.param("/?type=<b>", 400, "This address is not valid", id="type"),
    ],
)
async def test_failures_are_pages_too(
    client: HubClient, path: str, status: int, title: str
) -> None:
    document = await page(client, path, status=status)

    assert document.one("h1").words == title
    assert document.one("main").one("a", href="/").words == "All repos"


async def test_failures_carry_the_hubs_error_code(client: HubClient) -> None:
    answer = await client.get("/me/net/tree/nope", token=None)

    assert answer.error_code == "RevisionNotFound"


@pytest.mark.parametrize("path", ["/api/nope", "/api/models/me/nope", "/_lfs/x", "/nope"])
async def test_the_api_answers_in_json_as_before(client: HubClient, path: str) -> None:
    answer = await client.get(path)

    assert answer.status == 404
    assert "error" in answer.json


async def test_a_private_repo_says_how_to_read_it(client: HubClient) -> None:
    await client.create("secret", private=True, type="dataset")
    await client.commit(add("hidden.txt"), repo="datasets/me/secret")

    for path in ("", "/tree/main", "/blob/main/hidden.txt", "/commits/main", "/discussions"):
        document = await page(client, f"/datasets/me/secret{path}", status=404)
        assert document.one("h1").words == "A private repo"
        assert "hidden" not in document.words
    assert [code.text for code in document.all("code")] == [
        f"HF_ENDPOINT={client.url} HF_TOKEN=… hf download me/secret --repo-type dataset",
        f'curl -H "Authorization: Bearer $HF_TOKEN" {client.url}/api/datasets/me/secret',
        f"git clone {client.url}/datasets/me/secret",
    ]
    assert "me/secret" not in (await page(client, "/")).words


async def test_who_has_a_token_sees_private_repos(client: HubClient) -> None:
    await client.create("secret", private=True)
    await client.call("PUT", "/api/models/me/secret/settings", json={"gated": "auto"})

    shown = await page(client, "/me/secret", token="any")

    assert shown.one("h1").words == "model me/secret private gated"
    assert "me/secret private" in (await page(client, "/", token="any")).words


async def test_private_repos_are_not_revealed(
    tmp_path: Path,
) -> None:
    async with (
        LocalHub(tmp_path / "hub", token="secret-token") as hub,
        aiohttp.ClientSession() as session,
    ):
        client = HubClient(hub.url, session)
        body = {"organization": "me", "name": "tapir", "private": True}
        await client.post("/api/repos/create", body, token="secret-token")

        there = await client.get("/me/tapir", token=None)
        missing = await client.get("/me/zebra", token=None)

        assert (there.status, missing.status) == (404, 404)
        assert there.body.replace(b"tapir", b"zebra") == missing.body
        assert b"secret-token" not in there.body
        assert (await client.get("/me/tapir", token="secret-token")).status == 200


async def test_pages_leave_nothing_open(client: HubClient) -> None:
    await fill(client)
    await page(client, "/me/net")
    before = len(os.listdir("/proc/self/fd"))

    for path in ("", "/tree/main/docs", "/blob/main/README.md", "/commits/main", "/tree/nope"):
        await client.get(f"/me/net{path}", token=None)

    assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_a_bucket_shows_its_folders_and_files(
    hub: LocalHub, client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.post("/api/buckets/me/runs", {})
    names_of = ["a.txt", "b.txt", "step-1/model.bin", "step-1/s/x", f"step-1/{ODD_NAMES[0]}"]
    lines = [{"type": "addFile", "path": name, "xetHash": "0" * 64} for name in names_of]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    assert (await client.call("POST", "/api/buckets/me/runs/batch", data=body)).status == 200

    shown = await page(client, "/buckets/me/runs")
    assert names(shown) == ["step-1", "a.txt", "b.txt"]
    assert "5 files, 0 B" in shown.words
    assert "asyncpush sync out/ hf://buckets/me/runs" in shown.words
    shown = await page(client, "/buckets/me/runs/tree/step-1")
    assert names(shown) == ["s", ODD_NAMES[0], "model.bin"]
    monkeypatch.setattr(folders, "PAGE", 2)
    assert names(await page(client, "/buckets/me/runs?p=1")) == ["b.txt"]

    await page(client, "/buckets/me/runs/tree/step", status=404)
    await page(client, "/buckets/me/none", status=404)
    index = await page(client, "/")
    assert "Buckets 1" in " ".join(index.words.split())
    assert "empty" not in index.words
    await client.call("PUT", "/api/buckets/me/runs/settings", json={"private": True})
    await page(client, "/buckets/me/runs", status=404)
    assert "Buckets" not in (await page(client, "/")).words
