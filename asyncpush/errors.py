"""Everything that can go wrong, by whose fault it is.

::

    AsyncPushError
    ├── MissingTokenError        no token anywhere: yours to give
    ├── InvalidRepoIdError       not a name the Hub can hold, or an address of no repo
    ├── SourceError              files missing, unreadable, or with impossible names
    │   └── SourceChangedError   a file changed while it was being uploaded
    ├── HubError                 an answer of the Hub or its store, or the network on the way
    │   ├── AuthError            401, 403
    │   ├── RepoNotFoundError    404 on the repo (or it is private)
    │   ├── RateLimitedError     429 for longer than we may wait
    │   ├── RetriesExhaustedError  a passing fault that did not pass
    │   ├── ProtocolError        an answer that makes no sense
    │   └── CommitConflictError  412: the branch moved away from the pinned parent
    ├── IntegrityError           bytes stored are not the bytes sent, and retries did not help
    ├── SyncError                a bucket does not hold all files as they should be
    ├── VerificationError        committed, but the Hub does not show it, or cannot be asked
    └── WorkerLostError          a machine of a distributed push is gone
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
"""Characters of an answer's headers that an error's text shows; its field has them all."""

PUBLIC_HOSTS = frozenset({"huggingface.co", "hf.co"})

_CONTROLS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {0x09, 0x0A, 0x0D}, "\ufffd")


def printable(text: str) -> str:
    """The text without control characters: what a server says must not steer a terminal."""
    return text.translate(_CONTROLS)


def is_public(url: str) -> bool:
    """Whether this is a URL of huggingface.co: suggestions name its pages only there."""
    return urlsplit(url).hostname in PUBLIC_HOSTS


def token_page(url: str) -> str:
    """Where tokens for the Hub of this URL are made: other Hubs have pages of their own."""
    if is_public(url):
        return "at https://huggingface.co/settings/tokens"
    where = urlsplit(url)
    return f"in your settings on {where.scheme}://{where.netloc.rpartition('@')[2]}"


def os_reason(exc: OSError) -> str:
    """The system's reason; when file descriptors have run out, what to do as well."""
    reason = exc.strerror or str(exc)
    if exc.errno in OUT_OF_DESCRIPTORS:
        return f"{reason.lower()}: raise the limit (`ulimit -n`), or close files"
    return reason


class AsyncPushError(Exception):
    """Root of every error asyncpush raises on purpose.

    `suggestion` is the next thing to try, a sentence, or empty; a kind of error may have a usual
    one, for where nothing better is known.

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
        stays as it is. Cause, notes and traceback are kept. Raises `TypeError` for an attribute
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
    """No token was given and none was found, in `HF_TOKEN` or in what `hf auth login` stored;
    `endpoint` is the Hub that it is for. See `AsyncPushError` for an example."""

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
    """The repo id is not one the Hub can hold, or the address names no repo or contradicts an
    option; a `ValueError` too. Raised before the Hub is asked. See `AsyncPushError` for an
    example."""


class SourceError(AsyncPushError):
    """Files that cannot be uploaded; `problems` names every one of them, not only the first.

    Example:
        >>> error = SourceError("2 problems", problems=["a/../b is no path", "c does not exist"])
        >>> print(error)
        2 problems
          next: fix these files or exclude them, then push again
        >>> error.problems
        ('a/../b is no path', 'c does not exist')
    """

    _usual_suggestion = "fix these files or exclude them, then push again"

    def __init__(self, message: str, *, problems: Sequence[str] = (), suggestion: str = "") -> None:
        super().__init__(message, suggestion=suggestion)
        self.problems: tuple[str, ...] = tuple(problems)


class SourceChangedError(SourceError):
    """A file's size, time or content changed between hashing and sending; nothing was committed."""

    _usual_suggestion = "push again once nothing writes to these files any more"


H = TypeVar("H", bound="HubError")


class HubError(AsyncPushError):
    """An answer of the Hub (or its store) that is not a success, or a network that gave none.

    Attributes:
        status: the HTTP status; None when no answer came.
        body: the first 1 KB of the answer's body.
        method, url: what was asked, without credentials.
        attempt: which attempt this was, from 1.
        elapsed_seconds: from the first attempt to this failure.
        request_id: the Hub's id of the request, for its support.
        error_code: the Hub's `X-Error-Code`.
        headers: the answer's headers, redacted.
        retryable: whether trying the same again is still worth it.
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
        """The same failure as an error of another kind of `HubError`, with other values of some
        attributes. See `with_`."""
        return _copied(self, kind, changes)

    def __str__(self) -> str:
        lines = [self.message]
        if self.status is not None or self.method:  # else nothing was asked
            status = "no answer" if self.status is None else f"HTTP {self.status}"
            lines = [
                f"{self.message} ({status})",
                f"  request: {self.method} {self.url}, attempt {self.attempt},"
                f" after {self.elapsed_seconds:.1f} s",
            ]
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
    """The Hub does not accept the token (401) or the token may not do this (403)."""


class RepoNotFoundError(HubError):
    """The repo does not exist, or is private and the token cannot see it."""


class RateLimitedError(HubError):
    """The Hub asks to wait for longer than `max_retry_after`, or kept refusing."""


class RetriesExhaustedError(HubError):
    """A fault that usually passes did not, within `max_retries`."""


class ProtocolError(HubError):
    """The answer makes no sense: a field is missing, of the wrong type, or impossible."""

    _usual_suggestion = (
        "the endpoint may not be a Hugging Face Hub, or a proxy changes its answers: check"
        " HF_ENDPOINT and HTTPS_PROXY"
    )


class CommitConflictError(HubError):
    """The branch moved away from the commit that was pinned as parent."""


class IntegrityError(AsyncPushError):
    """What the store holds is not what was sent, and sending again did not help."""

    _usual_suggestion = (
        "push again; if it happens again, the store or a proxy in front of it corrupts data"
    )


class VerificationError(AsyncPushError):
    """The commit was made, but the Hub does not show these files as pushed, or something failed
    before that could be seen; then `__cause__` is that failure.

    `problems` has a sentence for each file; `commit_sha` and `commit_url` name the commit that was
    made.

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
    """A sync has changed a bucket, but not all files are as they should be, or that could not be
    seen; then `__cause__` is the failure.

    `failures` names each file with its reason; `result` tells what did go through. Syncing again
    sends only what is missing.

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
        """The failures as sentences, one a file."""
        return tuple(map(str, self.failures))


class WorkerLostError(AsyncPushError):
    """A worker of a distributed push was lost, and starting it again did not help."""
