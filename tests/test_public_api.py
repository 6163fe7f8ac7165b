from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import asyncpush
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN

SEEN_BY_CHECKERS = {
    alias.name: str(statement.module)
    for block in ast.parse(Path(asyncpush.__file__).read_text()).body
    if isinstance(block, ast.If)
    for statement in block.body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}
"""What type checkers and editors are told of: name and module."""


def test_all_names_are_what_checkers_see() -> None:
    assert sorted({*SEEN_BY_CHECKERS, "__version__"}) == asyncpush.__all__


@pytest.mark.parametrize(("name", "module"), SEEN_BY_CHECKERS.items())
def test_a_name_is_what_checkers_take_it_for(name: str, module: str) -> None:
    assert getattr(asyncpush, name) is getattr(sys.modules[module], name)


def test_all_is_sorted_without_repeats() -> None:
    assert sorted(set(asyncpush.__all__)) == asyncpush.__all__


def test_dir_lists_what_is_public_before_it_is_imported() -> None:
    assert dir(asyncpush) == asyncpush.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'asyncpush' has no attribute 'push'"):
        asyncpush.push  # noqa: B018
    assert not hasattr(asyncpush, "pushed")


@pytest.mark.parametrize("name", asyncpush.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(asyncpush, name)
    if name == "__version__":
        assert value.count(".") >= 2
    else:
        assert inspect.getdoc(value)


@pytest.mark.parametrize("name", [name for name in asyncpush.__all__ if name.endswith("Error")])
def test_every_error_has_one_root(name: str) -> None:
    assert issubclass(getattr(asyncpush, name), asyncpush.AsyncPushError)


HEAVY = ("aiohttp", "aiofiles", "orjson", "sqlite3", "tqdm", "click")
OPTIONAL = ("boto3", "hf_xet", "jinja2", "matplotlib", "opentelemetry", "pygit2", "ray", "yaml")


def loaded_by(statements: str) -> set[str]:
    """What a fresh interpreter has imported after these statements."""
    program = f"import sys\n{statements}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_import_waits_for_nothing() -> None:
    assert loaded_by("import asyncpush").isdisjoint({"asyncio", "ssl", *HEAVY, *OPTIONAL})


def test_the_front_door_waits_for_no_other_library() -> None:
    assert loaded_by("import asyncpush; asyncpush.push_to_hub").isdisjoint({*HEAVY, *OPTIONAL})


NOT_FOR_SMALL_PUSHES = (
    *("aiofiles", "ctypes", "hf_xet", "html", "sqlite3", "tqdm"),
    *("asyncpush.pipeline.bucket", "asyncpush.pipeline.copy", "asyncpush.pipeline.sync"),
    *("asyncpush.pipeline.audit", "asyncpush.doctor", "asyncpush.localhub", "asyncpush.cli"),
    *("asyncpush.training", "asyncpush.notebook", "asyncpush.listeners.timeline"),
    *("asyncpush.listeners.tqdm_screens", "asyncpush.listeners.bars", "asyncpush.distributed"),
    *("asyncpush.listeners.aggregator", "asyncpush.listeners.publisher"),
    *("asyncpush.listeners.log_messages", "asyncpush.listeners.jsonl", "asyncpush.events.schema"),
    *("asyncpush.transfers.lfs.transfer", "asyncpush.transfers.xet.engine"),
    *("asyncpush.transfers.xet.access", "asyncpush.protocol.xet"),
    "asyncpush.pipeline.commit_series",
    *("asyncpush.net.parts", "asyncpush.net.adaptive_limit", "asyncpush.net.bodies"),
    *("asyncpush.net.login", "asyncpush.net.colab", "asyncpush.protocol.accounts"),
    *("asyncpush.protocol.lfs", "asyncpush.protocol.buckets"),
    *("asyncpush.sources.sharding", "asyncpush.sources.tensors"),
    *("asyncpush.sources.arrays", "asyncpush.sources.safetensors", "asyncpush.journal.database"),
)
"""Libraries and modules that take long to import, and that a push of small files does not need."""


def small_push(hub: LocalHub, tmp_path: Path, text: str = "text") -> str:
    """A program that pushes one small file."""
    return f"""
import asyncio
from asyncpush import PushOptions, UploadConfig, push_to_hub

config = UploadConfig(cache_dir={str(tmp_path)!r}, progress="none")
push = push_to_hub(
    "me/small", {text.encode()!r}, PushOptions(path_in_repo="a.txt"),
    token={TOKEN!r}, endpoint={hub.url!r}, config=config,
)
assert asyncio.run(push).verified
"""


def test_a_small_push_imports_what_it_needs(hub_in_thread: LocalHub, tmp_path: Path) -> None:
    loaded = loaded_by(small_push(hub_in_thread, tmp_path))
    assert loaded >= {"aiohttp", "asyncpush.pipeline.push"}
    assert loaded.isdisjoint({*NOT_FOR_SMALL_PUSHES, *OPTIONAL})


def test_a_small_push_compiles_no_expression(hub_in_thread: LocalHub, tmp_path: Path) -> None:
    """Each takes 0.1 to 0.6 ms: those that few pushes need are compiled when they are used."""
    loaded_by(small_push(hub_in_thread, tmp_path))  # a new repo has to be created after a 404
    program = """
import re, traceback

compile = re._compiler.compile

def counted(pattern, *flags):
    users = [frame.filename for frame in traceback.extract_stack()[:-1]]
    user = [name for name in users if "/re/" not in name][-1]
    assert "/asyncpush/" not in user, (pattern, user)
    return compile(pattern, *flags)

re._compiler.compile = counted
"""
    loaded_by(program + small_push(hub_in_thread, tmp_path, "other"))


def test_a_small_push_needs_few_threads_and_no_tls(hub_in_thread: LocalHub, tmp_path: Path) -> None:
    """aiohttp makes two contexts when it is imported, which takes most of that time."""
    program = f"""
import asyncio, ssl, sys, threading
from asyncpush import PushOptions, UploadConfig, push_to_hub

contexts, threads = [], []
new, start = ssl.SSLContext.__new__, threading.Thread.start
ssl.SSLContext.__new__ = lambda cls, *given: contexts.append(cls) or new(cls, *given)
threading.Thread.start = lambda thread: threads.append(thread.name) or start(thread)

config = UploadConfig(cache_dir={str(tmp_path)!r}, progress="none")
push = push_to_hub(
    "me/few", b"text", PushOptions(path_in_repo="a.txt"),
    token={TOKEN!r}, endpoint={hub_in_thread.url!r}, config=config,
)
assert asyncio.run(push).verified
assert len(contexts) == 2, contexts
kinds = {{name.rpartition("_")[0] or name for name in threads}}
ours = {{"asyncpush-import", "asyncpush-journal", "asyncpush-lookup", "asyncpush-read"}}
assert kinds <= {{*ours, "AnyIO worker thread"}}, threads
assert len(threads) <= 8, threads
"""
    loaded_by(program)


def test_a_small_push_compiles_no_data_class(hub_in_thread: LocalHub, tmp_path: Path) -> None:
    program = (
        small_push(hub_in_thread, tmp_path)
        + """
import gc

ours = [
    each for each in gc.get_objects()
    if isinstance(each, type) and str(each.__module__).startswith("asyncpush.")
    and "__dataclass_fields__" in vars(each)
]
init = [
    each for each in ours
    if "__init__" in vars(each) and each.__init__.__code__.co_filename == "<string>"
]
assert len(ours) > 50
assert init == [], init
"""
    )
    loaded_by(program)


def test_the_runtime_is_imported_beside_a_running_loop() -> None:
    program = """
import anyio, asyncio, threading
from asyncpush import UploadConfig, Uploader

threads = {}

class Watch:
    def find_spec(self, name, path=None, target=None):
        threads[name] = threading.current_thread().name

async def enter(cache):
    async with Uploader("hf_x", "http://127.0.0.1:9", UploadConfig(cache_dir=cache)):
        async with anyio.create_task_group():
            pass

sys.meta_path.insert(0, Watch())
import tempfile
with tempfile.TemporaryDirectory() as cache:
    asyncio.run(enter(cache))
by_loop = {name for name, thread in threads.items() if thread == "MainThread"}
assert threads["aiohttp"].startswith("asyncpush-import"), threads["aiohttp"]
others = {"aiohttp", "orjson", "sqlite3", "asyncpush.pipeline.push", "anyio._backends._asyncio"}
assert not by_loop & others, by_loop & others
"""
    assert loaded_by(program).isdisjoint({"tqdm", "click", *OPTIONAL})
