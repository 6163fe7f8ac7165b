"""Tokens: who owns one, and new ones that expire.

    GET  /api/whoami-v2    "whoami"
    POST /oauth/token      "oauth-token"

A new token is granted for

    grant_type=refresh_token                      a form: refresh_token, client_id (RFC 6749, 6)
    grant_type=urn:ietf:params:oauth:grant-type:token-exchange
                                                  JSON: subject_token, resource (RFC 8693)

The first renews a login of `hf auth login`, and replaces the refresh token. The second is trusted
publishing: a CI job identifies itself with an id token, and gets a token to write to one repo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import orjson
from aiohttp import web

from asyncpush.localhub.auth import TOKENS, USER, issued_token, signed_in
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.web import json_answer, wire_time

TrustedPublishers: TypeAlias = Mapping[str, Callable[[str], bool]]
"""For a resource (`me/m`, `datasets/me/d`), whether an id token comes from a job that may publish
there."""

REFRESH = "refresh_token"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"

_NO_STORE = {"Cache-Control": "no-store"}

routes = web.RouteTableDef()


@routes.get("/api/whoami-v2", name="whoami")
async def whoami(request: web.Request) -> web.Response:
    user = signed_in(request)
    auth: dict[str, Any] = {
        "type": "access_token",
        "accessToken": {"displayName": user, "role": "write"},
    }
    if (issued := issued_token(request)) is not None:
        ends = datetime.fromtimestamp(issued.expires_at, UTC)
        auth = {"type": "app_token_as_user", "expiresAt": wire_time(ends)}
    return json_answer(
        {
            "type": "user",
            "id": f"{user}-id",
            "name": user,
            "fullname": user,
            "isPro": False,
            "canPay": False,
            "orgs": [],
            # Specific to this hub, for `asyncpush doctor`.
            "anyNamespace": True,
            "otherUsers": sorted(state_of(request).users.names - {user}),
            "auth": auth,
        }
    )


@routes.post("/oauth/token", name="oauth-token")
async def token(request: web.Request) -> web.Response:
    fields = await _fields(request)
    match fields.get("grant_type"):
        case str() as grant if grant == REFRESH:
            return await _refreshed(request, fields)
        case str() as grant if grant == EXCHANGE:
            return _exchanged(request, fields)
        case None:
            return _refused("invalid_request", "grant_type is missing")
        case _:
            return _refused("unsupported_grant_type", f"Supported: {REFRESH}, {EXCHANGE}")


async def _refreshed(request: web.Request, fields: Mapping[str, str]) -> web.Response:
    if not fields.get("client_id") or not fields.get("refresh_token"):
        return _refused("invalid_request", "client_id and refresh_token are required")
    issuer = request.app[TOKENS]
    login = await state_of(request).run(issuer.refresh, fields["refresh_token"])
    if login is None:
        return _refused("invalid_grant", "The refresh token is invalid, expired or was used before")
    return _issued(
        login.access_token, issuer.seconds_left(login), refresh_token=login.refresh_token
    )


def _exchanged(request: web.Request, fields: Mapping[str, str]) -> web.Response:
    state, resource = state_of(request), fields.get("resource", "")
    id_token = fields.get("subject_token", "")
    if not id_token or not resource or fields.get("subject_token_type") != ID_TOKEN:
        required = f"subject_token, resource and subject_token_type={ID_TOKEN} are required"
        return _refused("invalid_request", required)
    if not _is_trusted(state, resource, id_token):
        return _refused("invalid_grant", f"No trusted publisher of {resource} matches the id token")
    issuer = request.app[TOKENS]
    issued = issuer.exchange(_owner(state, resource), resource)
    return _issued(issued.token, issuer.seconds_left(issued))


def _is_trusted(state: HubState, resource: str, id_token: str) -> bool:
    """Without a list of trusted publishers, a hub that accepts any token accepts any id token."""
    if state.trusted_publishers is None:
        return state.users.is_open
    check = state.trusted_publishers.get(resource)
    return check is not None and check(id_token)


def _owner(state: HubState, resource: str) -> str:
    """The user that owns the namespace, or the hub's only user."""
    kind, _, rest = resource.partition("/")
    namespace = rest.partition("/")[0] if kind in ("datasets", "spaces", "kernels") else kind
    if namespace in state.users.names:
        return namespace
    return next(iter(sorted(state.users.names)), USER) if state.users.is_single else namespace


async def _fields(request: web.Request) -> dict[str, str]:
    """The text fields of a form or a JSON object."""
    fields: Mapping[str, Any] = {}
    if request.content_type == "application/json":
        try:
            body = orjson.loads(await request.read() or b"{}")
        except orjson.JSONDecodeError:
            body = None
        if isinstance(body, dict):
            fields = body
    else:
        fields = await request.post()
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def _issued(access_token: str, expires_in: int, **more: str) -> web.Response:
    answer = {"access_token": access_token, "token_type": "bearer", "expires_in": expires_in}
    return json_answer(answer | more, headers=_NO_STORE)


def _refused(error: str, description: str) -> web.Response:
    """An error answer as in RFC 6749, 5.2."""
    answer = {"error": error, "error_description": description}
    return json_answer(answer, status=400, headers=_NO_STORE)
