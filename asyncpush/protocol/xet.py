"""The Hub's part of Xet: the token with which data is uploaded to the Xet store."""

from __future__ import annotations

from dataclasses import field

from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Repo
from asyncpush.protocol import routes
from asyncpush.protocol.http import (
    HubRequest,
    HubResponse,
    a_size,
    a_text,
    json_object,
    protocol_error,
)


@dataclass(frozen=True, slots=True)
class XetGrant:
    """The Xet store's URL, the token for it (a secret), and the time until which the token is valid
    (seconds since the epoch)."""

    cas_url: str
    token: str = field(repr=False)
    expires_at: int


def write_token_request(repo: Repo, revision: str, *, create_pr: bool = False) -> HubRequest:
    """With `create_pr` the token is for a pull request's ref, which does not exist yet."""
    query = "?create_pr=1" if create_pr else ""
    path = routes.xet_write_token(repo, revision) + query
    return token_request(path, repo_id=repo.repo_id, revision=revision)


def token_request(path: str, **fields: str) -> HubRequest:
    """A request for a token, which a Hub without Xet answers with 404."""
    return HubRequest("xet_token", "GET", path, fields=fields, optional=True)


def parse_grant(response: HubResponse) -> XetGrant:
    """Parse the answer described at https://huggingface.co/docs/xet/auth."""
    answer = json_object(response)
    token = a_text(answer.get("accessToken"), "accessToken")
    if not token or not token.isascii() or not token.isprintable():
        raise protocol_error("accessToken is not a token")
    return XetGrant(
        a_text(answer.get("casUrl"), "casUrl").rstrip("/"), token, a_size(answer.get("exp"), "exp")
    )
