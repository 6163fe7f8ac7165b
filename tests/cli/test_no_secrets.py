"""A Hub that says back every secret it knows: none of it comes out of the command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush.localhub import LocalHub, serve_in_thread
from tests.cli.conftest import TOKEN, Cli

SIGNATURE = "5ec7e7" * 10
SIGNED = (
    "https://bucket.s3.amazonaws.com/k?X-Amz-Credential=AKIAZZ5ECRETQQ"
    f"&X-Amz-Security-Token=5ecurity&X-Amz-Signature={SIGNATURE}"
)
SECRETS = (TOKEN, TOKEN[:16], SIGNATURE, "AKIAZZ5ECRETQQ", "5ecurity")


@web.middleware
async def echo(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The commit is refused with all that must not be told, in body and headers."""
    if request.match_info.route.name != "commit":
        return await handler(request)
    said = f"refused {request.headers['Authorization']} at {SIGNED} for token={TOKEN}"
    headers = {"X-Error-Message": said, "X-Request-Id": TOKEN, "Location": SIGNED, "X-Echo": said}
    return web.json_response({"error": said, "url": SIGNED}, status=422, headers=headers)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with serve_in_thread(tmp_path / "hub", token=TOKEN, middlewares=[echo], xet=False) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.mark.no_cover
def test_no_command_tells_what_a_hostile_hub_says_back(
    cli: Cli,
    hostile: LocalHub,
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "asyncpush")
    (tmp_path / "many.toml").write_text('[[push]]\nrepo_id = "me/many"\nsource = "model"\n')
    output = []
    for command in (
        ["push", "me/plain", "model"],
        ["push", "me/verbose", "model", "--verbose", "--events", "events.jsonl"],
        ["push", "me/json", "model", "--json"],
        ["many", "many.toml", "--json"],
        ["cache", "ls", "--json"],
    ):
        ran = cli(*command)
        assert ran.code == (0 if command[0] == "cache" else 1), command
        output += [ran.out, ran.err]
        assert command[0] == "cache" or "refused" in ran.out + ran.err

    output += [record.getMessage() + repr(vars(record)) for record in caplog.records]
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and "hub" not in path.parts]
    output += [path.read_bytes().decode("latin-1") for path in kept]
    assert {"events.jsonl", "journal.sqlite3"} & {path.name for path in kept}
    for secret in SECRETS:
        assert not [text[:2000] for text in output if secret in text], secret
