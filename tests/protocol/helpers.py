"""Answers made of plain values."""

from __future__ import annotations

from typing import Any

import orjson

from asyncpush.models import Repo
from asyncpush.protocol.http import HubResponse

SHA256 = "a" * 64
OTHER_SHA256 = "b" * 64
SHA1 = "c" * 40
REPO = Repo("me/m")
DATASET = Repo("me/d", "dataset")


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> HubResponse:
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    return HubResponse(status, headers or {}, body, "https://hub.example/api/x")


def said(body: bytes | None) -> Any:
    assert body is not None
    return orjson.loads(body)
