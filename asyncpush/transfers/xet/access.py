"""Access to the Xet store: the Hub grants a token for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Any

from asyncpush.errors import HubError, MissingTokenError
from asyncpush.events import Emitter, TransferChosen
from asyncpush.lazy_dataclass import dataclass
from asyncpush.net.session import HubSession, user_agent
from asyncpush.protocol import urls, xet
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.protocol.xet import XetGrant
from asyncpush.redaction import redact_text
from asyncpush.transfers.xet.installation import XetFailedError


@dataclass(frozen=True, slots=True)
class XetAccess:
    """What an upload commit is opened with: the grant, and how hf_xet gets the next one.

    hf_xet asks with `refresh_headers`, which contain the Hub token of the time it was opened. If
    that token expires during the push, or the store refuses a Xet token before it has expired,
    `renew` gives access with another one; None when the Hub grants none.
    """

    grant: XetGrant
    refresh_url: str
    refresh_headers: Mapping[str, str] = field(repr=False)
    renew: Callable[[], Awaitable[XetAccess | None]] | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The headers for each request to the store: all except the Hub's authorization."""
        return {n: value for n, value in self.refresh_headers.items() if n != "Authorization"}

    @property
    def refresh_arguments(self) -> dict[str, Any]:
        """What tells hf_xet how to get the next token."""
        headers = dict(self.refresh_headers)
        return {"token_refresh_url": self.refresh_url, "token_refresh_headers": headers}

    def failed(self, error: Exception) -> XetFailedError:
        """The error for what hf_xet raised, without any secrets that its text may contain."""
        token = self.refresh_headers.get("Authorization", "").rpartition(" ")[2]
        text = f"{type(error).__name__}: {error}"
        return XetFailedError(redact_text(text, self.grant.token, token))


_REFUSALS = frozenset({401, 403, 404})
"""The status of the Hub's answer when it does not offer Xet for this repo, or not to this user."""


class XetTokens:
    """Asks the Hub for access to the Xet store, with `request`."""

    def __init__(self, session: HubSession, events: Emitter, request: HubRequest) -> None:
        self._session = session
        self._events = events
        self._request = request

    async def access(self) -> XetAccess:
        """Raises `HubError` when the Hub does not grant it."""
        session = self._session
        grant = await session.ask(
            self._request,
            self._checked,
            self._events,
            expected=lambda error: error.status in _REFUSALS,
        )
        headers = {"User-Agent": user_agent()}
        if (
            token := await session.token.find()
        ) is not None:  # public repos need no token to be read
            headers["Authorization"] = f"Bearer {token}"
        url = urls.resolve(self._request.target, session.endpoint)
        return XetAccess(grant, url, headers, self._renewed)

    async def _renewed(self) -> XetAccess | None:
        """Access with another Xet token; None when the Hub grants none.

        hf_xet asks for its next one with the Hub token it was opened with. The session has the
        current Hub token, and calls the user's callable for another one if the Hub refuses that
        too.
        """
        try:
            access = await self.access()
        except (HubError, MissingTokenError):
            return None
        self._events.emit(TransferChosen("xet", "the Hub grants another token for it", True))
        return access

    def _checked(self, response: HubResponse) -> XetGrant:
        """Check the address that chunks are sent to, as for parts. A folder on this machine
        (`local://`, which hf_xet also accepts) is allowed only when the Hub is on this machine."""
        grant = xet.parse_grant(response)
        endpoint = self._session.endpoint
        if grant.cas_url.startswith("local://") and urls.is_loopback(urls.origin(endpoint)[1]):
            return grant
        urls.check_target(grant.cas_url, endpoint, self._session.config.allowed_hosts or ())
        return grant
