"""The README's tables of `--json` against what the command prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli

README = Path(__file__).resolve().parents[2] / "README.md"
ROW = re.compile(r"\| `(?P<key>\w+)` \| (?P<type>[\w ]+) \| (?P<what>.*) \|")
TYPES: dict[str, type | tuple[type, ...]] = {
    "boolean": bool,
    "text": str,
    "number": (int, float),
    "list": list,
    "object": dict,
    "null": type(None),
}

pytestmark = pytest.mark.usefixtures("environment")


def tables() -> list[dict[str, re.Match[str]]]:
    """The two tables of the section: rows by key."""
    section = README.read_text("utf-8").partition("### `asyncpush push --json`")[2]
    section = section.partition("\n## ")[0]
    found = re.split(r"^\| key \|.*$", section, flags=re.MULTILINE)[1:]
    return [{row["key"]: row for row in ROW.finditer(part)} for part in found]


def check(document: dict[str, Any], table: dict[str, re.Match[str]]) -> None:
    assert set(document) == set(table)
    for key, value in document.items():
        kinds = [TYPES[name] for name in table[key]["type"].split(" or ")]
        assert any(isinstance(value, kind) for kind in kinds), key


def named_within(row: re.Match[str]) -> set[str]:
    """Keys of the objects that a list holds."""
    return set(re.findall(r"`(\w+)`", row["what"].partition(":")[2]))


def test_the_object_of_a_success(cli: Cli, folder: Path) -> None:
    pushed = cli("push", "me/readme", folder, "--json").document
    planned = cli("push", "me/readme", folder, "--dry-run", "--json").document
    table, _ = tables()
    for document in (pushed, planned):
        check(document, table)
    assert all(set(receipt) == named_within(table["receipts"]) for receipt in pushed["receipts"])
    assert all(set(planned) == named_within(table["plan"]) for planned in planned["plan"])
    assert pushed["receipts"]
    assert planned["plan"]


def test_the_object_of_a_failure(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    answered = cli("push", "me/readme", folder, "--json").document
    missing = cli("push", "me/readme", "nowhere", "--json").document
    _, table = tables()
    for document in (answered, missing):
        assert set(document) == {"ok", "error"}
        check(document["error"], table)


def test_the_readme_links_to_what_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", README.read_text("utf-8")):
        assert (README.parent / target).exists(), target
