"""HTML read as a browser reads it, strictly: what is opened is closed, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"br", "col", "hr", "img", "link", "meta"})


@dataclass
class Element:
    tag: str
    attrs: dict[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return "".join(parts)

    @property
    def words(self) -> str:
        """The text with its white space as one sees it."""
        return " ".join(self.text.split())

    @property
    def shape(self) -> tuple[object, ...]:
        """Elements and the names of their attributes, without any text or value."""
        below = (child.shape for child in self.children if isinstance(child, Element))
        return (self.tag, tuple(self.attrs), *below)

    def all(self, tag: str | None = None, **attrs: str) -> Iterator[Element]:
        """Elements below, in order; `class_` names one of their classes."""
        wanted_class = attrs.pop("class_", None)
        for child in self.children:
            if isinstance(child, Element):
                classes = child.attrs.get("class", "").split()
                if (
                    tag in (None, child.tag)
                    and (wanted_class is None or wanted_class in classes)
                    and attrs.items() <= child.attrs.items()
                ):
                    yield child
                found = {**attrs, "class_": wanted_class} if wanted_class else attrs
                yield from child.all(tag, **found)

    def one(self, tag: str | None = None, **attrs: str) -> Element:
        (found,) = self.all(tag, **attrs)
        return found


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            element = self.open[-1].children[-1]
            assert isinstance(element, Element)
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        assert len(values) == len(attrs), f"<{tag}> has an attribute twice"
        self.open[-1].children.append(Element(tag, values))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str | bytes) -> Element:
    parser = _Parser()
    parser.feed(html.decode() if isinstance(html, bytes) else html)
    parser.close()
    (document,) = parser.open
    return document
