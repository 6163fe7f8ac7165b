"""Where the token comes from, and getting a new one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncpush.errors import AuthError, MissingTokenError
from asyncpush.net.credentials import TokenSource, token_from_environment


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory, and nothing else in the environment."""
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "me"
    monkeypatch.setenv("HOME", str(home))
    return home


def write(path: Path, token: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(token.encode() if isinstance(token, str) else token)


def test_nothing_anywhere(home: Path) -> None:
    assert token_from_environment() is None


def test_each_place_goes_before_those_after_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".cache/huggingface/token", "hf_home\n")
    assert token_from_environment() == "hf_home"

    write(home / "xdg/huggingface/token", "hf_xdg")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
    assert token_from_environment() == "hf_xdg"

    write(home / "hf/token", "hf_HF_HOME")
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert token_from_environment() == "hf_HF_HOME"

    write(home / "file", "hf_HF_TOKEN_PATH")
    monkeypatch.setenv("HF_TOKEN_PATH", "~/file")
    assert token_from_environment() == "hf_HF_TOKEN_PATH"

    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_old_name")
    assert token_from_environment() == "hf_old_name"

    monkeypatch.setenv("HF_TOKEN", "hf_HF_TOKEN")
    assert token_from_environment() == "hf_HF_TOKEN"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("HF_TOKEN_PATH", "deep/token"),
        ("HF_HOME", "deep/token"),
        ("XDG_CACHE_HOME", "deep/huggingface/token"),
    ],
)
def test_variables_within_a_path_are_expanded(
    name: str, file: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the official client does; files begin with a BOM on some systems."""
    write(home / file, "\ufeffhf_there\n")
    monkeypatch.setenv(name, "$HOME/deep/token" if name == "HF_TOKEN_PATH" else "$HOME/deep")
    assert token_from_environment() == "hf_there"


@pytest.mark.parametrize("value", ["", "  ", "\n", "\r\n"], ids=repr)
def test_an_empty_variable_counts_as_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", value)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "other")
    assert token_from_environment() == "other"


@pytest.mark.parametrize("value", [" hf_x ", "hf_x\n", "\r\nhf_x\r\n", "hf_\nx"], ids=repr)
def test_white_space_around_a_token_is_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", value)
    assert token_from_environment() == "hf_x"


@pytest.mark.parametrize(
    "value",
    [
        "\u00a0hf_x\u00a0",
        "hf_\u200bx",
        "\ufeffhf_x",
    ],
    ids=ascii,
)
async def test_invisible_characters_of_a_token_are_removed(
    home: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    assert await TokenSource(value).get() == "hf_x"
    monkeypatch.setenv("HF_TOKEN", value)
    assert token_from_environment() == "hf_x"


@pytest.mark.parametrize(
    "value",
    [
        *(
            "hf_s\u00e9cret",
            "hf_\u2026",
            "hf_s\tx",
            "\u201chf_s\udce8",
            "hf_s x",
            '"hf_sx',
            "hf_s'x",
        ),
        *('"hf_sx"', "'hf_sx'", "\u201chf_sx\u201d", "Bearer hf_sx", "bearer  hf_sx\n"),
        *("Authorization: Bearer hf_sx", '"Bearer hf_sx"', "Bearer 'hf_sx'"),
    ],
    ids=ascii,
)
async def test_an_impossible_token_is_refused_with_the_reason(
    home: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    with pytest.raises(
        AuthError,
        match=r"given is not a valid token: (its character \d is (U\+|a )|it begins with)",
    ):
        await TokenSource(value).get()
    write(home / ".cache/huggingface/token", "another one")
    monkeypatch.setenv("HF_TOKEN", value)
    with pytest.raises(AuthError, match="HF_TOKEN is not a valid token") as caught:
        await TokenSource(None).get()
    assert "hf_" not in str(caught.value)
    with pytest.raises(AuthError, match="callable"):
        await TokenSource(lambda: value).get()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_token_file_may_be_written_as_other_systems_do(home: Path, encoding: str) -> None:
    write(home / ".cache/huggingface/token", "hf_x\r\n".encode(encoding))
    assert token_from_environment() == "hf_x"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"], ids=["empty", "blank", "not UTF-8"])
def test_a_token_file_of_no_use_counts_as_none(home: Path, content: bytes) -> None:
    write(home / ".cache/huggingface/token", content)
    assert token_from_environment() is None


def test_a_token_file_that_is_a_folder_counts_as_none(home: Path) -> None:
    (home / ".cache/huggingface/token").mkdir(parents=True)
    assert token_from_environment() is None


def test_without_a_home_directory_there_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs as a user nobody knows."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert token_from_environment() is None


async def test_a_token_that_is_given_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "other")
    source = TokenSource(" given\n")
    assert source.known == "given"
    assert await source.get() == "given"
    assert not source.refreshable


async def test_none_means_the_environment_once_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    source = TokenSource(None)
    assert source.known == ""
    monkeypatch.setenv("HF_TOKEN", "later")
    assert await source.get() == source.known == "later"


@pytest.mark.parametrize("token", ["", " ", "\n"], ids=repr)
def test_an_empty_token_is_refused_at_once(token: str) -> None:
    with pytest.raises(MissingTokenError, match="empty"):
        TokenSource(token)


@pytest.mark.parametrize("token", [True, b"hf_x", 5, ["hf_x"]], ids=repr)
def test_an_invalid_token_does_not_fall_back_to_another(
    token: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "other")
    with pytest.raises(TypeError, match="token must be"):
        TokenSource(token)


async def test_a_token_can_be_looked_for_without_being_needed(home: Path) -> None:
    assert await TokenSource(None).find() is None
    assert await TokenSource(lambda: "").find() is None
    assert await TokenSource("hf_x").find() == "hf_x"


@pytest.mark.parametrize(
    ("value", "what"), [(None, "NoneType"), (5, "int"), (" ", "an empty text")]
)
async def test_a_callable_that_returns_no_token_is_named(value: Any, what: str) -> None:
    with pytest.raises(MissingTokenError, match=f"the token callable returned {what}, not a token"):
        await TokenSource(lambda: value).get()


async def test_a_token_file_that_cannot_be_read_is_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path))
    with pytest.raises(MissingTokenError) as caught:
        await TokenSource(None).get()
    assert f"given or found: {tmp_path} cannot be read" in str(caught.value)


async def test_no_token_says_what_to_do(home: Path) -> None:
    with pytest.raises(MissingTokenError) as caught:
        await TokenSource(None).get()
    assert "HF_TOKEN" in caught.value.suggestion
    assert "https://huggingface.co/settings/tokens" in caught.value.suggestion


async def test_no_token_for_another_hub_names_that_hub(home: Path) -> None:
    for source in (TokenSource(None, endpoint="https://hub.example"), ""):
        with pytest.raises(MissingTokenError) as caught:
            if isinstance(source, str):
                TokenSource(source, endpoint="https://hub.example")
            else:
                await source.get()
        assert "in your settings on https://hub.example" in caught.value.suggestion
        assert "hf auth login" not in caught.value.suggestion


async def _awaited(token: object) -> object:
    return token


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda token: lambda: token, id="plain"),
        pytest.param(lambda token: lambda: _awaited(token), id="async"),
    ],
)
@pytest.mark.parametrize(
    ("returned", "token"),
    [("hf_x", "hf_x"), (" hf_x\n", "hf_x"), ("", None), (None, None), (5, None)],
    ids=repr,
)
async def test_a_callable_is_asked(
    wrap: Callable[[object], Any], returned: object, token: str | None
) -> None:
    source = TokenSource(wrap(returned))
    assert source.refreshable
    if token is None:
        with pytest.raises(MissingTokenError):
            await source.get()
    else:
        assert await source.get() == token
        assert source.known == token


class Vault:
    """Gives t0, t1, … one at a time, when the test lets it."""

    def __init__(self) -> None:
        self.given = 0
        self.asked = anyio.Event()
        self.opened = anyio.Event()

    async def __call__(self) -> str:
        self.asked.set()
        await self.opened.wait()
        self.given += 1
        return f"t{self.given - 1}"


async def test_many_who_ask_at_once_make_one_call() -> None:
    vault = Vault()
    source = TokenSource(vault)
    asking = [asyncio.create_task(source.get()) for _ in range(5)]
    await vault.asked.wait()
    vault.opened.set()
    assert await asyncio.gather(*asking) == ["t0"] * 5
    assert vault.given == 1


async def test_many_who_are_refused_at_once_make_one_call() -> None:
    vault = Vault()
    vault.opened.set()
    source = TokenSource(vault)
    await source.get()
    vault.opened, vault.asked = anyio.Event(), anyio.Event()
    refreshing = [asyncio.create_task(source.refresh("t0")) for _ in range(5)]
    await vault.asked.wait()
    vault.opened.set()
    assert await asyncio.gather(*refreshing) == ["t1"] * 5
    assert vault.given == 2


async def test_a_late_refusal_of_an_old_token_fetches_no_other() -> None:
    vault = Vault()
    vault.opened.set()
    source = TokenSource(vault)
    await source.get()
    assert await source.refresh("t0") == "t1"
    assert await source.refresh("t0") == "t1"
    assert vault.given == 2


async def test_a_cancelled_asker_does_not_leave_the_others_waiting() -> None:
    vault = Vault()
    source = TokenSource(vault)
    first = asyncio.create_task(source.get())
    await vault.asked.wait()
    second = asyncio.create_task(source.get())
    await anyio.lowlevel.checkpoint()
    first.cancel()
    vault.opened.set()
    assert await second == "t0"


async def test_a_failing_callable_is_asked_again_the_next_time() -> None:
    answers: list[Any] = [LookupError("sealed"), "hf_x"]

    def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    source = TokenSource(token)
    with pytest.raises(LookupError):
        await source.get()
    assert await source.get() == "hf_x"


def test_the_token_is_in_no_repr() -> None:
    source = TokenSource("hf_secret")
    assert "hf_secret" not in repr(source) + str(source)


async def test_a_blocking_token_callable_runs_in_a_thread() -> None:
    asked, answer = threading.Event(), threading.Event()

    def ask() -> str:
        asked.set()
        assert answer.wait(5)
        return "hf_later"

    getting = asyncio.create_task(TokenSource(ask).get())
    await asyncio.to_thread(asked.wait, 5)
    assert not getting.done()  # the loop is here, and not within `ask`
    answer.set()
    assert await getting == "hf_later"


async def test_an_object_with_an_async_call_is_awaited() -> None:
    class Minting:
        async def __call__(self) -> str:
            assert threading.current_thread() is threading.main_thread()
            return "hf_minted"

    assert await TokenSource(Minting()).get() == "hf_minted"
