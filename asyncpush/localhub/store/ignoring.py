"""`.gitignore` as git reads it (gitignore(5), and git's own matching where that is silent).

The last rule that matches decides; an ignored folder includes everything in it, whatever later
rules say; and git compares bytes. Each rule becomes a regular expression that cannot backtrack:
rules are untrusted input.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MAX_RULES = 10_000

_ANY, _STAR, _SLASH = b"[^/]", "*", "/"
_CLASSES = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, [*range(32), 127])),
    "digit": string.digits,
    "graph": string.ascii_letters + string.digits + string.punctuation,
    "lower": string.ascii_lowercase,
    "print": string.ascii_letters + string.digits + string.punctuation + " ",
    "punct": string.punctuation,
    "space": string.whitespace,
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}


@dataclass(frozen=True, slots=True)
class _Rule:
    """`by_name` compares with the name of a file or folder, the others with its path."""

    pattern: re.Pattern[bytes]
    includes: bool
    folders_only: bool
    by_name: bool


@dataclass
class IgnoreRules:
    """Decides for one path after another, and caches the decision for each folder.

    >>> rules = IgnoreRules.of(b"secrets/\\n!*.json\\n")
    >>> rules.ignores("secrets/key.json"), rules.ignores("key.json")
    (True, False)
    """

    rules: Sequence[_Rule]
    _folders: dict[bytes, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, content: bytes) -> IgnoreRules:
        lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        found = [rule for line in lines if (rule := _parse_rule(line.removesuffix(b"\r")))]
        return cls(found[-MAX_RULES:][::-1])

    def ignores(self, path: str) -> bool:
        """Whether git would ignore this file if it were not tracked yet."""
        folder, _, name = path.encode("utf-8", "surrogateescape").rpartition(b"/")
        return (folder != b"" and self._ignores_folder(folder)) or self._decide(folder, name, False)

    def _ignores_folder(self, path: bytes) -> bool:
        if path not in self._folders:
            above, _, name = path.rpartition(b"/")
            ignored = above != b"" and self._ignores_folder(above)
            self._folders[path] = ignored or self._decide(above, name, True)
        return self._folders[path]

    def _decide(self, folder: bytes, name: bytes, is_folder: bool) -> bool:
        path = folder + b"/" + name if folder else name
        for rule in self.rules:  # the last one first
            if rule.folders_only and not is_folder:
                continue
            if rule.pattern.fullmatch(name if rule.by_name else path):
                return not rule.includes
        return False


def _parse_rule(line: bytes) -> _Rule | None:
    if line.startswith(b"#"):
        return None
    line = _without_trailing_spaces(line)
    includes = line.startswith(b"!")
    line = line[1:] if includes else line
    folders_only = line.endswith(b"/")
    line = line[:-1] if folders_only else line
    by_name = b"/" not in line
    try:
        pattern = re.compile(_regex(line.removeprefix(b"/")), re.DOTALL) if line else None
    except _Malformed:
        return None
    return pattern and _Rule(pattern, includes, folders_only, by_name)


def _without_trailing_spaces(line: bytes) -> bytes:
    """A trailing space with a backslash before it is kept."""
    end = at = 0
    while at < len(line):
        escaped = line[at : at + 1] == b"\\" and at + 1 < len(line)
        at += 2 if escaped else 1
        if escaped or line[at - 1 : at] != b" ":
            end = at
    return line[:end]


class _Malformed(Exception):
    """A pattern that matches nothing: an unclosed bracket, a backslash at the end."""


def _regex(pattern: bytes) -> bytes:
    """The segments between `**` are searched one after another: where the first is found first, the
    rest has the most room, so no other position need be tried."""
    runs: list[list[bytes]] = [[]]
    for tokens in _segments(pattern):
        if tokens == [_STAR, _STAR]:
            runs.append([])
        else:
            runs[-1].append(_segment_regex(tokens))
    first, *others = runs
    regex = b"/".join(first)
    for number, run in enumerate(others):
        is_first, is_last = number == 0, number == len(others) - 1
        regex += b"/" if is_first and first else b""
        text = b"/".join(run)
        if is_last:
            regex += b"(?:[^/]*/)*" + text if run else b".+"
        elif run:
            regex += b"(?>(?:[^/]*/)*?" + text + b"/)"
    return regex


def _segment_regex(tokens: Sequence[bytes | str]) -> bytes:
    """The same within a segment, for `*`."""
    pieces: list[bytes] = [b""]
    for token in tokens:
        if isinstance(token, str):
            pieces.append(b"")
        else:
            pieces[-1] += token
    first, *others = pieces
    if not others:
        return first
    *middle, last = others
    found = b"".join(b"(?>[^/]*?" + piece + b")" for piece in middle if piece)
    return first + found + b"[^/]*" + last


def _segments(pattern: bytes) -> Iterator[list[bytes | str]]:
    """Tokens between slashes. Consecutive stars count as two where they stand alone, and as one
    elsewhere."""
    segment: list[bytes | str] = []
    for token in [*_tokens(pattern), _SLASH]:
        if token != _SLASH:
            segment.append(token)
            continue
        if len(segment) > 1 and all(each == _STAR for each in segment):
            segment = [_STAR, _STAR]
        yield segment
        segment = []


def _tokens(pattern: bytes) -> Iterator[bytes | str]:
    """Expressions of one byte each, stars and slashes."""
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        at += 1
        match char:
            case b"*":
                yield _STAR
            case b"?":
                yield _ANY
            case b"/":
                yield _SLASH
            case b"[":
                expression, at = _bracket(pattern, at)
                yield expression
            case b"\\":
                if at == len(pattern):
                    raise _Malformed
                escaped = pattern[at : at + 1]
                at += 1
                yield _SLASH if escaped == b"/" else re.escape(escaped)
            case _:
                yield re.escape(char)


def _bracket(pattern: bytes, at: int) -> tuple[bytes, int]:
    """The expression for the bracket that starts at `at`, and where it ends."""

    def char(index: int) -> int:
        if index >= len(pattern):
            raise _Malformed
        return pattern[index]

    negated = char(at) in b"!^"
    at += negated
    members: set[int] = set()
    previous = None
    first = True
    while first or char(at) != ord("]"):
        first = False
        this: int | None = char(at)
        if this == ord("\\"):
            at += 1
            this = char(at)
            members.add(this)
        elif this == ord("-") and previous is not None and char(at + 1) != ord("]"):
            at += 1
            if char(at) == ord("\\"):
                at += 1
            members.update(range(previous, char(at) + 1))
            this = None
        elif this == ord("[") and char(at + 1) == ord(":"):
            end = pattern.find(b"]", at + 2)
            if end < 0:
                raise _Malformed
            if end > at + 2 and pattern[end - 1] == ord(":"):
                name = pattern[at + 2 : end - 1].decode("latin-1")
                if name not in _CLASSES:
                    raise _Malformed
                members.update(map(ord, _CLASSES[name]))
                at, this = end, None
            else:
                members.add(ord("["))
        else:
            assert this is not None
            members.add(this)
        previous = this
        at += 1
    members = (set(range(256)) - members if negated else members) - {ord("/")}
    if not members:
        return b"(?!)", at + 1
    return b"[" + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]", at + 1
