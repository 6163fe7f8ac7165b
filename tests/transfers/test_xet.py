"""Xet, the second engine: the real hf_xet against the embedded Hub's own store of chunks."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import sys
import threading
import time
import types
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import hf_xet
import huggingface_hub
import numpy as np
import pytest
from aiohttp import web
from huggingface_hub import HfApi, close_session, constants
from safetensors.numpy import load, save_file

from asyncpush import Push, PushOptions, UploadConfig, Uploader
from asyncpush.errors import AsyncPushError, ProtocolError, SourceChangedError, SourceError
from asyncpush.events import (
    Emitter,
    FileHashed,
    FileRouted,
    FileStored,
    HashProgress,
    PartProgress,
    Record,
    TransferChosen,
)
from asyncpush.localhub import LocalHub
from asyncpush.models import FileSource, Receipt, UploadProgress
from asyncpush.options import MIB
from asyncpush.transfers.xet import engine, installation
from asyncpush.transfers.xet.access import XetTokens
from asyncpush.transfers.xet.installation import SMALL_FILES, XetFailedError, settings
from asyncpush.transfers.xet.stalls import (
    WAIT_FOR_OTHERS,
    SharedProgress,
    XetStallDetector,
    XetStalledError,
    unless_stalled,
)
from asyncpush.transfers.xet.upload_commit import XetCommit, XetPositions
from tests import event_recorder
from tests.cancelling import cancel_promptly
from tests.changes import grow
from tests.conftest import TOKEN, open_hub
from tests.faults import FaultLayer
from tests.protocol.helpers import answer
from tests.reading import download

Write = Callable[..., Path]

RNG = random.Random(6)
NOISE = RNG.randbytes(4 * MIB)
"""Bytes that no other test sends: nothing of them is in the store."""


class EventRecorder(event_recorder.EventRecorder):
    """The events of a test's pushes, in order."""

    @property
    def engines(self) -> list[str]:
        return [event.engine for event in self.of(TransferChosen)]


@pytest.fixture
def recorded() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    """A hub that grants Xet tokens."""
    async with open_hub(tmp_path, faults, xet=True) as hub:
        yield hub


@pytest.fixture
def config(config: UploadConfig, recorded: EventRecorder) -> UploadConfig:
    return replace(config, events=recorded)


def changed(data: bytes, *places: float) -> bytes:
    """A few bytes put in at each place, a share of the length."""
    result = bytearray(data)
    for place in places:
        at = int(place * len(result))
        result[at:at] = RNG.randbytes(16)
    return bytes(result)


async def test_auto_takes_xet_where_the_hub_grants_a_token(
    uploader: Uploader, hub: LocalHub, write: Write, recorded: EventRecorder, tmp_path: Path
) -> None:
    files = {
        "noise.bin": NOISE,
        "zeros.bin": bytes(3 * MIB),
        "tensor.bin": b"\0\0\x80\x3f" * 300_000 + NOISE[:1000],
        "small.bin": b"\0small",
        "empty.bin": b"",
        "README.md": "---\nlicense: mit\n---\n",
    }
    result = await uploader.push_to_hub("me/m", write(files))

    assert recorded.engines == ["xet"]
    routes = {event.path: event.route for event in recorded.of(FileRouted)}
    assert routes == {
        name: "inline" if name in ("README.md", "empty.bin") else "xet" for name in files
    }
    assert recorded.of(FileHashed) == []  # hf_xet hashes while it cuts: nothing is read twice
    assert await download(hub, "me/m") == {
        name: content.encode() if isinstance(content, str) else content
        for name, content in files.items()
    }
    by_path = {receipt.path_in_repo: receipt for receipt in result.receipts}
    noise = by_path["noise.bin"]
    assert (noise.route, noise.size, len(noise.xet_hash or "")) == ("xet", len(NOISE), 64)
    assert Receipt.from_json(noise.to_json()) == noise
    assert len(NOISE) < result.bytes_transferred < sum(len(content) for content in files.values())


async def test_deduplicated_and_sent_bytes_are_distinguished(
    uploader: Uploader, write: Write, recorded: EventRecorder, hub: LocalHub
) -> None:
    await uploader.push_to_hub("me/m", write({"old.bin": NOISE}))
    recorded.records.clear()

    second = changed(NOISE, 0.5)
    result = await uploader.push_to_hub("me/m", write({"new.bin": second}, "second"))

    [receipt] = result.receipts
    assert result.bytes_deduplicated == receipt.bytes_deduplicated > 0.9 * len(second)
    assert 0 < receipt.bytes_sent == result.bytes_transferred < 0.1 * len(second)
    last = recorded.of(PartProgress)[-1]
    assert last.size == len(second) == last.position
    assert last.deduplicated == receipt.bytes_deduplicated
    [stored] = recorded.of(FileStored)
    assert stored.bytes_sent == receipt.bytes_sent
    assert (await download(hub, "me/m"))["new.bin"] == second


@pytest.mark.usefixtures("settled_files")
async def test_stored_bytes_are_known_by_hash_and_not_read(
    uploader: Uploader, write: Write, recorded: EventRecorder, faults: FaultLayer, tmp_path: Path
) -> None:
    source = write({"a.bin": NOISE, "b.bin": NOISE[: 2 * MIB]})
    for path in source.iterdir():  # old enough for its time to tell of every write
        os.utime(path, (1_700_000_000, 1_700_000_000))
    first = await uploader.push_to_hub("me/m", source)
    faults.seen.clear()

    again = await uploader.push_to_hub("me/m", source)

    assert set(again.files_unchanged) == {"a.bin", "b.bin"}
    assert again.commit_sha == first.commit_sha
    assert (again.bytes_transferred, again.bytes_deduplicated) == (0, 6 * MIB)
    assert not faults.seen.keys() & {"xorb", "shard", "commit"}


async def test_without_memory_an_unchanged_file_makes_no_commit_either(
    hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    source = write({"a.bin": NOISE})
    config = replace(config, resume=False)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        first = await uploader.push_to_hub("me/m", source)
        again = await uploader.push_to_hub("me/m", source)
    assert (again.commit_sha, again.files_unchanged) == (first.commit_sha, ("a.bin",))
    assert again.bytes_deduplicated == len(NOISE)


@pytest.mark.big
async def test_twenty_checkpoints_cost_little_more_than_the_first(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    checkpoint = first = NOISE[:MIB]
    source = write({"model.safetensors": checkpoint})
    sent = []
    for step in range(20):
        checkpoint = changed(checkpoint, step / 20)
        (source / "model.safetensors").write_bytes(checkpoint)
        result = await uploader.push_to_hub("me/m", source)
        sent.append(result.bytes_transferred)
    assert max(sent[1:]) < 0.3 * len(first)  # a chunk is 64 KiB, give or take
    assert (await download(hub, "me/m"))["model.safetensors"] == checkpoint


@pytest.mark.parametrize(
    ("status", "transfer"),
    [(401, "auto"), (403, "auto"), (404, "auto"), (404, "xet"), (500, "auto")],
)
async def test_without_a_token_it_is_lfs_and_said(
    status: int,
    transfer: Any,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    write: Write,
    recorded: EventRecorder,
) -> None:
    faults.add("xet-write-token", str(status), times=99)
    config = replace(config, transfer=transfer, max_retries=1)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        result = await uploader.push_to_hub("me/m", write({"a.bin": b"\0a", "b.bin": b"\0b"}))

    assert [receipt.route for receipt in result.receipts] == ["lfs", "lfs"]
    [chosen] = recorded.of(TransferChosen)
    assert chosen.engine == "lfs"
    assert "no Xet token" in chosen.reason
    assert faults.seen["xet-write-token"] == (2 if status == 500 else 1)
    assert [w for w in result.warnings if "using LFS" in w] == (
        [f"using LFS although transfer='xet' was requested: {chosen.reason}"]
        if transfer == "xet"
        else []
    )


@pytest.mark.parametrize("reason", ["disabled", "not installed"])
async def test_why_auto_takes_lfs_is_said_without_asking_the_hub(
    reason: str,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    write: Write,
    recorded: EventRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = {
        "disabled": "HF_HUB_DISABLE_XET",
        "not installed": "pip install 'hf-xet",
    }
    if reason == "disabled":
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "true")
    if reason == "not installed":
        monkeypatch.setattr(installation, "find_spec", lambda name: None)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", write({"a.bin": b"\0a"}))
    [chosen] = recorded.of(TransferChosen)
    assert chosen.engine == "lfs"
    assert wanted[reason] in chosen.reason
    assert faults.seen["xet-write-token"] == 0


async def test_lfs_is_lfs_and_small_files_choose_nothing(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer, write: Write, recorded: EventRecorder
) -> None:
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", write({"a.txt": "text"}))
    async with Uploader(TOKEN, hub.url, replace(config, transfer="lfs")) as uploader:
        result = await uploader.push_to_hub("me/m", write({"a.bin": b"\0a"}))
    assert {receipt.route for receipt in result.receipts} == {"inline", "lfs"}
    assert recorded.of(TransferChosen) == []
    assert faults.seen["xet-write-token"] == 0


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", r"pip install 'hf-xet"),
        ("riscv64", r"no wheels for .*riscv64: use transfer='auto'"),
    ],
)
async def test_without_hf_xet_transfer_xet_says_what_to_do(
    machine: str, expected: str, config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncpush.transfers.xet.installation.is_installed", lambda: False)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(ImportError, match=expected):
        async with Uploader(TOKEN, "http://127.0.0.1:1", replace(config, transfer="xet")):
            pass


@pytest.mark.parametrize(
    ("route", "kind"), [("xorb", "500"), ("xorb", "reset mid-body"), ("shard", "403")]
)
async def test_lfs_replaces_an_unreachable_chunk_store(
    route: str,
    kind: str,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    write: Write,
    recorded: EventRecorder,
) -> None:
    faults.add(route, kind, times=999)
    files = {"a.bin": NOISE[: 2 * MIB], "b.bin": b"\0b"}
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=1)) as uploader:
        result = await uploader.push_to_hub("me/m", write(files))

    assert recorded.engines == ["xet", "lfs"]
    assert {receipt.route for receipt in result.receipts} == {"lfs"}
    assert [w for w in result.warnings if w.startswith("Xet failed, uploading with LFS instead:")]
    stored = await download(hub, "me/m")
    assert {name: stored[name] for name in files} == files
    assert [event.route for event in recorded.of(FileStored)] == ["lfs", "lfs"]


async def test_an_unreachable_store_does_not_end_the_push(
    config: UploadConfig, tmp_path: Path, write: Write, recorded: EventRecorder
) -> None:
    @web.middleware
    async def elsewhere(request: web.Request, handler: Any) -> Any:
        answer = await handler(request)
        if request.match_info.route.name == "xet-write-token":
            answer.body = answer.body.replace(b"http://127.0.0.1:", b"http://127.0.0.1:1/")
        return answer

    async with (
        LocalHub(tmp_path / "hub", token=TOKEN, middlewares=[elsewhere], xet=True) as hub,
        Uploader(TOKEN, hub.url, replace(config, max_retries=0)) as uploader,
    ):
        await uploader.push_to_hub("me/m", write({"a.bin": b"\0a"}))
        assert (await download(hub, "me/m"))["a.bin"] == b"\0a"
    assert recorded.engines == ["xet", "lfs"]


def test_a_remote_hub_cannot_name_a_local_chunk_folder() -> None:
    grant = {"accessToken": "x", "exp": 1 << 40, "casUrl": "local:///loot"}
    session = SimpleNamespace(endpoint="https://hub.example", config=UploadConfig())
    tokens = XetTokens(session, None, None)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="http"):
        tokens._checked(answer(grant))


async def test_a_local_hub_may_name_a_chunk_folder(
    config: UploadConfig, tmp_path: Path, write: Write
) -> None:
    """hf_xet's `local://` store, read back by hf_xet itself."""

    @web.middleware
    async def in_a_folder(request: web.Request, handler: Any) -> Any:
        if request.match_info.route.name != "xet-write-token":
            return await handler(request)
        return web.json_response({"accessToken": "x", "exp": 1 << 40, "casUrl": store})

    store = f"local://{tmp_path}/store"
    async with (
        LocalHub(tmp_path / "hub", token=TOKEN, middlewares=[in_a_folder]) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        (receipt,) = await uploader.upload_files("me/m", write({"a.bin": NOISE}))
    assert receipt.route == "xet"
    group = hf_xet.XetSession().new_file_download_group(endpoint=store)
    info = hf_xet.XetFileInfo(receipt.xet_hash, receipt.size)
    with group:
        group.start_download_file(info, str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == NOISE


async def test_a_token_that_expires_meanwhile_is_asked_for_again(
    tmp_path: Path, config: UploadConfig, faults: FaultLayer, write: Write, recorded: EventRecorder
) -> None:
    async with (
        LocalHub(
            tmp_path / "hub",
            token=TOKEN,
            middlewares=[faults.middleware],
            xet=True,
            xet_token_lifetime=2,
        ) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        result = await uploader.push_to_hub("me/m", write({"a.bin": NOISE[:MIB]}))
        assert recorded.engines == ["xet"]
        assert result.warnings == ()
        assert faults.seen["xet-write-token"] >= 2  # hf_xet asks before they expire

        faults.add("xet-write-token", "401", nth=faults.seen["xet-write-token"] + 2, times=99)
        result = await uploader.push_to_hub("me/m", write({"b.bin": NOISE[MIB:]}, "b"))
        assert recorded.engines == ["xet", "xet", "lfs"]
        assert {receipt.route for receipt in result.receipts} == {"lfs"}


@pytest.mark.parametrize("route", ["xorb", "shard"])
async def test_a_refused_write_token_is_requested_again(
    route: str,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    write: Write,
    recorded: EventRecorder,
) -> None:
    """As when it was revoked, or the store's keys were replaced: it has not expired."""
    faults.add(route, "401")

    result = await uploader.push_to_hub("me/m", write({"a.bin": NOISE}))

    assert [receipt.route for receipt in result.receipts] == ["xet"]
    assert (recorded.engines, result.warnings) == (["xet", "xet"], ())
    assert faults.seen["xet-write-token"] == 2
    assert faults.seen["xorb"] == (2 if route == "xorb" else 1)  # nothing is sent twice
    assert await download(hub, "me/m") == {"a.bin": NOISE}


async def test_a_store_that_refuses_every_token_is_left_to_lfs(
    uploader: Uploader, faults: FaultLayer, write: Write, recorded: EventRecorder
) -> None:
    faults.add("xorb", "401", times=99)

    result = await uploader.push_to_hub("me/m", write({"a.bin": NOISE[:MIB]}))

    assert [receipt.route for receipt in result.receipts] == ["lfs"]
    assert recorded.engines == ["xet", "xet", "xet", "lfs"]
    assert faults.seen["xet-write-token"] == 3
    [warning] = result.warnings
    assert warning.startswith("Xet failed, uploading with LFS instead: ")


@pytest.mark.parametrize(
    "answer", ["another", "another, too late", "the same", "refused too", "none at all"]
)
async def test_xet_tokens_are_asked_for_with_the_newest_token(
    answer: str,
    tmp_path: Path,
    config: UploadConfig,
    write: Write,
    recorded: EventRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """hf_xet asks for its next Xet token with the Hub token that it was opened with."""
    valid, asked = {"old"}, 0

    def token() -> str:
        nonlocal asked
        asked += 1
        if asked > 1 and answer == "none at all":
            valid.add("old")
            return ""
        later = {"the same": "old", "refused too": "worse"}.get(answer, "new")
        return "old" if asked == 1 else later

    start = XetCommit.start

    async def start_once(self: XetCommit, files: list[FileSource], changed: Any, **how: Any) -> Any:
        if answer == "another, too late" and asked > 1:
            raise XetFailedError("hf_xet has had enough")
        return await start(self, files, changed, **how)

    monkeypatch.setattr(XetCommit, "start", start_once)

    @web.middleware
    async def replaced(request: web.Request, handler: Any) -> Any:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.match_info.route.name == "xet-write-token":
            if given not in valid:
                raise web.HTTPUnauthorized
            valid.clear()
            valid.add("new")
        return await handler(request)

    async with (
        LocalHub(
            tmp_path / "hub", token=None, middlewares=[replaced], xet=True, xet_token_lifetime=2
        ) as hub,
        Uploader(token, hub.url, config) as uploader,
    ):
        files = {"a.bin": NOISE[: 2 * MIB], "b.bin": NOISE[MIB:]}
        result = await uploader.push_to_hub("me/m", write(files))
        assert {receipt.path_in_repo for receipt in result.receipts} == files.keys()
        if answer == "another":
            assert recorded.engines == ["xet", "xet"]
            assert {receipt.route for receipt in result.receipts} == {"xet"}
            assert result.warnings == ()
        else:
            late = ["xet"] if answer == "another, too late" else []
            assert recorded.engines == ["xet", *late, "lfs"]
            assert {receipt.route for receipt in result.receipts} == {"lfs"}
            assert any("uploading with LFS instead" in warning for warning in result.warnings)


async def test_a_file_changed_while_sent_is_not_committed(
    uploader: Uploader, faults: FaultLayer, write: Write, hub: LocalHub
) -> None:
    source = write({"a.bin": NOISE, "b.bin": b"\0b"})
    faults.hooks["xorb"] = lambda: (source / "a.bin").write_bytes(b"\0new")  # type: ignore[assignment]
    with pytest.raises(SourceChangedError, match=r"a\.bin"):
        await uploader.push_to_hub("me/m", source, PushOptions(on_change="error"))
    assert faults.seen["commit"] == 0
    assert faults.seen["batch"] == 0  # nor is it LFS's turn


async def test_a_small_file_changed_while_sent_is_read_again(
    uploader: Uploader, faults: FaultLayer, write: Write, hub: LocalHub
) -> None:
    source = write({"a.bin": NOISE, "b.bin": b"\0b", "c.bin": b"\0c"})
    faults.hooks["xorb"] = lambda: (source / "a.bin").write_bytes(b"\0new")  # type: ignore[assignment]
    faults.hooks["shard"] = lambda: grow(source / "b.bin")
    result = await uploader.push_to_hub("me/m", source)
    assert set(result.files_uploaded) == {"a.bin", "b.bin", "c.bin"}
    assert any("a.bin" in warning for warning in result.warnings)
    assert await download(hub, "me/m") == {"a.bin": b"\0new", "b.bin": b"\0bx", "c.bin": b"\0c"}
    assert faults.seen["batch"] == 0
    assert faults.seen["commit"] == 1


@pytest.mark.parametrize("stage", ["preupload", "shard"])
async def test_a_growing_large_log_is_stored_consistently(
    stage: str, uploader: Uploader, faults: FaultLayer, write: Write, hub: LocalHub
) -> None:
    content = b"\0" * (11 << 20)
    source = write({"train.log": content, "b.bin": b"\0b"})
    faults.hooks[stage] = lambda: grow(source / "train.log")
    await uploader.push_to_hub("me/m", source)
    assert (await download(hub, "me/m"))["train.log"] == content + b"x"
    assert faults.seen["batch"] == 0


async def test_a_file_that_is_gone_is_named(
    uploader: Uploader, faults: FaultLayer, write: Write
) -> None:
    source = write({"a.bin": NOISE})
    faults.hooks["xet-write-token"] = (source / "a.bin").unlink
    with pytest.raises(SourceChangedError, match=r"a\.bin.* was removed"):
        await uploader.push_to_hub("me/m", source, PushOptions(on_change="error"))


@pytest.mark.parametrize("stage", ["xet-write-token", "xorb", "shard", "commit"])
async def test_a_push_after_a_cancelled_one_works(
    stage: str, uploader: Uploader, faults: FaultLayer, write: Write, hub: LocalHub
) -> None:
    source = write({"a.bin": NOISE})
    faults.add(stage, "stall before reading")
    handle = uploader.start_push("me/m", source)
    await faults.stalled.wait()
    await cancel_promptly(handle)
    faults.released.set()

    await uploader.push_to_hub("me/m", source)
    assert (await download(hub, "me/m"))["a.bin"] == NOISE


async def test_a_push_that_is_read_slowly_is_cancelled_at_once(
    hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    moving = asyncio.Event()

    def on_event(record: Record) -> None:
        if isinstance(record.event, HashProgress):
            moving.set()

    config = replace(config, max_bandwidth=1000.0, events=on_event)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        handle = uploader.start_push("me/m", write({"a.bin": NOISE[:MIB]}))
        await moving.wait()
        await cancel_promptly(handle)


async def test_a_hundred_small_files_make_a_handful_of_calls(
    uploader: Uploader, faults: FaultLayer, write: Write, hub: LocalHub
) -> None:
    # In a new repo preupload may be asked twice: beside the head, and after the repo is created.
    await uploader.push_to_hub("me/m", {"begin.txt": b"begin"})
    faults.seen.clear()
    files = {f"{n}.bin": b"\0" + NOISE[n * 1000 : n * 1000 + 3000] for n in range(100)}
    result = await uploader.push_to_hub("me/m", write(files))
    assert {receipt.route for receipt in result.receipts} == {"xet"}
    assert (faults.seen["xet-write-token"], faults.seen["xorb"], faults.seen["shard"]) == (1, 1, 1)
    assert (faults.seen["preupload"], faults.seen["commit"]) == (1, 1)
    assert await download(hub, "me/m") == {"begin.txt": b"begin", **files}


QUIET = """
import asyncio, os, sys
from asyncpush import Uploader, UploadConfig
url, token, cache = sys.argv[1:]
config = UploadConfig(cache_dir=cache, progress="none", transfer="xet")
async def main():
    async with Uploader(token, url, config) as uploader:
        await uploader.push_to_hub("me/m", {"a.bin": b"\\0" + os.urandom(100_000)})
asyncio.run(main())
"""


async def run_quietly(hub: LocalHub, tmp_path: Path, **variables: str) -> tuple[bytes, set[str]]:
    """Push by Xet in a process of its own. Returns what it wrote to the terminal, and the hosts
    other than the Hub that it connected to."""
    asked: set[str] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.add((await reader.readline()).decode())
        writer.close()

    proxy = await asyncio.start_server(on_connection, "127.0.0.1")
    url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "RUST_LOG" and not name.startswith("HF_XET_")
    }
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"), url)
    async with proxy:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", QUIET, hub.url, TOKEN, str(tmp_path / "cache")),
            stdout=PIPE,
            stderr=STDOUT,
            env={
                **inherited,
                **proxies,
                "NO_PROXY": "127.0.0.1",
                "no_proxy": "127.0.0.1",
                "HF_HOME": str(tmp_path / "hf"),
                **variables,
            },
        )
        written, _ = await process.communicate()
        assert process.returncode == 0, written.decode()
    return written, asked


async def test_hf_xet_writes_no_log_and_reaches_only_the_hub(
    hub: LocalHub, faults: FaultLayer, tmp_path: Path
) -> None:
    assert await run_quietly(hub, tmp_path) == (b"", set())
    assert faults.seen["xorb"] == 1
    assert faults.seen["telemetry"] == 0
    folders = {path.name for path in (tmp_path / "hf" / "xet").iterdir()}
    assert "logs" not in folders or os.name != "posix"
    assert folders  # its cache is there


async def test_whoever_asks_for_the_log_of_hf_xet_gets_it(hub: LocalHub, tmp_path: Path) -> None:
    log = tmp_path / "xet.log"
    assert await run_quietly(hub, tmp_path, HF_XET_LOG_DEST=str(log)) == (b"", set())
    assert log.stat().st_size > 0


FORKED = """
import asyncio, os, sys
from asyncpush import Uploader, UploadConfig
url, token, cache = sys.argv[1:]
config = UploadConfig(cache_dir=cache, progress="none", transfer="xet")
async def push(uploader, repo):
    result = await uploader.push_to_hub(repo, {"a.bin": b"\\0" + repo.encode() * 50_000})
    assert result.verified and not result.warnings
    print(repo, result.receipts[0].route, flush=True)
async def child():
    async with Uploader(token, url, config) as uploader:
        await push(uploader, "me/child")
async def main():
    async with Uploader(token, url, config) as uploader:
        await push(uploader, "me/before")
        if (pid := os.fork()) == 0:
            try:
                asyncio.run(child())
            finally:
                os._exit(0)
        await asyncio.to_thread(os.waitpid, pid, 0)
        await push(uploader, "me/after")
asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
async def test_a_fork_with_an_open_session_pushes_on_both_sides(
    hub: LocalHub, tmp_path: Path
) -> None:
    arguments = ["-W", "ignore", "-c", FORKED, hub.url, TOKEN, str(tmp_path / "cache")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=PIPE, stderr=PIPE, env=os.environ
    )
    out, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b""), errors.decode()
    assert out.decode().split("\n") == ["me/before xet", "me/child xet", "me/after xet", ""]


async def test_cancelling_a_push_leaves_its_neighbour_alone(
    uploader: Uploader, faults: FaultLayer, write: Write, hub: LocalHub
) -> None:
    faults.add("xorb", "stall before reading")
    cut = uploader.start_push("me/cut", write({"a.bin": NOISE}, "a"))
    await faults.stalled.wait()
    kept = uploader.start_push("me/kept", write({"b.bin": NOISE[::-1]}, "b"))
    await kept  # while the other waits
    cut.cancel()
    assert (await download(hub, "me/kept"))["b.bin"] == NOISE[::-1]
    with pytest.raises(asyncio.CancelledError):
        await cut


async def test_progress_never_falls_and_ends_full(
    hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    seen: list[UploadProgress] = []
    config = replace(config, progress_callback=seen.append)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", write({"a.bin": NOISE, "b.bin": NOISE[:MIB]}))
    sent = [snapshot.bytes_sent for snapshot in seen]
    assert sent == sorted(sent)
    assert sent[-1] == seen[-1].total_bytes == 5 * MIB


def positions_reported(recorded: EventRecorder) -> list[HashProgress | PartProgress]:
    events = (record.event for record in recorded.records)
    return [event for event in events if isinstance(event, HashProgress | PartProgress)]


async def test_what_is_read_is_reported_before_anything_is_sent(
    hub: LocalHub,
    config: UploadConfig,
    write: Write,
    recorded: EventRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """hf_xet packs 64 MiB before it sends: a progress bar must not stand still meanwhile."""
    monkeypatch.setattr(engine, "PROGRESS_INTERVAL", 0.01)
    size = 80 * MIB
    snapshots: list[UploadProgress] = []
    config = replace(config, progress_callback=snapshots.append)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", write({"a.bin": random.Random(7).randbytes(size)}))

    kinds = [type(event) for event in positions_reported(recorded)]
    read = [event.hashed for event in recorded.of(HashProgress)]
    assert kinds[0] is HashProgress
    assert read == sorted(read)
    assert read[-1] == size
    assert kinds.index(PartProgress) > 1
    assert 0 < read[0] < 64 * MIB
    parts = recorded.of(PartProgress)
    assert all(0 <= part.sent <= part.position <= part.size == size for part in parts)
    assert parts[-1].position == size
    for before, progress in pairwise(snapshots):
        assert before.bytes_processed <= progress.bytes_processed
    assert all(p.bytes_sent <= p.bytes_processed <= p.total_bytes for p in snapshots)
    assert snapshots[-1].bytes_processed == size


@dataclass
class Report:
    """What hf_xet reports of all files together."""

    total_bytes_completed: int = 0
    total_transfer_bytes_completed: int = 0
    total_transfer_bytes: int = 0


async def test_network_bytes_known_only_in_sum_count_once() -> None:
    events = EventRecorder()
    positions = XetPositions(Emitter([events]))
    for name in ("old", "new", "late"):
        positions.begin(FileSource.of_bytes(name, bytes(100)))

    async def report(*, sent: int, stored: int) -> dict[str, tuple[int, int]]:
        events.records.clear()
        positions.on_report(Report(stored, sent, sent))
        await asyncio.sleep(0)
        return {each.path: (each.sent, each.deduplicated) for each in events.of(PartProgress)}

    assert await report(sent=0, stored=100) == {"old": (0, 100)}
    assert await report(sent=60, stored=160) == {"new": (60, 0)}
    # More was sent than files have moved by: it counts for one of those found in the store.
    assert await report(sent=110, stored=200) == {"new": (100, 0), "old": (10, 90)}
    assert await report(sent=110, stored=200) == {}
    assert await report(sent=150, stored=270) == {"late": (40, 30)}

    positions.restart()
    positions.begin(FileSource.of_bytes("new", bytes(100)))
    assert await report(sent=5, stored=5) == {"new": (5, 0)}


async def test_bytes_count_as_sent_once_hf_xet_has_sent_them(
    config: UploadConfig, hub: LocalHub, write: Write, recorded: EventRecorder
) -> None:
    config = replace(config, max_bandwidth=16 * MIB)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", write({"a.bin": NOISE}))

    assert type(positions_reported(recorded)[0]) is HashProgress
    assert recorded.of(HashProgress)[-1].hashed == len(NOISE)
    assert recorded.of(PartProgress)[-1].position == len(NOISE)


async def test_a_pull_request_gets_a_token_for_its_own_ref(
    config: UploadConfig, tmp_path: Path, write: Write
) -> None:
    urls: list[str] = []

    @web.middleware
    async def note(request: web.Request, handler: Any) -> Any:
        urls.append(request.path_qs)
        return await handler(request)

    async with (
        LocalHub(tmp_path / "hub", token=TOKEN, middlewares=[note], xet=True) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        await uploader.push_to_hub("me/m", write({"a.txt": "a"}))
        options = PushOptions(create_pr=True)
        result = await uploader.push_to_hub("me/m", write({"a.bin": b"\0a"}, "pr"), options)
    assert result.pr_url is not None
    assert "/api/models/me/m/xet-write-token/main?create_pr=1" in urls


async def test_receipts_are_committed_elsewhere(
    hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    async with Uploader(TOKEN, hub.url, config) as uploader:
        receipts = await uploader.upload_files("me/m", write({"a.bin": NOISE[:MIB]}))
    receipts = [Receipt.from_json(receipt.to_json()) for receipt in receipts]
    assert [receipt.route for receipt in receipts] == ["xet"]
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.commit("me/m", receipts)
    assert (await download(hub, "me/m"))["a.bin"] == NOISE[:MIB]


async def test_a_dry_run_sends_nothing(
    uploader: Uploader, faults: FaultLayer, write: Write
) -> None:
    await uploader.push_to_hub("me/m", write({"a.txt": "a"}))
    result = await uploader.push_to_hub(
        "me/m", write({"a.bin": b"\0a"}, "dry"), PushOptions(dry_run=True)
    )
    assert [(file.path_in_repo, file.action) for file in result.plan] == [("a.bin", "xet")]
    assert faults.seen["xorb"] == 0


async def test_objects_that_the_hub_has_lost_go_by_lfs(
    uploader: Uploader, faults: FaultLayer, write: Write, hub: LocalHub, tmp_path: Path
) -> None:
    def lose() -> None:
        for shard in (tmp_path / "hub/xet/shards").iterdir():
            shard.unlink()

    faults.hooks["commit"] = lose
    result = await uploader.push_to_hub("me/m", write({"a.bin": NOISE}))
    assert any("uploading them again" in warning for warning in result.warnings)
    assert (await download(hub, "me/m"))["a.bin"] == NOISE


async def test_no_token_is_ever_reported(
    tmp_path: Path, config: UploadConfig, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    tokens: list[str] = []

    @web.middleware
    async def note(request: web.Request, handler: Any) -> Any:
        answer = await handler(request)
        if token := answer.headers.get("X-Xet-Access-Token"):
            tokens.append(token)
        if request.match_info.route.name == "xorb":
            raise web.HTTPForbidden(text=f"no {request.headers['Authorization']} {TOKEN}")
        return answer

    caplog.set_level("DEBUG")
    log = tmp_path / "events.jsonl"
    async with (
        LocalHub(tmp_path / "hub", token=TOKEN, middlewares=[note], xet=True) as hub,
        Uploader(TOKEN, hub.url, replace(config, events=log, max_retries=0)) as uploader,
    ):
        result = await uploader.push_to_hub("me/m", write({"a.bin": NOISE[:MIB]}))
    assert len(tokens) >= 1
    texts = log.read_text() + caplog.text + repr(result) + repr(uploader)
    for secret in (TOKEN, *tokens):
        assert secret not in texts
        for theirs in (tmp_path / "hf-home").rglob("*.log"):
            assert secret not in theirs.read_text()


async def test_xet_files_are_exchanged_with_the_official_client(
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    theirs = NOISE[::-1]
    source = write({"ours.bin": NOISE})

    def official() -> bytes:
        api = HfApi(hub.url, TOKEN)
        api.upload_file(path_or_fileobj=theirs, path_in_repo="theirs.bin", repo_id="me/m")
        path = huggingface_hub.hf_hub_download(
            "me/m", "ours.bin", endpoint=hub.url, token=TOKEN, cache_dir=tmp_path / "hf"
        )
        return Path(path).read_bytes()

    await uploader.push_to_hub("me/m", source)
    assert await anyio.to_thread.run_sync(official) == NOISE
    assert faults.seen["reconstruction"] > 0  # by Xet, not by plain HTTP
    close_session()

    (source / "theirs.bin").write_bytes(theirs)
    result = await uploader.push_to_hub("me/m", source)
    assert set(result.files_unchanged) == {"ours.bin", "theirs.bin"}
    assert result.bytes_transferred < 10_000
    downloaded = await download(hub, "me/m")
    assert downloaded["theirs.bin"] == theirs


def test_memory_is_what_max_memory_buys(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = UploadConfig(), UploadConfig(max_memory=1 << 30, max_concurrent_parts=99)
    files, xorbs = "data.max_concurrent_file_ingestion", "client.ac_max_upload_concurrency"
    assert (settings(small)[files], settings(small)[xorbs]) == (1 + SMALL_FILES, 2)
    assert (settings(large)[files], settings(large)[xorbs]) == (8 + SMALL_FILES, 32)
    assert settings(UploadConfig(max_concurrent_files=2))[files] == 1 + 2
    monkeypatch.setenv("HF_XET_MAX_CONCURRENT_FILE_INGESTION", "3")
    assert files not in settings(large)
    assert settings(large)[xorbs] == 32
    monkeypatch.delenv("HF_XET_MAX_CONCURRENT_FILE_INGESTION")
    monkeypatch.setenv("HF_XET_HIGH_PERFORMANCE", "1")
    assert not {files, xorbs} & settings(large).keys()
    monkeypatch.delenv("HF_XET_HIGH_PERFORMANCE")
    monkeypatch.setenv("HF_XET_FIXED_UPLOAD_CONCURRENCY", "3")
    assert xorbs not in settings(large)


@pytest.mark.parametrize(
    "config",
    [
        UploadConfig(max_retries=10**30),
        UploadConfig(initial_backoff_ms=10**30, max_backoff_ms=10**30),
    ],
    ids=["max_retries", "initial_backoff_ms"],
)
def test_hf_xet_accepts_the_largest_settings(config: UploadConfig) -> None:
    hf_xet.XetConfig().with_config(settings(config))


def test_hf_xet_sends_no_telemetry_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert settings(UploadConfig())["telemetry.enabled"] is False
    monkeypatch.setenv("HF_XET_TELEMETRY_ENABLED", "1")
    assert "telemetry.enabled" not in settings(UploadConfig())


async def test_one_large_file_at_a_time_is_held_in_memory(
    hub: LocalHub, config: UploadConfig, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncpush.transfers.xet.engine.SMALL_FILE", MIB)
    held, most, small = 0, 0, anyio.Event()
    start, feed = XetCommit.start, XetCommit.feed

    async def started(
        self: XetCommit, files: Sequence[FileSource], changed: Any, **how: Any
    ) -> Any:
        small.set()
        return await start(self, files, changed, **how)

    async def counted(self: XetCommit, file: FileSource, *arguments: Any) -> Any:
        nonlocal held, most
        held += 1
        most = max(most, held)
        handle = await feed(self, file, *arguments)
        await small.wait()  # it was started beside the first large one
        held -= 1
        return handle

    monkeypatch.setattr(XetCommit, "start", started)
    monkeypatch.setattr(XetCommit, "feed", counted)
    files = {f"{n}.bin": NOISE[n * MIB :] for n in range(3)} | {"small.bin": b"\0small"}
    async with Uploader(TOKEN, hub.url, config) as uploader:
        result = await uploader.push_to_hub("me/m", write(files))
    assert {receipt.route for receipt in result.receipts} == {"xet"}
    assert (held, most) == (0, 1)
    assert await download(hub, "me/m") == files


@pytest.mark.parametrize("source", ["file", "stream"])
async def test_max_bandwidth_bounds_what_is_read_for_xet(
    source: str, hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    data, rate = 3 * NOISE, 8.0 * MIB

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), MIB):
            yield data[start : start + MIB]

    content = {"a.bin": pieces()} if source == "stream" else write({"a.bin": data})
    async with Uploader(TOKEN, hub.url, replace(config, max_bandwidth=rate)) as uploader:
        result = await uploader.push_to_hub("me/m", content)
    [receipt] = result.receipts
    assert receipt.route == "xet"
    assert await download(hub, "me/m") == {"a.bin": data}
    assert result.elapsed_seconds >= len(data) / rate


PUSH = """
import asyncio, sys
from asyncpush import Uploader, UploadConfig
async def main():
    config = UploadConfig(cache_dir=sys.argv[3], progress="none", max_concurrent_parts=1)
    async with Uploader("{token}", sys.argv[1], config) as uploader:
        print((await uploader.push_to_hub("me/m", sys.argv[2])).bytes_transferred)
asyncio.run(main())
"""


@pytest.mark.big
async def test_another_machine_builds_on_what_the_store_has(
    uploader: Uploader, hub: LocalHub, write: Write, tmp_path: Path
) -> None:
    source = write({"a.bin": NOISE})
    await uploader.push_to_hub("me/n", source)
    arguments = [sys.executable, "-c", PUSH.replace("{token}", TOKEN), hub.url, str(source)]
    process = await asyncio.create_subprocess_exec(
        *arguments,
        str(tmp_path / "other"),
        env={**os.environ, "HF_HOME": str(tmp_path / "other-hf")},  # it remembers nothing
        stdout=asyncio.subprocess.PIPE,
    )
    expected, _ = await process.communicate()
    assert process.returncode == 0
    assert int(expected) < 10_000


async def pieces_of(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), MIB):
        yield data[start : start + MIB]


async def test_a_stream_is_never_spooled(
    uploader: Uploader, hub: LocalHub, recorded: EventRecorder, tmp_path: Path
) -> None:
    data = NOISE * 3
    result = await uploader.push_to_hub(
        "me/m", {"big.bin": pieces_of(data), "small.bin": pieces_of(NOISE[:MIB])}
    )
    by_path = {receipt.path_in_repo: receipt for receipt in result.receipts}
    assert by_path["big.bin"].route == by_path["small.bin"].route == "xet"
    assert by_path["big.bin"].size == len(data)
    assert result.bytes_deduplicated > 1.5 * len(NOISE)  # the second third, and what follows
    assert not (tmp_path / "cache/spool").exists()
    assert (await download(hub, "me/m"))["big.bin"] == data

    again = await uploader.push_to_hub("me/m", {"big.bin": pieces_of(data)})
    assert again.files_unchanged == ("big.bin",)
    assert again.commit_sha == result.commit_sha


async def test_without_xet_a_stream_is_spooled(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("xet-write-token", "404")
    data = NOISE * 3
    result = await uploader.push_to_hub("me/m", {"big.bin": pieces_of(data)})
    assert [receipt.route for receipt in result.receipts] == ["lfs"]
    assert (await download(hub, "me/m"))["big.bin"] == data


@pytest.mark.parametrize("how", ["store away", "stream fails", "cancelled"])
async def test_a_stream_that_breaks_off_commits_nothing(
    how: str, uploader: Uploader, faults: FaultLayer, tmp_path: Path
) -> None:
    closed: list[bool] = []

    async def stream() -> AsyncIterator[bytes]:
        try:
            for number in range(14):
                if number == 12 and how == "stream fails":
                    raise OSError("unplugged")
                if number == 12 and how == "cancelled":
                    handle.cancel()
                yield NOISE[number : number + MIB]
        finally:
            closed.append(True)

    if how == "store away":
        faults.add("shard", "403", times=99)
    handle = uploader.start_push("me/m", {"big.bin": stream()})
    wanted: dict[str, Any] = {
        "store away": pytest.raises(AsyncPushError, match="cannot be read twice"),
        "stream fails": pytest.raises(SourceError, match="unplugged"),
        "cancelled": pytest.raises(asyncio.CancelledError),
    }
    with wanted[how]:
        await handle
    assert closed == [True]
    assert faults.seen["commit"] == 0


async def test_a_dry_run_reads_streams_and_sends_nothing(
    uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"a"})
    result = await uploader.push_to_hub(
        "me/m", {"big.bin": pieces_of(NOISE * 3)}, PushOptions(dry_run=True)
    )
    assert [(file.path_in_repo, file.size) for file in result.plan] == [("big.bin", 12 * MIB)]
    assert faults.seen["xorb"] == 0


async def test_a_stream_that_the_repo_ignores_is_not_read_on(
    uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {".gitignore": b"*.bin\n"})
    result = await uploader.push_to_hub("me/m", {"big.bin": pieces_of(NOISE * 3), "b.txt": b"b"})
    assert result.files_uploaded == ("b.txt",)
    assert result.files_ignored == ("big.bin",)


async def test_a_model_is_split_and_sent_without_a_copy(
    uploader: Uploader, hub: LocalHub, write: Write, recorded: EventRecorder
) -> None:
    tensors = {f"layer.{n}": np.frombuffer(NOISE[n * MIB : (n + 1) * MIB], "<u4") for n in range(4)}
    source = write({"README.md": "# A model\n"})
    save_file(tensors, source / "model.safetensors")
    result = await uploader.push_to_hub("me/m", source, PushOptions(max_shard_size="1.5MiB"))
    routes = {receipt.path_in_repo: receipt.route for receipt in result.receipts}
    shards = [path for path in routes if path.endswith(".safetensors")]
    assert len(shards) == 4
    assert {routes[path] for path in shards} == {"xet"}
    stored = await download(hub, "me/m")
    merged: dict[str, Any] = {}
    for path in shards:
        merged |= load(stored[path])
    assert {name: array.tobytes() for name, array in merged.items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }
    sent = [event for event in recorded.of(PartProgress) if event.path == shards[0]]
    assert sent[-1].sent == sent[-1].size


async def test_an_audit_reads_streams_to_their_ends(uploader: Uploader, hub: LocalHub) -> None:
    data = NOISE * 3
    await uploader.push_to_hub("me/m", {"big.bin": data})
    report = await uploader.audit("me/m", {"big.bin": pieces_of(data)})
    assert report.matching == ("big.bin",)


@pytest.mark.big
@pytest.mark.timeout(900)
async def test_one_percent_changed_sends_three_at_most(
    uploader: Uploader, hub: LocalHub, tmp_path: Path
) -> None:
    source, size = tmp_path / "model.safetensors", 1 << 30
    with source.open("wb") as file:
        for _ in range(64):
            file.write(RNG.randbytes(size // 64))
    await uploader.push_to_hub("me/m", source)
    with source.open("r+b") as file:
        for number in range(16):  # as when a few layers were trained further
            file.seek(number * size // 16)
            file.write(RNG.randbytes(size // 1600))
    result = await uploader.push_to_hub("me/m", source)
    assert result.bytes_transferred <= 0.03 * size
    assert result.bytes_deduplicated >= 0.97 * size


@pytest.mark.usefixtures("times_that_lie")
async def test_bytes_that_changed_unseen_are_sent_as_they_are(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    source = write({"a.bin": NOISE[:MIB]})
    long_ago = (1_700_000_000, 1_700_000_000)
    os.utime(source / "a.bin", long_ago)
    await uploader.push_to_hub("me/m", source)
    (source / "a.bin").write_bytes(NOISE[MIB : 2 * MIB])
    os.utime(source / "a.bin", long_ago)
    result = await uploader.push_to_hub("me/other", source)
    assert any(
        "a.bin changed although its time and size did not" in warning for warning in result.warnings
    )
    assert (await download(hub, "me/other"))["a.bin"] == NOISE[MIB : 2 * MIB]


@pytest.mark.parametrize("source", ["files", "stream"])
async def test_an_old_hf_xet_counts_as_missing(
    source: str,
    uploader: Uploader,
    hub: LocalHub,
    recorded: EventRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = types.ModuleType("hf_xet")
    old.__spec__ = ModuleSpec("hf_xet", None)
    monkeypatch.setitem(sys.modules, "hf_xet", old)
    data = NOISE * 3
    content = {"a.bin": data, "b.bin": b"\0b"} if source == "files" else {"a.bin": pieces_of(data)}
    result = await uploader.push_to_hub("me/m", content)
    assert recorded.engines == ["xet", "lfs"]
    assert any("hf_xet 1.8 or newer is needed" in warning for warning in result.warnings)
    assert (await download(hub, "me/m"))["a.bin"] == data


async def test_large_files_that_the_repo_ignores_are_left_out(
    uploader: Uploader, recorded: EventRecorder, faults: FaultLayer
) -> None:
    source = {".gitignore": b"big.bin\n", "big.bin": NOISE * 3, "small.bin": b"\0s"}
    result = await uploader.push_to_hub("me/m", source)
    assert result.files_ignored == ("big.bin",)
    assert set(result.files_uploaded) == {".gitignore", "small.bin"}
    assert recorded.engines == ["xet"]


@pytest.mark.parametrize(
    ("route", "kind"),
    [
        ("xorb", "stall before reading"),
        ("xorb", "answer never sent"),
        ("xorb", "done, answer never sent"),
        ("shard", "answer never sent"),
        ("shard", "done, answer never sent"),
        ("chunk", "stall before reading"),
    ],
)
async def test_an_upload_that_stalls_is_begun_again(
    route: str,
    kind: str,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    recorded: EventRecorder,
) -> None:
    faults.add(route, kind)
    async with Uploader(TOKEN, hub.url, replace(config, stall_timeout=1)) as uploader:
        result = await uploader.push_to_hub("me/m", {"a.bin": NOISE, "b.bin": NOISE[::-1]})
    assert faults.injected
    assert (recorded.engines, result.warnings, result.retries) == (["xet"], (), 1)
    stored = await download(hub, "me/m")
    assert (stored["a.bin"], stored["b.bin"]) == (NOISE, NOISE[::-1])


def test_a_number_in_an_address_is_no_status() -> None:
    said = "HTTP status {}, domain: http://127.0.0.1:40183/_xet/v1/xorbs/default/84012"
    assert not XetFailedError(said.format("server error (500 Internal Server Error)")).refused
    assert XetFailedError(said.format("client error (401 Unauthorized)")).refused


async def test_a_stalling_upload_falls_back_to_lfs_with_a_warning(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer, recorded: EventRecorder
) -> None:
    faults.add("xorb", "stall mid-body", times=99)
    config = replace(config, stall_timeout=0.5, max_retries=1)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        result = await uploader.push_to_hub("me/m", {"a.bin": NOISE})
    assert recorded.engines == ["xet", "lfs"]
    [warning] = result.warnings
    assert warning == "Xet failed, uploading with LFS instead: no progress for 0.5 seconds"
    assert (await download(hub, "me/m"))["a.bin"] == NOISE


@pytest.mark.parametrize("route", ["xorb", "shard"])
async def test_pushes_that_wait_for_each_other_have_not_stalled(
    route: str, hub: LocalHub, config: UploadConfig, faults: FaultLayer, recorded: EventRecorder
) -> None:
    """hf_xet sends two xorbs or shards at a time, whichever push they belong to: the last of them
    wait for twice the timeout."""
    faults.add(route, "answered after 0.5 s", times=1000)
    pushes = [Push(f"me/m{number}", {"a.bin": RNG.randbytes(1000)}) for number in range(12)]
    async with Uploader(TOKEN, hub.url, replace(config, stall_timeout=1.5)) as uploader:
        results = await uploader.push_many(pushes)
    assert set(recorded.engines) == {"xet"}
    assert [result.warnings for result in results] == [()] * 12
    assert sum(result.retries for result in results) == 0


async def test_a_call_that_ignores_its_abort_is_left_behind() -> None:
    over = threading.Event()
    discarded: list[str] = []

    def hang() -> str:
        over.wait()
        return "late"

    with anyio.fail_after(30), pytest.raises(XetStalledError, match="no progress"):
        await unless_stalled(hang, XetStallDetector(0.1), stop=over.wait, discard=discarded.append)
    assert discarded == []
    over.set()


async def test_a_blocked_event_loop_does_not_stall_xet() -> None:
    """As when the process is stopped."""
    over = threading.Event()

    def work() -> str:
        over.wait()
        return "done"

    def block() -> None:
        time.sleep(1.5)
        over.set()

    asyncio.get_running_loop().call_later(0.1, block)
    assert await unless_stalled(work, XetStallDetector(1.0)) == "done"


def test_an_upload_waits_longer_while_others_progress() -> None:
    shared = SharedProgress()
    watch = XetStallDetector(1.0, shared=shared)
    now = time.monotonic()
    watch._last = now - 5
    assert watch.left() == 0
    shared.last = now - 0.5
    assert 0 < watch.left() <= 0.5
    watch._last = now - WAIT_FOR_OTHERS - 0.1
    assert watch.left() == 0


def test_a_blocked_event_loop_does_not_stall_other_uploads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither of two uploads that wait for a third one counts the time of the other."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    shared = SharedProgress()
    watches = [XetStallDetector(1.0, shared=shared) for _ in range(2)]
    now += 3.5
    shared.moved()
    now += 0.4 + 1.5  # the last progress, a check, and a check that comes 1.5 seconds late
    for watch in watches:
        assert watch.left() == 0
        watch.ran_late(1.5)
        assert watch.left() == pytest.approx(0.6)
    now += 0.6
    assert [watch.left() for watch in watches] == pytest.approx([0, 0])


def test_reading_or_waiting_for_the_source_is_no_stall(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(NOISE)
    watch = XetStallDetector(0.0)
    status = path.stat()
    watch.files.add((status.st_dev, status.st_ino))
    with watch.reading():
        watch._timeout = 1.0
        assert watch.left() == 1.0
    watch._timeout = 0.0
    with path.open("rb", buffering=0) as file:
        for _ in range(2):
            before = watch._read
            watch.left()
            assert watch._read != before or sys.platform != "linux"
            file.read(MIB)
        watch.left()
        settled = watch._read
        watch.left()
        assert watch._read == settled
