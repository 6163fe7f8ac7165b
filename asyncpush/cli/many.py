"""`asyncpush many`: run all pushes of a manifest, record those that are done, print a summary."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
from click import Context
from click.exceptions import Exit

from asyncpush.cli import arguments as arg
from asyncpush.cli.arguments import (
    Connection,
    append_line,
    check_records,
    hub_endpoint,
)
from asyncpush.cli.base import argument, command, option
from asyncpush.cli.manifest import Entry, read_manifest
from asyncpush.cli.output import (
    CommandFailedError,
    InterruptedBySignal,
    Output,
    columns,
    failure_document,
    failure_lines,
    terminal_columns,
)
from asyncpush.cli.push import open_uploader, result_document
from asyncpush.cli.running import run
from asyncpush.errors import MissingTokenError
from asyncpush.events import PushFailed, PushFinished
from asyncpush.lazy_dataclass import dataclass
from asyncpush.listeners.format import UNICODE, fit, format_bytes, format_seconds
from asyncpush.models import UploadResult
from asyncpush.net.credentials import has_token
from asyncpush.options import LOCAL
from asyncpush.own_files import Announcement, sync_folder
from asyncpush.uploader import PUSHES_AT_ONCE, Uploader


@command(
    argument(
        "manifest",
        type=arg.A_PATH,
        metavar="MANIFEST",
        help="TOML ([[push]] tables with repo_id, source and options, [defaults] for all) or"
        " JSON lines. Paths are relative to it.",
    ),
    option(
        "--continue",
        "go_on",
        is_flag=True,
        help="Skip pushes that MANIFEST.state.jsonl lists as done (default: push all).",
    ),
    arg.strict,
    *arg.ENGINE,
    arg.endpoint,
    arg.token,
    *arg.RECORDS,
    *arg.OUTPUT,
)
def many(
    context: Context,
    output: Output,
    /,
    *,
    manifest: Path,
    go_on: bool,
    strict: bool,
    **_: object,
) -> None:
    """Run all pushes of a manifest. A push that fails does not stop the others."""
    connection = arg.connection(context, quiet=output.quiet)
    push_manifest(output, manifest, connection, go_on=go_on, strict=strict)


_SHA = 10
_CONTINUE_HINT = (
    "run the same command again with --continue: pushes that are done are skipped, and bytes"
    " already stored are not sent again"
)


def push_manifest(
    output: Output, manifest: Path, connection: Connection, *, go_on: bool, strict: bool = False
) -> None:
    """Check the manifest, run the pushes that are not done, print the summary. `strict` applies
    to every push."""
    where = hub_endpoint(connection.endpoint)
    entries = read_manifest(manifest, where)
    if strict:
        entries = [entry.strict() for entry in entries]
    check_records(connection)
    if connection.token is None and where != LOCAL and not has_token():
        raise MissingTokenError  # once, rather than for each
    done = DoneFile(manifest)
    before = done.read() if go_on else {}
    done.open(anew=not go_on)
    marks = [fingerprint(entry.written, where) for entry in entries]
    pushes = [
        ManyPush(entry, mark, before.get(mark)) for entry, mark in zip(entries, marks, strict=True)
    ]
    started = time.monotonic()

    async def work() -> None:
        printed = (PushFinished, PushFailed)
        async with open_uploader(connection, output, printed=printed) as uploader:
            await push_all(uploader, pushes, done)

    try:
        if any(push.waiting for push in pushes):
            with Announcement(done.path, "where this command records the pushes that are done"):
                run(work)
    except InterruptedBySignal as error:
        ended = sum(not push.waiting for push in pushes)
        suggestion = f"{ended} of {len(pushes)} pushes have ended; {_CONTINUE_HINT}"
        raise error.with_(suggestion=suggestion) from error.__cause__
    finally:
        if done.write_error is not None:
            output.file_not_written("state", f"{done.path} is not complete: {done.write_error}")
    _report(output, pushes, time.monotonic() - started)


@dataclass(slots=True)
class ManyPush:
    """One push of the manifest and its outcome: done before, done now, failed, or waiting."""

    entry: Entry
    fingerprint: str
    before: dict[str, Any] | None
    result: UploadResult | None = None
    error: Exception | None = None

    @property
    def repo_id(self) -> str:
        return self.entry.push.repo_id

    @property
    def waiting(self) -> bool:
        return not (self.before or self.result or self.error)

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {"repo_id": self.repo_id, "status": self._status()}
        if self.before is not None:
            document["commit_sha"] = self.before.get("commit_sha")
        if self.result is not None:
            document |= result_document(self.result)
        if self.error is not None:
            document["error"] = failure_document(self.error)
        return document

    def _status(self) -> str:
        if self.before is not None:
            return "done before"
        return "done" if self.result is not None else "failed"


async def push_all(uploader: Uploader, pushes: Sequence[ManyPush], done: DoneFile) -> None:
    """Run the pushes that wait, several at a time. A failure is stored in its push."""
    at_once = asyncio.Semaphore(PUSHES_AT_ONCE)

    async def one(push: ManyPush) -> None:
        this = push.entry.push
        async with at_once:
            try:
                result = await uploader.push_to_hub(this.repo_id, this.source, this.options)
            except Exception as error:
                push.error = error
                return
            push.result = result
            # Shielded from signals: the commit is made, so it must be recorded.
            await asyncio.shield(asyncio.to_thread(done.add, push.fingerprint, _row(result)))

    async with anyio.create_task_group() as group:
        for push in pushes:
            if push.waiting:
                group.start_soon(one, push)


def _row(result: UploadResult) -> dict[str, Any]:
    return {
        "repo_url": result.repo_url,
        "commit_sha": result.commit_sha,
        "files": len(result.files_uploaded),
        "bytes": result.bytes_transferred,
        "seconds": round(result.elapsed_seconds, 3),
    }


def _report(output: Output, pushes: Sequence[ManyPush], seconds: float) -> None:
    document = {
        "pushes": [push.document() for push in pushes],
        "elapsed_seconds": round(seconds, 3),
    }
    lines = [*table(pushes, terminal_columns(sys.stdout)), _total(pushes, seconds)]
    failed = [push for push in pushes if push.error is not None]
    for push in failed:
        assert push.error is not None
        output.trace(push.error)
    if not failed:
        output.result(lines, document)
        return
    error = CommandFailedError(
        f"{len(failed)} of {len(pushes)} pushes failed",
        problems=[_problem_of(push) for push in failed],
        suggestion=_CONTINUE_HINT,
    )
    output.negative(lines, document, error)
    raise Exit(1)


def _problem_of(push: ManyPush) -> str:
    assert push.error is not None
    headline, *more = (line.strip() for line in failure_lines(push.error))
    problems = [line[2:] for line in more if line.startswith("- ")]
    advice = [line.removeprefix("next: ") for line in more if line.startswith("next: ")]
    return f"{push.repo_id}: {'; '.join([headline, *problems, *advice])}"


def table(pushes: Sequence[ManyPush], width: int | None) -> list[str]:
    """Repo, files, bytes, seconds, and the commit or error; cut to the width if there is one."""
    rows = [["repo", "files", "bytes", "time", "commit or error"]]
    rows += [_cells(push) for push in pushes]
    lines = columns(rows, right=[1, 2, 3])
    if width is None:
        return lines
    if len(lines[0]) > width:  # too narrow for a table: the repo on a line of its own
        rest = columns([["", *row[1:]] for row in rows], right=[1, 2, 3])
        lines = [line for row, more in zip(rows, rest, strict=True) for line in (row[0], more)]
    return [fit(line, width, UNICODE) for line in lines]


def _cells(push: ManyPush) -> list[str]:
    if push.error is not None:
        return [push.repo_id, "", "", "", failure_lines(push.error)[0]]
    if push.result is not None:
        row, note = _row(push.result), ""
    else:
        row, note = push.before or {}, " (before)"
    files, size, seconds = (float(row.get(name) or 0) for name in ("files", "bytes", "seconds"))
    commit = str(row.get("commit_sha"))[:_SHA] + note
    return [push.repo_id, f"{files:,.0f}", format_bytes(size), format_seconds(seconds), commit]


def _total(pushes: Sequence[ManyPush], seconds: float) -> str:
    results = [push.result for push in pushes if push.result is not None]
    sent = sum(result.bytes_transferred for result in results)
    counts = [f"{len(results):,} of {len(pushes):,} pushed"]
    for count, what in (
        (sum(push.before is not None for push in pushes), "done before"),
        (sum(push.error is not None for push in pushes), "failed"),
    ):
        if count:
            counts.append(f"{count:,} {what}")
    return f"{', '.join(counts)}; {format_bytes(sent)} sent in {format_seconds(seconds)}"


class DoneFile:
    """`MANIFEST.state.jsonl`: a row for each push that is done, with the fingerprint of its entry.

    The fingerprint covers the entry and the Hub, not the files: an entry whose source has changed
    since then still counts as done, until the manifest is run without `--continue`.
    """

    def __init__(self, manifest: Path) -> None:
        self.path = manifest.with_name(f"{manifest.name}.state.jsonl")
        self.write_error: OSError | None = None
        """Why a push that is done could not be recorded."""

    def read(self) -> dict[str, dict[str, Any]]:
        """The rows by fingerprint. A line that was cut off does not count."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        rows = {}
        for line in lines:
            try:
                row = json.loads(line)
                rows[str(row["fingerprint"])] = row
            except (ValueError, TypeError, KeyError):
                continue
        return rows

    def open(self, *, anew: bool) -> None:
        """Check that the file can be written, before anything starts; `anew` empties it."""
        with open(self.path, "wb" if anew else "ab"):
            sync_folder(self.path.parent)

    def add(self, fingerprint: str, row: Mapping[str, Any]) -> None:
        """Record one push as done. Blocks until the row is on the disk, safe from a power cut.

        If that fails (a full disk) the pushes continue, and `write_error` has the error.
        """
        row = {"fingerprint": fingerprint, "time": time.time(), **row}
        try:
            append_line(self.path, json.dumps(row).encode() + b"\n")
        except OSError as error:
            self.write_error = error


def fingerprint(written: Mapping[str, Any], endpoint: str) -> str:
    """A hash of an entry and of the Hub that it is for.

    >>> fingerprint({"repo_id": "me/a", "source": "a"}, "local")[:8]
    '08e25d20'
    """
    said = json.dumps([endpoint, written], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()
