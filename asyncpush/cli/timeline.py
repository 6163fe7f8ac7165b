"""`asyncpush timeline`: a file of events as a picture, or as a trace for Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from click import Context

from asyncpush.cli import arguments as arg
from asyncpush.cli.base import argument, command, option
from asyncpush.cli.output import Output, UsageError

if TYPE_CHECKING:
    from asyncpush.listeners.timeline.model import Timeline


@command(
    argument(
        "events",
        type=arg.A_PATH,
        metavar="EVENTS",
        help="A file that --events wrote.",
    ),
    option(
        "--output",
        "-o",
        "out",
        type=arg.A_PATH,
        required=True,
        metavar="FILE.svg",
        help="The picture to write (needs asyncpush[viz]), or FILE.json for a Perfetto trace.",
    ),
    option(
        "--push",
        metavar="ID",
        help="The push whose id starts with this (default: all pushes of the last run).",
    ),
    *arg.OUTPUT,
)
def timeline(
    context: Context, output: Output, /, *, events: Path, out: Path, push: str | None
) -> None:
    """Draw the timeline of a push. It shows when each step took place, from the file that --events
    wrote."""
    from asyncpush.listeners.format import format_count
    from asyncpush.listeners.timeline.recording import check_target, read_timeline, render
    from asyncpush.own_files import write_atomically

    try:
        check_target(out)
    except ValueError as error:
        raise UsageError(f"--output: {error}") from error
    try:
        read, others = read_timeline(events, push)
    except OSError as error:
        raise UsageError(f"cannot read {events}: {error.strerror}") from error
    write_atomically(out, render(read, out))
    if read.skipped:
        output.note(f"{format_count(read.skipped, 'line')} of {events} skipped: not events")
    if others and push is None:
        output.note(
            f"{events} has {format_count(others + 1, 'run')}; this draws the last one"
            " (--push ID draws another)"
        )
    output.result(_lines(read, out), _document(read, out, others))


def _lines(read: Timeline, out: Path) -> list[str]:
    from asyncpush.listeners.timeline.layout import bottleneck, facts, headline, verdict

    return [str(out), f"{headline(read)}; {facts(read)}", bottleneck(verdict(read), read)]


def _document(read: Timeline, out: Path, others: int) -> dict[str, Any]:
    from asyncpush.listeners.timeline.layout import verdict

    judged = verdict(read)
    return {
        "timeline_file": str(out),
        "pushes": [
            {"push_id": push.push_id, "repo_id": push.repo_id, "outcome": push.outcome}
            for push in read.pushes
        ],
        "other_runs": others,
        "lines_left_out": read.skipped,
        "seconds": round(read.seconds, 6),
        "files": len(read.files),
        "parts": read.parts,
        "failed_attempts": read.retries,
        "bytes_sent": round(read.bytes_sent),
        "seconds_spent_on": {what: round(took, 6) for what, took in judged.seconds},
    }
