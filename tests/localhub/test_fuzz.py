"""Nothing that a stranger sends makes the hub fail, or write outside of its repos."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncpush.localhub import LocalHub
from tests.localhub.conftest import HubClient

FUZZ = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

REPO = "/api/models/me/net"
ROUTES = [
    ("POST", "/api/repos/create"),
    ("DELETE", "/api/repos/delete"),
    ("POST", "/api/repos/move"),
    ("POST", "/api/validate-yaml"),
    ("PUT", f"{REPO}/settings"),
    ("POST", f"{REPO}/preupload/main"),
    ("POST", f"{REPO}/commit/main"),
    ("POST", f"{REPO}/paths-info/main"),
    ("POST", f"{REPO}/branch/new"),
    ("POST", f"{REPO}/tag/main"),
    ("POST", f"{REPO}/discussions"),
    ("POST", f"{REPO}/discussions/1/comment"),
    ("POST", f"{REPO}/discussions/1/title"),
    ("POST", f"{REPO}/discussions/1/status"),
    ("POST", f"{REPO}/discussions/1/merge"),
    ("POST", "/me/net.git/info/lfs/objects/batch"),
    ("POST", "/me/net.git/info/lfs/objects/verify"),
]
KEYS = st.sampled_from(
    [
        *("type", "name", "organization", "private", "visibility", "sdk", "fromRepo", "toRepo"),
        *("content", "repoType", "gated", "files", "path", "size", "sample", "gitIgnore", "key"),
        *("value", "summary", "description", "parentCommit", "encoding", "oid", "algo", "paths"),
        *("expand", "startingPoint", "tag", "message", "title", "pullRequest", "comment"),
        *("status", "operation", "objects", "transfers"),
    ]
)
WORDS = st.sampled_from(
    [
        *("", "net", "me/net", "model", "dataset", "main", "..", "../../x", "a/b", ".git/x"),
        *("base64", "ab" * 32, "ab" * 20, "---\na: *b\n---\n", "upload", "closed", "open"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**63) | st.floats() | st.text(max_size=9) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
BODIES = st.dictionaries(KEYS, VALUES, max_size=6)
LINE_KEYS = st.sampled_from(["header", "file", "lfsFile", "deletedFile", "deletedFolder"])
LINES = st.lists(st.fixed_dictionaries({"key": LINE_KEYS, "value": BODIES}), max_size=4)
SEGMENTS = st.text(max_size=8) | WORDS


@FUZZ
@given(route=st.sampled_from(ROUTES), body=VALUES | BODIES)
async def test_no_body_makes_the_hub_fail(
    client: HubClient, hub: LocalHub, route: tuple[str, str], body: object
) -> None:
    method, path = route
    answer = await client.call(
        method, path, data=orjson.dumps(body), headers={"Content-Type": "application/json"}
    )

    assert answer.status < 500
    assert_nothing_outside(hub)


@FUZZ
@given(lines=LINES)
async def test_no_commit_makes_the_hub_fail(
    client: HubClient, hub: LocalHub, lines: list[dict[str, Any]]
) -> None:
    answer = await client.commit(*lines)

    assert answer.status < 500
    assert_nothing_outside(hub)


@FUZZ
@given(
    template=st.sampled_from(
        [
            "/api/{0}/{1}/{2}/tree/{3}",
            "/api/models/me/net/tree/{0}/{1}?cursor={2}&limit={3}",
            "/api/models/me/net/revision/{0}?expand={1}",
            "/api/models/me/net/commits/{0}?p={1}",
            "/api/models/me/net/discussions/{0}?status={1}",
            "/me/net/resolve/{0}/{1}/{2}",
            "/{0}/{1}/resolve/{2}/{3}",
            "/{0}/{1}/{2}/{3}",
            "/{0}.git/info/lfs/objects/{1}",
        ]
    ),
    parts=st.lists(SEGMENTS, min_size=4, max_size=4),
    wanted=st.text(alphabet="bytes=0123456789-, ", max_size=12),
)
async def test_no_url_makes_the_hub_fail(
    client: HubClient, template: str, parts: list[str], wanted: str
) -> None:
    path = template.format(*(quote(part, safe="") for part in parts))

    answer = await client.get(path, headers={"Range": wanted})

    assert answer.status < 500


def assert_nothing_outside(hub: LocalHub) -> None:
    below = {path.name for path in hub.root.iterdir()}
    assert below <= {"models", "datasets", "spaces", "lfs", "locks", "oauth", "tmp", "xet"}
    assert {path.name for path in hub.root.parent.iterdir()} <= {"hub", "home", "hf-home"}


Routes = list[tuple[str, str]]


@pytest.fixture
async def whole_hub(tmp_path: Path) -> AsyncIterator[tuple[HubClient, LocalHub, Routes]]:
    """A hub with the methods and patterns of all routes that it has."""
    routes: Routes = []

    @web.middleware
    async def inspect(request: web.Request, handler: Handler) -> web.StreamResponse:
        for route in request.app.router.routes() if not routes else ():
            if route.resource is not None:
                routes.append((route.method, route.resource.canonical))
        return await handler(request)

    async with (
        LocalHub(tmp_path / "hub", middlewares=[inspect]) as hub,
        aiohttp.ClientSession() as session,
    ):
        client = HubClient(hub.url, session)
        assert (await client.create()).status == 200
        yield client, hub, routes


PIECES = st.one_of(
    st.sampled_from(["me", "net", "main", "models", "1", "a" * 64, "README.md", "default", "0-9"]),
    st.sampled_from(["..", ".", "...", "%", "\\", "a/../../b", "-1", "9" * 30, "\0", "é", " "]),
    st.text(max_size=6),
)
QUERIES = ["X-Amz-Signature", "partNumber", "uploadId", "cursor", "limit", "p", "create_pr", "e"]
HEADERS = ["Range", "If-None-Match", "Content-Type", "Accept", "Content-Encoding", "Content-Range"]
HEADER_VALUES = st.sampled_from(
    [
        *("bytes=0-", "bytes=-0", "bytes=9-1", "bytes=a-b", "*", '"x"', "application/json", "gzip"),
        *("text/html;q=x", "multipart/form-data", "bytes 0-1/2", "deflate", "identity", ""),
    ]
)


@FUZZ
@given(
    number=st.integers(0, 199),
    pieces=st.lists(PIECES, min_size=8, max_size=8),
    query=st.dictionaries(st.sampled_from(QUERIES), PIECES, max_size=3),
    body=st.binary(max_size=40) | (VALUES | BODIES).map(orjson.dumps),
    headers=st.dictionaries(st.sampled_from(HEADERS), HEADER_VALUES, max_size=2),
)
async def test_no_route_of_all_fails_whatever_it_is_sent(
    whole_hub: tuple[HubClient, LocalHub, Routes],
    number: int,
    pieces: list[str],
    query: dict[str, str],
    body: bytes,
    headers: dict[str, str],
) -> None:
    """Also the routes that come with the next version."""
    client, hub, routes = whole_hub
    method, pattern = routes[number % len(routes)]
    fill = iter(pieces)
    path = re.sub(r"\{[^}]*\}", lambda _: quote(next(fill), safe=""), pattern)

    answer = await client.call(
        method,
        f"{path}?{urlencode(query)}",
        data=None if method in ("GET", "HEAD") else body,
        headers=headers,
    )

    assert answer.status < 500, answer.body
    assert_nothing_outside(hub)
