"""Imports point one way, and each outside library has one door (DESIGN §4).

Read from the source: what is imported within functions counts too, what only the type checker sees
does not.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import asyncpush

pytestmark = pytest.mark.no_cover

ROOT = Path(asyncpush.__file__).parent

LAYERS: tuple[set[str], ...] = (
    {"_version", "errors", "lazy_dataclass", "redaction"},
    {"concurrency", "own_files"},
    {"options"},
    {"models"},
    {"events"},
    {"journal", "listeners", "protocol", "sources"},
    {"net"},
    {"transfers"},
    {"pipeline"},
    {"doctor", "localhub", "notebook", "watch"},
    {"runtime"},
    {"uploader"},
    {"training"},
    {"distributed", "integrations"},
    {"cli"},
)
"""From the ground up. A unit (a module or package right under `asyncpush`) knows those below it."""

DOORS = {
    "aiofiles": {"sources"},
    "aiohttp": {"net", "localhub"},
    "boto3": {"localhub"},
    "click": {"cli"},
    "opentelemetry": {"listeners"},
    "pygit2": {"localhub"},
    "sqlite3": {"journal", "localhub"},
    "tqdm": {"listeners"},
    "watchfiles": {"watch"},
}
"""The units that may import an outside library."""


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _imports(tree: ast.Module) -> Iterator[str]:
    """Absolute names of all modules that `tree` imports when it runs."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        ):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "asyncpush":
            yield from (f"asyncpush.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert not node.level, "relative imports hide which way they point"
            yield node.module


def _imports_at_once(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Modules, and the names taken from them, that are imported when the module itself is. Not
    those within functions, nor for types alone."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                continue
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                yield from _imports_at_once(node.orelse)
                continue
            case ast.Import():
                yield from ((alias.name, "") for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield from ((module, alias.name) for alias in node.names)
        for name in ("body", "orelse", "finalbody"):
            yield from _imports_at_once(getattr(node, name, ()))
        for handler in getattr(node, "handlers", ()):
            yield from _imports_at_once(handler.body)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_module_imports_itself_through_others() -> None:
    modules = {_module(path): path for path in ROOT.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        taken = _imports_at_once(_parsed(path).body)
        # `from package import module` needs that module, `from package import name` the package.
        needed = {f"{of}.{name}" if f"{of}.{name}" in modules else of for of, name in taken}
        graph[module] = needed & modules.keys() - {module}
    assert graph["asyncpush.net.session"] >= {"asyncpush.net.retry", "asyncpush.protocol.urls"}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_no_two_modules_have_the_same_name() -> None:
    """Except commands, which are named after what they run."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in ROOT.rglob("*.py"):
        if path.parent.name != "cli" and path.stem != "__init__":
            folders[path.stem].append(path.parent.name)
    twice = {name: sorted(found) for name, found in folders.items() if len(found) > 1}
    assert twice == {"transformers": ["integrations", "training"]}  # the first is its earlier name


def _unit(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


@cache
def _import_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        graph[_unit(path)].update(_imports(_parsed(path)))
    return graph


HEIGHT = {unit: height for height, layer in enumerate(LAYERS) for unit in layer}
UNITS = sorted({_unit(path) for path in ROOT.rglob("*.py")} - {"__init__", "__main__"})


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_knows_only_what_lies_below_it(unit: str) -> None:
    known = {name.split(".")[1] for name in _import_graph()[unit] if name.startswith("asyncpush.")}
    assert {other for other in known if HEIGHT[other] >= HEIGHT[unit]} <= {unit}


@pytest.mark.parametrize("library", DOORS)
def test_an_outside_library_has_one_door(library: str) -> None:
    users = {
        unit
        for unit, names in _import_graph().items()
        if library in {n.split(".")[0] for n in names}
    }
    assert users <= DOORS[library]
    assert users, "nobody imports it: is it still needed?"


@pytest.mark.parametrize("stage", ["push", "routing", "selection", "store"])
def test_no_stage_of_a_push_names_a_transfer(stage: str) -> None:
    text = (ROOT / "pipeline" / f"{stage}.py").read_text()
    imported = {
        name for name in _imports(ast.parse(text)) if name.startswith("asyncpush.transfers")
    }
    assert imported <= {"asyncpush.transfers.interface", "asyncpush.transfers.inline"}
    assert "xet" not in text.lower()


SHARED = ("errors", "journal", "net", "pipeline", "protocol", "sources", "transfers")
"""What syncs, copies, audits and uploads use too."""

FOR_PUSHES_ALONE = (
    "push_to_hub (`asyncpush push`)",
    "push_to_hub and sync (`asyncpush push`",
    "download the source and push it",
    "download the files and push them",
)


@pytest.mark.parametrize("unit", SHARED)
def test_messages_of_shared_code_ask_nobody_to_push(unit: str) -> None:
    """The user may have called another operation: "try again" is right for each."""
    found = []
    for path in (path for path in ROOT.rglob("*.py") if _unit(path) == unit):
        nodes = list(ast.walk(_parsed(path)))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in docstrings:
                text = ast.unparse(node)
                asks = re.search(r"\b(push (again|it|to|with|without|a)|pushed)\b", text)
                if asks and not any(words in text for words in FOR_PUSHES_ALONE):
                    found.append(f"{path.name}: {text[:80]}")
    assert found == []


def test_a_transfer_is_known_where_it_is_registered_alone() -> None:
    """Everybody else reaches it by `asyncpush.transfers` and its interface."""
    transfers = ROOT / "transfers"
    for package in (path.parent for path in transfers.glob("*/__init__.py")):
        name = _module(package / "__init__.py")
        users = {
            path
            for path in ROOT.rglob("*.py")
            if not path.is_relative_to(package)
            for each in _everything_imported(_parsed(path))
            if each == name or each.startswith(f"{name}.")
        }
        assert users == {transfers / "__init__.py"}


def _everything_imported(tree: ast.Module) -> Iterator[str]:
    """Modules, and the names taken from them, also within functions and for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_paths_of_the_hub_are_in_one_module() -> None:
    """All but the embedded Hub's own, and the readers of addresses that users give."""
    users = set()
    for path in ROOT.rglob("*.py"):
        if path.is_relative_to(ROOT / "localhub"):
            continue
        texts = [node.value for node in ast.walk(_parsed(path)) if isinstance(node, ast.Constant)]
        if any(isinstance(text, str) and re.match(r"/(api|oauth)/\S*$", text) for text in texts):
            users.add(path.relative_to(ROOT).as_posix())
    assert users == {"protocol/routes.py"}


STRUCTURE = {
    "CancelScope",
    "abc",
    "create_memory_object_stream",
    "create_task_group",
    "lowlevel",
    "move_on_after",
    "streams",
    "to_thread",
}
"""What is taken from anyio; `asyncpush.concurrency` says what from asyncio."""


def test_anyio_gives_structure_and_asyncio_everything_else() -> None:
    taken: dict[str, set[str]] = {"anyio": set(), "asyncio": set()}
    for path in ROOT.rglob("*.py"):
        if path.is_relative_to(ROOT / "localhub"):
            continue
        for node in ast.walk(_parsed(path)):
            match node:
                case ast.Attribute(value=ast.Name(("anyio" | "asyncio") as library), attr=name):
                    taken[library].add(name)
                case ast.ImportFrom(module=str(module), names=names):
                    package, _, below = module.partition(".")
                    if package in taken:
                        taken[package] |= {below.partition(".")[0] or each.name for each in names}
    assert taken["anyio"] == STRUCTURE
    assert {"Event", "Lock", "Semaphore", "sleep"} <= taken["asyncio"]
    assert "TaskGroup" not in taken["asyncio"]
