"""The errors that asyncpush raises, by what is at fault.

::

    AsyncPushError
    ├── MissingTokenError        no token was given or found
    ├── InvalidRepoIdError       not a valid repo id, or not the address of a repo
    ├── SourceError              files missing, unreadable, or with impossible names
    │   └── SourceChangedError   a file changed while it was being uploaded
    ├── HubError                 the Hub, its store or the network on the way
    │   ├── AuthError            401, 403
    │   ├── RepoNotFoundError    404 for the repo (or it is private)
    │   ├── RateLimitedError     429, and the wait is too long
    │   ├── RetriesExhaustedError  a transient failure that did not end
    │   ├── ProtocolError        an invalid answer
    │   └── CommitConflictError  412: the branch moved on from the pinned parent
    │       └── PullRequestClosedError  the pull request was closed or merged
    ├── IntegrityError           stored data differs from what was sent, also after retries
    ├── SyncError                not all files of a bucket are as they should be
    ├── VerificationError        committed, but the Hub does not confirm the files
    └── WorkerLostError          a worker of a distributed push was lost
"""

from __future__ import annotations

import copyreg
import errno
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from asyncpush.models import SyncFailure, SyncResult

OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE))

BODY_LIMIT = 1024
"""Characters of an answer's body that an error keeps."""

HEADERS_LIMIT = 1024
"""Characters of an answer's headers that the error's text shows; its `headers` hold all of them."""

PUBLIC_HOSTS = frozenset({"huggingface.co", "hf.co"})

_CONTROLS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {0x09, 0x0A, 0x0D}, "\ufffd")


def printable(text: str) -> str:
    """The text without control characters: what a server sends must not control a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_CONTROLS)


def is_public(url: str) -> bool:
    """Whether this is a URL of huggingface.co: only then suggestions name its pages."""
    return urlsplit(url).hostname in PUBLIC_HOSTS


def token_page(url: str) -> str:
    """Where tokens for the Hub of this URL are created: other Hubs have pages of their own."""
    if is_public(url):
        return "at https://huggingface.co/settings/tokens"
    where = urlsplit(url)
    return f"in your settings on {where.scheme}://{where.netloc.rpartition('@')[2]}"


def os_reason(exc: OSError) -> str:
    """The system's reason; when file descriptors have run out, also what to do."""
    reason = exc.strerror or str(exc)
    if exc.errno in OUT_OF_DESCRIPTORS:
        return f"{reason.lower()}: raise the limit (`ulimit -n`), or close files"
    return reason


class AsyncPushError(Exception):
    """Base of every error that asyncpush raises on purpose.

    `suggestion` is a sentence that says what to do next, or empty. A kind of error may have a
    default one.

    Example:
        >>> import asyncio
        >>> from asyncpush import push_to_hub
        >>> try:
        ...     result = asyncio.run(push_to_hub("my model", b"", endpoint="local"))
        ... except AsyncPushError as error:
        ...     print(type(error).__name__)
        ...     print(error)
        InvalidRepoIdError
        repo id 'my model' is not namespace/name
          next: use namespace/name, for example me/my-model
    """

    _usual_suggestion: ClassVar[str] = ""

    def __init__(self, message: str, *, suggestion: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.suggestion: str = suggestion or self._usual_suggestion

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.suggestion}" if self.suggestion else self.message

    def with_(self, **changes: Any) -> Self:
        """A copy with other values of some attributes, to be raised in place of this error, which
        stays unchanged. Cause, notes and traceback are kept. Raises `TypeError` for an attribute
        that this kind of error does not have.

        Example:
            >>> error = HubError("busy", status=503)
            >>> error.with_(attempt=3).attempt, error.attempt
            (3, 1)
        """
        return _copied(self, type(self), changes)

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive Exception's own pickling, and errors travel
        # between processes (Ray tasks, multiprocessing pools).
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


E = TypeVar("E", bound=AsyncPushError)


def _copied(error: AsyncPushError, kind: type[E], changes: Mapping[str, Any]) -> E:
    values = {**vars(error), **changes}
    if unknown := changes.keys() - vars(error).keys():
        raise TypeError(f"{kind.__name__} has no attributes {', '.join(sorted(unknown))}")
    copy = kind.__new__(kind)
    copy.args = (values["message"],)
    vars(copy).update(values)
    if hasattr(copy, "__notes__"):
        copy.__notes__ = list(copy.__notes__)
    copy.__cause__ = error.__cause__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)


class MissingTokenError(AsyncPushError):
    """No token was given, and none was found in `HF_TOKEN` or in what `hf auth login` stored.
    `endpoint` is the Hub that needs it. See `AsyncPushError` for an example."""

    def __init__(
        self,
        message: str = "no Hugging Face token was given or found",
        *,
        endpoint: str = "https://huggingface.co",
    ) -> None:
        give = "pass token=... or set HF_TOKEN"
        if is_public(endpoint):
            give = "pass token=..., set HF_TOKEN, or run `hf auth login`"
        super().__init__(
            message, suggestion=f"create one with write access {token_page(endpoint)}, then {give}"
        )


class InvalidRepoIdError(AsyncPushError, ValueError):
    """The repo id is not valid, or the address does not name a repo or contradicts an option. Also
    a `ValueError`. Raised before any request is sent. See `AsyncPushError` for an example."""


class SourceError(AsyncPushError):
    """Files that cannot be uploaded; `problems` names every one of them, not only the first.

    Example:
        >>> error = SourceError("2 problems", problems=["a/../b is not a path", "c does not exist"])
        >>> print(error)
        2 problems
          next: fix these files or exclude them, then try again
        >>> error.problems
        ('a/../b is not a path', 'c does not exist')
    """

    _usual_suggestion = "fix these files or exclude them, then try again"

    def __init__(self, message: str, *, problems: Sequence[str] = (), suggestion: str = "") -> None:
        super().__init__(message, suggestion=suggestion)
        self.problems: tuple[str, ...] = tuple(problems)


class SourceChangedError(SourceError):
    """A file's size, time or content changed between hashing and sending; nothing was committed."""

    _usual_suggestion = "try again once nothing writes to these files any more"


H = TypeVar("H", bound="HubError")


class HubError(AsyncPushError):
    """The Hub or its store answered with a failure, or the network brought no answer.

    Attributes:
        status: the HTTP status; None when no answer came.
        body: the first 1 KB of the answer's body.
        method, url: the request, without credentials.
        attempt: the number of the attempt, from 1.
        elapsed_seconds: from the first attempt to this failure.
        request_id: the Hub's id of the request, for its support.
        error_code: the Hub's `X-Error-Code`.
        headers: the answer's headers, redacted.
        retryable: whether the same request may still succeed later.
        unreachable: no connection could be opened at all.
        retry_after: seconds the server asked to wait, if it did.
        suggestion: what to do next.

    Example:
        >>> error = HubError("the Hub is away", status=503, method="GET", url="https://hub/api")
        >>> print(error)
        the Hub is away (HTTP 503)
          request: GET https://hub/api, attempt 1, after 0.0 s
        >>> error.status, error.body, error.request_id
        (503, '', None)
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        body: str = "",
        method: str = "",
        url: str = "",
        attempt: int = 1,
        elapsed_seconds: float = 0.0,
        request_id: str | None = None,
        error_code: str | None = None,
        headers: Mapping[str, str] | None = None,
        retryable: bool = False,
        unreachable: bool = False,
        retry_after: float | None = None,
        suggestion: str = "",
    ) -> None:
        super().__init__(printable(message), suggestion=suggestion)
        self.retryable = retryable
        self.unreachable = unreachable
        self.retry_after = retry_after
        self.status = status
        self.body: str = printable(body[:BODY_LIMIT])
        self.method = method
        self.url = url
        self.attempt = attempt
        self.elapsed_seconds = elapsed_seconds
        self.request_id = request_id
        self.error_code = error_code
        self.headers: dict[str, str] = dict(headers or {})

    def as_(self, kind: type[H], **changes: Any) -> H:
        """The same failure as another kind of `HubError`, with other values of some attributes. See
        `with_`."""
        return _copied(self, kind, changes)

    def __str__(self) -> str:
        lines = [self.message]
        if self.status is not None or self.method:  # otherwise no request was sent
            status = "no answer" if self.status is None else f"HTTP {self.status}"
            lines = [f"{self.message} ({status})"]
        if self.url:
            lines.append(
                f"  request: {f'{self.method} {self.url}'.lstrip()}, attempt {self.attempt},"
                f" after {self.elapsed_seconds:.1f} s"
            )
        if self.request_id:
            lines.append(f"  request id: {self.request_id}")
        if self.headers:
            shown = "; ".join(f"{name}: {value}" for name, value in self.headers.items())
            lines.append(f"  headers: {printable(shown[:HEADERS_LIMIT])}")
        if self.body:
            lines.append(f"  body: {self.body}")
        if self.suggestion:
            lines.append(f"  next: {self.suggestion}")
        return "\n".join(lines)


class AuthError(HubError):
    """The Hub does not accept the token (401), or the token lacks the permission (403)."""


class RepoNotFoundError(HubError):
    """The repo does not exist, or is private and the token cannot access it."""


class RateLimitedError(HubError):
    """The Hub asks to wait for longer than `max_retry_after`, or still refused after all
    retries."""


class RetriesExhaustedError(HubError):
    """A transient failure did not end within `max_retries` retries or, when no connection could be
    opened at all, within `outage_timeout`."""


class ProtocolError(HubError):
    """The answer is invalid: a field is missing, has the wrong type, or an impossible value."""

    _usual_suggestion = (
        "the endpoint may not be a Hugging Face Hub, or a proxy changes its answers: check"
        " HF_ENDPOINT and HTTPS_PROXY"
    )


class CommitConflictError(HubError):
    """The branch moved on from the commit that was pinned as parent."""


class PullRequestClosedError(CommitConflictError):
    """The pull request to push to has been closed, or `merged`: nobody would merge another commit.
    Nothing was sent.

    Example:
        >>> error = PullRequestClosedError("pull request #1 has been merged", merged=True)
        >>> error.merged, isinstance(error, CommitConflictError)
        (True, True)
    """

    def __init__(self, message: str, *, merged: bool = False, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.merged = merged


class IntegrityError(AsyncPushError):
    """The stored data differs from what was sent, and sending it again did not help."""

    _usual_suggestion = (
        "try again; if it happens again, the store or a proxy in front of it corrupts data"
    )


class VerificationError(AsyncPushError):
    """The commit was made, but the Hub does not show these files as they were pushed, or something
    failed before that could be checked. In the second case `__cause__` is that failure.

    `problems` has a sentence for each file; `commit_sha` and `commit_url` name the commit.

    Example:
        >>> error = VerificationError("not as pushed", problems=["a.bin is missing"])
        >>> error.problems
        ('a.bin is missing',)
    """

    def __init__(
        self,
        message: str,
        *,
        problems: Sequence[str] = (),
        commit_sha: str = "",
        commit_url: str = "",
        suggestion: str = "",
    ) -> None:
        super().__init__(message, suggestion=suggestion)
        self.problems: tuple[str, ...] = tuple(problems)
        self.commit_sha = commit_sha
        self.commit_url = commit_url


class SyncError(AsyncPushError):
    """A sync has changed a bucket, but not all files are as they should be, or this could not be
    checked. In the second case `__cause__` is the failure.

    `failures` names each file with its reason; `result` tells what succeeded. Syncing again sends
    only what is missing.

    Example:
        >>> from asyncpush import SyncFailure, SyncResult
        >>> result = SyncResult("https://hub/buckets/me/runs", ("a",), (), (), 1, 0, False, 1.0)
        >>> error = SyncError("1 file failed", failures=[SyncFailure("b", "quota")], result=result)
        >>> error.failures[0].path, error.result.files_uploaded
        ('b', ('a',))
    """

    _usual_suggestion = "sync again: only what is missing or different is sent"

    def __init__(
        self,
        message: str,
        *,
        failures: Sequence[SyncFailure] = (),
        result: SyncResult,
        suggestion: str = "",
    ) -> None:
        super().__init__(message, suggestion=suggestion)
        self.failures: tuple[SyncFailure, ...] = tuple(failures)
        self.result = result

    @property
    def problems(self) -> tuple[str, ...]:
        """The failures as sentences, one for each file."""
        return tuple(map(str, self.failures))


class WorkerLostError(AsyncPushError):
    """A worker of a distributed push was lost, and starting it again did not help."""
