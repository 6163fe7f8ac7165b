"""What a hostile Hub could try that tables of single fields do not show."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Callable

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from asyncpush.errors import AuthError, HubError, ProtocolError, RepoNotFoundError
from asyncpush.net.session import ANSWER_LIMIT
from asyncpush.protocol.commits import parse_commit
from asyncpush.protocol.failures import failure_of, is_lfs_pointer_missing
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.protocol.lfs import LfsObject, parse_batch
from asyncpush.protocol.repos import parse_tree
from asyncpush.protocol.urls import check_endpoint, check_target, origin, resolve, same_origin

HUB = "https://hub.example"
OID = "a" * 64


def failure(status: int, body: bytes, **headers: str) -> HubError:
    request = HubRequest("head", "GET", "/api/models/me/m", fields={"repo_id": "me/m"})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return failure_of(request, HubResponse(status, named, body, HUB), now=0.0)


# --- URLs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://store.example/x HTTP/1.1\r\nX-Evil: 1", id="a header in the path"),
        pytest.param("https://store.example/x?a b", id="a space in the query"),
        pytest.param("https://sto\nre.example/x", id="a line break in the host"),
        pytest.param("\thttps://store.example/x", id="a tab before"),
        pytest.param("https://store.example/\x00", id="NUL"),
        pytest.param("https://store.example/\x7f", id="DEL"),
    ],
)
def test_a_url_holds_no_white_space(url: str) -> None:
    """Parsers differ on it: some drop it, some end the URL there."""
    with pytest.raises(ProtocolError, match="white space"):
        check_target(url, HUB)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://[fd00:ec2::254]/latest", id="AWS, IPv6"),
        pytest.param("https://[64:ff9b::a9fe:a9fe]/latest", id="NAT64"),
        pytest.param("https://[2002:a9fe:a9fe::]/latest", id="6to4"),
        pytest.param("https://[::169.254.169.254]/latest", id="IPv4-compatible"),
        pytest.param("https://metadata.google.internal/x", id="Google's name"),
        pytest.param("https://169.254.169.254./x", id="a dot at the end"),
    ],
)
def test_metadata_services_are_refused_by_their_other_names(url: str) -> None:
    with pytest.raises(ProtocolError, match=r"link-local|metadata"):
        check_target(url, HUB)
    check_target(url, HUB, [URL(url, encoded=True).host or ""])


@pytest.mark.parametrize("url", ["https://[64:ff9b::7f00:1]/", "https://[::127.0.0.1]/"])
def test_loopback_is_refused_within_ipv6(url: str) -> None:
    with pytest.raises(ProtocolError, match="loopback"):
        check_target(url, HUB)


@pytest.mark.parametrize(
    "endpoint",
    ["https://hub.example/a b", "https://hub\texample", "https://hub.example?", "https://h#"],
    ids=repr,
)
def test_an_endpoint_that_would_make_odd_urls_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        check_endpoint(endpoint)


def test_white_space_around_an_endpoint_is_nothing() -> None:
    """As a file or a shell leaves it in HF_ENDPOINT."""
    assert check_endpoint(" https://hub.example/\n") == HUB


PIECES = st.sampled_from(
    [
        *("https:", "http:", "//", "/", "\\", "hub.example", "HUB.EXAMPLE", "evil.example"),
        *("@", ":", ":443", ":80", ":0", "?", "#", ".", "%2e", "%40", "\t", "\n", " ", "[", "]"),
        *("\uff0f", "\u3002", "\u212a", "user", "::1", "", "\x00"),
    ]
)


@pytest.mark.no_cover
@settings(deadline=None, max_examples=500)
@given(st.lists(PIECES, max_size=10).map("".join), st.booleans())
@example("https://hub.example\\@evil.example/", False)
@example("https://hub.example:443@evil.example/", False)
@example("https://hub.example:0/", False)
@example("//evil.example/x", True)
@example("/\\evil.example/x", True)
def test_prop_a_url_shown_as_the_hubs_goes_there(text: str, rooted: bool) -> None:
    """The token is given by our reading of a URL; the request goes by yarl's."""
    url = resolve(f"/{text}" if rooted else text, HUB)
    if not same_origin(url, HUB):
        return
    with contextlib.suppress(ProtocolError, ValueError):
        check_target(url, HUB)
        goes_to = URL(url, encoded=True)
        assert (goes_to.scheme, goes_to.host, goes_to.port) == ("https", "hub.example", 443)
        assert goes_to.user is None


def test_port_zero_is_no_port() -> None:
    assert origin("https://h:0/")[2] == 0
    assert not same_origin("https://hub.example:0/", HUB)


# --- failures -----------------------------------------------------------------------------------


def test_a_refused_token_is_not_taken_for_a_missing_repo() -> None:
    error = failure(
        401,
        b"",
        x_error_code="RepoNotFound",
        x_error_message="Invalid credentials in Authorization header",
    )
    assert type(error) is AuthError


def test_a_missing_lfs_object_is_no_missing_repo() -> None:
    error = failure(404, b'{"error": "LFS pointer aaaa does not exist"}')
    assert not isinstance(error, RepoNotFoundError)
    assert is_lfs_pointer_missing(error)
    assert "try again" in error.suggestion


@pytest.mark.parametrize("status", [520, 521, 522, 523, 524])
def test_cloudflare_errors_are_transient(status: int) -> None:
    assert failure(status, b"<html>error code: 52x</html>").retryable


# --- time and size ------------------------------------------------------------------------------


def answer(body: bytes, **headers: str) -> HubResponse:
    return HubResponse(200, headers, body, HUB)


def _batch(body: bytes) -> object:
    return parse_batch(answer(body), [LfsObject(OID, 10)])


def _error(body: bytes) -> object:
    return failure(500, body)


def _page(body: bytes) -> object:
    return parse_tree(answer(b"[]", link=body.decode()))


@pytest.mark.parametrize(
    ("read", "body"),
    [
        pytest.param(
            _batch,
            b'{"objects":[{"oid":"%s","actions":{"upload":{"href":"h","header":{"chunk_size":1,%s}'
            b"}}}]}"
            % (OID.encode(), b",".join(b'"%d":"u"' % number for number in range(1, 200_001))),
            id="200,000 part URLs",
        ),
        pytest.param(_batch, b'{"objects":' + b"[" * 1_000_000, id="a million brackets"),
        pytest.param(_batch, b'{"objects":[' + b"{}," * 500_000 + b"{}]}", id="empty objects"),
        pytest.param(_error, b"<" * 100_000, id="HTML that never ends"),
        pytest.param(_error, b"<Message>" * 20_000, id="XML that never ends"),
        pytest.param(_error, b'{"error":"' + b"x" * 1_000_000 + b'"}', id="a long message"),
        pytest.param(_page, b"<" * 8000, id="a Link of brackets"),
        pytest.param(_page, b"<a>;" * 2000, id="a Link without end"),
        pytest.param(_page, b"<a>" + b" " * 8000, id="a Link of spaces"),
    ],
)
def test_hostile_answers_take_no_time_to_speak_of(
    read: Callable[[bytes], object], body: bytes
) -> None:
    began = time.thread_time()
    with contextlib.suppress(HubError):
        read(body)
    assert time.thread_time() - began < 0.5


def test_an_error_of_a_large_answer_is_small() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_commit(answer(b'{"commitOid":"' + b"x" * 1_000_000 + b'"}'), "https://hub.example")
    assert len(str(caught.value)) < 3000
    assert len(str(failure(500, b'{"error":"' + b"x" * 1_000_000 + b'"}'))) < 3000


def test_control_characters_do_not_reach_a_terminal() -> None:
    error = failure(400, b'{"error": "\\u001b[2Jgone\\u0007"}')
    for character in "\x1b\x07":
        assert character not in str(error)
    error = failure(400, b"\x1b]0;title\x07 \xc2\x9b31m")
    for character in "\x1b\x07\x9b":
        assert character not in str(error)


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"[],", id="lists"),
        pytest.param(b"{},", id="objects"),
        pytest.param(b'"a":1,', id="names"),
        pytest.param(b"1,", id="numbers"),
        pytest.param(b"[[", id="open brackets"),
    ],
)
def test_an_answer_of_millions_of_values_takes_no_memory(piece: bytes) -> None:
    """32 MiB of it, which the network layer lets through, would become up to 1.1 GB of objects:
    ten million part URLs do not get that far."""
    response = answer(b'{"objects":[' + piece * (ANSWER_LIMIT // 8 // len(piece)) + b"1]}")
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="more than 500,000 values"):
            parse_batch(response, [LfsObject(OID, 10)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_large_answers_of_a_large_push_are_read() -> None:
    rows = [
        {"oid": f"{n:064x}", "actions": {"upload": {"href": "h", "header": _parts(300)}}}
        for n in range(64)
    ]
    objects = [LfsObject(f"{n:064x}", 300) for n in range(64)]
    assert len(parse_batch(answer(orjson.dumps({"objects": rows})), objects)) == 64


def _parts(count: int) -> dict[str, str]:
    return {"chunk_size": "1", **{str(n): f"https://s/{n}?X=a,b" for n in range(1, count + 1)}}
