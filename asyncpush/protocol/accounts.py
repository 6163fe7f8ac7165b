"""Who a token belongs to, and what it may do: requests and answers.

`whoami-v2` says what kind of token it is: `auth.accessToken.role` is "read", "write" or
"fineGrained", the last with `fineGrained.scoped`, a list of entities and permissions such as
`repo.write`. `…/auth-check/write` is the Hub's own word about one repo (the official client's
`auth_check(write=True)`); neither changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asyncpush.models import Repo
from asyncpush.protocol.answers import a_text, json_object
from asyncpush.protocol.http import HubRequest, HubResponse, get

REPO_WRITE = "repo.write"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a fine-grained token may do with one entity: a user, an organisation or a repo."""

    kind: str
    name: str
    permissions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Account:
    """Whose token it is. `role` is None when the Hub does not say (OAuth, other Hubs).

    `orgs` are the roles in organisations, by name; a role that is not told is empty.
    """

    name: str
    role: str | None = None
    orgs: Mapping[str, str] = field(default_factory=dict)
    grants: tuple[Grant, ...] = ()
    any_namespace: bool = False


def parse_account(response: HubResponse) -> Account:
    """Only the name must be there: what else is missing or odd is taken as not told."""
    answer = json_object(response)
    token = _object(_object(answer.get("auth")).get("accessToken"))
    role = token.get("role")
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
    )


def _grants(told: Mapping[str, Any]) -> tuple[Grant, ...]:
    return tuple(
        Grant(
            str(_object(scope.get("entity")).get("type", "")),
            str(_object(scope.get("entity")).get("name", "")),
            frozenset(map(str, _list(scope.get("permissions")))),
        )
        for scope in _objects(told.get("scoped"))
    )


def write_check_request(repo: Repo) -> HubRequest:
    """Answers 200 when the token may write to this repo."""
    return get("auth_check", f"/api/{repo.api_path}/auth-check/write", repo_id=repo.repo_id)


def storage_request(repo: Repo) -> HubRequest:
    path = f"/api/{repo.api_path}?expand=usedStorage"
    return get("storage", path, repo_id=repo.repo_id)


def parse_storage(response: HubResponse) -> int | None:
    """Bytes that the repo's files and their history take, where the Hub tells."""
    used = json_object(response).get("usedStorage")
    return used if isinstance(used, int) and not isinstance(used, bool) else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]
