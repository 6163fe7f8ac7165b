"""`asyncpush cache`: what is remembered between runs, and forgetting it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.output import Output, columns
from asyncpush.cli.plain import PlainCommand, PlainGroup

if TYPE_CHECKING:
    from asyncpush.journal import Entry, Journal, Stats

cache = typer.Typer(
    cls=PlainGroup,
    help="What pushes remember: uploads under way, hashes of files.",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
)


@cache.command("ls", cls=PlainCommand)
def list_entries(as_json: arg.Json = False) -> None:
    """List what can be resumed. Says also how much is remembered."""
    output = Output(as_json=as_json)
    with output.failures():
        with _journal() as journal:
            stats, entries = journal.stats(), journal.entries()
        document = asdict(stats) | {"entries": entries}
        output.result([*_stats_lines(stats), *_entry_lines(entries)], document)


@cache.command("clear", cls=PlainCommand)
def clear(as_json: arg.Json = False) -> None:
    """Forget everything. The next push hashes and sends everything anew."""
    output = Output(as_json=as_json)
    with output.failures():
        with _journal() as journal:
            forgotten = journal.clear()
            path = journal.stats().path
        entries = "1 entry" if forgotten == 1 else f"{forgotten:,} entries"
        output.result([f"{entries} forgotten: {path}"], {"forgotten": forgotten})


@contextmanager
def _journal() -> Iterator[Journal]:
    """The journal of pushes. One that cannot be used is a failure here, though not to a push."""
    from asyncpush.cli.failures import cache_advice
    from asyncpush.errors import AsyncPushError
    from asyncpush.journal import Journal
    from asyncpush.options import default_cache_dir

    with Journal.open(default_cache_dir()) as journal:
        if (reason := journal.disabled_reason) is not None:
            raise AsyncPushError(f"the journal cannot be used: {reason}", suggestion=cache_advice())
        yield journal


def _stats_lines(stats: Stats) -> list[str]:
    from asyncpush.listeners.format import format_bytes, format_count

    counts = (
        f"hashes of {format_count(stats.hashes, 'file')}",
        f"{format_count(stats.uploads, 'open upload')}, {format_count(stats.parts, 'stored part')}",
        format_count(stats.commits, "open commit"),
    )
    return [f"{stats.path} ({format_bytes(stats.size)})", ", ".join(counts)]


def _entry_lines(entries: list[Entry]) -> list[str]:
    from asyncpush.listeners.format import format_bytes, format_duration

    now = time.time()
    rows = [
        [
            entry.kind,
            entry.oid[:12],
            f"{entry.parts_stored}/{entry.parts_total} parts" if entry.parts_total else "",
            format_bytes(entry.size) if entry.size else "",
            f"for {format_duration(entry.expires_at - now)}",
            entry.scope,
        ]
        for entry in entries
    ]
    return columns(rows, right=[2, 3])
