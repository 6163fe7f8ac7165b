from __future__ import annotations

import orjson
import pytest

from asyncpush.errors import ProtocolError
from asyncpush.models import Repo
from asyncpush.protocol.http import HubResponse
from asyncpush.protocol.xet import XetGrant, parse_grant, write_token_request

GRANT = {"accessToken": "secret-token", "exp": 1_800_000_000, "casUrl": "https://cas.hub/"}


def response(value: object) -> HubResponse:
    return HubResponse(200, {}, orjson.dumps(value), "https://hub/x")


def test_the_token_is_asked_for_at_the_repos_own_route() -> None:
    request = write_token_request(Repo("me/d", "dataset"), "refs/pr/1")
    assert (request.method, request.call) == ("GET", "xet_token")
    assert request.target == "/api/datasets/me/d/xet-write-token/refs%2Fpr%2F1"
    request = write_token_request(Repo("me/m"), "main", create_pr=True)
    assert request.target == "/api/models/me/m/xet-write-token/main?create_pr=1"


def test_a_grant_shows_no_token() -> None:
    grant = parse_grant(response(GRANT))
    assert grant == XetGrant("https://cas.hub", "secret-token", 1_800_000_000)
    assert "secret-token" not in repr(grant)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"accessToken": None}, id="no token"),
        pytest.param({"accessToken": ""}, id="empty token"),
        pytest.param({"accessToken": "a\r\nb"}, id="token of two lines"),
        pytest.param({"exp": "soon"}, id="expiry in words"),
        pytest.param({"exp": -1}, id="expiry before all time"),
        pytest.param({"casUrl": 7}, id="url a number"),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_grant(response(GRANT | change))
    assert "secret-token" not in str(caught.value)
