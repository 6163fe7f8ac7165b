"""A card's metadata: the YAML at the head of a README.md, read from strangers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import yaml

MAX_FRONT_MATTER = 256 << 10
_MAX_DEPTH = 50
_MAX_ALIASES = 100
# A few aliases of aliases can stand for billions of values.
_MAX_VALUES = 50_000
# libyaml's parser is fast, and keeps its own stack; PyYAML's own does where that is not built in.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class CardCheck:
    """`data` is the metadata as JSON can hold it; empty when there is none or it is wrong."""

    data: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_card(content: str, repo_type: str = "model") -> CardCheck:
    """Read the metadata of a README and say what is wrong with it. Never raises.

    >>> check_card("---\\nlicense: mit\\n---\\n# Hello").data
    {'license': 'mit'}
    """
    front_matter = split_card(content)[0]
    if front_matter is None:
        return CardCheck(warnings=["empty or missing yaml metadata in repo card"])
    try:
        data = _load(front_matter)
    except _BadMetadata as problem:
        return CardCheck(errors=[str(problem)])
    if data is None:
        return CardCheck(warnings=["empty or missing yaml metadata in repo card"])
    if not isinstance(data, dict):
        return CardCheck(errors=["The metadata must be a mapping of names to values"])
    errors = list(_field_errors(data, repo_type))
    if errors:
        return CardCheck(errors=errors)
    return CardCheck(data, warnings=list(_field_warnings(data, repo_type)))


def split_card(content: str) -> tuple[str | None, str]:
    """The YAML between the two `---` lines (None when there is none), and the text after it."""
    lines = content.removeprefix("\ufeff").lstrip("\r\n").splitlines(keepends=True)
    if not lines or lines[0].rstrip() != "---":
        return None, content
    for number, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            return "".join(lines[1:number]), "".join(lines[number + 1 :])
    return None, content


class _BadMetadata(Exception):
    """The message is for whoever wrote the card."""


def _load(text: str) -> Any:
    if len(text) > MAX_FRONT_MATTER:
        raise _BadMetadata(f"The metadata is longer than {MAX_FRONT_MATTER} characters")
    try:
        _check_shape(text)
        return _Plain().of(yaml.load(text, _LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise _BadMetadata(f"Invalid YAML: {error.problem or error.context}{where}") from None
    # The loader itself raises ValueError for a date like 2024-13-45 and for endless numbers, and
    # TypeError or AttributeError for odd tags.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise _BadMetadata(f"Invalid YAML: {error}") from None


def _check_shape(text: str) -> None:
    """Refuse what would exhaust the loader, which calls itself for each level."""
    depth = aliases = 0
    for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > _MAX_DEPTH or aliases > _MAX_ALIASES or count > _MAX_VALUES:
            raise _BadMetadata("Invalid YAML: nested too deeply, or too many values or aliases")


class _Plain:
    """Values as JSON can hold them, and not more of them than a card has use for."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, value: Any, depth: int = 0) -> Any:
        self._count += 1
        # An alias can hold itself: then the depth has no end.
        if self._count > _MAX_VALUES or depth > _MAX_DEPTH:
            raise _BadMetadata("Invalid YAML: too many values")
        match value:
            case None | bool() | str():
                return value
            case int():
                return value if abs(value) < 1 << 63 else str(value)
            case float():
                return value if math.isfinite(value) else str(value)
            case datetime() | date():
                return value.isoformat()
            case dict():
                return {_key(key): self.of(item, depth + 1) for key, item in value.items()}
            case list() | tuple() | set():
                return [self.of(item, depth + 1) for item in value]
            case _:
                return str(value)


def _key(key: object) -> str:
    return key if isinstance(key, str) else str(key)


def _field_errors(data: dict[str, Any], repo_type: str) -> Iterator[str]:
    license_name = data.get("license")
    if license_name is not None and not _is_license(license_name, repo_type):
        yield '"license" must be a string'
    for name in ("tags", "datasets", "metrics"):
        value = data.get(name)
        if value is not None and not _is_strings(value):
            yield f'"{name}" must be an array of strings'
    for name in ("language", "base_model"):
        value = data.get(name)
        if value is not None and not isinstance(value, str) and not _is_strings(value):
            yield f'"{name}" must be a string or an array of strings'
    for name in ("pipeline_tag", "library_name", "license_name", "license_link", "sdk"):
        if data.get(name) is not None and not isinstance(data[name], str):
            yield f'"{name}" must be a string'


def _field_warnings(data: dict[str, Any], repo_type: str) -> Iterator[str]:
    if repo_type != "space" and data.get("license") is None:
        yield '"license" is missing: say how others may use this'
    if repo_type == "space" and data.get("sdk") is None:
        yield '"sdk" is missing: say what the Space runs on'


def _is_license(value: object, repo_type: str) -> bool:
    return isinstance(value, str) or (repo_type == "dataset" and _is_strings(value))


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
