"""What is told of a failed attempt: to whoever catches the error, and to the listeners."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from asyncpush.errors import HubError
from asyncpush.events import Emitter, RequestFailed, RetryScheduled
from asyncpush.net.redaction import redact_headers, redact_text, redact_url


def complete_error(error: HubError, attempt: int, started: float, url: str, token: str) -> None:
    """What only the network layer knows about a failure; and nothing secret leaves it."""
    error.attempt = attempt
    error.elapsed_seconds = time.monotonic() - started
    error.url = redact_url(error.url or url)
    error.headers = redact_headers(error.headers, token)
    error.body = redact_text(error.body, token)
    error.message = redact_text(error.message, token)
    error.request_id = error.request_id and redact_text(error.request_id, token)
    error.error_code = error.error_code and redact_text(error.error_code, token)
    error.args = (error.message,)


def tell_failure(
    emit: Emitter,
    call: str,
    error: HubError,
    delay: float | None,
    fields: Mapping[str, Any],
) -> None:
    """The events of one failed attempt."""
    if not emit.active:
        return
    backoff_ms = None if delay is None else round(delay * 1000, 1)
    emit.emit(
        RequestFailed(
            call,
            error.url,
            error.message,
            error.status,
            error.attempt,
            backoff_ms,
            fields,
            error.method,
            type(error.__cause__ or error).__name__,
            error.body,
            error.headers,
            round(error.elapsed_seconds, 6),
            error.request_id,
            error.suggestion,
        )
    )
    tell_retry(emit, call, error, delay, fields)


def tell_retry(
    emit: Emitter,
    call: str,
    error: HubError,
    delay: float | None,
    fields: Mapping[str, Any],
) -> None:
    """That the same is done again after `delay` seconds, unless it is not."""
    if delay is not None:
        path, part = fields.get("file"), fields.get("part_number")
        emit.emit(RetryScheduled(call, error.attempt, delay, error.message, path, part))
