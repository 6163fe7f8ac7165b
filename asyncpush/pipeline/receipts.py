"""Receipts that travel from the machine that stored the files to the one that commits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace

from asyncpush.errors import SourceError
from asyncpush.models import FileSource, Receipt
from asyncpush.sources import check_path_in_repo, read_all
from asyncpush.threads import each_in_thread
from asyncpush.transfers.inline import git_blob_oid

INLINE_RECEIPT_LIMIT = 10 << 20
"""Bytes of one regular file that a receipt may carry."""

INLINE_RECEIPTS_LIMIT = 256 << 20
"""Bytes that the receipts of one call may carry together."""


async def packed(
    receipts: Sequence[Receipt], files: Mapping[str, FileSource], threads: Executor
) -> list[Receipt]:
    """The receipts, those of inline files with their bytes. Raises `SourceError` for too many."""
    _check_inline_sizes(receipts)

    def pack(receipt: Receipt) -> Receipt:
        if receipt.route != "inline":
            return receipt
        return replace(receipt, content=read_all(files[receipt.path_in_repo]))

    return await each_in_thread(threads, receipts, pack)


def _check_inline_sizes(receipts: Sequence[Receipt]) -> None:
    inline = [receipt for receipt in receipts if receipt.route == "inline"]
    problems = [
        f"{receipt.path_in_repo!r}: {receipt.size:,} bytes"
        for receipt in inline
        if receipt.size > INLINE_RECEIPT_LIMIT
    ]
    total = sum(receipt.size for receipt in inline)
    if not problems and total > INLINE_RECEIPTS_LIMIT:
        problems = [f"{len(inline)} regular files of {total:,} bytes in all"]
    if problems:
        raise SourceError(
            f"too large to travel in receipts: {'; '.join(problems[:20])}",
            problems=problems,
            suggestion="add the pattern to the repo's .gitattributes so that they go through LFS,"
            " or use push_to_hub",
        )


def check_receipts(receipts: Sequence[Receipt]) -> None:
    """Receipts come from other machines: nothing in them is taken for granted."""
    problems = []
    seen: set[str] = set()
    for receipt in receipts:
        path = receipt.path_in_repo
        if (problem := check_path_in_repo(path)) is not None:
            problems.append(f"{path!r}: {problem}")
        if path in seen:
            problems.append(f"{path!r}: two receipts for one path")
        seen.add(path)
        if receipt.route == "inline":
            if receipt.content is None:
                problems.append(f"{path!r}: the receipt of an inline file must carry its bytes")
            elif git_blob_oid(receipt.content) != receipt.oid:
                problems.append(f"{path!r}: content and oid do not fit")
    if not receipts:
        problems.append("no receipts were given")
    if problems:
        raise SourceError(
            f"{len(problems)} problem(s) with the receipts: {'; '.join(problems[:20])}",
            problems=problems,
            suggestion="use the receipts that upload_files returned, each path once",
        )
