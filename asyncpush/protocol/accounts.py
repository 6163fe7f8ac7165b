"""Tokens: who owns one, what it may do, and how a new one is obtained.

`whoami-v2` says what kind of token it is: `auth.accessToken.role` is "read", "write" or
"fineGrained", the last with `fineGrained.scoped`, a list of entities and permissions such as
`repo.write`. For an OAuth login there is no `accessToken`: `auth.type` is "app_token_as_user", and
`auth.expiresAt` says when it ends, as `accessToken.expiration` does for a token that expires
(huggingface.js, `AuthInfo`). `.../auth-check/write` says whether the token may write to one repo
(the official client's `auth_check(write=True)`). These requests change nothing.

`POST /oauth/token` issues tokens that expire (RFC 6749), in exchange for a refresh token or for the
id token that identifies a CI job (RFC 8693). The answer has `access_token`, and may have
`refresh_token` and `expires_in`. With status 400 or 401 it has `error` and `error_description`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlencode

from asyncpush.errors import ProtocolError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Repo
from asyncpush.protocol import routes
from asyncpush.protocol.http import (
    FORM_HEADERS,
    HubRequest,
    HubResponse,
    a_text,
    a_text_or_none,
    get,
    json_object,
    post_json,
)

REPO_WRITE = "repo.write"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a fine-grained token may do with one entity: a user, an organisation or a repo."""

    kind: str
    name: str
    permissions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Account:
    """The owner of a token. `role` is None when the Hub does not give it (OAuth, other Hubs).

    `orgs` are the user's roles in organisations, by the organisation's name; a role that the Hub
    does not give is empty. With `any_namespace`, the user may write in every namespace but those of
    the `others`; only the embedded Hub gives these two. `called` is the token's name in the user's
    settings, `expires_at` the Unix time at which it expires. `is_oauth` means that it comes from a
    login in the browser. The Hub gives each of these only for some kinds of token.
    """

    name: str
    role: str | None = None
    orgs: Mapping[str, str] = field(default_factory=dict)
    grants: tuple[Grant, ...] = ()
    any_namespace: bool = False
    others: frozenset[str] = frozenset()
    called: str = ""
    expires_at: float | None = None
    is_oauth: bool = False


def parse_account(response: HubResponse) -> Account:
    """Only the user's name is required. Other fields that are missing or invalid count as not
    given."""
    answer = json_object(response)
    auth = _object(answer.get("auth"))
    token = _object(auth.get("accessToken"))
    role, name = token.get("role"), token.get("displayName")
    return Account(
        name=a_text(answer.get("name"), "name"),
        role=role if isinstance(role, str) else None,
        orgs={
            str(org["name"]): str(org.get("roleInOrg") or "")
            for org in _objects(answer.get("orgs"))
            if "name" in org
        },
        grants=_grants(_object(token.get("fineGrained"))),
        any_namespace=answer.get("anyNamespace") is True,
        others=frozenset(map(str, _list(answer.get("otherUsers")))),
        called=name if isinstance(name, str) else "",
        expires_at=_time(token.get("expiration") or auth.get("expiresAt")),
        is_oauth=str(auth.get("type")).startswith("app_token"),
    )


def _time(value: Any) -> float | None:
    """The Unix time of an ISO 8601 text."""
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


TokenKind: TypeAlias = Literal["oauth", "oidc"]


def kind_of_token(token: str) -> TokenKind | None:
    """What the prefix of a token says about it. Logins in the browser and trusted publishing have
    prefixes of their own; for all other tokens this is None."""
    if token.startswith("hf_oauth_"):
        return "oauth"
    return "oidc" if token.startswith("hf_jwt_") else None


def _grants(access: Mapping[str, Any]) -> tuple[Grant, ...]:
    return tuple(
        Grant(
            str(_object(scope.get("entity")).get("type", "")),
            str(_object(scope.get("entity")).get("name", "")),
            frozenset(map(str, _list(scope.get("permissions")))),
        )
        for scope in _objects(access.get("scoped"))
    )


def write_check_request(repo: Repo) -> HubRequest:
    """Answers 200 when the token may write to this repo."""
    return get("auth_check", routes.write_check(repo), repo_id=repo.repo_id)


def storage_request(repo: Repo) -> HubRequest:
    path = f"{routes.api(repo)}?expand=usedStorage"
    return get("storage", path, repo_id=repo.repo_id)


def parse_storage(response: HubResponse) -> int | None:
    """Bytes that the repo's files and their history occupy, if the Hub says so."""
    used = json_object(response).get("usedStorage")
    return used if isinstance(used, int) and not isinstance(used, bool) else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token that the Hub has issued. It expires in `expires_in` seconds; None means that this is
    unknown. `refresh_token` replaces the one that was used."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in: float | None


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """The Hub issues no token. `error` is OAuth's code for the reason, such as `invalid_grant`."""

    error: str
    description: str
    status: int


def refresh_token_request(refresh_token: str, client_id: str) -> HubRequest:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
        "client_id": client_id,
    }
    body = urlencode(form).encode()
    return HubRequest(
        "token",
        "POST",
        target=routes.TOKEN,
        body=body,
        headers=FORM_HEADERS,
        auth="none",
        queued=False,
    )


def exchange_token_request(id_token: str, resource: str) -> HubRequest:
    """For a token that may write to `resource` (`me/m`, `datasets/me/d`)."""
    body = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "subject_token": id_token,
        "resource": resource,
    }
    request = post_json("token", routes.TOKEN, body, resource=resource)
    return replace(request, auth="none", queued=False)


def id_token_request(url: str, bearer: str, audience: str) -> HubRequest:
    """Asks GitHub Actions for an id token meant for the Hub at `audience`."""
    separator = "&" if "?" in url else "?"
    target = f"{url}{separator}audience={quote(audience, safe='')}"
    headers = {"Authorization": f"Bearer {bearer}"}
    return HubRequest(
        "id_token", "GET", target=target, body=None, headers=headers, auth="none", queued=False
    )


def is_token_answer(response: HubResponse) -> bool:
    """Whether the answer is a token or a refusal, rather than a transient failure."""
    return response.status < 300 or (400 <= response.status < 500 and response.status != 429)


def parse_token(response: HubResponse) -> IssuedToken | TokenRefused:
    if response.status >= 300:
        return _refusal(response)
    answer = json_object(response)
    token = a_text(answer.get("access_token"), "access_token")
    lifetime = answer.get("expires_in")
    if not isinstance(lifetime, int | float) or isinstance(lifetime, bool) or lifetime < 0:
        lifetime = None
    refresh_token = a_text_or_none(answer.get("refresh_token"), "refresh_token")
    return IssuedToken(token, refresh_token or None, lifetime)


def parse_id_token(response: HubResponse) -> str | TokenRefused:
    if response.status >= 300:
        return _refusal(response)
    return a_text(json_object(response).get("value"), "value")


def _refusal(response: HubResponse) -> TokenRefused:
    try:
        answer = json_object(response)
    except ProtocolError:  # a page of some other server
        answer = {}
    error, description = answer.get("error"), answer.get("error_description")
    return TokenRefused(
        error if isinstance(error, str) and error else f"HTTP {response.status}",
        description if isinstance(description, str) else "",
        response.status,
    )
