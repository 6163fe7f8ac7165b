"""`asyncpush hub` and its flags; for how it ends, see `test_signals` too."""

from __future__ import annotations

import json
import logging
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl
from urllib.request import Request, urlopen

import pytest

from asyncpush.cli.hub import _store
from asyncpush.localhub import LocalHub
from asyncpush.localhub.web import TextLines
from tests.cli.conftest import TOKEN, Cli, Start
from tests.localhub.rclone import BUCKET, ENVIRONMENT, serve_s3


def test_it_says_where_it_is_and_how_to_use_it(
    cli: Cli, stop_when_up: None, tmp_path: Path
) -> None:
    ran = cli("hub")

    assert ran.code == 0
    (url,) = ran.out.splitlines()
    assert url.startswith("http://127.0.0.1:")
    assert " ".join(ran.err.split()).startswith(
        f"the embedded Hub, stored in {tmp_path}/cache/hub: any namespace, any token"
    )
    assert f"export HF_ENDPOINT={url} HF_TOKEN=any" in ran.err
    assert (tmp_path / "cache" / "hub").is_dir()


@pytest.mark.parametrize(("words", "granted"), [((), None), (("--no-xet",), False)])
def test_it_grants_xet_tokens_unless_told_not_to(
    words: tuple[str, ...],
    granted: bool | None,
    cli: Cli,
    stop_when_up: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    make = LocalHub.__init__

    def note(self: LocalHub, *arguments: Any, **settings: Any) -> None:
        made.append(settings["xet"])
        make(self, *arguments, **settings)

    monkeypatch.setattr(LocalHub, "__init__", note)
    assert cli("hub", "--root", tmp_path / "r", *words).code == 0
    assert made == [granted]


def test_its_own_token_is_not_shown(cli: Cli, stop_when_up: None, tmp_path: Path) -> None:
    ran = cli("hub", "--root", tmp_path / "r", "--token", TOKEN, "--verbose")
    assert ran.code == 0
    assert TOKEN not in ran.out + ran.err
    assert "HF_TOKEN=..." in ran.err
    assert "can see --token in the process list (ps): set ASYNCPUSH_HUB_TOKEN instead" in ran.err


def test_its_token_can_come_from_the_environment(
    cli: Cli, stop_when_up: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCPUSH_HUB_TOKEN", TOKEN)
    ran = cli("hub", "--root", tmp_path / "r")
    assert "the given tokens" in " ".join(ran.err.split())
    assert "process list" not in ran.err


def test_each_token_is_of_a_user(
    cli: Cli, stop_when_up: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    make = LocalHub.__init__

    def note(self: LocalHub, *arguments: Any, **settings: Any) -> None:
        made.append((settings["token"], settings["users"]))
        make(self, *arguments, **settings)

    monkeypatch.setattr(LocalHub, "__init__", note)
    root = ("--root", tmp_path / "r")
    assert cli("hub", *root, "--token", "hf_a", "--token", "ben=hf_b=").code == 0
    assert cli("hub", *root, "--token", "c2VjcmV0==").code == 0
    monkeypatch.setenv("ASYNCPUSH_HUB_TOKEN", "ann=hf_a ben=hf_b")
    assert cli("hub", *root).code == 0
    assert made == [
        ("hf_a", {"ben": "hf_b="}),
        ("c2VjcmV0==", {}),
        (None, {"ann": "hf_a", "ben": "hf_b"}),
    ]


def log_of(start: Start, root: Path, *words: str) -> list[str]:
    """What a hub says of two requests, on stderr, without how to use it."""
    hub = start("hub", "--root", root, *words)
    url = hub.line().strip()
    for path in ("/api/models?search=secret", "/me/%1b%0anone"):
        agent = {"User-Agent": "tester/1 \x9b31m"}
        with suppress(HTTPError), urlopen(Request(url + path, headers=agent)) as answer:
            answer.read()
    hub.send(signal.SIGTERM)
    return hub.end().err.splitlines()


def test_it_has_a_bad_day_when_told_to(
    start: Start, cli: Cli, folder: Path, tmp_path: Path
) -> None:
    faults = ("--fault", "commit=504-after:1", "--fault", "part=503:1", "--no-xet")
    hub = start("hub", "--root", tmp_path / "r", "--log-json", *faults)
    url = hub.line().strip()
    assert cli("push", "me/unlucky", folder, "--endpoint", url, "--token", "any").code == 0
    hub.send(signal.SIGTERM)
    lines = [line for line in hub.end().err.splitlines() if line.startswith("{")]
    statuses: dict[str, list[int]] = {}
    for row in map(json.loads, lines):
        statuses.setdefault(row["route"], []).append(row["status"])
    assert statuses["commit"] == [504]
    assert sorted(statuses["part"]) == [200, 503]


def test_verbose_tells_each_request(start: Start, tmp_path: Path) -> None:
    rows = [line.split(maxsplit=4) for line in log_of(start, tmp_path / "r", "--verbose")]
    listed, missing = (row for row in rows if row[1:2] == ["GET"])
    assert listed[2:4] == ["/api/models", "200"]
    assert listed[4].split("ms")[1].strip() == "tester/1 ?31m"
    assert missing[2:4] == ["/me/%1b%0anone", "404"]


def test_log_json_tells_each_request_as_an_object(start: Start, tmp_path: Path) -> None:
    lines = log_of(start, tmp_path / "r", "--log-json")
    listed, missing = (json.loads(line) for line in lines if line.startswith("{"))
    assert listed["method"] == "GET"
    assert (listed["path"], listed["route"], listed["status"]) == ("/api/models", "repos", 200)
    assert listed["seconds"] > 0
    assert listed["bytes"] > 2  # with the headers
    assert listed["request_id"]
    assert (missing["status"], missing["user_agent"]) == (404, "tester/1 ?31m")


def test_requests_are_coloured_by_how_they_ended() -> None:
    row = {"method": "GET", "path": "/x", "status": 404, "seconds": 0.0123, "user_agent": "git"}
    record = logging.makeLogRecord({"request": row})
    assert "\x1b[33m404\x1b[0m" in TextLines(colour=True).format(record)
    plain = TextLines(colour=False).format(record)
    assert plain.endswith(" GET    /x 404 12 ms  git")


def test_quiet_it_says_nothing_of_requests(start: Start, tmp_path: Path) -> None:
    assert not [line for line in log_of(start, tmp_path / "r") if "GET" in line]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--port", "70000"], "--port must be from 0 to 65535, not 70000"),
        (["--host", "0.0.0.0"], "reachable from other machines: set a token"),
        (["--token", ""], "token must not be empty"),
        (["--fault", "comit=504"], "--fault: no such route: 'comit'; did you mean commit"),
        (
            ["--token", "ann=a", "--token", "b", "--token", "c"],
            "only one token may be without",
        ),
        (["--token", "ann=a", "--token", "ann=b"], "there are two tokens for ann"),
        (["--token", "-x-=a"], "'-x-' cannot be the name of a user"),
        (["--token", "ann=a", "--token", "ben=a"], "each must have a token of their own"),
        (["--s3-endpoint", "http://127.0.0.1:9"], "--s3-endpoint needs --s3-bucket"),
    ],
)
def test_what_cannot_be_is_a_usage_error(words: list[str], complaint: str, cli: Cli) -> None:
    ran = cli("hub", *words)
    assert (ran.code, ran.out) == (2, "")
    assert complaint in ran.err


def test_a_port_in_use_is_a_failure(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = cli("hub", "--port", str(taken.getsockname()[1]))
    assert ran.code == 1
    assert "address already in use" in ran.err
    assert "Traceback" not in ran.err


def test_the_secret_that_signs_is_kept_with_the_hub(tmp_path: Path) -> None:
    before = _store(tmp_path, "http://127.0.0.1:9", BUCKET)
    after = _store(tmp_path, "http://127.0.0.1:9", BUCKET)
    assert before is not None
    assert after is not None
    signed = before.signer.sign("POST", "/_lfs/x", {}, lifetime=60)
    path, _, query = signed.partition("?")
    assert after.signer.check("POST", path, parse_qsl(query)) == {}


def test_objects_can_lie_on_an_s3_server(
    cli: Cli, start: Start, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "s3").mkdir()
    with serve_s3(tmp_path / "s3") as server:
        where = ["--s3-endpoint", server.url, "--s3-bucket", BUCKET]
        hub = start("hub", "--root", tmp_path / "root", *where)
        url = hub.line().strip()
        ran = cli("push", "me/far", folder, "--endpoint", url, "--token", "any")
        assert ran.code == 0
        assert any(name.startswith("lfs/objects/") for name in server.listing())
        assert (tmp_path / "root" / "lfs" / "secret").is_file()
        hub.send(signal.SIGTERM)
        assert hub.end().code == 0
