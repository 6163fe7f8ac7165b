"""Receipts from hf_xet's report of a finished upload commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncpush.errors import SourceChangedError
from asyncpush.models import FileSource, Receipt


def receipts_of(
    handles: Sequence[tuple[FileSource, Any]], report: Any, sent_before: int
) -> list[Receipt]:
    """One receipt a file. The bytes that the commit has sent, and those `sent_before` it, are
    shared out among the files by how much of each was new: xorbs hold chunks of several."""
    uploads = report.uploads
    results = [(file, uploads[handle.task_id()]) for file, handle in handles]
    news = [result.dedup_metrics.new_bytes for _, result in results]
    on_wire = shares(sent_before + report.dedup_metrics.total_bytes_uploaded, news)
    return [
        _receipt(file, result, sent) for (file, result), sent in zip(results, on_wire, strict=True)
    ]


def _receipt(file: FileSource, result: Any, sent: int) -> Receipt:
    info = result.xet_info
    if info.file_size != file.size:
        message = f"{file.path_in_repo!r} has {info.file_size:,} bytes, not {file.size:,}"
        raise SourceChangedError(f"{message}: it changed while it was sent", problems=[message])
    return Receipt(
        file.path_in_repo,
        file.size,
        info.sha256,
        "xet",
        xet_hash=info.hash,
        bytes_sent=sent,
        bytes_deduplicated=result.dedup_metrics.deduped_bytes,
    )


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole shares by weight; they add up to it.

    >>> shares(10, [1, 2, 0])
    [3, 7, 0]
    """
    found, weight_left = [], sum(weights)
    if not weight_left:  # all was there already, but its description was sent
        weights, weight_left = [1, *weights][: len(weights)], 1
    for weight in weights:
        share = total * weight // weight_left if weight_left else 0
        found.append(share)
        total, weight_left = total - share, weight_left - weight
    return found
