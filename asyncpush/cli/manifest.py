"""The manifest of `asyncpush many`: read and checked as a whole, before anything starts.

As TOML::

    [defaults]
    private = true

    [[push]]
    repo_id = "me/first"
    source = "first/"

or as JSON lines, one push a line, without defaults. A push takes `repo_id` (or an address in its
place), `source` and the fields of `PushOptions`. Paths are relative to the manifest.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from asyncpush.cli.output import UsageError
from asyncpush.errors import InvalidRepoIdError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.options import LOCAL, PUBLIC_ENDPOINT, Push, PushOptions
from asyncpush.protocol.addresses import is_web_url, target_of

_NOT_OPTIONS = frozenset({"dry_run"})
"""A dry run must not be recorded as done."""

_HINTS = {
    name: hint for name, hint in get_type_hints(PushOptions).items() if name not in _NOT_OPTIONS
}
_OWN = ("repo_id", "source")
_KEYS = (*_OWN, *_HINTS)
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*push[ \t]*\]\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One push of the manifest; `written` are its values in the manifest, defaults included."""

    push: Push
    written: Mapping[str, Any]

    def strict(self) -> Entry:
        """The same push with `strict`. `written` is unchanged, so that a push which is done without
        it still counts as done."""
        options = replace(self.push.options, strict=True)
        return replace(self, push=replace(self.push, options=options))


@dataclass(frozen=True, slots=True)
class _Row:
    """One push as written in the file, the defaults, and its place in the file."""

    where: str
    own: Any
    defaults: Mapping[str, Any]


def read_manifest(path: Path, endpoint: str = PUBLIC_ENDPOINT) -> list[Entry]:
    """The pushes of a manifest, for this Hub. Raises one `UsageError` that lists every problem with
    its place in the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
    problems: list[str] = []
    rows = list(
        _json_rows(text, problems) if text.lstrip()[:1] == "{" else _toml_rows(text, problems)
    )
    entries = [_entry(row, path.parent, endpoint, problems) for row in rows]
    problems += _repeated(rows)
    if not rows and not problems:
        problems.append("it contains no push")
    if problems:
        raise UsageError(
            f"{path}: {len(problems)} problem{'s' * (len(problems) != 1)}; nothing was started",
            problems=problems,
        )
    return [entry for entry in entries if entry is not None]


def _toml_rows(text: str, problems: list[str]) -> Iterator[_Row]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"this is not TOML: {error}")
        return
    defaults, pushes = document.pop("defaults", {}), document.pop("push", [])
    problems += [f"[{name}]: unknown table, use [defaults] and [[push]]" for name in document]
    if not isinstance(defaults, dict):
        problems.append("defaults must be a table: [defaults]")
        defaults = {}
    for name, value in defaults.items():
        found = (
            [f"{name} is not allowed here, write it in each [[push]]"]
            if name in _OWN
            else _key_problems(name, value)
        )
        problems += [f"[defaults]: {problem}" for problem in found]
    if not isinstance(pushes, list):
        problems.append("push must be a list of tables: [[push]]")
        return
    lines = [text.count("\n", 0, match.start()) + 1 for match in _HEADER.finditer(text)]
    for index, push in enumerate(pushes):
        where = f"push {index + 1}"
        if len(lines) == len(pushes):
            where += f" (line {lines[index]})"
        yield _Row(where, push, defaults)


def _json_rows(text: str, problems: list[str]) -> Iterator[_Row]:
    # Not splitlines(): it also breaks at U+2028 and the like, which JSON need not escape.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield _Row(f"line {number}", json.loads(line), {})
            except json.JSONDecodeError as error:
                reason = f"{error.msg}, column {error.colno}"
                problems.append(f"line {number}: this is not JSON: {reason}")


def _entry(row: _Row, folder: Path, endpoint: str, problems: list[str]) -> Entry | None:
    found = list(_problems_of(row.own, folder))
    entry = None
    if isinstance(row.own, dict):
        written = {**row.defaults, **row.own}
        try:
            options = _options(written, folder)
            _check_target(written, options, endpoint)
        except InvalidRepoIdError as error:
            found.append(error.message)
        except ValueError as error:
            found.append(str(error))
        else:
            if not found:
                source = _source(written["source"], folder)
                entry = Entry(Push(written["repo_id"], source, options), written)
    problems += [f"{row.where}: {problem}" for problem in found]
    return entry


def _options(written: Mapping[str, Any], folder: Path) -> PushOptions:
    """The options of a push, from values of the right type. Raises `ValueError`."""
    given = {
        name: value
        for name, value in written.items()
        if name in _HINTS and _fits(value, _HINTS[name])
    }
    if "model_card" in given and (card := _card_file(given["model_card"], folder)):
        given["model_card"] = str(card)
    return PushOptions(**given)


def _check_target(written: Mapping[str, Any], options: PushOptions, endpoint: str) -> None:
    """Raises `InvalidRepoIdError` for an invalid id or address, or one that contradicts an option;
    `ValueError` for options that do not go together. The embedded Hub's own URLs are known once it
    has been started."""
    repo_id = written.get("repo_id")
    if repo_id is None or (endpoint == LOCAL and is_web_url(repo_id)):
        return
    where = PUBLIC_ENDPOINT if endpoint == LOCAL else endpoint
    target_of(repo_id, options, where, given=written.keys())


def _key_problems(name: str, value: Any) -> Iterator[str]:
    if name not in _KEYS:
        near = get_close_matches(name, _KEYS, n=1)
        yield f"unknown key {name}" + (f"; did you mean {near[0]}?" if near else "")
    elif name in _HINTS and not _fits(value, _HINTS[name]):
        yield f"{name} must be {_in_words(_HINTS[name])}, not {value!r}"


def _problems_of(written: Any, folder: Path) -> Iterator[str]:
    if not isinstance(written, dict):
        yield "must be a table"
        return
    yield from (f"{name} is missing" for name in _OWN if name not in written)
    for name, value in written.items():
        yield from _key_problems(name, value)
    if "source" in written:
        yield from _source_problems(written["source"], folder)


def _source_problems(source: Any, folder: Path) -> Iterator[str]:
    paths = list(source.values()) if isinstance(source, dict) else [source]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        yield "source must be a path, or a table from paths in the repo to paths"
        return
    for path in paths:
        if not _within(folder, path).exists():
            yield f"source {path} does not exist in {folder.absolute()}"


def _source(source: str | dict[str, str], folder: Path) -> str | dict[str, str]:
    if isinstance(source, str):
        return str(_within(folder, source))
    return {name: str(_within(folder, path)) for name, path in source.items()}


def _card_file(card: str, folder: Path) -> Path | None:
    """The card's file, relative to the manifest; None if the card is given as text."""
    if "\n" in card:
        return None
    path = _within(folder, card)
    return path if path.is_file() or card.lower().endswith(".md") else None


def _within(folder: Path, path: str) -> Path:
    return folder / os.path.expanduser(path)


def _repeated(rows: Sequence[_Row]) -> Iterator[str]:
    """Pushes that are listed twice: `--continue` could not distinguish them."""
    first: dict[str, str] = {}
    for row in rows:
        earlier = first.setdefault(json.dumps(row.own, sort_keys=True, default=str), row.where)
        if earlier != row.where:
            yield f"{row.where}: the same as {earlier}"


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of TOML or JSON has this type. `PushOptions` checks the value itself."""
    match get_origin(hint):
        case origin if origin in (Union, UnionType):
            return any(_fits(value, member) for member in get_args(hint))
        case origin if origin is Literal:
            return isinstance(value, str)
        case origin if isinstance(origin, type) and issubclass(origin, Sequence):
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _in_words(hint: Any) -> str:
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = [
        "text" if get_origin(member) is Literal else _WORDS.get(member, "a list of texts")
        for member in members
        if member is not NoneType and not _is_path(member)
    ]
    return " or ".join(dict.fromkeys(words))


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _is_path(hint: Any) -> bool:
    """Whether it is `os.PathLike`, which a manifest cannot contain."""
    origin = get_origin(hint)
    return isinstance(origin, type) and hasattr(origin, "__fspath__")
