"""Logins that expire are renewed; trusted publishing gets tokens, or fails."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import shutil
import stat
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import anyio
import anyio.to_thread
import pytest
from huggingface_hub import constants, get_token
from huggingface_hub.utils import _auth

from asyncpush import AuthError, HubError, MissingTokenError, UploadConfig, Uploader, push_to_hub
from asyncpush.localhub import LocalHub
from asyncpush.net import colab as colab_secrets
from asyncpush.net import credentials
from asyncpush.net.credentials import TokenSource, has_token, token_from_environment
from asyncpush.net.login import Login
from asyncpush.protocol.accounts import IssuedToken, TokenRefused
from tests.conftest import TOKEN, open_hub
from tests.faults import FaultLayer
from tests.oauth import ID_TOKEN_PATH, TokenRequests, store_login, write_login

HOUR, DAY = 3600, 86_400
FILES = {"a.txt": b"one"}


@pytest.fixture
def tokens() -> TokenRequests:
    return TokenRequests()


@pytest.fixture
async def hub(
    tmp_path: Path, faults: FaultLayer, tokens: TokenRequests, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LocalHub]:
    trusted = {"kernels/me/k": tokens.is_ours, "me/m": tokens.is_ours}
    async with open_hub(tmp_path, faults, tokens.middleware, trusted_publishers=trusted) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where `clean_environment` lets `HF_HOME` be."""
    return tmp_path / "hf-home"


@pytest.fixture
def official(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str | None]:
    """The official client's `get_token`, anew in this environment."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))

    def ask() -> str | None:
        monkeypatch.setattr(constants, "ENDPOINT", os.environ["HF_ENDPOINT"])
        monkeypatch.setattr(_auth, "_OAUTH_REFRESH_CACHE", None)
        monkeypatch.setattr(_auth, "_OIDC_TOKEN_CACHE", None)
        return get_token()

    return ask


TOKEN_OF_A_PROCESS = """
import asyncio, sys
from asyncpush import UploadConfig, Uploader

async def main():
    async with Uploader(endpoint=sys.argv[1], config=UploadConfig(progress="none")) as up:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(await up._running()._session.token.get())

asyncio.run(main())
"""


async def token_of(hub: LocalHub, config: UploadConfig) -> str:
    async with Uploader(endpoint=hub.url, config=config) as up:
        return await up._running()._session.token.get()


async def test_a_login_is_renewed_in_its_last_day(
    hub: LocalHub,
    home: Path,
    tokens: TokenRequests,
    config: UploadConfig,
    official: Callable[[], str | None],
) -> None:
    """The witness reads what we wrote, and we what it wrote."""
    store_login(home, hub.log_in(), expires_at=time.time() + DAY - HOUR)

    result = await push_to_hub("me/m", FILES, endpoint=hub.url, config=config)

    assert result.verified
    [asked] = tokens.asked
    renewed = (home / "token").read_text()
    assert tokens.newest == renewed
    for name in ("token", "stored_tokens"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    stored = _auth._read_stored_tokens_full()
    assert stored["other"] == {"hf_token": "hf_other"}
    mine = stored["me (ünï)"]
    assert mine["hf_token"] == renewed
    refresh_token = tokens.answered[0]["refresh_token"]
    assert mine["refresh_token"] == refresh_token != asked["refresh_token"]
    assert int(mine["expires_at"]) == pytest.approx(time.time() + 30 * DAY, abs=60)
    assert await anyio.to_thread.run_sync(official) == renewed
    assert len(tokens.asked) == 1

    write_login(home, renewed, refresh_token, time.time() + HOUR)
    theirs = await anyio.to_thread.run_sync(official)

    assert tokens.asked[1] == asked | {"refresh_token": refresh_token}
    assert await token_of(hub, config) == theirs
    assert len(tokens.asked) == 2


PLACES = {
    "nothing": {},
    "HF_TOKEN": {"HF_TOKEN": "hf_new"},
    "the old name": {"HUGGING_FACE_HUB_TOKEN": "hf_old"},
    "both names": {"HF_TOKEN": "hf_new", "HUGGING_FACE_HUB_TOKEN": "hf_old"},
    "an empty HF_TOKEN": {"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "hf_old"},
    "line breaks": {"HF_TOKEN": " hf_new\r\n"},
    "file": {"file": "hf_file\n"},
    "blank file": {"file": "\n"},
    "HF_TOKEN and file": {"HF_TOKEN": "hf_new", "file": "hf_file"},
    "a blank HF_TOKEN and file": {"HF_TOKEN": "  ", "file": "hf_file"},
    "login": {"login": "hf_login"},
    "HF_TOKEN and login": {"HF_TOKEN": "hf_new", "login": "hf_login"},
    "Colab": {"colab": "hf_colab"},
    "file and Colab": {"file": "hf_file", "colab": "hf_colab"},
    "Colab Enterprise": {"colab": "hf_colab", "VERTEX_PRODUCT": "COLAB_ENTERPRISE"},
    "a blank secret of Colab's": {"colab": "\n"},
    "trusted publishing": {"HF_OIDC_RESOURCE": "me/m", "HF_OIDC_ID_TOKEN": "given"},
    "trusted publishing and all": {
        "HF_OIDC_RESOURCE": "me/m",
        "HF_OIDC_ID_TOKEN": "given",
        "HF_TOKEN": "hf_new",
        "file": "hf_file",
    },
    "no resource": {"HF_OIDC_RESOURCE": "", "HF_OIDC_ID_TOKEN": "given", "HF_TOKEN": "hf_new"},
}


async def test_the_token_is_found_where_the_official_client_looks(
    hub: LocalHub, home: Path, tokens: TokenRequests, official: Callable[[], str | None]
) -> None:
    """The official client is run in each environment, and so are we."""
    tokens_by_name = {}
    for name, place in PLACES.items():
        with pytest.MonkeyPatch.context() as patch:
            tokens_by_name[name] = await found_by_both(dict(place), home, hub, official, patch)

    # A token of trusted publishing is a new one each time.
    theirs, ours = (
        {
            name: token and token.partition("local-")[0]
            for name, token in zip(tokens_by_name, side, strict=True)
        }
        for side in zip(*tokens_by_name.values(), strict=True)
    )
    assert ours == theirs
    assert [request["resource"] for request in tokens.asked] == ["me/m"] * 4


async def found_by_both(
    place: dict[str, str],
    home: Path,
    hub: LocalHub,
    official: Callable[[], str | None],
    patch: pytest.MonkeyPatch,
) -> tuple[str | None, str | None]:
    """What the official client finds in such an environment, and what we find."""
    shutil.rmtree(home, ignore_errors=True)
    os.mkdir(home)
    if (token := place.pop("file", None)) is not None:
        (home / "token").write_text(token)
    if (token := place.pop("login", None)) is not None:
        write_login(home, token, "refresh-0", time.time() + 9 * DAY)
    if (secret := place.pop("colab", None)) is not None:
        colab(patch, lambda name: secret)
        patch.setattr(_auth, "is_google_colab", lambda: True)
        patch.setattr(_auth, "is_colab_enterprise", lambda: "VERTEX_PRODUCT" in place)
    patch.setattr(_auth, "_IS_GOOGLE_COLAB_CHECKED", False)
    patch.setattr(_auth, "_GOOGLE_COLAB_SECRET", None)
    for name, value in place.items():
        patch.setenv(name, value)
    theirs = await anyio.to_thread.run_sync(official)
    async with Uploader(endpoint=hub.url, config=UploadConfig(progress="none")) as up:
        return theirs, await up._running()._session.token.find()


async def test_a_login_is_not_renewed_before_its_last_day(
    hub: LocalHub, home: Path, tokens: TokenRequests, config: UploadConfig
) -> None:
    login = hub.log_in()
    store_login(home, login, expires_at=time.time() + DAY + HOUR)
    before = (home / "stored_tokens").read_bytes()

    assert await token_of(hub, config) == login.access_token
    assert tokens.asked == []
    assert (home / "stored_tokens").read_bytes() == before
    assert not (home / "stored_tokens.lock").exists()


@pytest.mark.parametrize(
    ("transfer", "route"),
    [("lfs", "batch"), ("lfs", "verify"), ("xet", "xet-write-token"), ("xet", "commit")],
)
async def test_a_login_that_expires_during_a_push_is_renewed(
    transfer: Literal["lfs", "xet"],
    route: str,
    tmp_path: Path,
    faults: FaultLayer,
    home: Path,
    tokens: TokenRequests,
    config: UploadConfig,
) -> None:
    async with open_hub(tmp_path, faults, tokens.middleware, xet=transfer == "xet") as hub:
        store_login(home, hub.log_in())
        faults.hooks[route] = hub.revoke_tokens
        async with Uploader(endpoint=hub.url, config=replace(config, transfer=transfer)) as up:
            result = await up.push_to_hub("me/m", {"a.bin": os.urandom(100_000)})

    assert route not in faults.hooks
    assert result.verified
    assert [receipt.route for receipt in result.receipts] == [transfer]
    assert result.warnings == ()
    assert len(tokens.asked) == 1


async def test_a_login_is_renewed_once_beside_the_official_client(
    hub: LocalHub,
    home: Path,
    tokens: TokenRequests,
    config: UploadConfig,
    official: Callable[[], str | None],
) -> None:
    """One lock file holds for both. The official client may keep the old token, which is valid for
    an hour, if it reads the token file just before we write it and the logins just after."""
    login = hub.log_in()
    store_login(home, login, expires_at=time.time() + HOUR)
    found: dict[str, str | None] = {}

    async def theirs() -> None:
        found["theirs"] = await anyio.to_thread.run_sync(official)

    async def ours() -> None:
        found["ours"] = await token_of(hub, config)

    async with anyio.create_task_group() as group:
        group.start_soon(theirs)
        group.start_soon(ours)

    assert len(tokens.asked) == 1
    assert found["ours"] == tokens.newest
    assert found["theirs"] in (tokens.newest, login.access_token)
    assert official() == tokens.newest


async def test_a_fresh_token_that_is_refused_is_not_renewed(
    hub: LocalHub, home: Path, tokens: TokenRequests, faults: FaultLayer, config: UploadConfig
) -> None:
    """Some Hubs say 401 of repos that are not there."""
    store_login(home, hub.log_in())
    faults.add("create", "401", times=9)
    async with Uploader(config=config) as up:
        for _ in range(3):
            with pytest.raises(AuthError):
                await up.push_to_hub("me/m", FILES)

    assert len(tokens.asked) == 1


async def test_two_at_once_renew_a_login_once(
    hub: LocalHub, home: Path, tokens: TokenRequests, config: UploadConfig
) -> None:
    store_login(home, hub.log_in(), expires_at=time.time() + HOUR)
    found: list[str] = []

    async def check() -> None:
        found.append(await token_of(hub, config))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(check)

    assert len(tokens.asked) == 1
    assert set(found) == {tokens.newest}


async def test_two_processes_at_once_renew_a_login_once(
    hub: LocalHub, home: Path, tokens: TokenRequests
) -> None:
    """A refresh token is good once: a second renewal would fail."""
    store_login(home, hub.log_in(), expires_at=time.time() + HOUR)
    program = [sys.executable, "-c", TOKEN_OF_A_PROCESS, hub.url]
    processes = [
        await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE) for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    # All of them have started and imported what they need: now they race for the lock file.
    answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))

    assert len(tokens.asked) == 1
    assert {found.decode().strip() for found, _ in answers} == {tokens.newest}
    assert [process.returncode for process in processes] == [0, 0, 0]


async def read_beside_another_process(
    hub: LocalHub, home: Path, write: Callable[[], object], token: str | None = None
) -> str:
    """The token that is found, in place of `token` if that was read already. Another process holds
    the lock when it is looked for, and calls `write` before it lets go."""
    waiting = anyio.Event()
    found: list[str] = []

    async def ask(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("nothing is to be asked")

    async def sleep(seconds: float) -> None:
        waiting.set()
        await anyio.lowlevel.checkpoint()

    async def read() -> None:
        login = Login(ask, hub.url, sleep=sleep)
        source = TokenSource(None)
        source.open_login = lambda: login
        if token is None:
            found.append(await source.get())
        else:
            found.append((await login.stored(token, home / "token")).token)

    with (home / "stored_tokens.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await waiting.wait()
            write()
            fcntl.flock(lock, fcntl.LOCK_UN)
    return found[0]


async def test_what_another_process_stored_meanwhile_is_taken(hub: LocalHub, home: Path) -> None:
    write_login(home, TOKEN, "refresh-0", time.time() + HOUR)

    def renew() -> None:
        write_login(home, "hf_newer", "r", time.time() + 9 * DAY)

    assert await read_beside_another_process(hub, home, renew) == "hf_newer"


async def test_a_token_between_two_writes_is_read_again(hub: LocalHub, home: Path) -> None:
    """It has stored the renewed login, but not yet its token."""
    write_login(home, "hf_oauth_newer", "r", time.time() + 9 * DAY)
    path = home / "token"
    path.write_text("hf_oauth_older")

    def write() -> None:
        path.write_text("hf_oauth_newer")

    found = await read_beside_another_process(hub, home, write, "hf_oauth_older")
    assert found == "hf_oauth_newer"


async def test_a_token_file_found_empty_is_read_again(hub: LocalHub, home: Path) -> None:
    """The official client empties the file, and then writes the renewed token."""
    write_login(home, "hf_oauth_newer", "r", time.time() + 9 * DAY)
    path = home / "token"
    path.write_text("")

    def write() -> None:
        path.write_text("hf_oauth_newer")

    assert await read_beside_another_process(hub, home, write) == "hf_oauth_newer"


async def test_a_token_replaced_after_reading_is_read_again(
    hub: LocalHub, home: Path, config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_login(home, "hf_oauth_older", "r", time.time() + HOUR)
    read = credentials._token_in_file

    def read_just_before_it_is_replaced() -> tuple[str, str] | None:
        found = read()
        write_login(home, "hf_oauth_newer", "r", time.time() + 9 * DAY)
        return found

    monkeypatch.setattr(credentials, "_token_in_file", read_just_before_it_is_replaced)
    async with Uploader(endpoint=hub.url, config=config) as up:
        token = up._running()._session.token
        assert await token.get() == "hf_oauth_newer"
        assert token.refreshable


async def test_a_login_that_has_ended_says_log_in_again(
    hub: LocalHub,
    home: Path,
    tokens: TokenRequests,
    config: UploadConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    login = hub.log_in()
    store_login(home, login, expires_at=time.time() + HOUR)
    assert hub._issuer().refresh(login.refresh_token) is not None  # by somebody else
    with caplog.at_level(logging.WARNING, "asyncpush.login"):
        await push_to_hub("me/m", FILES, config=config)  # it is still good
    assert "invalid_grant" in caplog.text
    assert "hf auth login" in caplog.text

    hub.revoke_tokens()
    with pytest.raises(AuthError, match="has expired") as caught:
        await push_to_hub("me/m", FILES, config=config)

    assert caught.value.suggestion == "run `hf auth login`"
    assert f"request: POST {hub.url}/oauth/token, attempt 1" in str(caught.value)
    assert login.refresh_token not in str(caught.value)
    assert (home / "token").read_text() == login.access_token


@pytest.mark.parametrize("trouble", ["away", "no JSON", "folder", "lock"])
async def test_an_unrenewable_login_is_used_while_it_lasts(
    trouble: str,
    hub: LocalHub,
    home: Path,
    tokens: TokenRequests,
    config: UploadConfig,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store_login(home, hub.log_in(), expires_at=time.time() + HOUR)
    token, before = ((home / name).read_bytes() for name in ("token", "stored_tokens"))
    match trouble:
        case "away":
            tokens.failure = 503, ""
        case "no JSON":
            tokens.failure = 200, "<html>"
        case "folder":
            monkeypatch.setattr(os, "access", lambda path, mode: False)
        case "lock":
            (home / "stored_tokens.lock").mkdir()

    with caplog.at_level(logging.WARNING, "asyncpush.login"):
        assert await token_of(hub, config) == token.decode()

    assert "could not be renewed in time" in caplog.text
    assert len(tokens.asked) == (1 if tokens.failure else 0)
    assert (home / "stored_tokens").read_bytes() == before


@pytest.mark.parametrize(
    "stored", [b"[a]\n[a]\n", b"\xff", b"[a]\nhf_token = hf_x\n", b""], ids=repr
)
async def test_a_token_without_expiry_is_used_unchanged(
    stored: bytes, hub: LocalHub, home: Path, tokens: TokenRequests, config: UploadConfig
) -> None:
    write_login(home, "hf_x", "refresh-0", 0)
    (home / "stored_tokens").write_bytes(stored)

    assert await token_of(hub, config) == "hf_x"
    assert tokens.asked == []


async def test_a_token_of_the_environment_is_not_renewed(
    hub: LocalHub,
    home: Path,
    tokens: TokenRequests,
    config: UploadConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store_login(home, hub.log_in(), expires_at=time.time() + HOUR)
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    assert await token_of(hub, config) == TOKEN
    assert tokens.asked == []


@pytest.mark.parametrize(
    ("answer", "stored"),
    [
        (IssuedToken("hf_new", "refresh-1", 30 * DAY), "hf_new"),
        (TokenRefused("invalid_grant", "", 400), TOKEN),
    ],
    ids=["renewed", "refused"],
)
async def test_a_cancelled_push_waits_for_its_login_renewal(
    answer: IssuedToken | TokenRefused, stored: str, home: Path, hub: LocalHub
) -> None:
    """The old refresh token is of no use any more. A cancelled anyio scope cancels each wait."""
    write_login(home, TOKEN, "refresh-0", time.time() + HOUR)
    asked, answered = anyio.Event(), anyio.Event()

    async def ask(*args: Any, **kwargs: Any) -> Any:
        asked.set()
        await answered.wait()
        return answer

    async with anyio.create_task_group() as group:
        group.start_soon(Login(ask, hub.url).stored, TOKEN, home / "token")
        await asked.wait()
        group.cancel_scope.cancel()
        after_turns_of_the_loop(20, answered.set)

    assert (home / "token").read_text() == stored


def after_turns_of_the_loop(count: int, work: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    if count:
        loop.call_soon(after_turns_of_the_loop, count - 1, work)
    else:
        work()


async def test_a_login_in_a_mounted_file_is_renewed(
    hub: LocalHub,
    home: Path,
    official: Callable[[], str | None],
    config: UploadConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file that is a mount of its own, as in some containers, cannot be replaced."""
    store_login(home, hub.log_in(), expires_at=time.time() + HOUR)
    with (home / "token").open("a") as file:
        file.write("\n" * 2000)  # longer than the new one
    rename = os.replace

    def replace(source: str | Path, target: str | Path) -> None:
        if Path(target).name == "token":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    renewed = await token_of(hub, config)
    assert (home / "token").read_text() == renewed
    assert await asyncio.to_thread(official) == renewed
    assert stat.S_IMODE(os.stat(home / "token").st_mode) == 0o600
    assert [name for name in os.listdir(home) if name.startswith(".")] == []
    assert caplog.text == ""


async def test_an_unstorable_renewed_login_warns(
    hub: LocalHub,
    home: Path,
    tokens: TokenRequests,
    config: UploadConfig,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store_login(home, hub.log_in(), expires_at=time.time() + HOUR)
    before = (home / "stored_tokens").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    renewed = await token_of(hub, replace(config, resume=False))

    assert renewed == tokens.newest
    assert "could not be stored" in caplog.text
    assert "hf auth login" in caplog.text
    assert (home / "stored_tokens").read_bytes() == before
    assert set(os.listdir(home)) == {"stored_tokens", "stored_tokens.lock", "token"}


def in_github_actions(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{hub.url}{ID_TOKEN_PATH}?api-version=2.0")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner's")
    monkeypatch.setenv("HF_OIDC_RESOURCE", "kernels/me/k")


async def test_trusted_publishing_asks_as_the_official_client_does(
    hub: LocalHub,
    tokens: TokenRequests,
    config: UploadConfig,
    official: Callable[[], str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes before every other token."""
    in_github_actions(hub, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    theirs = await anyio.to_thread.run_sync(official)

    assert has_token()
    result = await push_to_hub("hf://kernels/me/k", FILES, config=config)

    assert result.verified
    assert theirs is not None
    # They drop what is in the URL already; GitHub's own example keeps it.
    assert tokens.minted[1] == tokens.minted[0] | {"api-version": "2.0"}
    assert tokens.minted[0]["audience"] == hub.url
    assert tokens.asked[1] == tokens.asked[0] | {"subject_token": "minted-2"}


async def test_an_id_token_that_is_given_is_exchanged(
    hub: LocalHub, tokens: TokenRequests, config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_github_actions(hub, monkeypatch)
    monkeypatch.setenv("HF_OIDC_ID_TOKEN", " given\n")

    assert await token_of(hub, config) == tokens.newest
    assert tokens.minted == []
    assert tokens.asked[0]["resource"] == "kernels/me/k"


async def test_a_minted_token_is_replaced_before_it_expires() -> None:
    now = 1000.0
    given: list[str] = []

    async def ask(request: Any, parse: Any, **how: Any) -> Any:
        if request.call == "id_token":
            return "id"
        given.append(f"hf_{len(given)}")
        return IssuedToken(given[-1], None, HOUR)

    source = TokenSource(None, clock=lambda: now)
    source.open_login = lambda: Login(ask, "https://hub.example", clock=lambda: now)
    with pytest.MonkeyPatch.context() as patch:
        in_github_actions(SimpleNamespace(url="https://github.example"), patch)  # type: ignore[arg-type]
        assert await source.get() == await source.get() == "hf_0"
        now += HOUR - 301
        assert await source.get() == "hf_0"
        now += 2
        assert await source.get() == "hf_1"
        assert source.refreshable
        assert await source.refresh("hf_1") == "hf_2"
        patch.setenv("HF_OIDC_ID_TOKEN", "given")
        now += HOUR - 299
        assert await source.get() == "hf_3"
        now += HOUR - 1
        assert await source.get() == "hf_3"  # it lasts to its end
        assert not source.refreshable


@pytest.mark.parametrize(
    ("what", "expected", "suggested"),
    [
        ("no provider", "no id token that identifies this job", "HF_OIDC_ID_TOKEN"),
        ("no permission", "does not give this job an id token", "id-token: write"),
        ("github says no", "GitHub Actions refused an id token: HTTP 403", "id-token: write"),
        ("hub says no", "invalid_grant: No trusted publisher", "trusted publisher"),
        (
            "hub has none",
            "refused this CI job a token for kernels/me/k: HTTP 404",
            "unset HF_OIDC_RESOURCE",
        ),
        ("hub is away", "HTTP 503", ""),
    ],
)
async def test_failed_trusted_publishing_has_no_fallback(
    what: str,
    expected: str,
    suggested: str,
    hub: LocalHub,
    tokens: TokenRequests,
    config: UploadConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_github_actions(hub, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    match what:
        case "no provider":
            monkeypatch.delenv("GITHUB_ACTIONS")
        case "no permission":
            monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
        case "github says no":
            tokens.status_of_github = 403
        case "hub says no":
            monkeypatch.setenv("HF_OIDC_ID_TOKEN", "stale")
        case "hub has none":
            tokens.failure = 404, "Not Found"
        case "hub is away":
            tokens.failure = 503, ""

    with pytest.raises(HubError) as caught:
        await push_to_hub("me/m", FILES, config=replace(config, max_retries=1))

    assert expected in str(caught.value)
    assert suggested in caught.value.suggestion
    assert "kernels/me/k" in str(caught.value) + str(caught.value.__notes__)
    assert "stale" not in str(caught.value)
    if what != "hub is away":
        assert isinstance(caught.value, AuthError)


@pytest.mark.parametrize("garbled", [False, True])
async def test_no_token_is_reported_in_events_logs_or_errors(
    garbled: bool,
    hub: LocalHub,
    home: Path,
    tokens: TokenRequests,
    config: UploadConfig,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    login = hub.log_in()
    secrets = [login.refresh_token, "given-secret", "hf_answered_secret_1"]
    texts = [""]
    tokens.id_tokens = {"given-secret"}
    if garbled:
        text = '{"access_token": ["hf_answered_secret_1"], "refresh_token": "%s"}'
        tokens.failure = 200, text % login.refresh_token
    config = replace(config, events=tmp_path / "events.jsonl", max_retries=0)
    caplog.set_level(logging.DEBUG, "asyncpush")

    store_login(home, login, expires_at=time.time() + HOUR)
    for name, value in (("HF_HOME", str(home)), ("HF_OIDC_RESOURCE", "me/m")):
        monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_OIDC_ID_TOKEN", "given-secret")
        try:
            await push_to_hub("me/m", FILES, config=config)
        except HubError as error:
            texts.append(str(error))

    assert len(tokens.asked) == 2
    texts += [caplog.text, (tmp_path / "events.jsonl").read_text()]
    assert '"call":"token"' in texts[-1].replace(" ", "")
    assert not [secret for secret in secrets if any(secret in text for text in texts)]


async def test_a_diagnosis_describes_the_token_or_its_absence(
    hub: LocalHub, home: Path, config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_login(home, hub.log_in())
    async with Uploader(config=config) as up:
        findings = {finding.name: finding for finding in await up.doctor()}
    kind = "an OAuth token of a login in the browser, expires on 20"
    assert f"from {home / 'token'}: {kind}" in findings["token"].found

    monkeypatch.setenv("HF_OIDC_RESOURCE", "me/m")
    monkeypatch.setenv("HF_OIDC_ID_TOKEN", "given")
    async with Uploader(config=config) as up:
        findings = {finding.name: finding for finding in await up.doctor()}
    assert "trusted publishing for me/m (HF_OIDC_RESOURCE)" in findings["token"].found
    assert "a token of trusted publishing (OIDC), expires on 20" in findings["token"].found
    assert findings["write"].found == "the token may write only to me/m"

    monkeypatch.delenv("HF_OIDC_ID_TOKEN")
    monkeypatch.setenv("HF_OIDC_RESOURCE", "me/m")
    async with Uploader(config=config) as up:
        findings = {finding.name: finding for finding in await up.doctor("me/m")}
    assert findings["token"].verdict == "failed"
    assert "endpoint" not in findings  # it was not asked
    assert "no id token" in findings["token"].found
    assert "HF_OIDC_ID_TOKEN" in findings["token"].fix


class _Refused(Exception):
    pass


def colab(monkeypatch: pytest.MonkeyPatch, get: Callable[[str], str]) -> None:
    userdata, errors, package = (
        ModuleType(name) for name in ("userdata", "errors", "google.colab")
    )
    kinds = {
        name: type(name, (_Refused,), {}) for name in ("NotebookAccessError", "SecretNotFoundError")
    }
    vars(userdata).update(kinds, get=get)
    vars(errors).update(Error=_Refused)
    vars(package).update(userdata=userdata, errors=errors)
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setitem(sys.modules, "google.colab.errors", errors)
    monkeypatch.setattr(colab_secrets, "_colab", [])


def test_colabs_secrets_come_last_and_are_asked_for_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def get(name: str) -> str:
        asked.append(name)
        return "hf_colab\n"

    colab(monkeypatch, get)
    assert token_from_environment() == token_from_environment() == "hf_colab"
    assert asked == ["HF_TOKEN"]

    home.mkdir()
    (home / "token").write_text("hf_file")
    assert token_from_environment() == "hf_file"

    monkeypatch.setenv("VERTEX_PRODUCT", "COLAB_ENTERPRISE")
    (home / "token").unlink()
    assert token_from_environment() is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("SecretNotFoundError", ""),
        ("NotebookAccessError", "not given access"),
        ("", "read: broken"),
    ],
)
async def test_colab_without_a_secret_has_no_token(
    kind: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def get(name: str) -> str:
        userdata = sys.modules["google.colab"].userdata
        raise getattr(userdata, kind, _Refused)("broken")

    colab(monkeypatch, get)
    with pytest.raises(MissingTokenError):
        await TokenSource(None).get()
    assert expected in caplog.text
    assert bool(caplog.text) == bool(expected)
