"""A README.md as its page shows it: the metadata as facts, the text as HTML."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from asyncpush.localhub.cards import check_card, split_card
from asyncpush.localhub.pages.links import Links
from asyncpush.localhub.pages.markdown import Base, to_html
from asyncpush.localhub.pages.rendering import plural
from asyncpush.localhub.pages.views import Card, Fact
from asyncpush.localhub.store.names import RepoType

MAX_FACTS = 30
MAX_VALUES = 12
_MAX_LENGTH = 80
# What a reader looks for first; all else follows as it was written.
_FIRST = ("license", "pipeline_tag", "library_name", "sdk", "language", "base_model", "datasets")


def read_card(text: str, repo_type: RepoType, links: Links, revision: str, path: str) -> Card:
    """Never raises: metadata that is wrong is said to be so.

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
