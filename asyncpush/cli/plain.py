"""Options without pydantic, and help in sections.

typer ≥ 0.28 makes a pydantic adapter for each option of the command that runs, and importing
pydantic takes as long as all else that happens before the first request (measured: 0.25 s of CPU).
Ours are texts, numbers, paths and choices. Where typer has no such adapters, nothing is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

_ADAPTER = "_runtime_param"


class PlainCommand(TyperCommand):
    """A command whose values are converted by us."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`REPO_ID` rather than `{REPO_ID}`, which looks as if the braces were to be typed."""
        return [
            piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments without the names of their Python types; options by what they are about, where
        there is more than one thing."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            name, told = record
            if param.param_type_name == "argument":
                section, name = "Arguments", name.partition(" <")[0]
                told = told.removesuffix("[required]").rstrip()
            else:
                section = getattr(param, "rich_help_panel", None) or "Options"
            sections.setdefault(section, []).append((name, told))
        arguments, rest = sections.pop("Arguments", []), sections.pop("Options")
        if len(sections) < 2:  # a few options, not worth headings
            rest = [*rest[:-1], *(row for rows in sections.values() for row in rows), rest[-1]]
            sections = {}
        for section, records in {"Arguments": arguments, **sections, "Options": rest}.items():
            if not records:
                continue
            with formatter.section(section):
                formatter.write_dl(records)


class PlainGroup(TyperGroup):
    """The same for what stands before the command, such as `--help`."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


def _plain(params: list[Any]) -> list[Any]:
    for param in params:
        if hasattr(param, _ADAPTER):
            setattr(param, _ADAPTER, _Plain(param.type_descriptor.annotation))
    return params


@dataclass(frozen=True, slots=True)
class _Plain:
    """Stands where typer keeps the adapter of one option."""

    annotation: Any

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if get_origin(self.annotation) is list:
            (kind,) = get_args(self.annotation)
            return [_converted(item, kind, param, ctx) for item in value or ()]
        return None if value is None else _converted(value, self.annotation, param, ctx)


def _converted(value: Any, kind: Any, param: Any, ctx: Any) -> Any:
    if get_origin(kind) is Literal:
        choices: Sequence[str] = get_args(kind)
        if value in choices:
            return value
        complaint = f"{value!r} is not one of {', '.join(map(repr, choices))}."
    elif kind in (str, Path):
        return kind(value)
    else:
        try:
            return int(value)
        except ValueError:
            complaint = f"{value!r} is not a valid integer."
    raise typer.BadParameter(complaint, ctx=ctx, param=param)
