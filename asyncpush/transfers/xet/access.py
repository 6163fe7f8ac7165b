"""What an upload commit is opened with, and how hf_xet's failures are told without its secrets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from asyncpush.errors import AsyncPushError
from asyncpush.net.redaction import redact_text
from asyncpush.protocol.xet import XetGrant

_REFUSED = ("Token refresh failed", "401")
"""What hf_xet's errors say when a token was not good any more: they have no kind for it."""


class XetFailedError(AsyncPushError):
    """Xet did not store the files, for a reason that says nothing about LFS."""

    @property
    def refused(self) -> bool:
        """Whether another token might help."""
        return any(words in self.message for words in _REFUSED)


@dataclass(frozen=True, slots=True)
class XetAccess:
    """What an upload commit is opened with: the grant, and how hf_xet gets the next one.

    It asks with `refresh_headers`, so with the Hub token it was opened with. Where that one lives
    shorter than the push, `renew` gives access with the token that there is by then; None when
    there is no other.
    """

    grant: XetGrant
    refresh_url: str
    refresh_headers: Mapping[str, str] = field(repr=False)
    renew: Callable[[], Awaitable[XetAccess | None]] | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What goes to the store with each request, besides its own token: all but the Hub's."""
        return {n: value for n, value in self.refresh_headers.items() if n != "Authorization"}

    def failed(self, error: Exception) -> XetFailedError:
        """What hf_xet raised, less the secrets that its text may quote."""
        token = self.refresh_headers.get("Authorization", "").rpartition(" ")[2]
        text = f"{type(error).__name__}: {error}"
        return XetFailedError(redact_text(text, self.grant.token, token))
