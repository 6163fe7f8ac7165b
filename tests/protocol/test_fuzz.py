"""Whatever a Hub answers, a parser gives a value or a `HubError`, and nothing else."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.errors import HubError
from asyncpush.models import FileSource
from asyncpush.protocol import buckets, commits, lfs, repos
from asyncpush.protocol.http import HubResponse
from tests.protocol.helpers import SHA1, SHA256, answer

ASKED = [lfs.LfsObject(SHA256, 25)]
FILES = [FileSource.of_bytes("a", b"abc")]
PULL_REQUEST = {
    "num": 1,
    "status": "open",
    "isPullRequest": True,
    "events": [{"data": {"latest": {"raw": "x"}}}],
    "changes": {"mergeCommitId": SHA1},
}

PARSERS: dict[str, tuple[Callable[[HubResponse], object], Any]] = {
    "batch": (
        lambda response: lfs.parse_batch(response, ASKED),
        {
            "objects": [
                {
                    "oid": SHA256,
                    "size": 25,
                    "actions": {
                        "upload": {
                            "href": "h",
                            "expires_in": 9,
                            "header": {"chunk_size": "10", "1": "a", "2": "b", "3": "c"},
                        },
                        "verify": {"href": "v"},
                    },
                }
            ]
        },
    ),
    "batch of an empty object": (
        lambda response: lfs.parse_batch(response, [lfs.LfsObject(SHA256, 0)]),
        {
            "objects": [
                {
                    "oid": SHA256,
                    "actions": {"upload": {"href": "h"}},
                    "error": None,
                }
            ]
        },
    ),
    "refused object": (
        lambda response: lfs.parse_batch(response, ASKED),
        {"objects": [{"oid": SHA256, "error": {"code": 500, "message": "m"}}]},
    ),
    "preupload": (
        lambda response: commits.parse_preupload(response, FILES),
        {"files": [{"path": "a", "uploadMode": "lfs", "shouldIgnore": False, "oid": SHA1}]},
    ),
    "commit": (
        partial(commits.parse_commit, endpoint="https://hub.example"),
        {"commitOid": SHA1, "commitUrl": "u", "pullRequestUrl": None},
    ),
    "tree": (
        repos.parse_tree,
        [
            {"type": "file", "path": "a", "size": 1, "oid": SHA1},
            {"type": "file", "path": "b", "lfs": {"oid": SHA256, "size": 1}},
        ],
    ),
    "paths-info": (
        repos.parse_paths_info,
        [{"type": "file", "path": "a", "size": 1, "oid": SHA1, "lfs": None}],
    ),
    "bucket": (buckets.parse_info, {"id": "me/runs"}),
    "bucket created": (buckets.check_created, {"url": "https://hub.example/buckets/me/runs"}),
    "bucket batch": (
        buckets.parse_batch,
        {"success": False, "failed": [{"path": "a", "error": "busy"}]},
    ),
    "bucket tree": (
        buckets.parse_tree,
        [{"type": "file", "path": "a", "size": 1, "xetHash": SHA256, "uploadedAt": "2026"}],
    ),
    "card": (commits.parse_verdict, {"errors": [{"message": "m"}], "warnings": [{"message": "m"}]}),
    "head": (repos.parse_head, {"sha": SHA1}),
    "refs": (repos.parse_tags, {"branches": [{"name": "main"}], "tags": [{"name": "v1"}]}),
    "commits": (repos.parse_commits, [{"id": SHA1, "title": "t", "message": "m"}]),
    "pull requests": (repos.parse_pull_requests, {"discussions": [PULL_REQUEST]}),
    "new pull request": (repos.parse_pull_request_number, PULL_REQUEST),
    "pull request": (repos.parse_pull_request, PULL_REQUEST),
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([SHA1, SHA256, "0", "1", "file", "lfs", "regular", 0, 1, -1])
)
names = st.text(max_size=4) | st.sampled_from(
    ["objects", "files", "oid", "size", "actions", "upload", "href", "header", "chunk_size", "1"]
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container with every key in it, all the way down."""
    found: list[tuple[Any, Any]] = []
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        found.append((value, key))
        found.extend(places(value[key]))
    return found


def only_a_value_or_a_hub_error(name: str, body: bytes) -> None:
    with contextlib.suppress(HubError):
        PARSERS[name][0](answer(body, headers={"link": body[:40].decode("latin-1")}))


@pytest.mark.parametrize("name", PARSERS)
def test_the_valid_answer_is_read(name: str) -> None:
    parse, valid = PARSERS[name]
    if name == "refused object":
        with pytest.raises(HubError, match="refuses"):
            parse(answer(valid))
    else:
        parse(answer(valid))


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=12)
@given(value=anything)
def test_arbitrary_json(name: str, value: Any) -> None:
    only_a_value_or_a_hub_error(name, orjson.dumps(value))


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=12)
@given(data=st.data())
def test_a_valid_answer_with_changes(name: str, data: st.DataObject) -> None:
    value = copy.deepcopy(PARSERS[name][1])
    for _ in range(data.draw(st.integers(1, 3))):
        spots = places(value)
        if not spots:
            break
        container, key = data.draw(st.sampled_from(spots))
        match data.draw(st.sampled_from(["change", "drop", "repeat"])):
            case "change":
                container[key] = data.draw(anything)
            case "drop":
                del container[key]
            case _ if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case _:
                container[data.draw(names)] = container[key]
                value = copy.deepcopy(value)
    only_a_value_or_a_hub_error(name, orjson.dumps(value))


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=12)
@given(data=st.data())
def test_a_valid_answer_with_broken_bytes(name: str, data: st.DataObject) -> None:
    body = bytearray(orjson.dumps(PARSERS[name][1]))
    at = data.draw(st.integers(0, len(body) - 1))
    end = data.draw(st.integers(at, len(body)))
    body[at:end] = data.draw(st.binary(max_size=4))
    only_a_value_or_a_hub_error(name, bytes(body))


def test_nesting_without_end() -> None:
    for name in PARSERS:
        only_a_value_or_a_hub_error(name, b"[" * 100_000)
        only_a_value_or_a_hub_error(name, b'{"objects":' * 100_000)
