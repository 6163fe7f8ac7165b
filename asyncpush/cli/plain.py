"""Options without pydantic.

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
