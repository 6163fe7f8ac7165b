"""What a command prints: its result on stdout, everything else on stderr. A failure is shown by the
exit code, in lines of text, and with `--json` as an object."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from asyncpush.errors import (
    AsyncPushError,
    AuthError,
    CommitConflictError,
    HubError,
    InvalidRepoIdError,
    MissingTokenError,
    SourceError,
    SyncError,
    VerificationError,
)
from asyncpush.lazy_dataclass import dataclass

FAILED, USAGE, NOT_AUTHORISED, CONFLICT, UNWRITTEN = 1, 2, 3, 4, 5

MADE_HINT = "nothing needs to be sent again; `asyncpush audit` compares the files with the repo"
RESUME_HINT = "run the same command again to resume: bytes already stored are not sent again"

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

_LISTED = 20
"""Problems listed as lines of text; the rest are counted. JSON lists them all."""


class CommandError(AsyncPushError):
    """A failure of the command itself, not of the library; `problems` are its details."""

    def __init__(self, message: str, *, problems: Sequence[str] = (), suggestion: str = "") -> None:
        super().__init__(message, suggestion=suggestion)
        self.problems = tuple(problems)


class UsageError(CommandError):
    """A bad argument, option or manifest; nothing was started."""


class CommandFailedError(CommandError):
    """The command has run and printed its report, and the outcome is negative."""


class InterruptedBySignal(CommandError):
    """Ctrl-C or SIGTERM; all work has been cancelled and cleaned up."""

    def __init__(
        self, signum: int = signal.SIGINT, notes: Sequence[str] = (), untouched: str = ""
    ) -> None:
        """`notes` are those of the cancellation, such as that the commit was already made;
        `untouched` says what was not done, where there are none."""
        message = f"interrupted by {signal.Signals(signum).name}"
        parts = [message, *(notes or filter(None, [untouched]))]
        suggestion = MADE_HINT if _tell_of_commit(notes) else RESUME_HINT
        super().__init__("; ".join(parts), suggestion=suggestion)
        self.signum = signum
        self.at_once = False
        """Whether a second signal came: then nothing is waited for."""


def _tell_of_commit(notes: Sequence[str]) -> bool:
    """Whether one of the notes says that the commit was made."""
    if not notes:
        return False  # maybe nothing was imported yet
    from asyncpush.listeners.observation import MADE, UNCONFIRMED  # a push has imported it

    return any(note.startswith(MADE) and note != UNCONFIRMED for note in notes)


def exit_code(error: BaseException) -> int:
    match error:
        case InterruptedBySignal():
            return 128 + error.signum
        case UsageError() | InvalidRepoIdError():
            return USAGE
        case MissingTokenError() | AuthError():
            return NOT_AUTHORISED
        case CommitConflictError():
            return CONFLICT
        case _:
            return FAILED


def failure_document(error: BaseException) -> dict[str, Any]:
    """`error` of the JSON object: the same keys for every failure, null where there is nothing."""
    known = isinstance(error, HubError)
    return {
        "type": _kind(error),
        "message": _message(error),
        "suggestion": _suggestion(error),
        "problems": list(_problems(error)),
        "exit_code": exit_code(error),
        "commit_sha": error.commit_sha if isinstance(error, VerificationError) else None,
        "commit_url": error.commit_url if isinstance(error, VerificationError) else None,
        **{name: getattr(error, name) if known else None for name in _HUB_FIELDS},
    }


_HUB_FIELDS = (
    *("status", "method", "url", "request_id", "error_code", "attempt", "elapsed_seconds"),
    *("body", "headers"),
)


def failure_lines(error: BaseException) -> list[str]:
    """The message, then everything else that is known, one item per line."""
    message = _message(error)
    if not isinstance(error, CommandError):
        message = (
            f"{_kind(error)}: {message}"  # the messages of the others need no name before them
        )
    lines = message.splitlines()
    if isinstance(error, HubError) and (error.status is not None or error.method):
        status = "no answer" if error.status is None else f"HTTP {error.status}"
        after = f"attempt {error.attempt}, after {error.elapsed_seconds:.1f} s"
        lines.append(f"request: {error.method} {error.url}".rstrip() + f" ({status}, {after})")
        if error.request_id:
            lines.append(f"request id: {error.request_id}")
        if error.body:
            lines.append(f"answer: {' '.join(error.body.split())}")
    problems = _problems(error)
    if not any(problem in message for problem in problems):  # most messages list them already
        lines += [f"- {problem}" for problem in problems[:_LISTED]]
        if len(problems) > _LISTED:
            lines.append(f"- and {len(problems) - _LISTED} more")
    if suggestion := _suggestion(error):
        lines.append(f"next: {suggestion}")
    lines += getattr(error, "__notes__", [])
    return lines


def _kind(error: BaseException) -> str:
    match error:
        case InterruptedBySignal():
            return "Interrupted"
        case CommandFailedError():
            return "CommandFailed"
        case _:
            return type(error).__name__


def _message(error: BaseException) -> str:
    match error:
        case AsyncPushError():
            return error.message
        case OSError() if error.strerror:
            named = [str(name) for name in (error.filename, error.filename2) if name is not None]
            return f"{error.strerror}: {' and '.join(named)}" if named else error.strerror
        case TimeoutError():
            return str(error) or "the timeout was exceeded"
        case _:
            return str(error) or "no further explanation"


def _suggestion(error: BaseException) -> str:
    match error:
        case AsyncPushError():
            return error.suggestion
        case OSError() if is_disk_full(error):
            return "free some disk space or use another folder, then run the command again"
        case OSError() if error.errno == errno.EADDRINUSE:
            return (
                "another program uses this port: choose another --port, or omit it for a free one"
            )
        case OSError() if _lies_in_the_cache(error.filename):
            return cache_advice()
        case ImportError() | OSError() | TimeoutError():
            return ""  # their message is enough
        case _:
            return "this looks like a bug in asyncpush: report it with the output of --verbose"


def cache_advice() -> str:
    from asyncpush.options import default_cache_dir

    return (
        f"make the cache directory {default_cache_dir()} writable, or set ASYNCPUSH_CACHE to"
        " another folder"
    )


def _lies_in_the_cache(path: object) -> bool:
    """Whether the path is the cache directory, inside it, or a missing folder above it."""
    from asyncpush.options import default_cache_dir

    if not isinstance(path, str) or not path:
        return False
    cache, named = default_cache_dir(), Path(path)
    return named.is_relative_to(cache) or cache.is_relative_to(named)


def _problems(error: BaseException) -> Sequence[str]:
    if isinstance(error, SourceError | SyncError | VerificationError | CommandError):
        return error.problems
    return ()


_RED = "\x1b[31m"
_BOLD_RED = "\x1b[1;31m"
_PLAIN = "\x1b[0m"
_NARROWEST = 30
_PLACES = ("pr_url", "commit_url", "bucket_url", "receipts_file", "timeline_file", "url")
"""The keys of a result that say where it is."""

_SIGPIPE = getattr(signal, "SIGPIPE", 13)


def end_at_once(code: int) -> NoReturn:
    """End the process without waiting for its threads."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


@dataclass(frozen=True, slots=True)
class Output:
    """How one command prints.

    With `as_json` stdout gets exactly one JSON object, whatever happens; `verbose` adds tracebacks
    to failures; `quiet` leaves out notes. `unwritten` has what could not be written although the
    work was done.
    """

    as_json: bool = False
    verbose: bool = False
    quiet: bool = False
    unwritten: list[str] = field(default_factory=list, init=False)

    def result(
        self,
        lines: Sequence[str],
        document: Mapping[str, Any],
        *,
        done: str = "the command succeeded",
    ) -> None:
        """Print the result: lines of text, or the document as JSON. `done` says what is true even
        if it cannot be printed.

        The work is done. If stdout cannot be written to (a full disk), stderr says so and what was
        done, and the command ends with exit code 5. A reader that has closed a pipe has seen
        enough; only with JSON, where it needs the whole object, this ends the program with exit
        code 141.
        """
        try:
            if self.as_json:
                problem = self._json({"ok": True, **document})
            else:
                problem = self._print(map(_clean, lines))
        except KeyboardInterrupt:
            self._warn_of_result(done, "printing the result was interrupted", document)
            raise click.exceptions.Exit(128 + signal.SIGINT) from None
        if problem is None:
            return
        if not isinstance(problem, BrokenPipeError):
            self._warn_of_result(done, _unwritten(problem), document)
            self.unwritten.append("the result")
        elif self.as_json:
            raise click.exceptions.Exit(128 + _SIGPIPE)

    def _warn_of_result(self, done: str, problem: str, document: Mapping[str, Any]) -> None:
        where = next((f" ({document[key]})" for key in _PLACES if document.get(key)), "")
        self.warn(f"warning: {done}{where}, but {problem}")

    def file_not_written(self, what: str, problem: str) -> None:
        """A file that the user asked for is missing or not complete, and the work continues or is
        done. Warns, and makes the exit code 5 unless the command fails."""
        self.warn(f"warning: {problem}")
        self.unwritten.append(what)

    def negative(
        self,
        lines: Sequence[str],
        document: Mapping[str, Any],
        why: Exception,
        *,
        code: int | None = None,
    ) -> None:
        """Print a result that is also a failure: in full on stdout, in short on stderr. `code` is
        the exit code, if it is not the one of `why`."""
        if self.as_json:
            error = failure_document(why)
            if code is not None:
                error["exit_code"] = code
            problem = self._json({"ok": False, "error": error, **document})
        else:
            problem = self._print(map(_clean, lines))
        self._warn_unless_closed(problem)
        _print_error(lambda stream: _block(failure_lines(why), stream))

    def note(self, *lines: str) -> None:
        """Something to know that is not the result. Not printed with `quiet`."""
        if not self.quiet:
            self.warn(*lines)

    def warn(self, *lines: str) -> None:
        """Something that went wrong without stopping the command. Printed always."""
        _print_error(lambda stream: map(_clean, lines))

    def failure(self, error: BaseException) -> None:
        """Print a failure as a red block on stderr, after its traceback with `verbose`."""
        if self.as_json:
            self._warn_unless_closed(self._json({"ok": False, "error": failure_document(error)}))
        if not isinstance(error, InterruptedBySignal):
            self.trace(error)
        _print_error(lambda stream: _block(failure_lines(error), stream))

    def trace(self, error: BaseException) -> None:
        """Print the traceback, with `verbose`."""
        if self.verbose:
            text = "".join(traceback.format_exception(error))
            _print_error(lambda stream: map(_clean, text.splitlines()))

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Print whatever is raised inside, and end the program with its exit code."""
        try:
            yield
            if self.unwritten:
                raise click.exceptions.Exit(UNWRITTEN)
        except (
            click.exceptions.Exit,
            BrokenPipeError,
        ):  # click ends the program quietly
            raise
        except KeyboardInterrupt:
            self._leave(InterruptedBySignal())
        except Exception as error:
            self._leave(error)

    def _leave(self, error: BaseException) -> NoReturn:
        self.failure(error)
        if isinstance(error, InterruptedBySignal) and error.at_once:
            # Cleanup that was interrupted may leave threads behind for which Python waits.
            end_at_once(exit_code(error))
        raise click.exceptions.Exit(exit_code(error)) from error

    def _json(self, document: Mapping[str, Any]) -> Exception | None:
        # ASCII: no locale, pipe or undecodable file name can break it.
        if sys.stdout is None:
            return OSError(errno.EBADF, "it is closed")
        return self._print([json.dumps(document, default=asdict)])

    def _print(self, lines: Iterable[str]) -> Exception | None:
        """Print to stdout. Returns why that failed: `BrokenPipeError` if its reader has closed the
        pipe."""
        if sys.stdout is None:  # closed before the program started
            return None
        try:
            _write(sys.stdout, lines)
        except (OSError, ValueError) as error:
            _abandon(sys.stdout)
            return error
        except KeyboardInterrupt:  # nobody reads, and the next line would wait again
            _abandon(sys.stdout)
            raise
        return None

    def _warn_unless_closed(self, problem: Exception | None) -> None:
        if problem is not None and not isinstance(problem, BrokenPipeError):
            self.warn(f"warning: {_unwritten(problem)}")


def _unwritten(problem: Exception) -> str:
    reason = (isinstance(problem, OSError) and problem.strerror) or str(problem)
    return f"the result could not be written to stdout: {reason}"


def is_disk_full(error: OSError) -> bool:
    return error.errno in _DISK_FULL


def text_not_written(error: OSError) -> int:
    """Report that a help text could not be written, and return the exit code."""
    _abandon(sys.stdout)
    Output().warn(_unwritten(error).replace("result", "text", 1))
    return UNWRITTEN


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Rows as aligned columns; the columns numbered in `right` are aligned to the right.

    >>> columns([["a", "1"], ["bcd", "22"]])
    ['a    1', 'bcd  22']
    """
    from asyncpush.listeners.format import text_width

    if not rows:
        return []
    widths = [max(text_width(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            " " * (width - text_width(cell)) + cell
            if at in right
            else cell + " " * (width - text_width(cell))
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def terminal_columns(stream: TextIO | None) -> int | None:
    """The width of a terminal; None for a file or pipe, where lines are not cut."""
    if stream is None or stream.closed or not stream.isatty():
        return None
    return max(_NARROWEST, shutil.get_terminal_size().columns - 1)


def beside(indent: int, text: str, width: int | None) -> list[str]:
    """Text as lines behind an indent, wrapped where there is a width."""
    if width is None:
        return [" " * indent + text]
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def facts(rows: Mapping[str, str | Sequence[str]], width: int | None) -> list[str]:
    """Names and what there is to say about each, in two columns: a line for each text of several,
    wrapped where there is a width.

    >>> facts({"repo": "me/model", "files": ["3", "1 unchanged"]}, None)
    ['repo   me/model', 'files  3', '       1 unchanged']
    """
    indent = max(map(len, rows), default=0) + 2
    lines = []
    for name, texts in rows.items():
        texts = [texts] if isinstance(texts, str) else texts
        first, *more = [line for text in texts for line in beside(indent, text, width)]
        lines += [name.ljust(indent) + first.lstrip(), *more]
    return lines


def paragraph(text: str, stream: TextIO | None) -> list[str]:
    """Prose, wrapped between words if the stream is a terminal."""
    return _wrapped(text, terminal_columns(stream), hang="")


def _block(lines: Sequence[str], stream: TextIO) -> list[str]:
    """Lines behind a mark, red where colour is allowed, wrapped on terminals."""
    head, bar = ("✗ ", "│ ") if can_write("✗│", stream) else ("x ", "| ")
    width = terminal_columns(stream)
    red, bold, plain = (_RED, _BOLD_RED, _PLAIN) if has_colour(stream) else ("", "", "")
    block: list[str] = []
    for number, line in enumerate(lines):
        for piece in _wrapped(_clean(line), width and width - len(bar)):
            if not block:
                block.append(f"{bold}{head}{piece}{plain}")
            elif number == 0:
                block.append(f"{red}{bar}{bold}{piece}{plain}")
            else:
                block.append(f"{red}{bar}{plain}{piece}")
    return block


def _wrapped(line: str, width: int | None, hang: str = "  ") -> list[str]:
    if width is None:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(
        line, width, subsequent_indent=indent + hang, break_on_hyphens=False, break_long_words=False
    ) or [""]


def has_colour(stream: TextIO) -> bool:
    """Whether text written there may be coloured.

    `NO_COLOR` (https://no-color.org) forbids it, `FORCE_COLOR` (https://force-color.org) asks for
    it also in pipes and CI logs; the first wins. Otherwise terminals get colours, unless
    `TERM=dumb`.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def can_write(text: str, stream: TextIO | None) -> bool:
    """Whether the stream's encoding has these characters."""
    if stream is None:
        return False
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _clean(text: str) -> str:
    """Text without control characters: a server's text must not move the user's cursor."""
    from asyncpush.listeners.format import clean

    indent = len(text) - len(text.lstrip(" "))
    return " " * indent + clean(text)


def _print_error(lines: Callable[[TextIO], Iterable[str]]) -> None:
    """Print to stderr. If that fails, nothing else does."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            _write(sys.stderr, lines(sys.stderr))


def _abandon(stream: TextIO) -> None:
    """Discard the stream's buffer. Python would try to write it again at exit, fail, and end with
    an exit code of its own."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _write(stream: TextIO, lines: Iterable[str]) -> None:
    encoding = stream.encoding or "ascii"
    text = "".join(f"{line}\n" for line in lines)
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
