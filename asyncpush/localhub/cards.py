"""A card's metadata: the YAML at the head of a README.md, which is untrusted input.

The public Hub reads it with js-yaml, by the rules of YAML 1.2: `no`, `on` and `16:9` are strings,
and a name may occur in a mapping only once. PyYAML follows YAML 1.1, so the scalar rules are
replaced here.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, ClassVar

import yaml

CARD_NAME = "README.md"

MAX_CARD_BYTES = 8 << 20
"""A larger README.md is not read for its metadata, and not validated."""

MAX_FRONT_MATTER = 256 << 10
_MAX_DEPTH = 50
_MAX_ALIASES = 100
# A few aliases of aliases can stand for billions of values.
_MAX_VALUES = 50_000
_LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
    c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl
    ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0
    odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2
    llama3.3 llama4 grok2-community gemma unknown other
"""
LICENSES = tuple(_LICENSES.split())
"""The identifiers that the Hub knows (https://huggingface.co/docs/hub/repositories-licenses)."""


# libyaml's parser is fast and keeps its own stack; PyYAML's is the fallback where it is not built
# in.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads plain scalars by js-yaml's default schema: YAML 1.2's core schema and a few more
    types."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).lower()
        sign, digits = (-1 if text.startswith("-") else 1), text.lstrip("+-")
        base = {"0b": 2, "0o": 8, "0x": 16}.get(digits[:2])
        return sign * (int(digits[2:], base) if base else int(digits, 10))

    def construct_date(self, node: yaml.ScalarNode) -> Any:
        """A date that does not exist in the calendar is a string."""
        with contextlib.suppress(ValueError):
            return self.construct_yaml_timestamp(node)
        return self.construct_scalar(node)


_TAG = "tag:yaml.org,2002:"
for _kind, _first, _pattern in (
    ("bool", "tTfF", r"true|True|TRUE|false|False|FALSE"),
    ("null", "~nN\0", r"~|null|Null|NULL|"),
    ("int", "-+0123456789", r"[-+]?(?:0b[01]+|0o[0-7]+|0x[0-9a-fA-F]+|[0-9]+)"),
    (
        "float",
        "-+.0123456789",
        r"[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    ),
    (
        "timestamp",
        "0123456789",
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}"
        r":[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?",
    ),
    ("merge", "<", r"<<"),
):
    _Loader.add_implicit_resolver(
        _TAG + _kind, re.compile(f"(?:{_pattern})\\Z"), ["" if c == "\0" else c for c in _first]
    )
_Loader.add_constructor(_TAG + "int", _Loader.construct_int)
_Loader.add_constructor(_TAG + "timestamp", _Loader.construct_date)


@dataclass
class CardCheck:
    """`data` is the metadata as JSON can hold it; empty when there is none or it is invalid."""

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
    """The message is for the author of the card."""


def _load(text: str) -> Any:
    if len(text) > MAX_FRONT_MATTER:
        raise _BadMetadata(f"The metadata is longer than {MAX_FRONT_MATTER} characters")
    try:
        _check_shape(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_names(node, set())
            return _Plain().of(loader.construct_document(node))
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise _BadMetadata(f"Invalid YAML: {error.problem or error.context}{where}") from None
    # The loader itself raises ValueError for integers without end, and TypeError or AttributeError
    # for unusual tags.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise _BadMetadata(f"Invalid YAML: {error}") from None


def _check_shape(text: str) -> None:
    """Refuse what would exhaust the loader, which recurses once for each level."""
    depth = aliases = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > _MAX_DEPTH or aliases > _MAX_ALIASES or count > _MAX_VALUES:
            raise _BadMetadata("Invalid YAML: nested too deeply, or too many values or aliases")


def _check_names(node: yaml.Node, seen: set[int]) -> None:
    """Refuse a mapping that has a name twice: it is ambiguous."""
    if id(node) in seen:  # by an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_names(item, seen)
    elif isinstance(node, yaml.MappingNode):
        names = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _TAG + "merge":
                if key.value in names:
                    problem = f"duplicated mapping key {key.value!r}"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                names.add(key.value)
            _check_names(value, seen)


class _Plain:
    """Converts values to what JSON can hold, up to a limit on their number."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, value: Any, depth: int = 0) -> Any:
        self._count += 1
        # An alias can contain itself: then the depth is infinite.
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
    elif unknown := [one for one in _listed(license_name) if one not in LICENSES]:
        yield f'"license" must be one of [{", ".join(LICENSES)}], not {unknown[0][:100]!r}'
    if data.get("tags") is not None and not _is_strings(data["tags"]):
        yield '"tags" must be an array of strings'
    if data.get("model-index") is not None and not isinstance(data["model-index"], list):
        yield '"model-index" must be an array'
    for name in ("language", "base_model", "datasets", "metrics"):
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


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
