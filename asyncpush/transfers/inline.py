"""Small files are sent within the commit, so that only their git blob hash is needed beforehand."""

from __future__ import annotations

import hashlib

from asyncpush.errors import SourceChangedError
from asyncpush.models import Receipt


def git_blob_oid(content: bytes) -> str:
    """The sha1 by which git identifies these bytes: that of `blob <size>\0` followed by the
    content.

    >>> git_blob_oid(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def checked_content(path_in_repo: str, oid: str, content: bytes) -> bytes:
    """The content of a file that was hashed before. Raises `SourceChangedError` unless it has this
    git blob hash."""
    if git_blob_oid(content) != oid:
        raise SourceChangedError(
            f"{path_in_repo!r} changed after it was hashed; nothing was committed",
            problems=[f"{path_in_repo}: content changed"],
            suggestion="try again once nothing writes to it any more",
        )
    return content


def inline_receipt(path_in_repo: str, size: int, oid: str, *, there: str | None) -> Receipt:
    """A receipt without the bytes: for the commit they are read again and checked. `there` is the
    oid of what the repo has at this path."""
    same = there == oid
    kept = size if same else 0
    return Receipt(path_in_repo, size, oid, "inline", unchanged=same, bytes_deduplicated=kept)
