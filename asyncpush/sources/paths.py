"""Paths in the repo: which ones are valid, and which ones patterns select."""

from __future__ import annotations

import fnmatch
import re
import string
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

PATH_LIMIT = 4096
SEGMENT_LIMIT = 255

_LETTERS = f"{string.ascii_letters}{string.digits}_-. /"


def normalise_path(path: str) -> str:
    r"""Replace Windows separators by `/` and remove leading `./`. Nothing else changes.

    >>> normalise_path(".\\weights\\model.bin")
    'weights/model.bin'
    """
    if "\\" in path:
        path = path.replace("\\", "/")
    while path.startswith("./"):
        path = path[2:]
    return path


def check_path_in_repo(path: str) -> str | None:
    """What is wrong with `path` as the name of a file in a repo, or None.

    Paths are normalised first, so both kinds of separators are accepted. A `.git` segment is
    refused in upper or lower case, since some file systems ignore case: a checkout there would
    write into git's own folder.

    >>> check_path_in_repo("weights/../../etc/passwd")
    "must not contain a '..' segment"
    """
    path = normalise_path(path)
    return None if _is_plain(path) else _path_problem(path)


def _is_plain(path: str) -> bool:
    """Whether this is like most paths: ASCII, not long, with no segment that is empty or starts
    with a dot. Such a path needs no further check."""
    return (
        0 < len(path) <= 100
        and not path.strip(_LETTERS)
        and path[0] not in "/."
        and path[-1] != "/"
        and "//" not in path
        and "/." not in path
    )


def _path_problem(path: str) -> str | None:
    if not path:
        return "must not be empty"
    drive = path[:1] if path[1:3] == ":/" else ""
    if path.startswith("/") or (drive.isascii() and drive.isalpha()):
        return "must not be absolute"
    if path.endswith("/"):
        return "must name a file, not end with a separator"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "must be valid Unicode (UTF-8)"
    if len(encoded) > PATH_LIMIT:
        return f"must not be longer than {PATH_LIMIT} bytes"
    if not path.isprintable() and any(unicodedata.category(letter) == "Cc" for letter in path):
        return "must not contain control characters"
    for segment in path.split("/"):
        if problem := _segment_problem(segment):
            return problem
    return None


def _segment_problem(segment: str) -> str | None:
    if not segment:
        return "must not contain an empty segment ('//')"
    if segment in (".", ".."):
        return f"must not contain a {segment!r} segment"
    if segment.lower() == ".git":
        return "must not be in .git, which belongs to git"
    if len(segment) > SEGMENT_LIMIT // 4 and len(segment.encode()) > SEGMENT_LIMIT:
        return f"must not contain a segment longer than {SEGMENT_LIMIT} bytes"
    return None


def folder_prefix(path_in_repo: str) -> str:
    r"""The prefix for the path of each file that goes into the folder `path_in_repo`.

    Raises `ValueError`, saying what is wrong, when this cannot be the name of a folder in a repo.

    >>> folder_prefix("checkpoints\\step-1000"), folder_prefix("./")
    ('checkpoints/step-1000/', '')
    """
    folder = normalise_path(path_in_repo).rstrip("/")
    if folder in ("", ".") and not path_in_repo.startswith(("/", "\\")):
        return ""
    if problem := check_path_in_repo(folder or "/"):
        raise ValueError(f"path_in_repo {path_in_repo!r} {problem}")
    return f"{folder}/"


def folders_above(path: str) -> Iterator[str]:
    """The folders that contain a path, the innermost first.

    >>> list(folders_above("a/b/c.txt"))
    ['a/b', 'a']
    """
    folder = path.rpartition("/")[0]
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def file_folder_clashes(files: Collection[str]) -> list[tuple[str, str]]:
    """Each of `files` that is also the folder of another, with one such other.

    A dict or set is best: it is searched often.
    """
    clashes: dict[str, str] = {}
    seen: set[str] = set()
    for path in files:
        folder = path.rpartition("/")[0]
        while folder and folder not in seen:  # the folders above a known folder are known too
            seen.add(folder)
            if folder in files:
                clashes[folder] = path
            folder = folder.rpartition("/")[0]
    return sorted(clashes.items())


def drive_names(paths: Iterable[str]) -> list[str]:
    """Paths that Windows takes for a place on a drive. The official client (2.4) refuses to
    download them, on every system.

    >>> drive_names(["a:b", "logs/12:30.txt", "logs/c:"])
    ['a:b', 'logs/c:']
    """
    return [path for path in paths if ":" in path and any(map(_names_drive, path.split("/")))]


def _names_drive(segment: str) -> bool:
    return segment[1:2] == ":" and segment[0] in string.ascii_letters


def look_alikes(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs that differ only by case or Unicode form: on many file systems they are the same
    file."""
    first: dict[str, str] = {}
    pairs = []
    for path in paths:
        key = path.lower() if path.isascii() else _folded(path)
        other = first.setdefault(key, path)
        if other != path:
            pairs.append((other, path))
    return pairs


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


Patterns: TypeAlias = Sequence[str] | str | None

_Matcher: TypeAlias = Callable[[str], object]


class PatternFilter:
    """Allow and ignore patterns, compiled once. Call it with a path to know whether it is selected.

    A path is selected when it matches any allow pattern (or none are given) and no ignore pattern.
    Patterns work as in `fnmatchcase`: `*` also matches `/`, case matters, and a trailing `/` means
    everything below. An empty list of allow patterns selects nothing, as in the official client.
    """

    __slots__ = ("_allow", "_ignore", "_ignore_below")

    def __init__(self, allow_patterns: Patterns = None, ignore_patterns: Patterns = None) -> None:
        allow, ignore = _as_list(allow_patterns), _as_list(ignore_patterns)
        self._allow = None if allow is None else _matchers(allow)
        self._ignore = _matchers(ignore or ())
        self._ignore_below = _matchers(pattern for pattern in ignore or () if pattern[-1:] == "*")

    def __call__(self, path: str) -> bool:
        if self._allow is None and not self._ignore:
            return True
        path = path.replace("\\", "/")
        if self._allow is not None and not any(match(path) for match in self._allow):
            return False
        return not any(match(path) for match in self._ignore)

    def ignores_all_below(self, folder: str) -> bool:
        """Whether no file in `folder/` can be selected, whatever its name, so that the folder can
        be skipped.

        This is certain for patterns that end in `*`: one that matches `folder/` matches everything
        below.
        """
        folder = folder.replace("\\", "/")
        return any(match(folder) for match in self._ignore_below)


def select(
    paths: Iterable[str], allow_patterns: Patterns = None, ignore_patterns: Patterns = None
) -> list[str]:
    """Those of `paths` that the patterns select, in their order.

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
