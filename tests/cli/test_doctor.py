"""`asyncpush doctor` against a Hub that knows several users."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush import UploadConfig, Uploader
from asyncpush.cli.doctor import finding_lines
from asyncpush.concurrency import task_groups
from asyncpush.doctor import Finding, asking
from asyncpush.localhub import serve_in_thread
from tests.cli.conftest import Cli, Ran
from tests.net.helpers import serving, silence

Marks = dict[str, str]


def whoami(name: str, role: str, **orgs: str) -> dict[str, Any]:
    members = [{"name": org, "roleInOrg": as_} for org, as_ in orgs.items()]
    token = {"role": role}
    return {"name": name, "orgs": members, "auth": {"accessToken": token}}


USERS = {
    "hf_writer": whoami("me", "write", team="write"),
    "hf_reader": whoami("me", "read"),
}
asked: list[tuple[str, str]] = []


@web.middleware
async def users(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a Hub with users says; the embedded one lets anybody do anything."""
    asked.append((request.method, request.path))
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token == "hf_wrong":
        return web.json_response({"error": "Invalid credentials"}, status=401)
    if request.path == "/api/whoami-v2" and token in USERS:
        return web.json_response(USERS[token], headers={"RateLimit": '"api";r=400;t=55'})
    if "/paths-info/" in request.path and token == "hf_blind":
        return web.json_response({"detail": [{"msg": "Field required"}]}, status=422)
    if request.path.endswith("/auth-check/write") and token == "hf_reader":
        return web.json_response({"error": "Forbidden"}, status=403)
    response = await handler(request)
    if token == "hf_late":
        response.headers["Date"] = formatdate(time.time() - 7200, usegmt=True)
    return response


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_in_thread(tmp_path_factory.mktemp("hub"), middlewares=[users], xet=False) as hub:
        yield hub.url


Examine = Callable[..., Ran]


@pytest.fixture
def examine(endpoint: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """Run the doctor with this token. One repo is there: me/there."""
    asked.clear()

    def run(token: str | None, *words: str) -> Ran:
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        return cli("doctor", *words, "--endpoint", endpoint)

    return run


@pytest.fixture(scope="module", autouse=True)
def there(endpoint: str) -> None:
    body = orjson.dumps({"type": "model", "name": "there", "organization": "me"})
    headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint}/api/repos/create", body, headers)
    urllib.request.urlopen(request).close()


def marks(ran: Ran) -> Marks:
    """The mark of each check, by its name."""
    heads = [line[:15] for line in ran.out.splitlines() if line[0] != " "]
    return {head[1:].strip(): head[0] for head in heads}


def trouble(ran: Ran) -> list[str]:
    return [name for name, mark in marks(ran).items() if mark == "✗"]


def test_all_is_well_and_nothing_was_changed(examine: Examine) -> None:
    ran = examine("hf_writer", "me/there")
    assert (ran.code, ran.err) == (0, "")
    assert set(marks(ran).values()) == {"✓"}
    assert "me, member of team, with the token from HF_TOKEN" in ran.out
    assert "the token may write to me/there" in ran.out
    assert "400 requests left in the next 55 s" in ran.out
    writing = [(method, path) for method, path in asked if method != "GET"]
    assert [path.split("/")[5] for _, path in writing] == ["paths-info"]


def test_a_repo_that_does_not_exist_yet_is_fine(examine: Examine) -> None:
    ran = examine("hf_writer", "team/new", "--repo-type", "dataset")
    assert ran.code == 0
    assert "dataset team/new does not exist" in ran.out


def test_without_a_repo_the_rest_is_looked_at(examine: Examine) -> None:
    ran = examine("hf_writer")
    assert ran.code == 0
    assert "write" in marks(ran)
    assert not {"namespace", "repo", "branch"} & set(marks(ran))


@pytest.mark.parametrize(
    ("token", "words", "code", "names", "fix"),
    [
        pytest.param(None, ["me/there"], 3, ["token"], "HF_TOKEN", id="no token"),
        pytest.param("hf_wrong", ["me/there"], 3, ["token"], "settings on http", id="wrong token"),
        pytest.param("hf_reader", ["me/there"], 3, ["write"], "write access", id="read-only token"),
        pytest.param(
            "hf_writer", ["you/new"], 1, ["namespace"], "(me, team)", id="wrong namespace"
        ),
        pytest.param(
            "hf_writer",
            ["me/there", "--revision", "dev"],
            1,
            ["branch"],
            "--create-branch",
            id="missing branch",
        ),
        pytest.param(
            "hf_blind", ["me/there"], 1, ["verify"], "--no-verify", id="a push cannot be verified"
        ),
        pytest.param("hf_late", ["me/there"], 1, ["clock"], "timedatectl", id="clock"),
    ],
)
def test_each_failed_check_has_a_fix(
    token: str | None, words: list[str], code: int, names: list[str], fix: str, examine: Examine
) -> None:
    ran = examine(token, *words)
    assert ran.code == code
    assert trouble(ran) == names
    line = ran.out.splitlines()
    at = next(i for i, text in enumerate(line) if text.startswith(f"✗  {names[0]}"))
    assert line[at + 1].strip().startswith("fix: ")
    assert fix in line[at + 1]
    assert ran.err.startswith("✗ a push would fail: ")


def test_a_branch_that_the_push_makes_is_fine(examine: Examine) -> None:
    assert examine("hf_writer", "me/there", "--revision", "dev", "--create-branch").code == 0


def test_json(examine: Examine) -> None:
    ran = examine("hf_reader", "me/there", "--json")
    assert ran.code == 3
    document = ran.document
    assert (document["ok"], document["repo_id"]) == (False, "me/there")
    assert document["error"]["exit_code"] == 3
    (failed,) = [check for check in document["checks"] if check["verdict"] == "failed"]
    assert failed["name"] == "write"
    assert failed["is_token"] is True
    assert "in your settings on http://127.0.0.1" in failed["fix"]


def test_an_endpoint_that_is_away(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    ran = cli("doctor", "me/there", "--endpoint", "http://127.0.0.1:9")
    assert ran.code == 1
    assert trouble(ran) == ["endpoint"]
    assert "write" not in marks(ran)  # nobody was there to say


async def test_a_silent_endpoint_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(asking, "ANSWER_TIMEOUT", 0.05)
    config = UploadConfig(cache_dir=tmp_path / "cache")
    async with serving(silence) as peer, Uploader("hf_x", peer.url, config) as uploader:
        findings = await uploader.doctor("me/m")
    (failed,) = [finding for finding in findings if finding.verdict == "failed"]
    assert "no answer within" in failed.found


def test_a_bad_proxy_and_a_cache_that_cannot_be_made(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ASYNCPUSH_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("HTTP_PROXY", "nonsense://x")
    ran = examine("hf_writer", "me/there")
    assert {"proxy", "cache"} <= set(trouble(ran))
    assert "ASYNCPUSH_CACHE" in ran.out


def test_the_embedded_hub_needs_no_token(cli: Cli) -> None:
    ran = cli("doctor", "anybody/new", "--endpoint", "local")
    assert ran.code == 0
    assert "local, with the token of the embedded Hub, which accepts any" in ran.out


def test_what_this_machine_cannot_tell_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_groups, "resource", None)  # as on Windows
    monkeypatch.setattr(shutil, "disk_usage", lambda path: (_ for _ in ()).throw(OSError("away")))
    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    facts = asking.collect_local_facts("https://hub.example", UploadConfig(), None)
    assert (facts.open_files, facts.free_space) == (None, None)
    assert [version for _, version in facts.libraries] == [None]


def not_installed(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_narrow_terminals_wrap_within_the_column() -> None:
    findings = [Finding("token", "failed", "one two three four", "five six seven eight")]
    assert finding_lines(findings, marks="+!x", width=24) == [
        "x  token  one two three",
        "          four",
        "          fix: five six",
        "          seven eight",
    ]
    assert finding_lines([], marks="+!x") == []
