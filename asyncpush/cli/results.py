"""What came of a push or a commit, as lines and as JSON."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from asyncpush.cli.output import columns, paragraph
from asyncpush.listeners.wording import format_bytes, format_count, format_rate, format_seconds

if TYPE_CHECKING:
    from asyncpush.models import UploadResult

_WORTH_A_RATE = 1_000_000
_SENT = ("inline", "lfs", "xet")


def result_document(result: UploadResult) -> dict[str, Any]:
    """Every field of the result, under its own name; its activity is for pictures."""
    names = [field.name for field in fields(result) if field.name != "activity"]
    document = {name: getattr(result, name) for name in names}
    return document | {"receipts": [receipt.to_json() for receipt in result.receipts]}


def result_lines(result: UploadResult, *, dry_run: bool = False) -> list[str]:
    """Where it is, then what was done."""
    if dry_run:
        return _plan_lines(result)
    where = result.pr_url or result.commit_url
    return [where, *paragraph(", ".join(_deeds(result)), sys.stdout)]


def _deeds(result: UploadResult) -> list[str]:
    deeds = []
    if result.files_uploaded:
        deeds.append(f"{format_count(len(result.files_uploaded), 'file')} committed")
        deeds.append(f"{format_bytes(result.bytes_transferred)} sent{_pace(result)}")
    elif result.files_ignored and not (result.files_unchanged or result.files_deleted):
        deeds.append("nothing was pushed")
    elif not result.files_deleted:
        deeds.append("nothing new, no commit was needed")
    for paths, what in (
        (result.files_unchanged, "unchanged"),
        (result.files_deleted, "deleted"),
        (result.files_ignored, "ignored by the Hub"),
    ):
        if paths:
            deeds.append(f"{len(paths):,} {what}")
    deeds.append("verified" if result.verified else "not verified")
    return deeds


def _pace(result: UploadResult) -> str:
    seconds, sent = max(result.elapsed_seconds, 1e-6), result.bytes_transferred
    # The rate of a few bytes would only tell of latency.
    rate = f" ({format_rate(sent / seconds)})" if sent >= _WORTH_A_RATE else ""
    return f" in {format_seconds(seconds)}{rate}"


def _plan_lines(result: UploadResult) -> list[str]:
    to_send = [file for file in result.plan if file.action in _SENT]
    rows = [
        [file.action, "" if file.action == "delete" else format_bytes(file.size), file.path_in_repo]
        for file in result.plan
    ]
    size = format_bytes(sum(file.size for file in to_send))
    return [
        f"{result.repo_url}: dry run, nothing was changed",
        *columns(rows, right=[1]),
        f"{format_count(len(to_send), 'file')} to send, {size}",
    ]
