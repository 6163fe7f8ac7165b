"""Nothing that a stranger sends makes the hub fail, or write outside of its repos."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
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
    assert below <= {"models", "datasets", "spaces", "lfs", "locks", "tmp"}
    assert {path.name for path in hub.root.parent.iterdir()} <= {"hub", "home", "hf-home"}
