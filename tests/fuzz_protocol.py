"""Coverage-guided fuzzing of every parser in `protocol/`, for as long as it is let run.

`pip install -e '.[dev,fuzz]'`, then `python -m tests.fuzz_protocol -max_total_time=300 [FOLDER]`;
the options are libFuzzer's, FOLDER keeps what was learned. It stops at the first input for which a
parser raises anything but an error of ours, or takes long; that input becomes a case in
`tests/protocol`. Hypothesis does the same within the suite, with less depth.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import atheris

with atheris.instrument_imports(
    include=["asyncpush.protocol", "asyncpush.models", "asyncpush.net"]
):
    import orjson

    from asyncpush.errors import HubError, SourceError
    from asyncpush.models import receipts_from_json
    from asyncpush.protocol.failures import failure_of, is_lfs_pointer_missing
    from asyncpush.protocol.hints import rate_limit, wait_hint
    from asyncpush.protocol.http import HubRequest, HubResponse
    from asyncpush.protocol.lfs import md5_of_etag
    from asyncpush.protocol.urls import check_endpoint, check_target, join, resolve
    from asyncpush.redaction import redact_headers, redact_text, redact_url
    from tests.protocol.test_fuzz import PARSERS

HUB = "https://hub.example"
REQUEST = HubRequest("head", "GET", "/api/models/me/m", fields={"repo_id": "me/m"})
RECEIPTS = {
    "version": 1,
    "receipts": [
        {"path_in_repo": "a", "size": 1, "oid": "a" * 64, "route": "lfs", "xet_hash": "b" * 64},
        {"path_in_repo": "b", "size": 1, "oid": "a" * 40, "route": "inline", "content": "YQ=="},
    ],
}
NAMES = [
    *("link", "retry-after", "ratelimit", "ratelimit-policy", "x-error-code", "x-error-message"),
    *("etag", "x-amz-server-side-encryption", "x-request-id", "date"),
]
JSON = [*PARSERS.values(), (lambda response: receipts_from_json(response.body), RECEIPTS)]
WORDS: list[Any] = [
    None,
    True,
    False,
    "",
    "0",
    "1",
    "lfs",
    "file",
    "00001",
    -1,
    0,
    1 << 61,
    1e308,
    [],
    {},
]


def try_one(data: bytes) -> None:
    source = atheris.FuzzedDataProvider(data)
    with contextlib.suppress(HubError, SourceError):
        match source.ConsumeIntInRange(0, 3):
            case 0:
                _try_text(source)
            case 1:  # bytes as they come
                parse, _ = source.PickValueInList(JSON)
                parse(_answer(source, source.ConsumeBytes(source.remaining_bytes())))
            case _:  # a valid answer, changed
                parse, valid = source.PickValueInList(JSON)
                parse(_answer(source, orjson.dumps(_changed(source, valid))))


def _answer(source: Any, body: bytes) -> HubResponse:
    name = source.PickValueInList(NAMES)
    headers = {name: source.ConsumeUnicodeNoSurrogates(60)}
    return HubResponse(source.ConsumeIntInRange(100, 599), headers, body, HUB)


def _changed(source: Any, value: Any) -> Any:
    """The value with each of its parts, now and then, dropped, repeated or put something else."""
    match source.ConsumeIntInRange(0, 15):
        case 0:
            return source.PickValueInList(WORDS)
        case 1:
            return source.ConsumeUnicodeNoSurrogates(80)
        case 2:
            return source.ConsumeIntInRange(-(1 << 63), (1 << 63) - 1)
        case 3 if isinstance(value, list):
            return [_changed(source, item) for item in value * 2]
        case 4 if isinstance(value, dict):
            return value | {source.ConsumeUnicodeNoSurrogates(9): _changed(source, "")}
        case 5 if isinstance(value, dict) and value:
            dropped = source.PickValueInList(sorted(value))
            return {name: item for name, item in value.items() if name != dropped}
    match value:
        case dict():
            return {name: _changed(source, item) for name, item in value.items()}
        case list():
            return [_changed(source, item) for item in value]
    return value


def _try_text(source: Any) -> None:
    """An error's body, headers and URLs."""
    text = source.ConsumeUnicodeNoSurrogates(400)
    answer = _answer(source, text.encode())
    error = failure_of(REQUEST, answer, now=0.0)
    assert len(str(error)) < 5000
    is_lfs_pointer_missing(error)
    wait_hint(answer.status, answer.headers, now=0.0)
    rate_limit(answer.headers)
    md5_of_etag(text, answer.headers)
    redact_url(text)
    redact_headers({"x": text}, "hf_secret")
    assert redact_text(redact_text(text)) == redact_text(text)
    with contextlib.suppress(ValueError):
        check_endpoint(text)
    check_target(join(HUB, resolve(text, HUB)), HUB)


if __name__ == "__main__":
    atheris.Setup([*sys.argv, "-timeout=5", "-rss_limit_mb=1000", "-max_len=4000"], try_one)
    atheris.Fuzz()
