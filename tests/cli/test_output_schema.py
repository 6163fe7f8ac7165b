"""What every command prints with `--json`, against the schema that `asyncpush schema` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from asyncpush.cli import demo
from asyncpush.cli.output_schema import full_schema, schema_of
from tests.cli.conftest import Cli, Ran
from tests.cli.test_app import COMMANDS

pytestmark = pytest.mark.usefixtures("environment")

ADVICE = "describe the command's object in asyncpush/cli/output.schema.json"


def schemas_in(schema: Any) -> Iterator[dict[str, Any]]:
    """All objects in a schema, itself included."""
    if isinstance(schema, dict):
        yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from schemas_in(part)


def validator(command: str, *, strict: bool = True) -> Draft202012Validator:
    """Of one command's output; a strict one accepts no key that is not described."""
    schema = schema_of(command)
    if strict:
        for part in schemas_in(schema["$defs"]):
            if part.get("type") == "object" and "properties" in part:
                part["additionalProperties"] = False
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def check(command: str, ran: Ran) -> Any:
    """The object that a command printed, which fits its schema and its exit code."""
    document = ran.document
    validator(command).validate(document)
    assert document["ok"] is (ran.code == 0)
    if ran.code:
        assert document["error"]["exit_code"] == ran.code
    return document


def test_every_command_has_a_schema() -> None:
    for command in COMMANDS:
        assert command in full_schema()["$defs"], ADVICE


def test_every_key_is_described() -> None:
    undescribed = [
        name
        for part in schemas_in(full_schema()["$defs"])
        if part.get("type") == "object"
        for name, value in part.get("properties", {}).items()
        if not value.get("description") and "$ref" not in value
    ]
    assert undescribed == []


def test_pushes_and_what_follows_them(cli: Cli, folder: Path, tmp_path: Path) -> None:
    repo, receipts, events = "me/schema", tmp_path / "r.json", tmp_path / "e.jsonl"
    planned = check("push", cli("push", repo, folder, "--dry-run", "--json"))
    pushed = check("push", cli("push", repo, folder, "--json", "--events", events))
    again = check("push", cli("push", repo, folder, "--json"))
    assert (len(planned["plan"]), len(pushed["receipts"])) == (2, 2)
    assert again["commit_sha"] == pushed["commit_sha"]

    (folder / "new.txt").write_text("new\n")
    stored = check("upload", cli("upload", repo, folder, "--receipts", receipts, "--json"))
    assert stored["receipts_file"] == str(receipts)
    assert check("commit", cli("commit", repo, receipts, "--json"))["files_uploaded"] == ["new.txt"]

    assert check("audit", cli("audit", repo, folder, "--json"))["exact"]
    (folder / "new.txt").unlink()
    assert check("audit", cli("audit", repo, folder, "--json"))["extra"] == ["new.txt"]

    drawn = check("timeline", cli("timeline", events, "-o", tmp_path / "t.json", "--json"))
    assert drawn["pushes"][0]["repo_id"] == repo
    assert check("doctor", cli("doctor", repo, "--json"))["checks"]
    assert check("cache ls", cli("cache", "ls", "--json"))["entries"] == []
    check("cache clear", cli("cache", "clear", "--json"))


def test_many_pushes_of_which_one_fails(cli: Cli, folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "many.jsonl"
    rows = [
        {"repo_id": "me/schema-many", "source": str(folder)},
        {"repo_id": "me/schema-many", "source": str(folder), "revision": "none-such"},
    ]
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    statuses = [
        [
            push["status"]
            for push in check("many", cli("many", manifest, *words, "--json"))["pushes"]
        ]
        for words in ([], ["--continue"])
    ]
    assert statuses == [["done", "failed"], ["done before", "failed"]]


def test_what_runs_the_embedded_hub(cli: Cli, stop_when_up: None, tmp_path: Path) -> None:
    assert check("hub", cli("hub", "--root", tmp_path / "root", "--json"))["any_token"]


def test_the_demo(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.TENSORS, "embed_tokens.weight", (64, 512))
    assert check("demo", cli("demo", "--json"))["files"] == 3


def test_the_schema_itself(cli: Cli) -> None:
    assert check("schema", cli("schema", "--json"))["schema"] == full_schema()
    assert json.loads(cli("schema", "cache", "ls").out) == schema_of("cache ls")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_usage_error_is_the_same_object_everywhere(command: str, cli: Cli) -> None:
    ran = cli(*command.split(), "--no-such-option", "--json")
    error = check(command, ran)["error"]
    assert ran.code == 2
    assert error["type"] == "UsageError"
    assert "--no-such-option" in error["message"]
    assert f"{command} --help" in error["suggestion"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["push", "me/x", "nowhere"], 1),
        (["upload", "me/x", ".", "--receipts", "nowhere/r.json"], 2),
        (["commit", "me/x", "nowhere.json"], 1),
        (["audit", "me/none-such", "."], 1),
        (["many", "nowhere.toml"], 2),
        (["doctor", "no id"], 2),
        (["timeline", "nowhere.jsonl", "-o", "t.json"], 2),
        (["hub", "--port", "70000"], 2),
        (["schema", "psuh"], 2),
        (["demo", "--keep", "."], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_failures(words: list[str], code: int, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("some\n")
    ran = cli(*words, "--json")
    assert ran.code == code
    assert check(words[0], ran)["error"]["message"]


@pytest.mark.parametrize("command", ["cache ls", "cache clear"])
def test_a_cache_that_cannot_be_used(
    command: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ASYNCPUSH_CACHE", str(tmp_path / "file" / "cache"))
    ran = cli(*command.split(), "--json")
    assert ran.code == 1
    assert "ASYNCPUSH_CACHE" in check(command, ran)["error"]["suggestion"]


def test_what_does_not_fit_is_noticed() -> None:
    """Of the schema as it is shipped: it has teeth, and leaves room for keys to come."""
    good: dict[str, Any] = {"ok": True, "forgotten": 2}
    shipped = validator("cache clear", strict=False)
    assert shipped.is_valid({**good, "later": 1})
    for bad in ({"ok": True}, {**good, "forgotten": "2"}, {**good, "ok": False}, {}):
        assert not shipped.is_valid(bad)
    assert not validator("cache clear").is_valid({**good, "later": 1})
