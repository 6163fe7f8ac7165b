"""What the hub refuses: one exception, told to the client as the Hub tells it."""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):
    """A request that cannot be served: `status`, `message` and the Hub's own error `code`.

    `extra` joins the JSON body (the URL of the repo that exists already, say).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.extra: dict[str, object] = dict(extra or {})
        self.headers: dict[str, str] = dict(headers or {})


def bad_request(message: str) -> Refusal:
    return Refusal(400, message)


def too_large(message: str) -> Refusal:
    return Refusal(413, message)


def conflict(message: str) -> Refusal:
    return Refusal(409, message)


def repo_not_found() -> Refusal:
    """Also the answer for a private repo: its existence is not told to strangers."""
    return Refusal(404, "Repository not found", code="RepoNotFound")


def not_logged_in() -> Refusal:
    """What a stranger is told of a repo that is private or not there: not which of the two.

    The official client knows this 401 by its URL, where that is https; here by its code.
    """
    return Refusal(401, "Invalid username or password.", code="RepoNotFound")


def gated(kind: str, name: str, url: str, *, known: bool) -> Refusal:
    """For those whom the owner has not let in; `known` tells users from strangers."""
    if known:
        rest = f"and you are not in the authorized list. Visit {url} to ask for access."
        return Refusal(403, f"Access to {kind} {name} is restricted {rest}", code="GatedRepo")
    rest = "You must have access to it and be authenticated to access it. Please log in."
    return Refusal(401, f"Access to {kind} {name} is restricted. {rest}", code="GatedRepo")


def forbidden(message: str) -> Refusal:
    return Refusal(403, message)


def revision_not_found(revision: str) -> Refusal:
    return Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(path: str, revision: str | None = None) -> Refusal:
    where = f" on {revision!r}" if revision else ""
    return Refusal(404, f"Entry {path!r} does not exist{where}", code="EntryNotFound")
