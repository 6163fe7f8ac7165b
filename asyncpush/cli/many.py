"""`asyncpush many`: a manifest of pushes, one session, one summary."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.failures import (
    CommandFailedError,
    InterruptedBySignal,
    failure_document,
    failure_lines,
)
from asyncpush.cli.output import Output, columns, terminal_columns
from asyncpush.cli.results import format_seconds, result_document
from asyncpush.errors import MissingTokenError
from asyncpush.listeners.view import UNICODE, fit
from asyncpush.listeners.wording import format_bytes

_SHA = 10
_GO_ON = (
    "run the same command again with --continue: what is done is left out, what is stored is not"
    " sent twice"
)

if TYPE_CHECKING:
    from asyncpush.cli.manifest import Entry
    from asyncpush.cli.state import DoneFile
    from asyncpush.models import UploadResult
    from asyncpush.uploader import Uploader


def many(
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST",
            help="TOML ([[push]] tables with repo_id, source and options, [defaults] for all) or"
            " JSON lines. Paths are relative to it.",
            show_default=False,
        ),
    ],
    go_on: Annotated[
        bool,
        typer.Option(
            "--continue",
            help="Leave out what MANIFEST.state.jsonl says is done; without it all is pushed.",
        ),
    ] = False,
    transfer: arg.TransferOption = "auto",
    max_parts: arg.MaxParts = arg.DEFAULT_MAX_PARTS,
    endpoint: arg.Endpoint = None,
    token: arg.Token = None,
    events: arg.Events = None,
    as_json: arg.Json = False,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
) -> None:
    """Do all pushes of a manifest. Each goes to its end, whatever becomes of the others."""
    output = Output(as_json=as_json, verbose=verbose)
    with output.failures():
        from asyncpush.cli.manifest import read_manifest
        from asyncpush.cli.running import hub_endpoint, open_uploader, run
        from asyncpush.cli.state import DoneFile, fingerprint
        from asyncpush.events import PushFailed, PushFinished

        entries = read_manifest(manifest)
        where = hub_endpoint(endpoint)
        done = DoneFile(manifest)
        if not go_on:
            done.forget()
        before = done.read()
        pushes = [
            ManyPush(entry, mark, before.get(mark))
            for entry in entries
            for mark in [fingerprint(entry.written, where)]
        ]
        connection = arg.Connection(
            endpoint=endpoint,
            token=token,
            transfer=transfer,
            max_parts=max_parts,
            events=events,
            quiet=quiet,
        )
        started = time.monotonic()

        async def work() -> None:
            told = (PushFinished, PushFailed)
            async with open_uploader(connection, output, told=told) as uploader:
                await push_all(uploader, pushes, done)

        try:
            if any(push.waiting for push in pushes):
                run(work)
        except InterruptedBySignal as error:
            ended = sum(not push.waiting for push in pushes)
            error.suggestion = f"{ended} of {len(pushes)} pushes have ended; {_GO_ON}"
            raise
        _report(output, pushes, time.monotonic() - started)


@dataclass(slots=True)
class ManyPush:
    """One push of the manifest and what has become of it: done before, now, failed, or waiting."""

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
    """Each push that waits, many at once. What fails is kept; no token at all ends everything."""
    from asyncpush.uploader import PUSHES_AT_ONCE

    at_once = asyncio.Semaphore(PUSHES_AT_ONCE)

    async def one(push: ManyPush) -> None:
        this = push.entry.push
        async with at_once:
            try:
                result = await uploader.push_to_hub(this.repo_id, this.source, this.options)
            except MissingTokenError:
                raise
            except Exception as error:
                push.error = error
                return
            # Finished even if a signal comes now: the commit is there.
            await asyncio.shield(asyncio.to_thread(done.add, push.fingerprint, _row(result)))
            push.result = result

    try:
        async with asyncio.TaskGroup() as group:
            for push in pushes:
                if push.waiting:
                    group.create_task(one(push))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


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
    if not failed:
        output.result(lines, document)
        return
    error = CommandFailedError(
        f"{len(failed)} of {len(pushes)} pushes failed",
        problems=[_complaint(push) for push in failed],
        suggestion=_GO_ON,
    )
    output.negative(lines, document, error)
    raise typer.Exit(1)


def _complaint(push: ManyPush) -> str:
    assert push.error is not None
    said = failure_lines(push.error)
    advice = [line.removeprefix("next: ") for line in said if line.startswith("next: ")]
    return f"{push.repo_id}: {'; '.join([said[0], *advice])}"


def table(pushes: Sequence[ManyPush], width: int | None) -> list[str]:
    """Repo, files, bytes, seconds, and the commit or error, cut to the width if there is one."""
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
    deeds = [f"{len(results):,} of {len(pushes):,} pushed"]
    for count, what in (
        (sum(push.before is not None for push in pushes), "done before"),
        (sum(push.error is not None for push in pushes), "failed"),
    ):
        if count:
            deeds.append(f"{count:,} {what}")
    return f"{', '.join(deeds)}; {format_bytes(sent)} sent in {format_seconds(seconds)}"
