"""Logins that expire: those that `hf auth login` stored, and trusted publishing from CI.

Next to the token file, `hf auth login` keeps `stored_tokens`: a section for each login with
`hf_token` and, for logins in the browser, `refresh_token` and `expires_at`. The official client and
this package renew them in the same way, under the same lock file. A refresh token can be used only
once. So a login is read again while the lock is held, and the Hub's answer is stored before
anything else happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio

from asyncpush.errors import AuthError, HubError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.net.credentials import RESOURCE, Credential, stored_path
from asyncpush.own_files import library_logger, lock_file, unlock_file, write_atomically
from asyncpush.protocol import urls
from asyncpush.protocol.accounts import (
    IssuedToken,
    TokenRefused,
    exchange_token_request,
    id_token_request,
    is_token_answer,
    kind_of_token,
    parse_id_token,
    parse_token,
    refresh_token_request,
)
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.redaction import redact_text, redact_url

if TYPE_CHECKING:
    import configparser

logger = library_logger("login")

T = TypeVar("T")

REFRESH_BEFORE = 24 * 3600
"""A stored login is renewed this many seconds before it expires, as in the official client."""

EXCHANGE_BEFORE = 300
"""A token of trusted publishing is replaced this many seconds before it expires, if possible."""

RECHECK_AFTER = 300
"""Seconds until a failed renewal is tried again. Until then the token is used, unless the Hub
refuses it."""

EXCHANGED_LIFETIME = 3600
"""Lifetime in seconds of a token of trusted publishing when the Hub does not give one."""

LOCK_TIMEOUT = 30.0
CANCEL_GRACE = 5.0
"""Seconds that a renewal may continue after its push was cancelled."""

_LOCK_POLL = 0.1

ID_TOKEN = "HF_OIDC_ID_TOKEN"

_CLIENT_ID = "26be6b09-91c5-47da-9861-d2d2bb7a7e36"  # the official client's id, which is public
_LOG_IN = "run `hf auth login`"
_PERMISSION = "add `permissions: id-token: write` to the job in the workflow file"


class Ask(Protocol):
    """Sends a request of this module to the Hub; see `HubSession.ask`."""

    async def __call__(
        self,
        request: HubRequest,
        parse: Callable[[HubResponse], T],
        *,
        retry: bool,
        accept: Callable[[HubResponse], bool],
    ) -> T: ...


@dataclass(frozen=True, slots=True)
class StoredLogin:
    """A section of `stored_tokens`. `expires_at` is a Unix time."""

    name: str
    token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_at: float


class Login:
    """Renews tokens that expire, by requests to the Hub at `endpoint`."""

    def __init__(
        self,
        ask: Ask,
        endpoint: str,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ask = ask
        self._endpoint = endpoint
        self._clock = clock
        self._sleep = sleep
        self._issued: tuple[str, float] | None = None  # the newest token, and the time it arrived

    async def stored(self, token: str, path: Path, *, refused: str | None = None) -> Credential:
        """The token that was read from the token file at `path`, or the one that replaces it.

        A login with less than a day left is renewed. So is one whose token the Hub has `refused`,
        unless the token is only minutes old: then the refusal has another reason. Only a refused
        login raises `HubError` when it cannot be renewed. Otherwise the token may still be valid,
        and the failure is logged as a warning.
        """
        login = find_login(token, path)
        if login is None and kind_of_token(token) == "oauth":
            token = await self.read_again(token, path)
            login = find_login(token, path)
        if login is None:
            return Credential(token, str(path), renewable=True)
        forced = token == refused and not self._is_new(token)
        due = login.expires_at - REFRESH_BEFORE
        if not forced and self._clock() < due:
            return Credential(token, str(path), due, login.expires_at, renewable=True)
        try:
            return await self._renew(login, path, retry=forced)
        except (HubError, OSError) as exc:
            error = exc if isinstance(exc, HubError) else _not_renewed(path, exc)
            if forced:
                raise error from exc
            reason = f"{error.message}; {error.suggestion}" if error.suggestion else error.message
            logger.warning("the login %r could not be renewed in time: %s", login.name, reason)
            again = self._clock() + RECHECK_AFTER
            return Credential(token, str(path), again, login.expires_at, renewable=True)

    async def read_again(self, token: str, path: Path) -> str:
        """The token in the file once no process holds the lock: who renews a login writes the
        logins first, and then the token. If it cannot be read, `token`."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            async with self._locked(stored_path(path)):
                return _read_token(path) or token
        return token

    async def _renew(self, known: StoredLogin, path: Path, *, retry: bool) -> Credential:
        async with self._locked(stored_path(path)):
            login = _read_logins(path).get(known.name, known)
            if login.token == known.token:  # else another process has just renewed it
                login = await _to_its_end(self._refresh(login, path, retry=retry))
        earliest = self._clock() + RECHECK_AFTER  # in case a login lasts less than a day
        due = max(login.expires_at - REFRESH_BEFORE, earliest)
        return Credential(login.token, str(path), due, login.expires_at, renewable=True)

    async def _refresh(self, login: StoredLogin, path: Path, *, retry: bool) -> StoredLogin:
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(13, os.strerror(13), str(path.parent))
        client_id = os.environ.get("HF_DEVICE_CODE_OAUTH_CLIENT_ID") or _CLIENT_ID
        request = refresh_token_request(login.refresh_token, client_id)
        asked = self._clock()
        answer = await self._ask(request, parse_token, retry=retry, accept=is_token_answer)
        if isinstance(answer, TokenRefused):
            ended = answer.error == "invalid_grant"
            raise self._refused(
                f"the login {login.name!r} has expired and cannot be renewed"
                if ended
                else f"the login {login.name!r} cannot be renewed",
                answer,
                request,
                _LOG_IN if ended else f"try again later, or {_LOG_IN}",
            )
        renewed = StoredLogin(
            login.name,
            answer.access_token,
            answer.refresh_token or login.refresh_token,
            asked + (RECHECK_AFTER if answer.expires_in is None else int(answer.expires_in)),
        )
        self._issued = renewed.token, asked
        try:
            _store(renewed, login.token, path, lasts=answer.expires_in is not None)
        except OSError as exc:
            logger.warning(
                "the login %r was renewed, but the new token could not be stored in %s (%s): %s"
                " before you start another program",
                *(login.name, path.parent, exc.strerror, _LOG_IN),
            )
        return renewed

    def _is_new(self, token: str) -> bool:
        if self._issued is None or self._issued[0] != token:
            return False
        return self._clock() - self._issued[1] < RECHECK_AFTER

    async def exchange(self, resource: str) -> Credential:
        """A token that may publish to `resource`, in exchange for the id token of this CI job.
        Raises `HubError` when there is none: no other token is used instead."""
        origin = f"by trusted publishing for {resource} ({RESOURCE})"
        given = os.environ.get(ID_TOKEN, "").strip()
        try:
            asked = self._clock()
            answer = await self._exchanged(given or await self._mint(), resource)
        except HubError as exc:
            exc.add_note(f"the token was requested {origin}")
            raise
        lifetime = EXCHANGED_LIFETIME if answer.expires_in is None else answer.expires_in
        # By then a given id token has expired as well, so the token is used until it expires.
        margin = 0 if given else min(EXCHANGE_BEFORE, lifetime / 2)
        ends = asked + lifetime
        return Credential(answer.access_token, origin, ends - margin, ends, renewable=not given)

    async def _exchanged(self, id_token: str, resource: str) -> IssuedToken:
        request = exchange_token_request(id_token, resource)
        answer = await self._ask(request, parse_token, retry=True, accept=is_token_answer)
        if isinstance(answer, TokenRefused):
            raise self._refused(
                f"the Hub refused this CI job a token for {resource}",
                answer,
                request,
                f"check that {resource} lists this workflow as a trusted publisher, and that"
                f" {ID_TOKEN}, if set, belongs to this job; or unset {RESOURCE}",
            )
        return answer

    async def _mint(self) -> str:
        """An id token from GitHub Actions."""
        if os.environ.get("GITHUB_ACTIONS") != "true":
            raise AuthError(
                f"{RESOURCE} is set, but there is no id token that identifies this job",
                suggestion=f"set {ID_TOKEN} to the id token of your CI, run in GitHub Actions,"
                f" or unset {RESOURCE}",
            )
        url = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL")
        bearer = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
        if not url or not bearer:
            raise AuthError(
                "GitHub Actions does not give this job an id token",
                suggestion=_PERMISSION,
            )
        request = id_token_request(url, bearer, self._endpoint)
        answer = await self._ask(request, parse_id_token, retry=True, accept=is_token_answer)
        if isinstance(answer, TokenRefused):
            raise self._refused("GitHub Actions refused an id token", answer, request, _PERMISSION)
        return answer

    def _refused(
        self, what: str, answer: TokenRefused, request: HubRequest, next_step: str
    ) -> AuthError:
        reason = ": ".join(filter(None, (answer.error, answer.description)))
        return AuthError(
            f"{what}: {redact_text(reason)[:300]}",
            status=answer.status,
            method=request.method,
            url=redact_url(urls.resolve(request.target, self._endpoint)),
            suggestion=next_step,
        )

    @asynccontextmanager
    async def _locked(self, stored: Path) -> AsyncIterator[None]:
        """Hold the lock that the official client also uses. Raises `OSError`."""
        path = stored.with_name(f"{stored.name}.lock")
        waited = 0.0
        while (descriptor := _try_lock(path)) is None:
            if waited >= LOCK_TIMEOUT:
                raise TimeoutError(
                    110, f"another process has held it for {waited:.0f} s", str(path)
                )
            await self._sleep(_LOCK_POLL)
            waited += _LOCK_POLL
        try:
            yield
        finally:
            unlock_file(descriptor)  # a forked child may have the file open too
            os.close(descriptor)


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The work's result. A cancellation ends the work only after `CANCEL_GRACE` seconds: the Hub
    may already have replaced the refresh token, and the new one must be stored."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # A cancelled anyio scope would cancel each further wait at once.
        with anyio.move_on_after(CANCEL_GRACE, shield=True):
            await asyncio.wait([task])
        raise
    finally:
        if not task.cancel() and not task.cancelled():
            task.exception()  # so that asyncio does not log it as never retrieved


def _read_token(path: Path) -> str:
    return path.read_text().strip()


def find_login(token: str, token_path: Path) -> StoredLogin | None:
    """The stored login of this token, if it can be renewed."""
    logins = _read_logins(token_path).values()
    return next((login for login in logins if login.token == token), None)


def _read_logins(token_path: Path) -> dict[str, StoredLogin]:
    logins: dict[str, StoredLogin] = {}
    if not os.path.exists(stored_path(token_path)):  # unlike `Path.exists`, raises nothing
        return logins
    import configparser  # few processes need it

    with contextlib.suppress(configparser.Error, UnicodeDecodeError, OSError):
        config = _read_config(token_path)
        for name in config.sections():
            fields = config[name]
            with contextlib.suppress(KeyError, ValueError):
                login = StoredLogin(
                    name,
                    fields["hf_token"].strip(),
                    fields["refresh_token"],
                    int(fields["expires_at"]),
                )
                logins[name] = login
    return logins


def _read_config(token_path: Path) -> configparser.ConfigParser:
    import configparser

    config = configparser.ConfigParser(interpolation=None)
    config.read(stored_path(token_path), encoding="utf-8")
    return config


def _store(login: StoredLogin, old_token: str, token_path: Path, *, lasts: bool) -> None:
    """Write the new token to both files; to the token file only if it still holds the old token."""
    config = _read_config(token_path)
    fields = {"hf_token": login.token, "refresh_token": login.refresh_token}
    if lasts:
        fields["expires_at"] = str(int(login.expires_at))
    config[login.name] = fields
    text = io.StringIO()
    config.write(text)
    _write_privately(stored_path(token_path), text.getvalue())
    if old_token in token_path.read_text(encoding="utf-8", errors="replace"):
        _write_privately(token_path, login.token)


def _write_privately(path: Path, text: str) -> None:
    """Write a file that only its owner can read. A file that is a mount of its own, as in some
    containers, cannot be replaced: it is overwritten."""
    try:
        write_atomically(path, text.encode(), mode=0o600)
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        with open(path, "r+b") as file:
            with contextlib.suppress(OSError):
                os.chmod(path, 0o600)
            file.write(text.encode())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock, or None while another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock_file(descriptor, wait=False)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)  # held, or removed since it was opened
    return None


def _not_renewed(path: Path, exc: OSError) -> AuthError:
    return AuthError(
        f"the login that is stored beside {path} cannot be renewed: {exc.strerror}: {exc.filename}",
        suggestion=f"make that path writable, or {_LOG_IN}",
    )
