"""Reading answers: their bodies within limits, whatever the server would like to send."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from asyncpush.errors import BODY_LIMIT, HubError, ProtocolError, printable
from asyncpush.options import MIB
from asyncpush.protocol.failures import request_id
from asyncpush.protocol.http import HubResponse

ANSWER_LIMIT = 32 * MIB
"""No answer of a Hub is larger; a page of 1,000 tree entries has about 0.3 MiB."""

BEGINNING = 4096
"""Bytes of a store's answer that an error could want: its text says what was the matter."""


def response_of(answer: aiohttp.ClientResponse, content: bytes, url: str) -> HubResponse:
    """The answer as parsers see it: header names in lower case."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return HubResponse(answer.status, headers, content, url)


async def read_limited(answer: aiohttp.ClientResponse, on_piece: Callable[[int], object]) -> bytes:
    """The whole body, unless it is larger than any answer or compressed against our wish. Of a
    failure the status says enough. `on_piece` is called with the number of bytes so far whenever
    some more have arrived."""
    try:
        return await _read_whole(answer, on_piece)
    except ProtocolError:
        if answer.status < 400:
            raise
        return b""


async def _read_whole(answer: aiohttp.ClientResponse, on_piece: Callable[[int], object]) -> bytes:
    encoding = answer.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("", "identity"):
        raise ProtocolError(f"the answer is compressed ({encoding[:40]}) although none was asked")
    pieces, size = [], 0
    async for piece in answer.content.iter_any():
        size += len(piece)
        on_piece(size)
        if size > ANSWER_LIMIT:
            raise ProtocolError(f"the answer is larger than {ANSWER_LIMIT} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def read_beginning(answer: aiohttp.ClientResponse) -> bytes:
    """The body as far as an error could want it; the rest is not waited for."""
    content = b""
    while len(content) < BEGINNING and (piece := await answer.content.readany()):
        content += piece
    return content[:BEGINNING]


def name_answer(error: HubError, response: HubResponse) -> None:
    """Which answer it was that did not parse: parsers see its fields alone."""
    if error.status is None:
        error.status = response.status
        error.body = printable(response.body[:BODY_LIMIT].decode("utf-8", "replace"))
        error.headers = dict(response.headers)
    error.request_id = error.request_id or request_id(response.headers)
