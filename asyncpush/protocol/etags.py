"""What an S3 store's ETag says of the bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MD5 = re.compile(r'"?([0-9a-fA-F]{32})"?')


def strong(etag: str) -> str:
    """The ETag without the mark of a weak one (RFC 9110, section 8.8.3), else as it is.

    >>> strong('W/"abc"')
    '"abc"'
    """
    return etag.strip().removeprefix("W/")


def md5_of_etag(etag: str, headers: Mapping[str, str]) -> str | None:
    """The MD5 that an ETag stands for, or None when it has another form.

    Plain and SSE-S3 stores answer a part's MD5; with KMS or customer keys it is something else
    (AWS documentation of PutObject, "ETag").
    """
    if headers.get("x-amz-server-side-encryption", "").startswith("aws:kms"):
        return None
    if "x-amz-server-side-encryption-customer-algorithm" in headers:
        return None
    match = _MD5.fullmatch(strong(etag))
    return match[1].lower() if match else None
