"""Xet tokens: what they allow and until when stands in them, signed."""

from __future__ import annotations

import base64
import binascii
from typing import Literal
from urllib.parse import parse_qsl

from asyncpush.localhub.blobs import BlobError
from asyncpush.localhub.blobs.signing import Signer
from asyncpush.localhub.errors import Refusal

Scope = Literal["read", "write"]

LIFETIME = 3600
"""Seconds for which a token is good; the Hub's own last about as long."""


def new_token(signer: Signer, scope: Scope, *, lifetime: int) -> str:
    """A token for everything in the store: chunks are shared by all repos."""
    signed = signer.sign("XET", scope, {}, lifetime=lifetime)
    return base64.urlsafe_b64encode(signed.encode()).decode()


def check_token(signer: Signer, header: str | None, scope: Scope) -> None:
    """Raise a `Refusal` 401 unless this Authorization header allows `scope`; a token to write
    allows reading."""
    kind, _, token = (header or "").partition(" ")
    try:
        given, _, query = base64.urlsafe_b64decode(token.encode()).decode().partition("?")
        if kind.lower() != "bearer" or given not in (scope, "write"):
            raise Refusal(401, "This needs a Xet token to " + scope)
        signer.check("XET", given, parse_qsl(query))
    except (BlobError, binascii.Error, UnicodeError):
        raise Refusal(401, "The Xet token is not ours, or has expired") from None
