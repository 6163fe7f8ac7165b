"""`asyncpush schema`: what the commands print with `--json`, as a JSON Schema."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from click import Context

from asyncpush.cli import arguments as arg
from asyncpush.cli.base import argument, command
from asyncpush.cli.output import Output, UsageError

SCHEMA_PATH = Path(__file__).with_name("output.schema.json")
"""One document for all commands; `$defs` has a schema for each."""

_SHARED = ("error", "failure", "receipt")


@command(
    argument(
        "name",
        nargs=-1,
        metavar="COMMAND",
        help="Only what this command prints, such as `push` or `cache ls` (default: all).",
    ),
    *arg.OUTPUT,
)
def schema(context: Context, output: Output, /, *, name: tuple[str, ...]) -> None:
    """Print the JSON Schema of what commands print with --json. Keys may be added in minor
    versions; within a major version none is removed or changes its meaning."""
    document = schema_of(" ".join(name)) if name else full_schema()
    output.result(json.dumps(document, indent=2).splitlines(), {"schema": document})


def full_schema() -> dict[str, Any]:
    """The schema for the output of any command."""
    document: dict[str, Any] = json.loads(SCHEMA_PATH.read_bytes())
    return document


def schema_of(name: str) -> dict[str, Any]:
    """The schema for the output of one command, such as `cache ls`. Raises `UsageError`."""
    document = full_schema()
    commands = [known for known in document["$defs"] if known not in _SHARED]
    if name not in commands:
        near = get_close_matches(name, commands)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(
            f"No such command: {name!r}.{hint}", suggestion=f"name one of {', '.join(commands)}"
        )
    document["title"] = f"What asyncpush {name} prints with --json"
    document["anyOf"] = [{"$ref": f"#/$defs/{name}"}, {"$ref": "#/$defs/failure"}]
    document["$defs"] = {key: document["$defs"][key] for key in _needed(name, document["$defs"])}
    return document


def _needed(name: str, definitions: dict[str, Any]) -> list[str]:
    """The definitions that this one and a failure refer to."""
    found = [name, "failure"]
    for each in found:  # grows meanwhile
        text = json.dumps(definitions[each])
        found += [key for key in definitions if f'"#/$defs/{key}"' in text and key not in found]
    return found
