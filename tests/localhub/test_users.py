"""Who may do what: tokens in both of their forms, several users, gates."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from asyncpush import UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from tests.localhub.conftest import HubClient

BATCH = "/ann/net.git/info/lfs/objects/batch"


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(text.encode()).decode()}"}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[HubClient]:
    """A client of a hub where ann has a repo, and ben is another user."""
    users = {"ann": "hf_ann", "ben": "hf_ben"}
    async with (
        LocalHub(tmp_path / "hub", users=users) as hub,
        aiohttp.ClientSession() as session,
    ):
        client = HubClient(hub.url, session)
        await client.post("/api/repos/create", {"name": "net"}, token="hf_ann")
        body = b'{"key": "header", "value": {"summary": "a"}}\n{"key": "file", "value": '
        body += b'{"path": "a.txt", "content": "a"}}'
        made = await client.call(
            "POST", "/api/models/ann/net/commit/main", token="hf_ann", data=body
        )
        assert made.status == 200
        yield client


@pytest.mark.parametrize("pair", ["me:hf_ann", "hf_ann:", "hf_ann:x-oauth-basic", "hf_ann"])
async def test_basic_auth_shows_a_token_as_password_or_as_user(
    pair: str, client: HubClient
) -> None:
    answer = await client.get("/api/whoami-v2", token=None, headers=basic(pair))
    assert answer.json["name"] == "ann"


@pytest.mark.parametrize("pair", ["ann:wrong", "ann:", ":", ""])
async def test_a_wrong_password_is_refused(pair: str, client: HubClient) -> None:
    answer = await client.post(BATCH, {}, token=None, headers=basic(pair))
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


async def test_the_verify_action_brings_its_credentials(
    client: HubClient,
) -> None:
    wanted = {"operation": "upload", "objects": [{"oid": "ab" * 32, "size": 3}]}
    answer = await client.post(BATCH, wanted, token=None, headers=basic("ann:hf_ann"))
    (item,) = answer.json["objects"]
    assert item["authenticated"] is True
    verify = item["actions"]["verify"]
    body = {"oid": "ab" * 32, "size": 3}
    said = await client.post(verify["href"], body, token=None, headers=verify["header"])
    assert said.status == 404  # it is not stored; whose it is was known


async def test_another_user_proposes_and_the_owner_merges(client: HubClient) -> None:
    url = "/api/models/ann/net"

    async def commit(token: str, where: str) -> int:
        body = b'{"key": "header", "value": {"summary": "idea"}}\n{"key": "file", "value": '
        body += b'{"path": "b.txt", "content": "b"}}'
        answer = await client.call("POST", f"{url}/commit/{where}", token=token, data=body)
        return answer.status

    assert await commit("hf_ben", "main") == 403
    assert await commit("hf_ben", "main?create_pr=1") == 200
    assert await commit("hf_ben", "refs%2Fpr%2F1") == 200
    merge = f"{url}/discussions/1/merge"
    assert (await client.post(merge, token="hf_ben")).status == 403
    title = {"title": "A better idea"}
    assert (await client.post(f"{url}/discussions/1/title", title, token="hf_ben")).status == 200
    assert (await client.post(merge, token="hf_ann")).status == 200


async def test_a_repo_is_changed_by_its_owner_alone(client: HubClient) -> None:
    url = "/api/models/ann/net"
    gate = {"gated": "auto"}
    assert (await client.call("PUT", f"{url}/settings", token="hf_ben", json=gate)).status == 403
    assert (await client.post(f"{url}/branch/dev", token="hf_ben")).status == 403
    whole = {"organization": "ann", "name": "net"}
    gone = await client.call("DELETE", "/api/repos/delete", token="hf_ben", json=whole)
    assert gone.status == 403
    stolen = {"fromRepo": "ann/net", "toRepo": "ben/net"}
    assert (await client.post("/api/repos/move", stolen, token="hf_ben")).status == 403
    beside = {"organization": "ann", "name": "other"}
    refused = await client.post("/api/repos/create", beside, token="hf_ben")
    assert refused.status == 403
    assert 'under the namespace "ann"' in refused.json["error"]
    beside["organization"] = "a-team"
    assert (await client.post("/api/repos/create", beside, token="hf_ben")).status == 200


async def test_a_private_repo_is_not_there_for_other_users(client: HubClient) -> None:
    await client.call("PUT", "/api/models/ann/net/settings", token="hf_ann", json={"private": True})
    seen = await client.get("/api/models/ann/net", token="hf_ben")
    assert (seen.status, seen.error_code) == (404, "RepoNotFound")
    assert (await client.get("/api/models", token="hf_ben")).json == []
    assert len((await client.get("/api/models", token="hf_ann")).json) == 1
    assert "ann/net" not in (await client.get("/", token="hf_ben")).text


async def test_gated_files_need_access(client: HubClient) -> None:
    await client.call(
        "PUT", "/api/models/ann/net/settings", token="hf_ann", json={"gated": "manual"}
    )
    assert (await client.get("/api/models/ann/net/tree/main", token="hf_ben")).status == 200
    download = {"operation": "download", "objects": [{"oid": "ab" * 32, "size": 3}]}
    for path in (
        "/ann/net/resolve/main/a.txt",
        "/ann/net/blob/main/a.txt",
        "/api/models/ann/net/auth-check",
        "/api/models/ann/net/xet-read-token/main",
    ):
        assert (await client.get(path, token="hf_ann")).status == 200
        other = await client.get(path, token="hf_ben")
        assert (other.status, other.error_code) == (403, "GatedRepo")
        stranger = await client.get(path, token=None)
        assert (stranger.status, stranger.error_code) == (401, "GatedRepo")
    assert (await client.post(BATCH, download, token="hf_ben")).status == 403


@pytest.mark.parametrize(
    ("namespace", "verdict"), [("ben", "ok"), ("org", "ok"), ("ann", "failed")]
)
async def test_the_doctor_knows_the_other_users_namespaces(
    namespace: str, verdict: str, client: HubClient
) -> None:
    async with Uploader("hf_ben", client.url, UploadConfig(progress="none")) as uploader:
        findings = await uploader.doctor(f"hf://buckets/{namespace}/new")
    assert {check.name: check.verdict for check in findings}["namespace"] == verdict
