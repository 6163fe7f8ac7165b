"""From views to HTML. Everything in a view is text, and is escaped, unless it is `Markup`.

A stranger's Markdown becomes safe HTML. HTML in the text is shown as text. Links lead to the web,
or by relative path into the same repo; images come from the same repo alone, all others become
links."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup

from asyncpush.localhub.cards import check_card, split_card
from asyncpush.localhub.pages.views import Card, Fact, Links, Page
from asyncpush.localhub.store.names import RepoType

_STATIC = Path(__file__).parent / "static"
STYLE = (_STATIC / "style.css").read_bytes()
ICON = (_STATIC / "icon.svg").read_bytes()
# Their names contain a hash of their content, so that a browser may keep them for ever.
STYLE_URL = f"/_pages/style-{hashlib.sha256(STYLE).hexdigest()[:12]}.css"
ICON_URL = f"/_pages/icon-{hashlib.sha256(ICON).hexdigest()[:12]}.svg"

# These characters change the direction of text: a name could show its end in the middle.
_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    **{ord(mark): f"[U+{ord(mark):04X}]" for mark in _DIRECTIONS},
    **{code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x7F, 0xA0), *range(0xD800, 0xE000))},
}


def visible(text: str) -> str:
    r"""Text without characters that hide or reverse the text around them.

    >>> visible("gpj.\u202eexe"), visible("\x1b[0m")
    ('gpj.[U+202E]exe', '␛[0m')
    """
    return text.translate(_VISIBLE)


def render(page: Page, now: datetime) -> str:
    """The page as HTML; "2 days ago" is relative to `now`."""
    return _TEMPLATES.get_template(page.template).render(page=page, now=now)


def size(count: int) -> str:
    """
    >>> size(0), size(999), size(1500), size(5_800_000_000)
    ('0 B', '999 B', '1.5 kB', '5.8 GB')
    """
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{value / 1000:.3g} TB"


def ago(moment: datetime, now: datetime) -> str:
    """
    >>> day = datetime(2026, 3, 14, tzinfo=UTC)
    >>> ago(datetime(2026, 3, 12, tzinfo=UTC), day), ago(datetime(2025, 1, 2, tzinfo=UTC), day)
    ('2 days ago', '2 Jan 2025')
    """
    seconds = (now - moment).total_seconds()
    if seconds < 60:
        return "just now"
    for unit, length, most in (("minute", 60, 60), ("hour", 3600, 24), ("day", 86_400, 31)):
        if seconds < length * most:
            return f"{plural(int(seconds // length), unit)} ago"
    return f"{moment.day} {moment:%b %Y}"


def plural(count: int, noun: str) -> str:
    """
    >>> plural(1, "file"), plural(2000, "file")
    ('1 file', '2,000 files')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _shown(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment() -> Environment:
    templates = Environment(
        loader=PackageLoader("asyncpush.localhub.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"style_url": STYLE_URL, "icon_url": ICON_URL}
    templates.filters |= {"size": size, "ago": ago, "plural": plural, "utc": _utc}
    return templates


_TEMPLATES = _environment()


# The parser needs time with the square of some texts: 100,000 brackets are a second or two.
MAX_CHARACTERS = 100_000
# What `resolve` sends as an image; an SVG, say, it sends as bytes, which no browser draws.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp")

# A heading's id must not be that of something else on the page.
_ANCHOR = "card-"
_WEB = re.compile(r"(?:https?:)?//|mailto:", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_ALIGNMENTS = {f"text-align:{side}": side for side in ("left", "center", "right")}


@dataclass(frozen=True, slots=True)
class Base:
    """Where relative links start: a folder of a repo at a revision."""

    links: Links
    revision: str
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Rendered:
    html: Markup
    is_cut: bool


def to_html(text: str, base: Base) -> Rendered:
    """Render the text, or its beginning when it is long.

    >>> to_html("*Hi*, [you](javascript:alert)", Base(Links("/me/net"), "main")).html
    Markup('<p><em>Hi</em>, [you](javascript:alert)</p>\\n')
    """
    is_cut = len(text) > MAX_CHARACTERS
    if is_cut:
        text = text[:MAX_CHARACTERS].rpartition("\n")[0]
    # Every call has a parser of its own: one is not made to be shared between threads.
    html = _parser().render(text, {"base": base})
    # Not before parsing: the parser itself turns `&#x202e;` into a character.
    return Rendered(Markup(visible(html)), is_cut)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.block.ruler.before("paragraph", "comment", _block_comment, {"alt": ["paragraph"]})
    parser.inline.ruler.before("autolink", "comment", _inline_comment)
    parser.core.ruler.push("headings", _give_headings_ids)
    parser.core.ruler.push("cells", _align_cells)
    parser.core.ruler.push("targets", _settle_targets)
    return parser


# -- comments, which are not shown: cards made from the Hub's template are full of them --


def _block_comment(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A comment that begins a line, up to the line that ends it, or to the end of the text."""
    first = _line(state, start)
    if state.is_code_block(start) or not first.startswith("<!--"):
        return False
    if "-->" in first and not first.rstrip().endswith("-->"):
        return False  # a text that begins with a comment
    if not silent:
        lines = range(start, end)
        state.line = next((n for n in lines if _ends_comment(state, n)), end - 1) + 1
    return True


def _ends_comment(state: StateBlock, line: int) -> bool:
    """It ends with the quote or the list that it began in."""
    after = line + 1
    is_outside = (
        after < state.lineMax and not state.isEmpty(after) and state.sCount[after] < state.blkIndent
    )
    return is_outside or "-->" in _line(state, line)


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def _inline_comment(state: StateInline, silent: bool) -> bool:
    if not state.src.startswith("<!--", state.pos):
        return False
    end = state.src.find("-->", state.pos + 4)
    if end < 0:
        return False
    state.pos = end + 3
    return True


# -- headings and tables --


def _give_headings_ids(state: StateCore) -> None:
    """Ids, made as GitHub makes them, so that the links of a card's table of contents work."""
    seen: Counter[str] = Counter()
    for opening, inline in zip(state.tokens, state.tokens[1:], strict=False):
        if opening.type == "heading_open":
            slug = re.sub(r"[^\w\- ]", "", inline.content.lower()).replace(" ", "-")
            number, seen[slug] = seen[slug], seen[slug] + 1
            opening.attrs["id"] = f"{_ANCHOR}{slug}-{number}" if number else f"{_ANCHOR}{slug}"


def _align_cells(state: StateCore) -> None:
    """A class in place of the `style`, which the pages' security policy refuses."""
    for token in state.tokens:
        if token.type in ("th_open", "td_open"):
            side = _ALIGNMENTS.get(str(token.attrs.pop("style", "")))
            if side:
                token.attrs["class"] = side


# -- links and images --


def _settle_targets(state: StateCore) -> None:
    for token in state.tokens:
        if token.type == "inline":
            token.children = list(_settled(token.children or (), state.env["base"]))


def _settled(tokens: Sequence[Token], base: Base) -> Iterator[Token]:
    """The same text with its links led to where they may go; those that may not are plain text."""
    is_in_link = is_refused = False
    for token in tokens:
        if token.type == "link_open":
            is_in_link = True
            href = link_target(str(token.attrs["href"]), base)
            is_refused = href is None
            if href is not None:
                yield _link_open(href, token.attrs.get("title"))
        elif token.type == "link_close":
            is_in_link = False
            if not is_refused:
                yield token
        elif token.type == "image":
            yield from _image(token, base, is_in_link)
        else:
            yield token


def _image(token: Token, base: Base, is_in_link: bool) -> Iterator[Token]:
    href = str(token.attrs["src"])
    path = _path_in_repo(href, base)
    if path and path.lower().endswith(IMAGE_ENDINGS):
        token.attrs["src"] = base.links.raw(base.revision, path)
        token.attrs["loading"] = "lazy"
        yield token
        return
    words = Token("text", "", 0, content=token.content or unquote(href)[:80])
    target = None if is_in_link else link_target(href, base)
    yield from (words,) if target is None else (_link_open(target), words, _link_close())


def _link_open(href: str, title: str | int | float | None = None) -> Token:
    attrs: dict[str, str | int | float] = {"href": href}
    if title:
        attrs["title"] = title
    if _WEB.match(href):
        attrs["rel"] = "nofollow noopener noreferrer"
    return Token("link_open", "a", 1, attrs=attrs)


def _link_close() -> Token:
    return Token("link_close", "a", -1)


def link_target(href: str, base: Base) -> str | None:
    """Where a link may lead: the web, a heading, this hub, a file of this repo; None: nowhere.

    >>> link_target("docs/a%20b.md#use", Base(Links("/me/net"), "main"))
    '/me/net/blob/main/docs/a%20b.md#card-use'
    """
    if _WEB.match(href) or href.startswith("/"):
        return href
    target, _, heading = href.partition("#")
    anchor = f"#{_ANCHOR}{heading}" if heading else ""
    if not target:
        return anchor or None
    path = _path_in_repo(target, base)
    if path is None:
        return None
    page = base.links.blob(base.revision, path) if path else base.links.tree(base.revision)
    return page + anchor


def _path_in_repo(href: str, base: Base) -> str | None:
    """A relative link as a path from the repo's root; None when it is none, or leaves the repo."""
    if _SCHEME.match(href) or href.startswith(("/", "#")):
        return None
    relative = unquote(re.split("[?#]", href, maxsplit=1)[0])
    path = posixpath.normpath(posixpath.join(base.folder, relative))
    if path == ".." or path.startswith(("../", "/")):
        return None
    return "" if path == "." else path


MAX_FACTS = 30
MAX_VALUES = 12
_MAX_LENGTH = 80
# What a reader looks for first; all else follows as it was written.
_FIRST = ("license", "pipeline_tag", "library_name", "sdk", "language", "base_model", "datasets")


def read_card(text: str, repo_type: RepoType, links: Links, revision: str, path: str) -> Card:
    """Never raises: what is wrong with the metadata is in `problem`.

    >>> read_card("---\\nlicense: mit\\n---\\nHello", "model", Links("/a/b"), "main", "README.md")
    Card(path='README.md', facts=(Fact(name='license', values=('mit',), left_out=0),), \
html=Markup('<p>Hello</p>\\n'), is_cut=False, problem=None)
    """
    check = check_card(text, repo_type)
    rendered = to_html(split_card(text)[1], Base(links, revision, posixpath.dirname(path)))
    problem = "; ".join(check.errors) or None
    return Card(path, facts(check.data), rendered.html, rendered.is_cut, problem)


def facts(data: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Metadata in short: scalars and lists of them; of what is nested deeper, how much there is.

    >>> facts({"tags": ["a", "b"], "model-index": [{"name": "net"}]})[1]
    Fact(name='model-index', values=('1 item',), left_out=0)
    """
    names = sorted(data, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    found = (_fact(name, data[name]) for name in names)
    return tuple(fact for fact in found if fact.values)[:MAX_FACTS]


def _fact(name: str, value: Any) -> Fact:
    name = _short(name)
    match value:
        case None | "":
            return Fact(name, ())
        case list() if not any(isinstance(item, dict | list) for item in value):
            values = tuple(_short(item) for item in value[:MAX_VALUES])
            return Fact(name, values, max(0, len(value) - MAX_VALUES))
        case list() | dict():
            return Fact(name, (plural(len(value), "item"),))
        case _:
            return Fact(name, (_short(value),))


def _short(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 1]}…"
