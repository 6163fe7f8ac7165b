"""The embedded Hub on a loopback port, a way to make it fail, and a clean environment."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import gettempdir

import pytest
from aiohttp.typedefs import Middleware
from hypothesis import HealthCheck, settings

from asyncpush import UploadConfig, Uploader
from asyncpush.localhub import LocalHub, serve_in_thread
from asyncpush.localhub.routes.tokens import TrustedPublishers
from asyncpush.models import FileIdentity
from asyncpush.pipeline import bucket, commit, preflight, verification
from tests import timeouts
from tests.fault_table import FaultReport, FaultTable
from tests.faults import FaultLayer
from tests.request_blocker import RequestBlocker
from tests.scratch import in_memory

# A loaded machine is no failure.
settings.register_profile("asyncpush", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("asyncpush")

PART_SIZE = 5 << 20
TOKEN = "hf_" + "t" * 30


_REPORT = pytest.StashKey[FaultReport]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", action="store_true", help="print the fault table at the end")
    parser.addoption("--chaos", default="120", help="how many random fault schedules to try")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORT] = FaultReport()
    memory = in_memory()
    if memory is not None and "not big" in config.option.markexpr:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)  # read when `tmp_path` is first used
    if not config.pluginmanager.has_plugin(timeouts.__name__):
        config.pluginmanager.register(timeouts, timeouts.__name__)


HUBS = {"hub", "hub_in_thread", "site"}
"""Fixtures that start an embedded Hub."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Properties are not traced, and of a parametrized test with a Hub only the first case is. It
    costs nearly as much again, and hardly a line is run by the other cases alone."""
    traced = set()
    for item in items:
        function, _, case = item.nodeid.partition("[")
        is_property = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        has_hub = not HUBS.isdisjoint(getattr(item, "fixturenames", ()))
        if is_property or (case and has_hub and function in traced):
            item.add_marker("no_cover")
        traced.add(function)


def _fixtures_uncovered(item: pytest.Item) -> Generator[None, object, object]:
    """What pytest-cov does for `no_cover`, for the fixtures of such a test too."""
    plugin = item.config.pluginmanager.get_plugin("_cov")
    controller = plugin and plugin.cov_controller
    if controller is None or item.get_closest_marker("no_cover") is None:
        return (yield)
    controller.pause()
    try:
        return (yield)
    finally:
        controller.resume()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _fixtures_uncovered(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _fixtures_uncovered(item))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests that stay to the end: no garbage collection looks through them again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    report = config.stash[_REPORT]
    if report.rows and config.getoption("--table"):
        report.write(terminalreporter)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is asked again for what may still show as often as ever, a hundred times as quickly.
    Also by commands, which have no option for it."""
    for name in ("LATE_WAITS", "ANSWERED_WAITS", "HEAD_WAITS", "UNCLEAR_HEAD_WAITS"):
        monkeypatch.setattr(commit, name, tuple(wait / 100 for wait in getattr(commit, name)))
    monkeypatch.setattr(preflight, "PARENT_WAITS", (0.01, 0.01))
    longest_wait = verification.LONGEST_WAIT / 100
    for module in (bucket, verification):
        monkeypatch.setattr(module, "LONGEST_WAIT", longest_wait)


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, endpoint, proxy or cache of the machine reaches a test."""
    for name in list(os.environ):
        if name.upper().startswith(("HF_", "HUGGING", "ASYNCPUSH_")) or "PROXY" in name.upper():
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("ASYNCPUSH_CACHE", str(tmp_path / "cache"))
    # matplotlib lists the machine's fonts once for each home: not once for each test.
    monkeypatch.setenv("MPLCONFIGDIR", os.path.join(gettempdir(), "asyncpush-test-matplotlib"))


@pytest.fixture
def faults() -> FaultLayer:
    """Rules by which the hub fails; empty to begin with."""
    return FaultLayer()


@pytest.fixture
def fault_table(faults: FaultLayer, pytestconfig: pytest.Config) -> FaultTable:
    return FaultTable(faults, pytestconfig.stash[_REPORT])


@asynccontextmanager
async def open_hub(
    folder: Path,
    faults: FaultLayer,
    *layers: Middleware,
    part_size: int = PART_SIZE,
    xet: bool = False,
    xet_token_lifetime: int = 3600,
    trusted_publishers: TrustedPublishers | None = None,
) -> AsyncIterator[LocalHub]:
    """A hub that fails by `faults`; whoever it keeps waiting is let go before it ends."""
    async with LocalHub(
        folder / "hub",
        token=TOKEN,
        part_size=part_size,
        middlewares=[faults.middleware, *layers],
        xet=xet,
        xet_token_lifetime=xet_token_lifetime,
        trusted_publishers=trusted_publishers,
    ) as hub:
        yield hub
        faults.released.set()


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults) as hub:
        yield hub


@pytest.fixture
def blocker() -> RequestBlocker:
    """Holds what is asked of `hub_in_thread`, when a test says so."""
    return RequestBlocker()


@pytest.fixture
def hub_in_thread(
    tmp_path: Path, faults: FaultLayer, blocker: RequestBlocker
) -> Iterator[LocalHub]:
    """For blocking code, which has no loop to lend."""
    with serve_in_thread(
        tmp_path / "hub",
        token=TOKEN,
        part_size=PART_SIZE,
        middlewares=[faults.middleware, blocker.middleware],
        xet=False,
    ) as hub:
        yield hub
        blocker.release()


@pytest.fixture
def config(tmp_path: Path) -> UploadConfig:
    """Settings of a push that loses no time when it has to wait."""
    return UploadConfig(cache_dir=tmp_path / "cache", progress="none", initial_backoff_ms=1)


@pytest.fixture
def settled_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as if they had last changed long ago, on a disk: what has just been written, and
    what lies in memory (as the tests' own files do), has no hash that is remembered."""
    monkeypatch.setattr("asyncpush.journal.tables.SETTLED_AFTER", 0.0)
    monkeypatch.setattr("asyncpush.journal.journal.in_memory", lambda device: False)


@pytest.fixture
def times_that_lie(settled_files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No change of the inode shows, as with programs that write through a memory map."""

    def of(status: os.stat_result) -> FileIdentity:
        return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    monkeypatch.setattr(FileIdentity, "of", staticmethod(of))


@pytest.fixture
async def uploader(hub: LocalHub, config: UploadConfig) -> AsyncIterator[Uploader]:
    async with Uploader(TOKEN, hub.url, config) as uploader:
        yield uploader


@pytest.fixture
def official_lfs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The official client without Xet and without bars."""
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield
    close_session()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of files out of a mapping."""

    def write(files: dict[str, bytes | str], folder: str = "out") -> Path:
        root = tmp_path / folder
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return write
