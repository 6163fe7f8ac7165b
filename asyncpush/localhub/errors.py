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


def revision_not_found(revision: str) -> Refusal:
    return Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(path: str, revision: str | None = None) -> Refusal:
    where = f" on {revision!r}" if revision else ""
    return Refusal(404, f"Entry {path!r} does not exist{where}", code="EntryNotFound")
