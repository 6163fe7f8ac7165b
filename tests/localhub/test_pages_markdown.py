"""Cards: what a stranger's Markdown may become, and what it may never become."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.localhub.pages.rendering import (
    MAX_CHARACTERS,
    MAX_FACTS,
    MAX_VALUES,
    Base,
    facts,
    read_card,
    to_html,
)
from asyncpush.localhub.pages.views import Links
from tests.localhub.dom import Element, parse

LINKS = Links("/me/net")
BASE = Base(LINKS, "main")


def rendered(text: str, base: Base = BASE) -> Element:
    return parse(to_html(text, base).html)


def inline(text: str, base: Base = BASE) -> str:
    """The HTML of one paragraph."""
    html = str(to_html(text, base).html)
    assert html.startswith("<p>")
    assert html.endswith("</p>\n")
    return html[3:-5]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        pytest.param("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;", id="a tag"),
        pytest.param("&lt;b&gt;", "&lt;b&gt;", id="entities"),
        pytest.param("[x](javascript:f())", "[x](javascript:f())", id="javascript link"),
        pytest.param("[x](JaVaScRiPt:f)", "[x](JaVaScRiPt:f)", id="JaVaScRiPt link"),
        pytest.param("[x](&#106;avascript:f)", "[x](javascript:f)", id="encoded javascript link"),
        pytest.param("[x](data:text/html,hi)", "[x](data:text/html,hi)", id="data link"),
        pytest.param("[x](vscode:open)", "x", id="link to a program"),
        pytest.param("<vscode:open>", "vscode:open", id="autolink to a program"),
        pytest.param("[x](../../etc)", "x", id="link out of the repo"),
        pytest.param("[*x*](..)", "<em>x</em>", id="link to above the repo"),
        pytest.param("a <!-- b --> c", "a  c", id="comment"),
        pytest.param("<!-- a --> b", " b", id="comment that begins a text"),
        pytest.param("a <!-- b", "a &lt;!-- b", id="comment without an end"),
        pytest.param("a&#x202e;b", "a[U+202E]b", id="text that turns around"),
        pytest.param("![](https://x.y/%E2%80%AE)", None, id="address that turns around"),
    ],
)
def test_what_could_harm_is_shown_as_text(text: str, html: str | None) -> None:
    if html is None:
        assert "\u202e" not in inline(text)
    else:
        assert inline(text) == html


def to(href: str, words: str = "x") -> str:
    return f'<a href="{href}">{words}</a>'


def to_web(href: str, words: str = "x") -> str:
    return f'<a href="{href}" rel="nofollow noopener noreferrer">{words}</a>'


def image(path: str, alt: str = "x") -> str:
    return f'<img src="/me/net/resolve/main/{path}" alt="{alt}" loading="lazy">'


BLOB = "/me/net/blob/main"


@pytest.mark.parametrize(
    ("text", "html"),
    [
        pytest.param("[x](https://a.b)", to_web("https://a.b"), id="web"),
        pytest.param("[x](//a.b/c)", to_web("//a.b/c"), id="web, either scheme"),
        pytest.param("<a@b.c>", to_web("mailto:a@b.c", "a@b.c"), id="mail"),
        pytest.param("[x](a.py)", to(f"{BLOB}/a.py"), id="file"),
        pytest.param("[x](<a b?.md>)", to(f"{BLOB}/a%20b"), id="file with query"),
        pytest.param("[x](d/a.md#b)", to(f"{BLOB}/d/a.md#card-b"), id="place in a file"),
        pytest.param("[x](d/..)", to("/me/net"), id="root"),
        pytest.param("[x](#a-b)", to("#card-a-b"), id="heading"),
        pytest.param("[x](#)", "x", id="nowhere"),
        pytest.param("[x](/you/other?a=b)", to("/you/other?a=b"), id="another repo"),
        pytest.param("![x](i.png)", image("i.png"), id="image"),
        pytest.param("![](d/../%69.PNG?raw=1)", image("i.PNG", ""), id="image, oddly named"),
        pytest.param("![x](i.svg)", to(f"{BLOB}/i.svg"), id="image that is not drawn"),
        pytest.param("![x](//a.b/i.png)", to_web("//a.b/i.png"), id="remote image"),
        pytest.param("![](//a.b/i.png)", to_web("//a.b/i.png", "//a.b/i.png"), id="nameless one"),
        pytest.param("![x](/you/o/i.png)", to("/you/o/i.png"), id="another repo's image"),
        pytest.param("![x](../i.png)", "x", id="image above the repo"),
        pytest.param("![x](data:image/png;base64,AA)", "x", id="image in the address"),
        pytest.param("[![x](//b.c/i.svg)](//d.e)", to_web("//d.e"), id="badge"),
        pytest.param("[![x](i.png)](d)", to(f"{BLOB}/d", image("i.png")), id="linked image"),
    ],
)
def test_links_and_images(text: str, html: str) -> None:
    assert inline(text).replace(" />", ">") == html


def test_a_links_title_is_kept() -> None:
    assert rendered('[x](a.py "say <b>")').one("a").attrs["title"] == "say <b>"


def test_links_start_in_the_texts_own_folder_and_revision() -> None:
    base = Base(Links("/datasets/me/d"), "refs/pr/1", "docs/en")

    assert rendered("[x](../img/a.txt)", base).one("a").attrs["href"] == (
        "/datasets/me/d/blob/refs%2Fpr%2F1/docs/img/a.txt"
    )


def test_a_comment_hides_its_lines_and_no_others() -> None:
    text = """
one
<!-- two

# three

-->
four

> <!-- five

six

- <!-- seven

  eight -->
- nine
"""
    assert rendered(text).words == "one four six nine"


@pytest.mark.parametrize("text", ["    <!-- a -->", "```\n<!-- a -->\n```"])
def test_a_comment_in_code_is_code(text: str) -> None:
    assert rendered(text).one("code").text == "<!-- a -->\n"


def test_headings_can_be_linked_to() -> None:
    document = rendered("# How to *use* it?\n\nA\n\n## A\n\n## A\n\n## Größe_1\n")

    ids = [heading.attrs["id"] for heading in document.all() if heading.tag in ("h1", "h2")]
    assert ids == ["card-how-to-use-it", "card-a", "card-a-1", "card-größe_1"]


def test_table_cells_are_aligned_without_styles() -> None:
    document = rendered("|a|b|c|\n|:-|:-:|-|\n|1|2|3|\n")

    found = [cell.attrs.get("class") for cell in document.all("td")]
    assert found == ["left", "center", None]


def test_a_long_text_is_cut_at_a_line() -> None:
    line = "w" * 998
    card = to_html(f"{line}\n" * MAX_CHARACTERS, BASE)

    assert card.is_cut
    assert parse(card.html).text.split() == [line] * 100


PIECES = (
    *"[]()<>!#*_~`|-:\\\"'&\n\t/.^=+ ax1",
    *("[x](", "![", "](", "](i.png)", "<!--", "-->", "```\n", "javascript:", "//a.b", "data:"),
    *("<script>", "</p>", "<img src=x onerror=f>", "&#x202e;", "&quot;", "%22", "%00", "\u202e"),
    *("|a|b|\n|-|-:|\n", "\n\n", "> ", "- ", "1. ", "    ", "[a]: /b 'c'\n", "../", "\r\n"),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=30).map("".join)

TEXT_TAGS = "p br hr h1 h2 h3 h4 h5 h6 em strong s code pre blockquote ul ol li"
TABLE_TAGS = "table thead tbody tr th td"
ALLOWED = {
    **{tag: set[str]() for tag in f"{TEXT_TAGS} {TABLE_TAGS}".split()},
    **{f"h{level}": {"id"} for level in range(1, 7)},
    "a": {"href", "title", "rel"},
    "img": {"src", "alt", "title", "loading"},
    "code": {"class"},
    "ol": {"start"},
    "th": {"class"},
    "td": {"class"},
}


@settings(deadline=None)
@given(TEXTS)
def test_no_text_becomes_more_than_text(text: str) -> None:
    document = rendered(text)

    for element in document.all():
        assert set(element.attrs) <= ALLOWED[element.tag]
        href, src = element.attrs.get("href", "/"), element.attrs.get("src")
        assert re.match(r"#card-|/|https?://|mailto:", href, re.IGNORECASE)
        assert src is None or src.startswith("/me/net/resolve/main/")
        assert element.tag != "a" or not list(element.all("a"))
    assert not set(document.text) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\0\x1b\r")


# -- the whole card --


def test_a_card_is_metadata_and_text() -> None:
    card = read_card("---\nlicense: mit\n---\n# Hi\n", "model", LINKS, "main", "README.md")

    assert [(fact.name, fact.values) for fact in card.facts] == [("license", ("mit",))]
    assert parse(card.html).words == "Hi"
    assert card.problem is None


def test_metadata_that_is_wrong_is_said_to_be() -> None:
    card = read_card("---\nlicense: [\n---\ntext", "model", LINKS, "main", "README.md")

    assert card.facts == ()
    assert "Invalid YAML" in (card.problem or "")
    assert parse(card.html).words == "text"


def test_facts_are_short() -> None:
    data = {
        "zeta": None,
        "empty": "",
        "none": [],
        "tags": [str(number) for number in range(MAX_VALUES + 3)],
        "configs": {"a": 1},
        "model-index": [{"name": "a"}, {"name": "b"}],
        "inference": True,
        "long": "x" * 1000,
        "license": "mit",
    }

    found = {fact.name: fact for fact in facts(data)}

    assert list(found) == ["license", "tags", "configs", "model-index", "inference", "long"]
    assert (len(found["tags"].values), found["tags"].left_out) == (MAX_VALUES, 3)
    assert found["configs"].values == ("1 item",)
    assert found["model-index"].values == ("2 items",)
    assert found["inference"].values == ("true",)
    assert found["long"].values == ("x" * 79 + "…",)
    assert len(facts({str(number): number for number in range(1000)})) == MAX_FACTS
