"""How a command reports a failure: exit code, lines of text, JSON object."""

from __future__ import annotations

import errno
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

FAILED, USAGE, NOT_AUTHORISED, CONFLICT = 1, 2, 3, 4

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
        case OSError() if error.errno in _DISK_FULL:
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
