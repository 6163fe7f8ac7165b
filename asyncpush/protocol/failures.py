"""Turns an answer that reports a failure into an error that says what to do next."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import orjson

from asyncpush.errors import (
    AuthError,
    CommitConflictError,
    HubError,
    ProtocolError,
    RateLimitedError,
    RepoNotFoundError,
    is_public,
    token_page,
)
from asyncpush.lazy_dataclass import dataclass
from asyncpush.protocol.hints import clock_skew, wait_hint, wait_in_words

if TYPE_CHECKING:
    from asyncpush.protocol.http import HubRequest, HubResponse

TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 525)})
"""Statuses of transient failures: the same request may succeed later. Cloudflare sends 520 to 524
when it gets no valid answer from the server behind it."""

_BUSY_STORE = (
    "Your socket connection to the server was not read",
    "Please reduce your request rate",
)

Fault: TypeAlias = Literal[
    "certificate",
    "tls",
    "proxy_refused",
    "proxy_away",
    "no_descriptor",
    "no_connection",
    "bad_url",
    "timeout",
    "connection_lost",
    "garbled",
    "answered_early",
    "not_known_yet",
    "not_done",
]
"""Causes of a failure other than an answer of 400 or more."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What may help after a failure. `retryable`: the same request may succeed later.
    `unreachable`: no connection could be opened at all, so waiting for the network may help."""

    retryable: bool
    suggestion: str = ""
    unreachable: bool = False


REMEDIES: Final[Mapping[Fault, Remedy]] = {
    "certificate": Remedy(
        False,
        "the certificate is not trusted: set SSL_CERT_FILE to your CA bundle, or check the proxy",
    ),
    "tls": Remedy(
        True,
        "no secure connection: check that the server at this address uses HTTPS, that no proxy"
        " intercepts TLS, and that SSL_CERT_FILE names the right CA bundle",
    ),
    "proxy_refused": Remedy(
        False,
        "the proxy refuses the connection: check the credentials in HTTPS_PROXY, and the proxy's"
        " rules",
    ),
    "proxy_away": Remedy(
        True,
        "the proxy does not answer: check HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
        unreachable=True,
    ),
    "no_descriptor": Remedy(True, "raise the limit of open files (`ulimit -n`), or close files"),
    "no_connection": Remedy(
        True, "check the network, HF_ENDPOINT, and whether a proxy is needed", unreachable=True
    ),
    "bad_url": Remedy(False, "the Hub named a URL to which no request can be sent"),
    "timeout": Remedy(
        True,
        "the network or the server stalls: lower max_concurrent_parts, or raise stall_timeout (for"
        " parts) or response_timeout (for requests to the Hub)",
    ),
    "connection_lost": Remedy(
        True, "the connection broke: try again; what is already stored is not sent again"
    ),
    # A truncated or garbled answer is usually complete the next time.
    "garbled": Remedy(True),
    "answered_early": Remedy(
        True, "the store, or a proxy in front of it, refuses the data: try again"
    ),
    # A 404 for something this session has just created, which some servers of the Hub do not know
    # yet.
    "not_known_yet": Remedy(True),
    # A success whose body reports an error.
    "not_done": Remedy(True, "try again; what is already stored is not sent again"),
}
"""Together with `is_retryable_status`, the only place that decides whether a request is retried."""


_CREATING = ("create", "create_bucket")
_CHANGING = (*_CREATING, "commit", "bucket_batch")


def is_retryable_status(status: int, said: str = "", *, call: str = "") -> bool:
    """Whether the same request may succeed after an answer with this status and text. For an object
    that an LFS batch refuses, these are its code and message."""
    if call in _CHANGING and status == 409:
        return "operation is in progress" in said
    # S3 sends "RequestTimeout" and "SlowDown" with several statuses.
    return status in TRANSIENT_STATUSES or said.startswith(_BUSY_STORE)


CLOCK_TOLERANCE = 300.0
"""Seconds by which a clock may be off before signed URLs are likely to be refused."""

_WITHOUT_THEM = "leave out create_pr, and use one commit (without max_files_per_commit)"
_PULL_REQUEST_CALLS = frozenset(
    {"pull_request", "discussions", "discussion", "discussion_status", "merge"}
)

_OF_BUCKETS = frozenset({"bucket", "bucket_batch", "bucket_paths_info", "bucket_tree"})

_READING = frozenset(
    {
        *("head", "tree", "paths_info", "content", "commits"),
        *("bucket", "bucket_tree", "bucket_paths_info"),
    }
)
"""Calls for which a token needs no right to write."""

_ITS_MESSAGE = "the Hub's message above says what is wrong"
_QUOTA = "the storage quota is used up: delete files or upgrade the plan"


_IN_WORDS: Final[Mapping[str, str]] = {
    "auth_check": "checking access to the repo",
    "branch": "creating the branch",
    "bucket": "looking up the bucket",
    "bucket_batch": "changing the bucket",
    "bucket_paths_info": "looking up files in the bucket",
    "bucket_tree": "listing the bucket's files",
    "commits": "listing the commits",
    "complete": "completing the upload",
    "content": "reading a file",
    "create": "creating the repo",
    "create_bucket": "creating the bucket",
    "discussion": "looking up the pull request",
    "discussion_status": "opening the draft pull request",
    "discussions": "listing the pull requests",
    "duplicate": "copying LFS objects",
    "head": "looking up the branch",
    "id_token": "requesting an id token",
    "lfs_batch": "LFS batch request",
    "merge": "merging the pull request",
    "part": "sending a part",
    "pull_request": "opening a pull request",
    "refs": "listing the branches",
    "storage": "looking up the storage used",
    "token": "requesting a token",
    "tree": "listing the files",
    "validate_yaml": "validating the metadata",
    "verify": "LFS verify",
    "verify_commit": "verifying the commit",
    "whoami": "looking up the token's owner",
    "xet_token": "requesting a Xet token",
}


def in_words(call: str) -> str:
    """What a request does, for messages."""
    return _IN_WORDS.get(call, call)


def failure_of(request: HubRequest, response: HubResponse, *, now: float) -> HubError:
    """The error for an answer of 400 or more: its class, text and suggestion."""
    headers = response.headers
    body = response.body[:4096].decode("utf-8", "replace")
    said = headers.get("x-error-message") or _message_in(body) or "no explanation given"
    code = headers.get("x-error-code")
    wait = wait_hint(response.status, headers, now=now)
    if wait is None and response.status == 429:
        wait = wait_in_words(said)
    kind, suggestion = _diagnose(_Answer(request, response, code, said, wait, now))
    return kind(
        f"{in_words(request.call)} failed: {said[:300]}",
        status=response.status,
        body=body,
        method=request.method,
        url=response.url,
        request_id=request_id(headers),
        error_code=code,
        headers=headers,
        retryable=is_retryable_status(response.status, said, call=request.call),
        retry_after=wait,
        suggestion=suggestion,
    )


def check_done(response: HubResponse) -> None:
    """Raise a retryable `HubError` when the body of a success reports an error. S3 answers a
    completion with 200 before it has joined the parts, and then with `<Error>` in the body if that
    fails (AWS documentation of CompleteMultipartUpload)."""
    body = response.body[:4096].decode("utf-8", "replace")
    if not _reports_failure(body):
        return
    remedy = REMEDIES["not_done"]
    raise HubError(
        f"answered {response.status}, but reported an error: {_message_in(body)[:300]}",
        retryable=remedy.retryable,
        suggestion=remedy.suggestion,
    )


def _reports_failure(body: str) -> bool:
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return re.match(r"\s*(<\?[^<>]*>\s*)?<Error[\s>]", body) is not None
    return isinstance(answer, dict) and (
        answer.get("success") is False or bool(answer.get("error"))
    )


def request_id(headers: Mapping[str, str]) -> str | None:
    for name in ("x-request-id", "x-amzn-trace-id", "x-amz-cf-id", "x-amz-request-id"):
        if value := headers.get(name):
            return value[:200]
    return None


def is_lfs_pointer_missing(error: HubError) -> bool:
    """Whether the commit names LFS objects that the store does not have, or no longer has."""
    return error.status in (400, 404, 422) and _names_lost_object(error.body)


def _names_lost_object(said: str) -> bool:
    # "an LFS pointer pointed to a file that does not exist" (the Hub), "LFS object … not found in
    # storage" (KohakuHub)
    return re.search(r"LFS pointer|LFS object\b.{0,200}\bnot (?:found|exist)", said) is not None


def may_still_land(error: HubError) -> bool:
    """Whether the Hub may still be working on a request that has failed: no answer came, or a
    gateway sent it. (429 and 503 mean that the Hub did not accept the request.)"""
    if error.status is None:
        return not error.unreachable
    return error.status in TRANSIENT_STATUSES - {425, 429, 503}


def may_be_done(error: HubError) -> bool:
    """Whether a change may have been made although its latest attempt ended in this error: a hook
    of the Hub, or a proxy in front of it, may have failed afterwards. These answers leave no doubt:
    the Hub did not take the request (401, 429), or does not support it (501)."""
    return error.status not in (401, 429, 501)


def is_unsupported(error: HubError) -> bool:
    """Whether this Hub has no such call: self-hosted ones do not have all of them."""
    return error.status in (404, 405, 501) and error.error_code is None


def is_upload_void(error: HubError) -> bool:
    """Whether the upload that these URLs belong to cannot be resumed, because it has expired, was
    refused, is already completed, or no longer exists. Then the batch must be requested again."""
    return not error.retryable and error.status in (400, 401, 403, 404, 409, 410, 422)


_Diagnosis: TypeAlias = tuple[type[HubError], str]
"""The class of the error, and what to do about it."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer of 400 or more, and what it was about. `words` is what it says, in lower case."""

    request: HubRequest
    response: HubResponse
    code: str | None
    said: str
    wait: float | None
    now: float

    @property
    def words(self) -> str:
        return self.said.lower()

    @property
    def call(self) -> str:
        return self.request.call

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def repo_id(self) -> str:
        return str(self.request.fields.get("repo_id", "the repo"))


def _diagnose(answer: _Answer) -> _Diagnosis:
    for topic in _TOPICS:
        if (diagnosis := topic(answer)) is not None:
            return diagnosis
    return HubError, _ITS_MESSAGE


def _from_store(answer: _Answer) -> _Diagnosis | None:
    """Answers of the store, not of the Hub."""
    if answer.call in ("part", "complete") and answer.status < 500 and answer.status != 429:
        return HubError, _refused_by_store(answer.response, answer.words, answer.now)
    return None


def _on_copy(answer: _Answer) -> _Diagnosis | None:
    """A copy of stored objects to another repo, which the Hub refuses."""
    if answer.call != "duplicate":
        return None
    source, target = answer.request.fields.get("source"), answer.repo_id
    match answer.status, answer.code:
        case 403, "GatedRepo":
            return AuthError, f"{source} or {target} is gated: ask for access on its page"
        case 401 | 404, "RepoNotFound" if "invalid credentials" not in answer.words:
            return RepoNotFoundError, (
                f"check that both repos exist, and that the token can read {source} and write to"
                f" {target}"
            )
    if (
        answer.code is None
        and answer.status in (400, 403, 404, 405, 409, 422, 501)
        and not any(word in answer.words for word in ("quota", "limit"))
    ):
        return AuthError if answer.status == 403 else HubError, (
            f"the Hub does not copy from {source} to {target}: they may"
            " be stored in different regions, the token may lack a permission, or this Hub may"
            " not support copies; to send the bytes instead, download the source and push it"
        )
    return None


def _on_pull_request(answer: _Answer) -> _Diagnosis | None:
    """Pull requests that are turned off, or that this Hub does not have."""
    if answer.call not in _PULL_REQUEST_CALLS or answer.code == "GatedRepo":
        return None
    match answer.status, answer.code:
        case 403, _ if "disabled" in answer.words:
            return HubError, (
                f"allow pull requests in the settings of {answer.repo_id}, or {_WITHOUT_THEM}"
            )
        case 404 | 405, None:
            return HubError, f"this Hub may not support pull requests: {_WITHOUT_THEM}"
    return None


def _on_branch(answer: _Answer) -> _Diagnosis | None:
    """A branch that cannot be created."""
    match answer.status, answer.code:
        case 404 | 405, None if answer.call == "branch":
            return HubError, "this Hub may not support creating branches: use one that exists"
        case 409, _ if answer.call == "branch":
            return HubError, (
                "the branch cannot be created: it may already exist, or conflict with the name of"
                " another (a/b and a cannot both be branches)"
            )
    return None


def _on_space(answer: _Answer) -> _Diagnosis | None:
    """No storage left: the quota is used up, or the Hub's disk is full."""
    status, words = answer.status, answer.words
    full = "quota" in words or "storage" in words
    match status:
        case 402:
            return HubError, _QUOTA
        case 403 if full and answer.code != "GatedRepo":
            return AuthError, _QUOTA
        case 413 if "quota" in words:
            return HubError, _QUOTA
        case 507:
            return HubError, "the disk of the Hub is full: once there is room, try again"
    return None


def _on_access(answer: _Answer) -> _Diagnosis | None:
    """The token is missing or wrong, or lacks a right."""
    repo_id, token_url = answer.repo_id, token_page(answer.response.url)
    match answer.status, answer.code:
        case 401, "RepoNotFound" if "invalid credentials" not in answer.words:
            return RepoNotFoundError, (
                f"check the spelling and the type of {repo_id}; if it is private, check that the"
                " token can read it"
            )
        case 401, _:
            return AuthError, (
                f"the token is missing, expired or wrong: create a new one {token_url}"
                " and set HF_TOKEN"
            )
        case 403, "GatedRepo":
            return AuthError, f"{repo_id} is gated: ask for access on its page"
        case 403, _ if answer.call in _CREATING or "namespace" in answer.words:
            namespace = repo_id.removeprefix("hf://buckets/").partition("/")[0]
            return AuthError, (
                f"the token may not create repos under {namespace}: check the spelling, use a"
                f" namespace of your own, or ask an admin of {namespace} for the write role"
                f" (`asyncpush doctor {repo_id}` gives details)"
            )
        case 403, _ if answer.call in _READING:
            return AuthError, (
                f"the token may not read {repo_id}: give it read access {token_url} to copy from"
                f" there, or write access to change it (`asyncpush doctor {repo_id}` gives"
                " details)"
            )
        case 403, _:
            return AuthError, (
                f"the token may not write to {repo_id}: give it write scope"
                f" {token_url}, or check the namespace"
                f" (`asyncpush doctor {repo_id}` gives details)"
            )
    return None


def _on_missing(answer: _Answer) -> _Diagnosis | None:
    """The repo, its branch, an object or the Hub itself does not exist."""
    repo_id, request = answer.repo_id, answer.request
    match answer.status, answer.code:
        case 404, "RevisionNotFound":
            revision = request.fields.get("revision")
            branch = f"branch {revision}" if revision else "the branch"
            return HubError, (
                f"{branch} does not exist in {repo_id}: create_branch=True"
                " (--create-branch) creates it"
            )
        case 400 | 404 | 422, _ if _names_lost_object(answer.said):
            return HubError, "the store has lost objects that the commit names: try again"
        case 404 | 405, _ if answer.call == "create_bucket":
            return HubError, (
                f"check the namespace of {repo_id}, and HF_ENDPOINT (--endpoint), including its"
                " path; this Hub may not offer buckets: use a repo instead"
            )
        case 404, None if answer.call in ("create", "whoami"):
            return ProtocolError, (
                "there is no Hub at that address: check HF_ENDPOINT (--endpoint), including its"
                " path"
            )
        case 404, "RepoNotFound" | None if request.target.startswith("/"):
            kind = "bucket" if answer.call in _OF_BUCKETS else "repo"
            return RepoNotFoundError, (
                f"check the spelling and the type of {repo_id}; if it does not exist,"
                f" create_{kind}=True creates it; if it is private, the token must be able to"
                " read it"
            )
    return None


def _on_conflict(answer: _Answer) -> _Diagnosis | None:
    """The request conflicts with a change of somebody else, or with a name that exists."""
    match answer.status:
        case 409 if "in progress" in answer.words:
            return HubError, "the Hub is busy with another change of this repo: try again later"
        case 409 if answer.call in _CREATING:
            return HubError, "something with this name already exists; choose another name"
        case 412:
            return CommitConflictError, (
                "someone else's commit came first: look at it, then try again without"
                " parent_commit, which puts these files on top of it, or with the new head as"
                " parent_commit"
            )
    return None


def _on_request(answer: _Answer) -> _Diagnosis | None:
    """The request is too large, invalid, or one too many."""
    match answer.status:
        case 413:
            return HubError, (
                "the request is too large: use LFS for large files (.gitattributes), or set"
                " max_files_per_commit"
            )
        case 422:
            return HubError, "the Hub rejects the request as invalid: its message above says why"
        case 429:
            return RateLimitedError, (
                f"wait until {_until(answer.wait, answer.now)}, ask less often, or use a token"
                " with a higher limit"
            )
    return None


def _on_server(answer: _Answer) -> _Diagnosis | None:
    """The server has a problem, or cannot do this at all."""
    if answer.status == 501:
        return HubError, "this Hub cannot do that: its message above says what is missing"
    if answer.status >= 500:
        see = " see https://status.huggingface.co," if is_public(answer.response.url) else ""
        return HubError, f"the server has a problem:{see} try again"
    return None


_TOPICS: Final[tuple[Callable[[_Answer], _Diagnosis | None], ...]] = (
    _from_store,
    _on_copy,
    _on_pull_request,
    _on_branch,
    _on_space,
    _on_access,
    _on_missing,
    _on_conflict,
    _on_request,
    _on_server,
)
"""The first topic that knows the answer decides, so each may assume that those before did not."""


def object_refused(code: int, said: str) -> str:
    """What to do when the LFS batch refuses one object. Its codes are HTTP statuses."""
    words = said.lower()
    if code in (402, 507) or "quota" in words or "storage" in words:
        return _QUOTA
    if code in (413, 501) or "too large" in words:
        return (
            "the Hub does not accept files of this size: split the file (safetensors:"
            " max_shard_size)"
        )
    return _ITS_MESSAGE


def _refused_by_store(response: HubResponse, words: str, now: float) -> str:
    """Why a store may refuse a URL that the Hub has signed for it."""
    if response.status == 413:
        return "a proxy does not accept requests of this size: raise its limit, or bypass it"
    skew = clock_skew(response.headers, now=now)
    if skew is not None and abs(skew) > CLOCK_TOLERANCE:
        return (
            f"this machine's clock is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} the"
            " store's, and signed URLs depend on the time: set it (`timedatectl set-ntp true`),"
            " then try again"
        )
    if "expired" in words or "skew" in words:
        return "the signed URL has expired: try again to get a new one; check `date -u`"
    if response.status in (401, 403):
        return (
            "the store refuses a presigned URL: check this machine's clock (`date -u`), and whether"
            " a proxy changes requests"
        )
    if response.status < 400:
        return (
            "the store redirects the data, which is not followed: the Hub has to name the final"
            " address (https instead of http, for example), so report it to its operators"
        )
    return "the store's message above says what is wrong; try again to get new URLs"


def _until(seconds: float | None, now: float) -> str:
    if seconds is None:
        return "the window ends"
    moment = datetime.fromtimestamp(now + seconds, UTC)
    day = "" if seconds < 43_200 else f"{moment:%Y-%m-%d} "
    return f"{day}{moment:%H:%M:%S} UTC (in {seconds:,.0f} s)"


def _message_in(body: str) -> str:
    """The `error` or `message` of a JSON answer, or the text of an XML or HTML one, on one line."""
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        message = re.search(r"<Message>([^<]*)</Message>", body)
        text = message[1] if message else re.sub(r"<[^<>]*>", " ", body)
        return " ".join(text.split())[:300]
    if isinstance(answer, dict):
        for key in ("error", "message"):
            if isinstance(answer.get(key), str):
                return str(answer[key])
        if detail := _detail(answer.get("detail")):
            return detail
        errors = answer.get("errors")
        if isinstance(errors, list) and errors and isinstance(errors[0], dict):
            return str(errors[0].get("message", ""))
    return ""


def _detail(detail: Any) -> str:
    """The error of a FastAPI server, such as some self-hosted Hubs are. It is a text, an object
    with `error` or `message`, or a list of validation errors, each with a message (`msg`) and a
    location (`loc`)."""
    match detail:
        case str():
            return detail
        case {"error": str(message)} | {"message": str(message)}:
            return message
        case list():
            return "; ".join(
                f"{'.'.join(map(str, fault.get('loc') or ['request']))}: {fault['msg']}"
                for fault in detail
                if isinstance(fault, dict)
                and isinstance(fault.get("msg"), str)
                and isinstance(fault.get("loc") or [], list)
            )
        case _:
            return ""
