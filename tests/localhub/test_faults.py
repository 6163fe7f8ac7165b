"""Bad days that a hub is told to have."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

import asyncpush.localhub
from asyncpush.localhub import Fault, LocalHub, faults
from asyncpush.localhub.faults import ACTIONS
from asyncpush.localhub.server import ROUTE_NAMES
from tests.localhub.conftest import PART_SIZE, HubClient, add

Open = Callable[..., AbstractAsyncContextManager[tuple[LocalHub, HubClient]]]
README = Path(asyncpush.localhub.__file__).parent / "README.md"


@pytest.fixture
def open_hub(tmp_path: Path) -> Open:
    """A hub with these faults, and a client of it with a repo."""

    @asynccontextmanager
    async def open_hub(*faults: str | Fault) -> AsyncIterator[tuple[LocalHub, HubClient]]:
        async with (
            LocalHub(tmp_path / "hub", part_size=PART_SIZE, xet=False, faults=faults) as hub,
            aiohttp.ClientSession() as session,
        ):
            client = HubClient(hub.url, session)
            await client.create()
            yield hub, client

    return open_hub


@pytest.mark.parametrize(
    ("which", "struck"),
    [("*", "123456"), ("3", "3"), ("2-4", "234"), ("5-", "56"), ("100%", "123456"), ("0%", "")],
)
async def test_a_fault_strikes_the_requests_that_it_names(
    which: str, struck: str, open_hub: Open
) -> None:
    async with open_hub(f"info=503:{which}") as (hub, client):
        statuses = [(await client.get("/api/models/me/net")).status for _ in range(6)]
        assert "".join(str(n) for n, status in enumerate(statuses, 1) if status == 503) == struck
        assert hub.faults.seen["info"] == 6
        assert [fault.action for fault in hub.faults.injected] == ["503"] * len(struck)


def test_a_share_is_the_same_on_every_run() -> None:
    first, second = (
        [number for number in range(1, 1001) if Fault.parse("part=503:20%").hits(number)]
        for _ in range(2)
    )
    assert 150 < len(first) < 250
    assert first == second


async def test_a_commit_lands_though_its_answer_says_otherwise(open_hub: Open) -> None:
    async with open_hub("commit=504-after:1") as (_, client):
        before = await client.head()
        assert (await client.commit(add("a.txt"))).status == 504
        assert await client.head() != before


async def test_a_commit_lands_late(open_hub: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    late = asyncio.Event()
    delays: list[float] = []

    async def ends_within(hub: object, seconds: float) -> bool:
        delays.append(seconds)
        await late.wait()
        return False

    monkeypatch.setattr(faults, "_ends_within", ends_within)
    async with open_hub("commit=504-late-0.3s:1") as (_, client):
        before = await client.head()
        assert (await client.commit(add("a.txt"))).status == 504
        assert await client.head() == before
        late.set()
        await asyncio.gather(*faults._LANDING)
        assert await client.head() != before
        assert (await client.get("/me/net/resolve/main/a.txt")).status == 200
    assert delays == [0.3]


async def test_no_commit_lands_once_the_hub_ends(open_hub: Open) -> None:
    async with open_hub("commit=504-late-3600s:1") as (_, client):
        before = await client.head()
        assert (await client.commit(add("a.txt"))).status == 504
        assert await client.head() == before
    await asyncio.gather(*faults._LANDING)


async def test_a_late_commit_waits_as_long_as_is_said(open_hub: Open) -> None:
    async with open_hub("commit=504-late-0.01s:1") as (_, client):
        before = await client.head()
        assert (await client.commit(add("a.txt"))).status == 504
        await asyncio.gather(*faults._LANDING)
        assert await client.head() != before


async def test_a_rate_limit_has_its_headers(open_hub: Open) -> None:
    async with open_hub("revision=429-30s", "commit=commit-limit") as (_, client):
        answer = await client.get("/api/models/me/net/revision/main")
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "30"
        assert answer.headers["RateLimit"] == '"api";r=0;t=30'
        limited = await client.commit(add("a.txt"))
        assert "in about 1 hour" in limited.json["error"]
        assert "Retry-After" not in limited.headers


async def test_a_stall_ends_with_the_hub(open_hub: Open) -> None:
    async with open_hub("info=stall") as (_, client):
        waiting = asyncio.create_task(client.get("/api/models/me/net"))
        await client.head()
        assert not waiting.done()
    with pytest.raises(aiohttp.ClientError):
        await waiting


async def test_urls_expire_and_space_runs_out(open_hub: Open) -> None:
    async with open_hub("part=expired-url", "create=quota:2") as (_, client):
        with pytest.raises(AssertionError):
            await client.store(b"large")
        full = await client.create("other")
        assert full.status == 403
        assert "storage limit reached" in full.json["error"]


async def test_faults_may_change_while_the_hub_runs(open_hub: Open) -> None:
    async with open_hub() as (hub, client):
        hub.faults.rules.append(Fault("info", "500"))
        assert (await client.get("/api/models/me/net")).status == 500
        hub.faults.rules.clear()
        assert (await client.get("/api/models/me/net")).status == 200


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("commit", "not of the form ROUTE=ACTION"),
        ("commit=504 after", "not of the form ROUTE=ACTION"),
        ("comit=504", "no such route: 'comit'; did you mean commit"),
        ("commit=505", "no such action: '505'; did you mean"),
        ("commit=zzz", "no such action: 'zzz'; use one of 401, "),
        ("commit=504:0", "not a selection of requests: '0'"),
        ("commit=504:200%", "not a selection of requests: '200%'"),
        ("commit=504:5-3", "ends before it begins"),
    ],
)
def test_a_fault_that_cannot_be_is_a_value_error(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        LocalHub(tmp_path, faults=[text])


def test_the_readme_names_all_faults_and_routes() -> None:
    section = README.read_text("utf-8").partition("## Faults on demand")[2]
    assert not [name for name in ACTIONS if f"`{name}`" not in section]
    of_users = {name for name in ROUTE_NAMES if not name.startswith("page-")}
    assert not [name for name in of_users if f"`{name}`" not in section]
