"""What a command says: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, TextIO

import click

from asyncpush.cli.failures import (
    InterruptedBySignal,
    exit_code,
    failure_document,
    failure_lines,
)

_RED = "\x1b[31m"
_BOLD_RED = "\x1b[1;31m"
_PLAIN = "\x1b[0m"
_NARROWEST = 30
_SIGPIPE = getattr(signal, "SIGPIPE", 13)


@dataclass(frozen=True, slots=True)
class Output:
    """How one command talks.

    With `as_json` stdout gets exactly one JSON object, whatever happens; `verbose` adds tracebacks
    to failures; `quiet` leaves out notes.
    """

    as_json: bool = False
    verbose: bool = False
    quiet: bool = False

    def result(self, lines: Sequence[str], document: Mapping[str, Any]) -> None:
        """What the command was run for: lines for people, or the document as JSON.

        Where nobody can read it any more, what was done is done: that is no failure. With JSON a
        reader that has gone away is told of as a pipeline expects.
        """
        if self.as_json:
            if not self._json({"ok": True, **document}):
                raise click.exceptions.Exit(128 + _SIGPIPE)
        else:
            self._print(map(_clean, lines))

    def negative(
        self,
        lines: Sequence[str],
        document: Mapping[str, Any],
        why: Exception,
        *,
        code: int | None = None,
    ) -> None:
        """A result that is a failure too: told in full on stdout, in short on stderr. `code` is the
        exit code, where it is not the one that the failure means."""
        if self.as_json:
            error = failure_document(why)
            if code is not None:
                error["exit_code"] = code
            self._json({"ok": False, "error": error, **document})
        else:
            self._print(map(_clean, lines))
        _tell(lambda stream: _block(failure_lines(why), stream))

    def note(self, *lines: str) -> None:
        """Something to know that is not the result. Not printed with `quiet`."""
        if not self.quiet:
            self.warn(*lines)

    def warn(self, *lines: str) -> None:
        """Something that went wrong without stopping the command. Printed always."""
        _tell(lambda stream: map(_clean, lines))

    def failure(self, error: BaseException) -> None:
        """A short red block on stderr; before it the traceback when that is wanted."""
        if self.as_json:
            self._json({"ok": False, "error": failure_document(error)})
        if not isinstance(error, InterruptedBySignal):
            self.trace(error)
        _tell(lambda stream: _block(failure_lines(error), stream))

    def trace(self, error: BaseException) -> None:
        """The traceback, when that is wanted."""
        if self.verbose:
            told = "".join(traceback.format_exception(error))
            _tell(lambda stream: map(_clean, told.splitlines()))

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Whatever is raised inside is told, and ends the program with the exit code it means."""
        try:
            yield
        except (
            click.exceptions.Exit,
            BrokenPipeError,
        ):  # who closed stdout wants to hear no more of it
            raise
        except KeyboardInterrupt:
            self._leave(InterruptedBySignal())
        except Exception as error:
            self._leave(error)

    def _leave(self, error: BaseException) -> NoReturn:
        self.failure(error)
        raise click.exceptions.Exit(exit_code(error)) from error

    def _json(self, document: Mapping[str, Any]) -> bool:
        # ASCII: no locale, pipe or undecodable file name can break it.
        return self._print([json.dumps(document, default=asdict)])

    def _print(self, lines: Iterable[str]) -> bool:
        """To stdout; False when its reader has gone away."""
        if sys.stdout is None:  # closed from the start: nobody asked for it
            return True
        try:
            _write(sys.stdout, lines)
        except BrokenPipeError:
            _abandon(sys.stdout)
            return False
        except (OSError, ValueError) as error:
            _abandon(sys.stdout)
            self.warn(f"warning: the result could not be written to stdout: {error}")
        return True


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Rows as aligned lines, the last column ragged; those numbered in `right` end together.

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
    """Its width, or None when what is written goes to a file or pipe and need not be cut."""
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
    """Prose as lines that end between words, where the stream has a width."""
    return _wrapped(text, terminal_columns(stream), hang="")


def _block(lines: Sequence[str], stream: TextIO) -> list[str]:
    """Lines with a mark before them, red where there is colour, wrapped where there is a width."""
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
    """Without control characters: a server's words must not move the user's cursor."""
    from asyncpush.listeners.format import clean

    indent = len(text) - len(text.lstrip(" "))
    return " " * indent + clean(text)


def _tell(lines: Callable[[TextIO], Iterable[str]]) -> None:
    """To stderr, where there is one: what cannot be told there harms nothing."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            _write(sys.stderr, lines(sys.stderr))


def _abandon(stream: TextIO) -> None:
    """What is left in its buffer goes nowhere: Python would fail to write it once more when it
    ends, and end with a code of its own."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _write(stream: TextIO, lines: Iterable[str]) -> None:
    encoding = stream.encoding or "ascii"
    text = "".join(f"{line}\n" for line in lines)
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
