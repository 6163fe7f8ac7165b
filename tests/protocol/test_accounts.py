from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.errors import ProtocolError
from asyncpush.models import Repo
from asyncpush.protocol import accounts
from asyncpush.protocol.accounts import Account, Grant, parse_account, parse_storage
from asyncpush.protocol.http import HubResponse


def answer(value: Any) -> HubResponse:
    return HubResponse(200, {}, orjson.dumps(value))


def test_requests_only_read() -> None:
    repo = Repo("me/d", "dataset")
    asked = [accounts.write_check_request(repo), accounts.storage_request(repo)]
    assert {request.method for request in asked} == {"GET"}
    assert [request.target for request in asked] == [
        "/api/datasets/me/d/auth-check/write",
        "/api/datasets/me/d?expand=usedStorage",
    ]


def test_an_account_in_full() -> None:
    response = {
        "type": "user",
        "name": "me",
        "orgs": [{"name": "team", "roleInOrg": "write"}, {"name": "club"}, {"no": "name"}],
        "auth": {
            "type": "access_token",
            "accessToken": {
                "displayName": "ci",
                "expiration": "2027-01-15T08:00:00.000Z",
                "role": "fineGrained",
                "fineGrained": {
                    "global": ["discussion.write"],
                    "scoped": [
                        {
                            "entity": {"type": "user", "name": "me"},
                            "permissions": ["repo.content.read", "repo.write"],
                        }
                    ],
                },
            },
        },
    }
    grant = Grant("user", "me", frozenset({"repo.content.read", "repo.write"}))
    assert parse_account(answer(response)) == Account(
        "me",
        "fineGrained",
        {"team": "write", "club": ""},
        (grant,),
        called="ci",
        expires_at=1_800_000_000.0,
    )


@pytest.mark.parametrize(
    ("ends", "expires_at"),
    [("2027-01-15T08:00:00Z", 1_800_000_000.0), ("soon", None), (5, None), (None, None)],
)
def test_an_oauth_login_has_no_role(ends: Any, expires_at: float | None) -> None:
    response = {"name": "me", "auth": {"type": "app_token_as_user", "expiresAt": ends}}
    assert parse_account(answer(response)) == Account("me", expires_at=expires_at, is_oauth=True)


def test_the_prefix_of_a_token_gives_its_kind() -> None:
    assert accounts.kind_of_token("hf_oauth_eyJ") == "oauth"
    assert accounts.kind_of_token("hf_jwt_eyJ") == "oidc"
    assert accounts.kind_of_token("hf_abcdef") is None


@pytest.mark.parametrize("response", [[], {}, {"name": 5}])
def test_an_account_has_a_name(response: Any) -> None:
    with pytest.raises(ProtocolError):
        parse_account(answer(response))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=15)
@given(orgs=JSON, auth=JSON, token=JSON, scoped=JSON)
def test_prop_what_is_odd_counts_as_not_reported(
    orgs: Any, auth: Any, token: Any, scoped: Any
) -> None:
    for odd in (auth, {"accessToken": token}, {"accessToken": {"fineGrained": {"scoped": scoped}}}):
        assert parse_account(answer({"name": "me", "orgs": orgs, "auth": odd})).name == "me"


@pytest.mark.parametrize(
    ("response", "used"), [({"usedStorage": 7}, 7), ({}, None), ({"usedStorage": "7"}, None)]
)
def test_storage_is_reported_or_not(response: Any, used: int | None) -> None:
    assert parse_storage(answer(response)) == used
