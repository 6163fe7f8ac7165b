"""`asyncpush cache`: show or clear the resume journal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from asyncpush.cli import arguments as arg
from asyncpush.cli.base import HELP_OPTIONS, Group, command
from asyncpush.cli.output import Output, columns, paragraph

if TYPE_CHECKING:
    from asyncpush.journal import Entry, Journal, Stats


@click.group("cache", cls=Group, no_args_is_help=True, context_settings=HELP_OPTIONS)
def cache() -> None:
    """Show or clear the resume journal. It holds unfinished uploads, which the next push resumes,
    and the hashes of files, which it does not compute again."""


@command(*arg.OUTPUT, name="ls")
def list_entries(context: click.Context, output: Output, /) -> None:
    """List the uploads that can be resumed, and count the other entries."""
    with _journal() as journal:
        stats, entries = journal.stats(), journal.entries()
    document = asdict(stats) | {"entries": entries}
    output.result([*_stats_lines(stats), *_entry_lines(entries)], document)


@command(*arg.OUTPUT)
def clear(context: click.Context, output: Output, /) -> None:
    """Remove all entries. The next push hashes and sends every file again."""
    with _journal() as journal:
        forgotten = journal.clear()
        path = journal.stats().path
    entries = "1 entry" if forgotten == 1 else f"{forgotten:,} entries"
    output.result([f"{entries} removed from {path}"], {"forgotten": forgotten})


cache.add_command(list_entries)
cache.add_command(clear)


@contextmanager
def _journal() -> Iterator[Journal]:
    """The journal. If it cannot be used, that is an error here (a push would only warn)."""
    from asyncpush.cli.output import cache_advice
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
    return [f"{stats.path} ({format_bytes(stats.size)})", *paragraph(", ".join(counts), sys.stdout)]


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
