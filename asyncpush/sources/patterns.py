"""Which paths the user's patterns choose, exactly as the official client reads them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

Patterns: TypeAlias = Sequence[str] | str | None

_Matcher: TypeAlias = Callable[[str], object]


class PatternFilter:
    """Allow and ignore patterns, compiled once: call it with a path to learn if it is chosen.

    A path is chosen when it matches any allow pattern (or there is no list of them) and no ignore
    pattern. Patterns are `fnmatchcase` ones: `*` crosses `/`, case counts, and a trailing `/`
    means all below. An empty list of allow patterns chooses nothing, as in the official client.
    """

    __slots__ = ("_allow", "_ignore", "_ignore_below")

    def __init__(self, allow_patterns: Patterns = None, ignore_patterns: Patterns = None) -> None:
        allow, ignore = _as_list(allow_patterns), _as_list(ignore_patterns)
        self._allow = None if allow is None else _matchers(allow)
        self._ignore = _matchers(ignore or ())
        self._ignore_below = _matchers(pattern for pattern in ignore or () if pattern[-1:] == "*")

    def __call__(self, path: str) -> bool:
        path = path.replace("\\", "/")
        if self._allow is not None and not any(match(path) for match in self._allow):
            return False
        return not any(match(path) for match in self._ignore)

    def ignores_all_below(self, folder: str) -> bool:
        """Whether no file in `folder/` can be chosen, whatever its name: no need to walk there.

        Sure for patterns that end in `*`: one that matches `folder/` matches all that follows.
        """
        folder = folder.replace("\\", "/")
        return any(match(folder) for match in self._ignore_below)


def matches(path: str, allow_patterns: Patterns = None, ignore_patterns: Patterns = None) -> bool:
    """Whether the patterns choose `path`.

    >>> matches("weights/model.safetensors", "*.safetensors")
    True
    """
    return PatternFilter(allow_patterns, ignore_patterns)(path)


def select(
    paths: Iterable[str], allow_patterns: Patterns = None, ignore_patterns: Patterns = None
) -> list[str]:
    """Those `paths` that the patterns choose, in their order.

    >>> select(["a.bin", "logs/1.txt"], ignore_patterns=["logs/"])
    ['a.bin']
    """
    return list(filter(PatternFilter(allow_patterns, ignore_patterns), paths))


def _as_list(patterns: Patterns) -> list[str] | None:
    if patterns is None:
        return None
    given = [patterns] if isinstance(patterns, str) else patterns
    slashed = (str(pattern).replace("\\", "/") for pattern in given)
    return [f"{pattern}*" if pattern.endswith("/") else pattern for pattern in slashed]


def _matchers(patterns: Iterable[str]) -> tuple[_Matcher, ...]:
    return tuple(re.compile(fnmatch.translate(pattern)).match for pattern in patterns)
