"""Whether the ETag of a part may stand for the bytes that were sent."""

from __future__ import annotations

from asyncpush.errors import HubError
from asyncpush.models import Part
from asyncpush.net.puts import SentPart
from asyncpush.protocol.etags import strong

BAD_ETAG = "BadETag"
"""The error's code: the part is sent again, until it has been too often."""


def checked_etag(sent: SentPart, part: Part, attempt: int) -> str:
    """The ETag, if it may stand for the bytes sent: it must be there, and where it has the form
    of an MD5 it must be theirs. Other forms are the store's own; completion and verify decide.

    A weak one (`W/"…"`) comes back strong: it is proxies that weaken ETags on the way, and a store
    completes an upload with those alone that it gave. Raises `HubError`."""
    etag = strong(sent.etag or "")
    if not etag or not etag.strip('" '):
        raise _bad_etag(f"part {part.number} was answered without an ETag", attempt)
    stored = sent.stored_md5
    if sent.md5 is not None and stored is not None and stored != sent.md5:
        raise _bad_etag(
            f"ETag {stored} of part {part.number} is not the MD5 of the bytes sent, {sent.md5}",
            attempt,
        )
    return etag


def _bad_etag(message: str, attempt: int) -> HubError:
    return HubError(message, status=200, retryable=True, error_code=BAD_ETAG, attempt=attempt)
