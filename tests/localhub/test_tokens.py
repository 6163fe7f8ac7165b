"""`/oauth/token`: logins are renewed and CI jobs get tokens, as on the public Hub."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import orjson
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub._oidc import exchange_oidc_token
from huggingface_hub.utils._oauth_device import refresh_access_token

from asyncpush.localhub import LocalHub
from asyncpush.localhub.blobs import Signer
from asyncpush.localhub.routes.tokens import EXCHANGE, ID_TOKEN, REFRESH
from tests.localhub.answers import Answer
from tests.localhub.conftest import HubClient, add

USERS = {"ann": "hf_ann", "ben": "hf_ben"}


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[LocalHub]:
    trusted = {"ann/net": "ann's job".__eq__, "datasets/ann/d": "ann's job".__eq__}
    async with LocalHub(tmp_path / "hub", users=USERS, trusted_publishers=trusted) as hub:
        yield hub


@pytest.fixture
async def client(hub: LocalHub) -> AsyncIterator[HubClient]:
    async with aiohttp.ClientSession() as session:
        client = HubClient(hub.url, session)
        for name in ("net", "other"):
            await client.post("/api/repos/create", {"name": name}, token="hf_ann")
        yield client


async def ask(client: HubClient, **fields: str) -> Answer:
    if fields.get("grant_type") == EXCHANGE:
        return await client.post("/oauth/token", fields, token=None)
    return await client.call("POST", "/oauth/token", token=None, data=fields)


async def renew(client: HubClient, refresh_token: str) -> Answer:
    return await ask(client, grant_type=REFRESH, refresh_token=refresh_token, client_id="c")


async def exchange(client: HubClient, resource: str, id_token: str = "ann's job") -> Answer:
    return await ask(
        client,
        grant_type=EXCHANGE,
        subject_token_type=ID_TOKEN,
        subject_token=id_token,
        resource=resource,
    )


async def test_a_login_is_its_users_until_it_expires(hub: LocalHub, client: HubClient) -> None:
    login = hub.log_in("ben")
    whoami = await client.get("/api/whoami-v2", token=login.access_token)
    assert whoami.json["name"] == "ben"
    assert whoami.json["auth"]["type"] == "app_token_as_user"
    assert whoami.json["auth"]["expiresAt"].startswith("20")

    refused = await client.post("/api/repos/create", {"name": "ann/x"}, token=login.access_token)
    assert refused.status == 403
    hub.revoke_tokens()
    assert (await client.get("/api/whoami-v2", token=login.access_token)).status == 401


async def test_a_refresh_token_is_good_once(hub: LocalHub, client: HubClient) -> None:
    login = hub.log_in("ann")
    first = await renew(client, login.refresh_token)
    assert first.status == 200
    assert first.headers["Cache-Control"] == "no-store"
    assert first.json["expires_in"] == pytest.approx(30 * 86_400, abs=5)
    assert (await client.get("/api/whoami-v2", token=first.json["access_token"])).status == 200

    again = await renew(client, login.refresh_token)
    assert (again.status, again.json["error"]) == (400, "invalid_grant")
    assert (await renew(client, first.json["refresh_token"])).status == 200


async def test_of_many_who_renew_at_once_one_succeeds(hub: LocalHub, client: HubClient) -> None:
    login = hub.log_in("ann")
    answers: list[Answer] = []

    async def one() -> None:
        answers.append(await renew(client, login.refresh_token))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(one)

    assert sorted(answer.status for answer in answers) == [200] + [400] * 7


async def test_logins_outlive_the_hub_and_hold_at_its_neighbours(
    hub: LocalHub, client: HubClient
) -> None:
    login = hub.log_in("ann")
    async with LocalHub(hub.root, users=USERS) as second, aiohttp.ClientSession() as session:
        other = HubClient(second.url, session)
        assert (await other.get("/api/whoami-v2", token=login.access_token)).status == 200
        assert (await renew(other, login.refresh_token)).status == 200
    assert (await renew(client, login.refresh_token)).status == 400
    kept = [path for path in (hub.root / "oauth").iterdir() if path.name != "secret"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600]
    assert login.refresh_token not in "".join(path.name + path.read_text() for path in kept)


async def test_trusted_publishing_writes_to_its_repo_alone(client: HubClient) -> None:
    answer = await exchange(client, "ann/net")
    assert answer.status == 200
    assert answer.json["expires_in"] == 3600
    assert "refresh_token" not in answer.json
    token = answer.json["access_token"]

    async def commit(repo: str) -> int:
        body = b'{"key": "header", "value": {"summary": "a"}}\n' + orjson.dumps(add("a.txt"))
        done = await client.call("POST", f"/api/{repo}/commit/main", token=token, data=body)
        return done.status

    assert await commit("models/ann/net") == 200
    assert await commit("models/ann/other") == 403
    create = "/api/repos/create"
    assert (await client.post(create, {"name": "ann/net"}, token=token)).status == 409
    assert (await client.post(create, {"name": "ann/new"}, token=token)).status == 403
    assert (await client.get("/api/models/ann/other", token=token)).status == 200
    assert (await client.get("/api/models/ann/net/auth-check/write", token=token)).status == 200


@pytest.mark.parametrize(
    ("resource", "id_token"),
    [("ann/net", "another job"), ("ann/other", "ann's job"), ("datasets/ann/net", "ann's job")],
)
async def test_who_is_not_trusted_gets_no_token(
    resource: str, id_token: str, client: HubClient
) -> None:
    answer = await exchange(client, resource, id_token)
    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")
    assert resource in answer.json["error_description"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": REFRESH, "client_id": "c"}, "invalid_request"),
        ({"grant_type": REFRESH, "refresh_token": "x"}, "invalid_request"),
        ({"grant_type": REFRESH, "refresh_token": "x", "client_id": "c"}, "invalid_grant"),
        ({"grant_type": EXCHANGE, "subject_token": "x", "resource": "a/b"}, "invalid_request"),
    ],
    ids=["nothing", "another grant", "no refresh token", "no client", "unknown", "no token type"],
)
async def test_invalid_requests_get_oauth_errors(
    fields: dict[str, Any], error: str, client: HubClient
) -> None:
    answer = await ask(client, **fields)
    assert (answer.status, answer.json["error"]) == (400, error)


@pytest.mark.parametrize("token", ["", "eyJ", "=", "%%%", "bG9jYWw", "ü"], ids=ascii)
async def test_a_forged_token_is_refused_by_an_open_hub(token: str, tmp_path: Path) -> None:
    async with LocalHub(tmp_path / "open") as hub, aiohttp.ClientSession() as session:
        client = HubClient(hub.url, session)
        real = hub.log_in().access_token
        forged = f"hf_oauth_local-{token}"
        for bad in (forged, real[:-4] + "AAAA", Signer(b"x").sign("OAUTH", "a", {}, lifetime=9)):
            expected = 401 if bad.startswith("hf_oauth_local-") else 200
            answer = await client.get("/api/whoami-v2", token=bad)
            assert answer.status == expected
        # The public Hub's own login is a token like any other here.
        assert (await client.get("/api/whoami-v2", token="hf_oauth_eyJhbGciOi")).status == 200
        assert (await exchange(client, "any/repo", "any")).status == 200


async def test_the_official_client_renews_and_exchanges_here(
    hub: LocalHub, client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    login = hub.log_in("ben")
    renewed = await anyio.to_thread.run_sync(refresh_access_token, login.refresh_token)
    assert renewed["refresh_token"] != login.refresh_token

    def exchanged() -> dict[str, Any]:
        return exchange_oidc_token(subject_token="ann's job", resource="datasets/ann/d")

    answer = await anyio.to_thread.run_sync(exchanged)
    for token, name in ((renewed["access_token"], "ben"), (answer["access_token"], "ann")):
        api = HfApi(hub.url, token=token)
        assert (await anyio.to_thread.run_sync(api.whoami))["name"] == name
