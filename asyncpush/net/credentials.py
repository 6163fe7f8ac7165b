"""The Hub token: where it comes from, and asking for a new one."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import contextvars
import inspect
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import anyio

from asyncpush.errors import AuthError, MissingTokenError
from asyncpush.options import PUBLIC_ENDPOINT, expanded, hf_home

# Line breaks, no-break spaces, soft hyphens, zero-width characters and marks of direction.
_INVISIBLE = re.compile(r"[\r\n\u00a0\u00ad\u200b-\u200f\u202a-\u202f\u2060-\u2064\ufeff]")
_SCHEME = re.compile(r"(?:authorization:\s*)?bearer\s+", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}

_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_GIVEN = "the token that was given"

Token: TypeAlias = str | Callable[[], str | Awaitable[str]]


def token_from_environment() -> str | None:
    """`HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else the token file that `hf auth login` wrote."""
    found = find_token()
    return found[0] if found is not None else None


def find_token() -> tuple[str, str] | None:
    """The environment's token, and the variable or file that it is from. Raises `AuthError` for
    one that cannot be a token."""
    for name in _VARIABLES:
        if value := _clean(os.environ.get(name, ""), name):
            return value, name
    return _token_in_file()


def every_token() -> list[str]:
    """All tokens that this user has set or stored, whichever of them is used."""
    found = []
    for name in _VARIABLES:
        with contextlib.suppress(AuthError):  # what cannot be a token is none
            found.append(_clean(os.environ.get(name, ""), name))
    with contextlib.suppress(AuthError):
        found.append((_token_in_file() or ("", ""))[0])
    return [token for token in found if token]


def _token_in_file() -> tuple[str, str] | None:
    try:
        path = _token_path()
        text = _decoded(path.read_bytes())
    except (OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: there is no home directory
        return None
    value = _clean(text, str(path))
    return (value, str(path)) if value is not None else None


class TokenSource:
    """Gives the token for `endpoint`, asking the user's callable when there is one; `refresh`
    after a 401.

    The token is in no `repr`.
    """

    def __init__(self, token: Token | None, *, endpoint: str = PUBLIC_ENDPOINT) -> None:
        current = None
        if isinstance(token, str):
            # What cannot be a token is said when it is asked for, as of those found elsewhere.
            with contextlib.suppress(AuthError):
                current = token = _clean(token, _GIVEN)
            if token is None:
                raise MissingTokenError("the token that was given is empty", endpoint=endpoint)
        elif token is not None and not callable(token):
            raise TypeError("token must be a text, a callable that returns one, or None")
        self._endpoint = endpoint
        self._given = token
        self._current: str | None = current
        self._asking = anyio.Lock()

    @property
    def refreshable(self) -> bool:
        return callable(self._given)

    @property
    def known(self) -> str:
        """The token in use, for redaction; empty when none was asked for yet."""
        return self._current or ""

    async def get(self) -> str:
        """Raises `MissingTokenError` when there is none."""
        if self._current is None:
            async with self._asking:
                self._current = self._current or await self._ask()
        return self._current

    async def find(self) -> str | None:
        """The token, or None when there is none: enough for what anybody may read."""
        try:
            return await self.get()
        except MissingTokenError:
            return None

    async def refresh(self, rejected: str) -> str:
        """Another token than `rejected`: a new one, unless a sibling request has fetched that."""
        async with self._asking:
            if self._current == rejected:
                self._current = await self._ask()
        return await self.get()

    async def _ask(self) -> str:
        if isinstance(self._given, str):
            found = _clean(self._given, _GIVEN)
        elif self._given is None:
            found = token_from_environment()
        else:
            found = _clean(await _called(self._given), "what the token callable returned")
        if found is None:
            raise MissingTokenError(endpoint=self._endpoint)
        return found


async def _called(ask: Callable[[], str | Awaitable[str]]) -> str:
    """What it returns. A plain callable may wait for a network or a prompt: it is called in a
    thread, where there can be one (Python 3.12 starts none while a process ends)."""
    if inspect.iscoroutinefunction(ask) or inspect.iscoroutinefunction(type(ask).__call__):
        answer = ask()
    else:
        context = contextvars.copy_context()
        try:
            calling = asyncio.get_running_loop().run_in_executor(None, context.run, ask)
        except RuntimeError:
            answer = ask()
        else:
            answer = await calling
    return await answer if inspect.isawaitable(answer) else answer


def token_files() -> list[Path]:
    """Where this user's tokens lie: the token file, and what `hf auth login` keeps beside it."""
    try:
        path = _token_path()
    except RuntimeError:  # there is no home directory
        return []
    return [path, path.with_name("stored_tokens")]


def _token_path() -> Path:
    explicit = os.environ.get("HF_TOKEN_PATH")
    return expanded(explicit) if explicit else hf_home() / "token"


def _decoded(content: bytes) -> str:
    """Some systems' shells write UTF-16."""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf_16 else "utf-8")


def _clean(token: object, where: str) -> str | None:
    """Without what copying it has brought along: line breaks, invisible characters, quotes, the
    header's "Bearer"; None when nothing is left. Raises `AuthError` for what no header
    takes, naming the place and never the token."""
    if not isinstance(token, str):
        return None
    text = _INVISIBLE.sub("", token).strip()
    text = _SCHEME.sub("", _unquoted(text))
    text = _unquoted(text)
    for position, letter in enumerate(text, 1):
        if not " " <= letter <= "~":
            raise AuthError(
                f"{where} is no token: its character {position} is U+{ord(letter):04X}, and"
                " tokens are plain ASCII",
                suggestion="copy the token anew, and nothing else",
            )
    return text or None


def _unquoted(text: str) -> str:
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        return text[1:-1].strip()
    return text
