from __future__ import annotations

import ast
import re
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpush.errors import (
    AuthError,
    CommitConflictError,
    HubError,
    ProtocolError,
    RateLimitedError,
    RepoNotFoundError,
)
from asyncpush.protocol import failures
from asyncpush.protocol.failures import (
    check_done,
    failure_of,
    in_words,
    is_lfs_pointer_missing,
    is_upload_void,
    may_still_land,
    object_refused,
    request_id,
)
from asyncpush.protocol.hints import LONGEST_WAIT
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.protocol.lfs import LfsObject, parse_batch

BUSY = (
    "<Error><Code>RequestTimeout</Code>"
    "<Message>Your socket connection to the server was not read from</Message></Error>"
)


def failure(
    status: int,
    code: str | None = None,
    said: str = "",
    *,
    call: str = "head",
    target: str = "/api/x",
    headers: dict[str, str] | None = None,
    revision: str | None = "dev",
) -> HubError:
    fields = {"repo_id": "me/m"} | ({"revision": revision} if revision else {})
    request = HubRequest(call, "POST", target, fields=fields)
    reply = dict(headers or {})
    if code:
        reply["x-error-code"] = code
    return failure_of(
        request, HubResponse(status, reply, said.encode(), "https://h/api/x"), now=0.0
    )


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[1]",
        "null",
        "ok",
        '{"success": true, "error": null}',
        '{"oid": "a", "size": 1}',
        "<html>stored</html>",
        "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>",
        "<Errors/>",
    ],
)
def test_what_reports_no_error_is_done(body: str) -> None:
    check_done(HubResponse(200, {}, body.encode(), "https://h/api/x"))


@pytest.mark.parametrize(
    ("error", "kind", "retryable", "suggestion"),
    [
        pytest.param(failure(400), HubError, False, "message above", id="400"),
        pytest.param(failure(401), AuthError, False, "HF_TOKEN", id="401"),
        pytest.param(
            failure(401, "RepoNotFound"), RepoNotFoundError, False, "me/m", id="401 RepoNotFound"
        ),
        pytest.param(failure(403), AuthError, False, "may not read me/m", id="403 read"),
        pytest.param(
            failure(403, call="preupload"), AuthError, False, "write scope", id="403 write"
        ),
        pytest.param(failure(403, "GatedRepo"), AuthError, False, "gated", id="403 GatedRepo"),
        pytest.param(
            failure(403, said='{"error": "Storage limit reached"}'),
            AuthError,
            False,
            "quota is used up",
            id="403 storage",
        ),
        pytest.param(failure(404), RepoNotFoundError, False, "create_repo=True", id="404"),
        pytest.param(
            failure(404, "RepoNotFound"), RepoNotFoundError, False, "me/m", id="404 RepoNotFound"
        ),
        pytest.param(
            failure(404, "RevisionNotFound"),
            HubError,
            False,
            "branch dev does not exist in me/m",
            id="404 RevisionNotFound",
        ),
        pytest.param(
            failure(404, "RevisionNotFound", call="preupload", revision=None),
            HubError,
            False,
            "the branch does not exist in me/m",
            id="404 RevisionNotFound of a call that names no branch",
        ),
        pytest.param(
            failure(404, call="whoami"), ProtocolError, False, "no Hub at", id="404 whoami"
        ),
        pytest.param(
            failure(404, call="create_bucket"),
            HubError,
            False,
            "not offer buckets",
            id="404 bucket",
        ),
        pytest.param(
            failure(404, "RepoNotFound", call="create_bucket"),
            HubError,
            False,
            "not offer buckets",
            id="404 RepoNotFound bucket",
        ),
        pytest.param(
            failure(404, "EntryNotFound"), HubError, False, "message above", id="404 EntryNotFound"
        ),
        pytest.param(
            failure(404, target="https://store.example/x"),
            HubError,
            False,
            "message above",
            id="404 elsewhere",
        ),
        pytest.param(
            failure(404, said='{"detail": "Not Found"}', call="pull_request"),
            HubError,
            False,
            "may not support pull requests",
            id="404 pull request",
        ),
        pytest.param(
            failure(404, "RepoNotFound", call="pull_request"),
            RepoNotFoundError,
            False,
            "me/m",
            id="404 pull request, RepoNotFound",
        ),
        pytest.param(
            failure(403, said="Discussions are disabled for this repo", call="pull_request"),
            HubError,
            False,
            "allow pull requests in the settings of me/m",
            id="403 discussions disabled",
        ),
        pytest.param(
            failure(405, said='{"detail": "Method Not Allowed"}', call="branch"),
            HubError,
            False,
            "may not support creating branches",
            id="405 branch",
        ),
        pytest.param(failure(408), HubError, True, "message above", id="408"),
        pytest.param(failure(409), HubError, False, "message above", id="409"),
        pytest.param(
            failure(409, said='{"error": "exists"}', call="create"),
            HubError,
            False,
            "already exists",
            id="409 create, exists",
        ),
        pytest.param(
            failure(
                409, said='{"error": "another conflicting operation is in progress"}', call="create"
            ),
            HubError,
            True,
            "",
            id="409 create, in progress",
        ),
        pytest.param(
            failure(
                409,
                said='{"error": "Another commit operation is in progress for this repository."}',
                call="commit",
            ),
            HubError,
            True,
            "busy with another change",
            id="409 commit, in progress",
        ),
        pytest.param(failure(412), CommitConflictError, False, "parent_commit", id="412"),
        pytest.param(failure(413), HubError, False, "max_files_per_commit", id="413"),
        pytest.param(failure(422), HubError, False, "invalid", id="422"),
        pytest.param(failure(425), HubError, True, "", id="425"),
        pytest.param(failure(429), RateLimitedError, True, "window", id="429"),
        pytest.param(failure(500), HubError, True, "has a problem: try again", id="500"),
        pytest.param(failure(501), HubError, False, "cannot do that", id="501"),
        pytest.param(
            failure(413, said="Storage quota exceeded"), HubError, False, "quota", id="413 quota"
        ),
        pytest.param(
            failure(409, call="branch"),
            HubError,
            False,
            "branch cannot be created",
            id="409 branch",
        ),
        pytest.param(failure(502), HubError, True, "has a problem", id="502"),
        pytest.param(failure(503), HubError, True, "has a problem", id="503"),
        pytest.param(failure(504), HubError, True, "has a problem", id="504"),
        pytest.param(failure(507), HubError, False, "disk of the Hub", id="507"),
        pytest.param(failure(403, call="part"), HubError, False, "date -u", id="part 403"),
        pytest.param(failure(400, call="complete"), HubError, False, "new URLs", id="complete 400"),
        pytest.param(failure(400, said=BUSY, call="part"), HubError, True, "", id="part, slow S3"),
        pytest.param(failure(503, call="part"), HubError, True, "has a problem", id="part 503"),
        pytest.param(failure(429, call="part"), RateLimitedError, True, "", id="part 429"),
    ],
)
def test_an_answer_becomes_an_error_that_says_what_next(
    error: HubError, kind: type[HubError], retryable: bool, suggestion: str
) -> None:
    assert type(error) is kind
    assert error.retryable is retryable
    assert suggestion in error.suggestion


@pytest.mark.parametrize(
    ("error", "suggestion"),
    [
        pytest.param(failure(402), "quota is used up", id="402"),
        pytest.param(
            failure(403, said='{"error": "no rights under the namespace \\"me\\""}'),
            "create repos under me",
            id="namespace",
        ),
        pytest.param(failure(403, call="create"), "create repos under me", id="create"),
        pytest.param(failure(413, call="part"), "raise its limit", id="part too large"),
        pytest.param(
            failure(403, call="part", headers={"date": "Thu, 01 Jan 1970 00:10:00 GMT"}),
            "600 s behind the store's",
            id="clock behind",
        ),
        pytest.param(
            failure(403, call="part", headers={"date": "Wed, 31 Dec 1969 22:00:00 GMT"}),
            "7,200 s ahead of the store's",
            id="clock ahead",
        ),
        pytest.param(
            failure(
                403,
                call="part",
                said="<Error><Message>Request has expired</Message></Error>",
                headers={"date": "Thu, 01 Jan 1970 00:00:01 GMT"},
            ),
            "expired: try again",
            id="expired",
        ),
        pytest.param(failure(307, call="part"), "redirects the data", id="part 307"),
        pytest.param(failure(429), "wait until the window ends", id="429, no hint"),
        pytest.param(
            failure(429, headers={"retry-after": "90"}),
            "wait until 00:01:30 UTC (in 90 s)",
            id="429, soon",
        ),
        pytest.param(
            failure(429, headers={"ratelimit": '"api";r=0;t=86400'}),
            "wait until 1970-01-02 00:00:00 UTC (in 86,400 s)",
            id="429, tomorrow",
        ),
    ],
)
def test_a_suggestion_fits_the_cause(error: HubError, suggestion: str) -> None:
    assert suggestion in error.suggestion


@pytest.mark.parametrize(
    ("code", "said", "suggestion"),
    [
        (507, "Insufficient", "quota"),
        (422, "storage limit reached", "quota"),
        (413, "no", "max_shard_size"),
        (501, "Multipart upload not yet implemented for files >5GB", "max_shard_size"),
        (422, "File too large", "max_shard_size"),
        (422, "odd", "message above"),
    ],
)
def test_a_refused_object_has_its_suggestion(code: int, said: str, suggestion: str) -> None:
    assert suggestion in object_refused(code, said)


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        pytest.param('{"error": "e"}', {}, "e", id="error"),
        pytest.param('{"message": "m"}', {}, "m", id="message"),
        pytest.param('{"error": 5, "message": "m"}', {}, "m", id="error a number"),
        pytest.param('{"errors": [{"message": "first"}]}', {}, "first", id="errors"),
        pytest.param('{"errors": [{}]}', {}, "no explanation given", id="errors without message"),
        pytest.param('{"errors": ["x"]}', {}, "no explanation given", id="errors of texts"),
        pytest.param("[]", {}, "no explanation given", id="a list"),
        pytest.param('{"detail": "d"}', {}, "d", id="FastAPI, a text"),
        pytest.param('{"detail": {"error": "d"}}', {}, "d", id="FastAPI, an object"),
        pytest.param(
            '{"detail": [{"loc": ["body", "paths"], "msg": "Field required"}, {"msg": "m"}, 3]}',
            {},
            "body.paths: Field required; request: m",
            id="FastAPI, a list",
        ),
        pytest.param('{"detail": 3}', {}, "no explanation given", id="FastAPI, a number"),
        pytest.param("", {}, "no explanation given", id="empty"),
        pytest.param("<h1>Bad</h1>\n<p>gateway", {}, "Bad gateway", id="HTML"),
        pytest.param("<E><Message>No  key</Message></E>", {}, "No key", id="XML"),
        pytest.param('{"error": "e"}', {"x-error-message": "header"}, "header", id="the header"),
    ],
)
def test_what_the_hub_said_is_in_the_message(
    body: str, headers: dict[str, str], message: str
) -> None:
    assert (
        failure(400, said=body, headers=headers).message
        == f"looking up the branch failed: {message}"
    )


def test_every_request_is_called_by_what_it_does() -> None:
    """Each `call` that is sent somewhere; those that are words already stay as they are."""
    folder = Path(failures.__file__).parent
    call = re.compile(r"""(?<!\.)\b(?:HubRequest|get|post_json)\(\s*"([a-z_]+)",""")
    calls = {name for path in folder.glob("*.py") for name in call.findall(path.read_text())}
    assert {"whoami", "head", "complete", "bucket_batch"} <= calls
    assert {name for name in calls if in_words(name) == name} == {"commit", "preupload"}


def test_an_error_carries_what_its_reader_needs() -> None:
    error = failure(429, "Slow", "x" * 9000, headers={"retry-after": "7", "x-request-id": "r1"})

    assert (error.status, error.method, error.url) == (429, "POST", "https://h/api/x")
    assert (error.request_id, error.error_code, error.retry_after) == ("r1", "Slow", 7)
    assert len(error.body) == 1024
    assert len(error.message) < 400


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"x-request-id": "a", "x-amzn-trace-id": "b"}, "a", id="first"),
        pytest.param({"x-amz-cf-id": "c"}, "c", id="CloudFront"),
        pytest.param({"x-request-id": "", "x-amz-request-id": "d"}, "d", id="S3"),
        pytest.param({"x-request-id": "a" * 999}, "a" * 200, id="endless"),
    ],
)
def test_request_ids(headers: dict[str, str], expected: str | None) -> None:
    assert request_id(headers) == expected


@pytest.mark.parametrize("status", [400, 404, 422])
@pytest.mark.parametrize(
    "said",
    [
        "an LFS pointer pointed to a file that does not exist",
        f'{{"detail": {{"error": "LFS object {"ab" * 32} not found in storage. Upload failed"}}}}',
    ],
    ids=["the Hub", "KohakuHub"],
)
def test_a_commit_of_objects_that_are_gone(status: int, said: str) -> None:
    error = failure(status, said=said, call="commit")

    assert is_lfs_pointer_missing(error)
    assert "lost objects" in error.suggestion
    assert "try again" in error.suggestion
    assert not is_lfs_pointer_missing(failure(status))
    assert not is_lfs_pointer_missing(failure(500, said="LFS pointer"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((failure(status, call="part"), True) for status in (400, 401, 403, 404, 409, 410, 422)),
        (failure(400, said=BUSY, call="part"), False),
        (failure(503, call="part"), False),
        (failure(429, call="part"), False),
    ],
    ids=lambda value: f"{value.status}" if isinstance(value, HubError) else "",
)
def test_an_upload_that_cannot_be_gone_on_with(error: HubError, expected: bool) -> None:
    assert is_upload_void(error) is expected


@given(status=st.integers(400, 599), body=st.binary(max_size=80), code=st.none() | st.text())
def test_any_answer_becomes_a_hub_error(status: int, body: bytes, code: str | None) -> None:
    headers = {} if code is None else {"x-error-code": code, "retry-after": code}
    request = HubRequest("commit", "POST", "/api/x")

    error = failure_of(request, HubResponse(status, headers, body), now=0.0)

    assert error.status == status
    assert error.suggestion


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("You have exceeded the quota of 128 per hour. Retry this action in about 1 hour.", 3600),
        ("Please try again in 5 minutes", 300),
        ("Retry in an hour", 3600),
        ("try again in around 2 days", 172_800),
        ("Retry this later", None),
    ],
)
def test_a_wait_that_is_reported_in_words_alone(said: str, seconds: float | None) -> None:
    assert failure(429, said=said, call="commit").retry_after == seconds
    assert failure(503, said=said, call="commit").retry_after is None


def test_a_header_says_more_than_words() -> None:
    error = failure(429, said="Retry in about 1 hour", headers={"retry-after": "7"})
    assert error.retry_after == 7


@given(
    retry_after=st.text()
    | st.integers(0, 10**12).map(str)
    | st.from_regex(r"\A\w{3}, [0-3]\d Dec \d{4} \d\d:\d\d:\d\d GMT\Z"),
    date=st.sampled_from(["", "Fri, 01 Jan 1960 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"]),
    status=st.sampled_from([403, 429, 503]),
)
def test_no_header_raises_anything(retry_after: str, date: str, status: int) -> None:
    headers = {"retry-after": retry_after, "date": date}
    for call in ("commit", "part"):
        assert failure(status, call=call, headers=headers).status == status


def test_a_wait_beyond_the_calendar_is_bounded() -> None:
    headers = {
        "retry-after": "Fri, 31 Dec 9999 23:59:59 GMT",
        "date": "Fri, 01 Jan 2021 00:00:00 GMT",
    }
    request = HubRequest("commit", "POST", "/api/x")
    error = failure_of(request, HubResponse(429, headers, b""), now=1_790_000_000.0)
    assert error.retry_after == LONGEST_WAIT


@pytest.mark.parametrize("status", [401, 403, 500])
def test_only_the_public_hub_has_its_pages_suggested(status: int) -> None:
    request = HubRequest("head", "GET", "/api/x", fields={"repo_id": "me/m"})
    here, there = (
        failure_of(request, HubResponse(status, {}, b"", f"{hub}/api/x"), now=0.0).suggestion
        for hub in ("https://huggingface.co", "https://hub.example:8443")
    )
    assert "huggingface.co" in here
    assert "huggingface" not in there
    assert ("https://hub.example:8443" in there) is (status != 500)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (HubError("no answer"), True),
        (HubError("not sent", unreachable=True), False),
        (failure(504), True),
        (failure(500), True),
        (failure(503), False),
        (failure(429), False),
        (failure(501), False),
        (failure(403), False),
    ],
    ids=str,
)
def test_what_may_still_land(error: HubError, expected: bool) -> None:
    assert may_still_land(error) is expected


def test_whether_to_try_again_is_decided_in_one_table() -> None:
    """Read from the source: elsewhere `retryable` is never `True` by itself, but in the retry loop,
    for what it calls an attempt, and where it says that the last one was made."""
    root = Path(failures.__file__).parents[1]
    deciding = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword)
        and node.arg == "retryable"
        and isinstance(node.value, ast.Constant | ast.Compare | ast.BoolOp)
    }
    assert deciding == {"net/retry.py"}


@pytest.mark.parametrize(
    ("code", "message", "retryable"),
    [
        (503, "busy", True),
        (400, "Please reduce your request rate", True),
        (422, "too large", False),
    ],
)
def test_a_refused_object_is_retried_like_a_call(code: int, message: str, retryable: bool) -> None:
    item = LfsObject("a" * 64, 5)
    answer = {"objects": [{"oid": item.oid, "error": {"code": code, "message": message}}]}
    response = HubResponse(200, {}, orjson.dumps(answer), "https://hub/x")
    with pytest.raises(HubError) as caught:
        parse_batch(response, [item])
    assert caught.value.retryable is retryable
