"""The Hub token: where it is found, and how it is replaced by a new one."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import contextvars
import inspect
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from asyncpush.errors import AuthError, MissingTokenError, os_reason
from asyncpush.lazy_dataclass import dataclass
from asyncpush.options import PUBLIC_ENDPOINT, expanded, hf_home

if TYPE_CHECKING:
    from asyncpush.net.login import Login

# Line breaks, no-break spaces, soft hyphens, zero-width characters and direction marks.
_INVISIBLE = dict.fromkeys(
    (
        *(0x0A, 0x0D, 0xA0, 0xAD, 0xFEFF),
        *range(0x200B, 0x2010),
        *range(0x202A, 0x2030),
        *range(0x2060, 0x2065),
    )
)
_QUOTES = "\"'`\u201c\u201d\u2018\u2019"

COLAB = "Colab's secrets"
RESOURCE = "HF_OIDC_RESOURCE"
"""The variable that asks for trusted publishing, and to what."""

_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_GIVEN = "the token that was given"

Token: TypeAlias = str | Callable[[], str | Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Credential:
    """A token. `origin` says where it comes from. It expires at the Unix time `expires_at`, and
    from `renew_at` on a new one is requested. If `renewable`, a new one may be available after a
    401."""

    token: str = field(repr=False)
    origin: str
    renew_at: float | None = None
    expires_at: float | None = None
    renewable: bool = False


def token_from_environment() -> str | None:
    """`HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else the token file that `hf auth login` wrote,
    else Colab's secrets. Trusted publishing comes before all of these, but needs a request to the
    Hub."""
    found = find_token()
    return found[0] if found is not None else None


def has_token() -> bool:
    """Whether there is a token in one of those places, or trusted publishing is set up."""
    return bool(os.environ.get(RESOURCE)) or find_token() is not None


def find_token() -> tuple[str, str] | None:
    """The token, and the variable or file it comes from; None when there is none. Raises
    `AuthError` for a text that cannot be a token."""
    return _token_in_variables() or _token_in_file() or _token_in_colab()


def _token_in_variables() -> tuple[str, str] | None:
    for name in _VARIABLES:
        if value := _clean(os.environ.get(name, ""), name):
            return value, name
    return None


def _token_in_colab() -> tuple[str, str] | None:
    if "google.colab" not in sys.modules or os.environ.get("VERTEX_PRODUCT") == "COLAB_ENTERPRISE":
        return None
    from asyncpush.net.colab import colab_token

    value = _clean(colab_token(), COLAB)
    return (value, COLAB) if value is not None else None


def every_token() -> list[str]:
    """All tokens that this user has set or stored, not only the one in use."""
    found = []
    for name in _VARIABLES:
        with contextlib.suppress(AuthError):  # a text that cannot be a token is ignored
            found.append(_clean(os.environ.get(name, ""), name))
    with contextlib.suppress(AuthError):
        found.append((_token_in_file() or ("", ""))[0])
    return [token for token in found if token]


def _unreadable_file() -> str | None:
    """Why the token file, which exists, cannot be read; else None."""
    try:
        path = _token_path()
        _decoded(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as exc:
        return f"{path} cannot be read: {os_reason(exc)}"
    except (UnicodeDecodeError, RuntimeError):
        return None
    return None


def _token_in_file() -> tuple[str, str] | None:
    try:
        path = _token_path()
        text = _decoded(path.read_bytes())
    except (OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: there is no home directory
        return None
    value = _clean(text, str(path))
    return (value, str(path)) if value is not None else None


def _blank_file() -> Path | None:
    """The token file, if it is empty although there are stored logins."""
    with contextlib.suppress(OSError, RuntimeError):
        path = _token_path()
        if not path.read_bytes().strip() and stored_path(path).exists():
            return path
    return None


class TokenSource:
    """Gives the token for `endpoint`.

    It calls the user's callable when there is one; `refresh` gets another token after a 401. A
    stored token that expires is renewed before its end, once `open_login` is set: it is called for
    the first token that may expire. No `repr` shows the token.
    """

    def __init__(
        self,
        token: Token | None,
        *,
        endpoint: str = PUBLIC_ENDPOINT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        current = None
        if isinstance(token, str):
            # Like a token that was found elsewhere, this one is checked later, in `get`.
            with contextlib.suppress(AuthError):
                current = token = _clean(token, _GIVEN)
            if token is None:
                raise MissingTokenError("the token that was given is empty", endpoint=endpoint)
        elif token is not None and not callable(token):
            raise TypeError("token must be a str, a callable that returns one, or None")
        self._endpoint = endpoint
        self._given = token
        self._clock = clock
        self._current = None if current is None else Credential(current, _GIVEN)
        self._asking = asyncio.Lock()
        self.open_login: Callable[[], Login] | None = None

    @cached_property
    def _login(self) -> Login | None:
        return None if self.open_login is None else self.open_login()

    @property
    def refreshable(self) -> bool:
        return callable(self._given) or (self._current is not None and self._current.renewable)

    @property
    def expires_at(self) -> float | None:
        """The Unix time at which the token in use expires, if that is known."""
        return None if self._current is None else self._current.expires_at

    @property
    def known(self) -> str:
        """The token in use, so that it can be redacted; empty before the first `get`."""
        return self._current.token if self._current is not None else ""

    async def get(self) -> str:
        """Raises `MissingTokenError` when there is none."""
        if (current := self._lasting()) is None:
            async with self._asking:
                current = self._lasting() or await self._ask()
                self._current = current
        return current.token

    @property
    def lasting(self) -> str | None:
        """The token in use; None when there is none yet, or when it has to be renewed."""
        current = self._lasting()
        return None if current is None else current.token

    async def find(self) -> str | None:
        """The token, or None when there is none: public repos can be read without one."""
        try:
            return await self.get()
        except MissingTokenError:
            return None

    async def refresh(self, rejected: str) -> str:
        """A token other than `rejected`. If another request has fetched one in the meantime, that
        one is returned."""
        async with self._asking:
            if self.known == rejected:
                self._current = await self._ask(rejected)
        return await self.get()

    def _lasting(self) -> Credential | None:
        """The token in use, or None when it has to be renewed."""
        current = self._current
        if current is None or current.renew_at is None or self._clock() < current.renew_at:
            return current
        return None

    async def _ask(self, rejected: str | None = None) -> Credential:
        if isinstance(self._given, str):
            value = _clean(self._given, _GIVEN)
            found = None if value is None else (value, _GIVEN)
        elif self._given is not None:
            answer = await _called(self._given)
            value = _clean(answer, "what the token callable returned")
            if value is None:
                what = "an empty text" if isinstance(answer, str) else type(answer).__name__
                raise MissingTokenError(
                    f"the token callable returned {what}, not a token", endpoint=self._endpoint
                )
            found = value, _GIVEN
        elif (resource := os.environ.get(RESOURCE)) and self._login is not None:
            return await self._login.exchange(resource)
        elif (found := _token_in_variables()) is None:
            # What was read is not compared with the file again: another process may replace the
            # token at any time.
            stored = await self._stored()
            if stored is not None and self._login is not None:
                return await self._login.stored(stored[0], Path(stored[1]), refused=rejected)
            found = stored or _token_in_colab()
        if found is None and (reason := _unreadable_file()) is not None:
            raise MissingTokenError(
                f"no Hugging Face token was given or found: {reason}", endpoint=self._endpoint
            )
        if found is None:
            raise MissingTokenError(endpoint=self._endpoint)
        return Credential(*found)

    async def _stored(self) -> tuple[str, str] | None:
        """The token in the file. The official client empties the file before it writes a renewed
        token."""
        found = _token_in_file()
        if found is None and (path := _blank_file()) is not None and self._login is not None:
            value = _clean(await self._login.read_again("", path), str(path))
            found = None if value is None else (value, str(path))
        return found


async def _called(ask: Callable[[], str | Awaitable[str]]) -> str:
    """The callable's result. A plain callable may wait for the network or for the user, so it runs
    in a thread, if one can be started: Python 3.12 starts none during interpreter shutdown."""
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
    """The files that hold this user's tokens: the token file, and `stored_tokens` of `hf auth
    login`."""
    try:
        path = _token_path()
    except RuntimeError:  # there is no home directory
        return []
    return [path, stored_path(path)]


def _token_path() -> Path:
    explicit = os.environ.get("HF_TOKEN_PATH")
    return expanded(explicit) if explicit else hf_home() / "token"


def stored_path(token_path: Path) -> Path:
    """Where `hf auth login` keeps its logins."""
    return token_path.with_name("stored_tokens")


def _decoded(content: bytes) -> str:
    """The text of a token file. PowerShell writes UTF-16."""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf_16 else "utf-8")


def _clean(token: object, where: str) -> str | None:
    """The token without line breaks and invisible characters. None when nothing is left.

    Raises `AuthError` for "Bearer", spaces and quotes, and for what a header cannot hold. The
    message names where the token comes from, never the token.
    """
    if not isinstance(token, str):
        return None
    text = token.translate(_INVISIBLE).strip()
    header = text.lstrip(_QUOTES).lower().removeprefix("authorization:").split(maxsplit=1)
    if len(header) == 2 and header[0] == "bearer":
        raise _not_a_token(where, 'it begins with "Bearer", which is not part of a token')
    for position, letter in enumerate(text, 1):
        if not "!" <= letter <= "~" or letter in _QUOTES:
            raise _not_a_token(
                where,
                f"its character {position} is {_named(letter)}, and tokens are plain ASCII without"
                " spaces and quotes",
            )
    return text or None


def _not_a_token(where: str, reason: str) -> AuthError:
    return AuthError(
        f"{where} is not a valid token: {reason}",
        suggestion="copy the token again, without anything before or after it",
    )


def _named(letter: str) -> str:
    if letter == " ":
        return "a space"
    return "a quote" if letter in _QUOTES else f"U+{ord(letter):04X}"
