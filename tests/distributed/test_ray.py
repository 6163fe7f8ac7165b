"""A local Ray with worker processes of its own; one of them is killed.

Ray takes many seconds to start on a busy machine: all but the one test that shows most run with
`-m big`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncpush import (
    PushOptions,
    SourceError,
    UploadConfig,
    UploadProgress,
    WorkerLostError,
    receipts_from_json,
)
from asyncpush.distributed import ray as module
from asyncpush.distributed.ray import NodeSource, on_every_node, push_distributed
from asyncpush.events import Event, FileHashed, FileStored, Notice, PartStored, RequestStarted
from asyncpush.localhub import LocalHub
from tests.conftest import PART_SIZE, TOKEN
from tests.faults import FaultLayer
from tests.reading import commits_of, download, files_of
from tests.test_examples import run as run_example

Write = Callable[..., Path]

pytestmark = pytest.mark.timeout(240)

AUTH_TOKEN = secrets.token_hex(32)
"""One for all clusters of this process, which reads it once. (There are several when the tests run
in another order.)"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A local Ray, told to report nothing to anybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", AUTH_TOKEN)  # else it lies in a home that changes
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=80 << 20,
        )
        yield ray
        ray.shutdown()


@pytest.fixture
def config(tmp_path: Path) -> UploadConfig:
    """With a cache that is not the default one, which each node would have where it says."""
    return UploadConfig(cache_dir=tmp_path / "nodes", progress="none", initial_backoff_ms=1)


def whoami(name: str) -> dict[str, bytes]:
    return {name: str(os.getpid()).encode()}


async def made(path: Path) -> None:
    """Until it is there: another process makes it."""
    while not path.exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.05)


async def test_a_killed_worker_is_started_again(
    cluster: Any, hub: LocalHub, faults: FaultLayer, config: UploadConfig, tmp_path: Path
) -> None:
    """The killed worker's upload goes on where it stopped, and there is one commit of all."""
    pid_file = tmp_path / "pid"
    large = bytes(range(256)) * (4 * PART_SIZE // 256)

    def model() -> dict[str, bytes]:
        with pid_file.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {"model.bin": large, "config.json": b"{}"}

    async def late() -> dict[str, bytes]:
        return whoami("who.txt") | {"config.json": b"{}"}

    def kill() -> None:
        pid = int(pid_file.read_text().split()[0])
        assert pid != os.getpid()
        os.kill(pid, signal.SIGKILL)

    # at the third part that comes in
    faults.hooks["part"] = lambda: faults.hooks.update(part=lambda: faults.hooks.update(part=kill))
    snapshots: list[UploadProgress] = []
    seen: list[Event] = []
    (node,) = on_every_node(model)
    config_used = UploadConfig(
        cache_dir=config.cache_dir,
        progress="none",
        progress_callback=snapshots.append,
        max_concurrent_parts=1,
        initial_backoff_ms=1,
        events=lambda record: seen.append(record.event),
    )
    result = await push_distributed(
        "hf://models/me/m@main",
        [node, NodeSource(late, path_in_repo="")],
        PushOptions(commit_message="step 7", model_card="# Card\n\nOf all nodes.\n"),
        token=TOKEN,
        endpoint=hub.url,
        config=config_used,
    )

    assert result.verified
    assert len(await commits_of(hub, "me/m")) == 2
    files = await download(hub, "me/m")
    assert set(files) == {"model.bin", "config.json", "who.txt", "README.md"}
    assert files["model.bin"] == large
    assert files["README.md"].startswith(b"# Card")
    began = [int(pid) for pid in pid_file.read_text().split()]
    assert len(set(began)) == 2  # and begun anew, in another process
    assert int(files["who.txt"]) != os.getpid()
    stored = [event for event in seen if isinstance(event, PartStored)]
    assert any(event.resumed for event in stored)
    assert faults.seen["part"] < 4 + 3  # at most the part in flight went twice, and who.txt

    sent = [snapshot.bytes_sent for snapshot in snapshots]
    assert sent == sorted(sent)
    assert snapshots[-1].phase == "done"
    assert snapshots[-1].bytes_sent == snapshots[-1].total_bytes == sum(map(len, files.values()))
    assert any(isinstance(event, FileHashed) for event in seen)
    calls = {event.call for event in seen if isinstance(event, RequestStarted)}
    assert {"part", "commit"} <= calls


async def test_the_example_runs_on_a_cluster_that_is_there(
    cluster: Any, hub: LocalHub, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.get_runtime_context().gcs_address)
    output = await run_example(
        "ray_cluster.py", hub, "me/m", str(write({"model.bin": b"\0" * 1000}))
    )
    assert output.count("/commit/") == 1
    assert await files_of(hub, "me/m") == {".gitattributes", "model.bin", "notes.txt"}


@pytest.mark.big
async def test_a_worker_that_is_lost_too_often_fails_the_push(
    cluster: Any, hub: LocalHub, config: UploadConfig
) -> None:
    def dies() -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLostError, match="the upload of source 0 on a node was lost"):
        await push_distributed(
            "me/m", [dies], token=TOKEN, endpoint=hub.url, config=config, max_retries=0
        )


@pytest.mark.big
async def test_a_node_that_is_not_there_fails_the_push(
    cluster: Any, hub: LocalHub, config: UploadConfig
) -> None:
    sources = [NodeSource({"a.txt": b"1"}, node_id="ab" * 28)]
    with pytest.raises(WorkerLostError, match=r"source 0 on node abab.* was lost"):
        await push_distributed("me/m", sources, token=TOKEN, endpoint=hub.url, config=config)


@pytest.mark.big
async def test_one_failure_cancels_the_others_and_nothing_is_committed(
    cluster: Any, hub: LocalHub, faults: FaultLayer, config: UploadConfig, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"

    def stuck() -> dict[str, bytes]:
        return {"model.bin": b"\0" * PART_SIZE}

    async def fails() -> str:
        await made(begun)
        return str(tmp_path / "nowhere")

    faults.add("part", "stall before reading", times=99)
    faults.hooks["part"] = begun.touch
    with pytest.raises(SourceError, match="nowhere' does not exist"):
        await push_distributed("me/m", [stuck, fails], token=TOKEN, endpoint=hub.url, config=config)
    assert len(await commits_of(hub, "me/m")) == 1
    assert list((tmp_path / "nodes" / "spool").glob("*")) == []


@pytest.mark.big
async def test_what_a_callable_raises_is_reported_as_it_is(
    cluster: Any, hub: LocalHub, config: UploadConfig
) -> None:
    def fails() -> Any:
        raise ZeroDivisionError("the user's own")

    with pytest.raises(ZeroDivisionError, match="the user's own"):
        await push_distributed("me/m", [fails], token=TOKEN, endpoint=hub.url, config=config)


@pytest.mark.big
async def test_cancelling_ends_the_tasks(
    cluster: Any, hub: LocalHub, faults: FaultLayer, config: UploadConfig, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"

    def stuck() -> dict[str, bytes]:
        import atexit

        atexit.register(ended.touch)
        return {"model.bin": b"\0" * PART_SIZE}

    faults.add("part", "stall before reading", times=99)
    push = asyncio.create_task(
        push_distributed("me/m", [stuck], token=TOKEN, endpoint=hub.url, config=config)
    )
    await faults.stalled.wait()
    push.cancel()
    with pytest.raises(asyncio.CancelledError):
        await push
    # a claim that the worker still held would make this wait
    faults.rules.clear()
    async with asyncio.timeout(20):
        await push_distributed("me/m", [stuck], token=TOKEN, endpoint=hub.url, config=config)


@pytest.mark.big
async def test_a_task_that_cannot_be_interrupted_is_ended(
    cluster: Any, hub: LocalHub, config: UploadConfig, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"

    def stuck() -> Any:
        begun.write_text(str(os.getpid()))
        time.sleep(600)

    async def fails() -> str:
        await made(begun)
        return "/nowhere"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CANCEL_GRACE", 1)
        with pytest.raises(SourceError, match="nowhere"):
            await push_distributed(
                "me/m", [stuck, fails], token=TOKEN, endpoint=hub.url, config=config
            )
    pid = int(begun.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.big
async def test_folders_land_where_they_are_told_to(
    cluster: Any, hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    folder = write({"a.txt": "1"})
    sources = [NodeSource(str(folder), path_in_repo=f"rank-{rank}") for rank in range(5)]
    await push_distributed("me/m", sources, token=TOKEN, endpoint=hub.url, config=config)
    found = await files_of(hub, "me/m")
    assert found == {".gitattributes", *(f"rank-{rank}/a.txt" for rank in range(5))}


@pytest.mark.big
async def test_files_that_differ_under_one_name_are_refused(
    cluster: Any, hub: LocalHub, config: UploadConfig
) -> None:
    sources = [{"a.txt": b"1"}, {"a.txt": b"2"}]
    with pytest.raises(SourceError, match=r"a\.txt': two receipts for one path"):
        await push_distributed("me/m", sources, token=TOKEN, endpoint=hub.url, config=config)


@pytest.mark.big
async def test_uploads_do_not_need_the_bar(
    cluster: Any, hub: LocalHub, faults: FaultLayer, config: UploadConfig, tmp_path: Path
) -> None:
    """The relay dies; the push goes on and says so."""
    relays: list[Any] = []
    start = module._Tasks._start_relay

    def starting(tasks: Any) -> Any:
        relays.append(start(tasks))
        return relays[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Tasks, "_start_relay", starting)
        faults.hooks["part"] = lambda: cluster.kill(relays[0])
        seen: list[Event] = []
        config_used = UploadConfig(
            cache_dir=config.cache_dir,
            progress="none",
            events=lambda record: seen.append(record.event),
        )
        sources = [{"model.bin": b"\0" * PART_SIZE}]
        result = await push_distributed(
            "me/m", sources, token=TOKEN, endpoint=hub.url, config=config_used
        )
    assert result.verified
    notices = [event.message for event in seen if isinstance(event, Notice)]
    assert any("no more progress from the workers" in message for message in notices)


class Stranger:
    """Stands for the relay's handle, where the task runs in this process."""

    def __init__(self) -> None:
        self.output: list[tuple[int, list[Event]]] = []
        self.send = self

    def remote(self, number: int, events: list[Event]) -> asyncio.Future[None]:
        self.output.append((number, events))
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


def job_of(hub: LocalHub, config: UploadConfig, source: Any) -> module._Job:
    there = module._JobSettings("me/m", PushOptions(), config, hub.url, TOKEN)
    return there.job(3, NodeSource(source))


async def test_the_task_returns_json_receipts_and_emits_events(
    hub: LocalHub, config: UploadConfig
) -> None:
    """The task's own function, without Ray around it."""

    async def source() -> dict[str, bytes]:
        return {"a.bin": b"\0" * 1000}

    stranger = Stranger()
    outcome = await asyncio.to_thread(module.upload_on_node, job_of(hub, config, source), stranger)
    assert isinstance(outcome, bytes)
    (receipt,) = receipts_from_json(outcome)
    assert (receipt.path_in_repo, receipt.size, receipt.route) == ("a.bin", 1000, "lfs")
    assert {number for number, _ in stranger.output} == {3}
    events = [event for _, events in stranger.output for event in events]
    assert any(isinstance(event, FileStored) for event in events)


async def test_an_error_of_ours_comes_back_as_a_value(hub: LocalHub, config: UploadConfig) -> None:
    job = job_of(hub, config, lambda: {"../a": b""})
    outcome = await asyncio.to_thread(module.upload_on_node, job, Stranger())
    assert isinstance(outcome, SourceError)
    copy = pickle.loads(pickle.dumps(outcome))
    assert copy.problems == outcome.problems


async def test_the_default_cache_is_each_nodes_own(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(hub, UploadConfig(progress="none"), {"a.bin": b"\0"})
    monkeypatch.setenv("ASYNCPUSH_CACHE", str(tmp_path / "of the node"))
    await asyncio.to_thread(module.upload_on_node, job, Stranger())
    assert (tmp_path / "of the node" / "journal").is_dir()


async def test_the_token_is_in_no_repr(hub: LocalHub, config: UploadConfig) -> None:
    assert TOKEN not in repr(job_of(hub, config, {"a": b""}))


def test_the_embedded_hub_needs_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._token_for_workers(None, None) is None
    assert module._token_for_workers(None, "local") == "local"
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert module._token_for_workers(None, "local") == "hf_mine"
    assert module._token_for_workers("hf_given", None) == "hf_given"


async def test_ray_is_begun_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match=r"call ray\.init\(\) first"):
        await push_distributed("me/m", [{"a": b"1"}])


async def test_no_sources_are_refused() -> None:
    with pytest.raises(SourceError, match="no sources were given"):
        await push_distributed("me/m", [])


async def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'asyncpush\[ray\]'"):
        await push_distributed("me/m", [{"a": b"1"}])
