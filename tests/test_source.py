"""Laws of the source that keep it safe, read from its syntax."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "asyncpush").rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]

FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "breakpoint", "input"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "os.spawnl"),
    *("tempfile.mktemp", "asyncio.create_subprocess_shell", "asyncio.create_subprocess_exec"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "numpy.load", "torch.load"),
}
FORBIDDEN_MODULES = {
    *("pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "imp"),
    *("subprocess", "pty", "commands", "ctypes", "code", "codeop"),
    *("xml.etree", "xml.dom", "xml.parsers", "telnetlib", "ftplib"),
}


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return reporting(path.read_text(encoding="utf-8"))


def reporting(source: str) -> list[ast.AST]:
    """What calls or imports something, and classes."""
    reported = (ast.Call, ast.Import, ast.ImportFrom, ast.ClassDef)
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, reported)]


def classes_of(path: Path) -> Iterator[ast.ClassDef]:
    return (node for node in nodes_of(path) if isinstance(node, ast.ClassDef))


def dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            return f"{dotted(value)}.{name}"
    return ""


@cache
def imported_by(path: Path) -> frozenset[str]:
    return frozenset(imports(nodes_of(path)))


def imports(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module, names):
                yield from (f"{module}.{alias.name}" for alias in names)


def offences(nodes: list[ast.AST]) -> list[str]:
    """What stands there that must not, each with its line."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Call):
            if dotted(node.func) in FORBIDDEN_CALLS:
                found.append(f"line {node.lineno}: {dotted(node.func)}()")
            found += [f"line {node.lineno}: shell=" for k in node.keywords if k.arg == "shell"]
            if any(
                k.arg in ("verify_ssl", "ssl") and isinstance(k.value, ast.Constant)
                for k in node.keywords
            ):
                found.append(f"line {node.lineno}: TLS without verification")
    for name in imports(nodes):
        if any(f"{name}.".startswith(f"{module}.") for module in FORBIDDEN_MODULES):
            found.append(f"import of {name}")
    return found


@pytest.mark.parametrize(
    "bad",
    [
        "eval('1')",
        "import os\nos.system('ls')",
        "import pickle",
        "from pickle import loads",
        "from xml.etree import ElementTree",
        "import subprocess",
        "run('ls', shell=True)",
        "get(url, ssl=False)",
    ],
)
def test_the_law_is_enforced(bad: str) -> None:
    assert offences(reporting(bad))


GIT_DOOR = "asyncpush/localhub/store/gitrepo.py"
STARTING = ("subprocess.Popen", "asyncio.create_subprocess_exec")


def test_there_is_no_eval_no_shell_no_pickle() -> None:
    """Receipts, journals, manifests and answers are JSON or TOML: reading them runs nothing."""
    assert {
        name: found
        for name, path in zip(NAMES, SOURCES, strict=True)
        if (found := offences(nodes_of(path))) and name != GIT_DOOR
    } == {"asyncpush/transfers/xet/memory.py": ["import of ctypes"]}  # malloc_trim, nothing else


def test_ctypes_calls_one_function_of_the_c_library() -> None:
    text = (ROOT / "asyncpush" / "transfers" / "xet" / "memory.py").read_text(encoding="utf-8")
    loaded = 'ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None'
    assert re.findall(r"ctypes\..*", text) == [loaded]


def test_git_is_the_only_program_with_fixed_commands() -> None:
    nodes = nodes_of(ROOT / GIT_DOOR)
    assert all("subprocess" in found for found in offences(nodes))
    calls = [n for n in nodes if isinstance(n, ast.Call) and dotted(n.func) in STARTING]
    assert len(calls) == 3
    for call in calls:
        (words,) = (arg.value if isinstance(arg, ast.Starred) else arg for arg in call.args)
        assert ast.literal_eval(words)[0] == "git"


def test_yaml_is_read_by_the_safe_loader_alone() -> None:
    """The one loader can make plain values only."""
    from asyncpush.localhub import cards

    users = [path for path in SOURCES if "yaml" in imported_by(path)]
    assert [path.name for path in users] == ["__init__.py", "cards.py"]
    assert cards._Loader.__base__.__name__ in ("CSafeLoader", "SafeLoader")


def test_aiohttp_aiofiles_and_tqdm_have_one_home_each() -> None:
    """One place to look at for each: aiohttp in net/ and the embedded Hub, tqdm in the bars,
    aiofiles in sources/."""
    wanted = {"aiohttp": ("net", "localhub"), "aiofiles": ("sources",), "tqdm": ("listeners",)}
    for module, homes in wanted.items():
        for path in SOURCES:
            used = any(f"{name}.".startswith(f"{module}.") for name in imported_by(path))
            home = path.relative_to(ROOT / "asyncpush").parts[0]
            assert not used or home in homes, f"{path} imports {module}"


SECRET_FIELD = re.compile(r"token|url|href|headers|target|secret|password|content|body|credential")
HARMLESS_FIELDS = re.compile(
    r"events\..*\.(url|headers|body)"  # redacted when the event is made: test_no_secrets.py
    r"|.*\.(commit_url|repo_url|bucket_url|pr_url|cas_url|refresh_url)|protocol\.commits\.CommitAnswer\.url"
    r"|localhub\.store\.bucket_index\.BucketFile\.content_type|protocol\.buckets\.AddFile\.content_type"
    r"|localhub\.store\.gitrepo\.Ref\.target|localhub\.state\.HubState\.xet_token_lifetime|localhub\.pages\.views\.(Crumb|BucketRow)\.href"
    r"|models\.file_source\.FileSource\.content"  # its classes leave their bytes out
    r"|doctor\.asking\.(LocalFacts\.token_(from|kind|expires_at)|Facts\.target)"
)


def fields_of_reprs(path: Path) -> Iterator[str]:
    """`module.Class.field` of each dataclass, less those with `field(repr=False)`."""
    module = ".".join(path.relative_to(ROOT / "asyncpush").with_suffix("").parts)
    for node in classes_of(path):
        if not any(
            dotted(getattr(each, "func", each)) == "dataclass" for each in node.decorator_list
        ):
            continue
        for line in node.body:
            match line:
                case ast.AnnAssign(target=ast.Name(name), value=ast.Call(keywords=keywords)):
                    if not any(k.arg == "repr" for k in keywords):
                        yield f"{module}.{node.name}.{name}"
                case ast.AnnAssign(target=ast.Name(name)):
                    yield f"{module}.{node.name}.{name}"


def test_no_repr_shows_tokens_presigned_urls_or_headers() -> None:
    """Of every dataclass there is, so that no log line or traceback of a user's shows one."""
    shown = {name for path in SOURCES for name in fields_of_reprs(path)}
    assert len(shown) > 300
    risky = {name for name in shown if SECRET_FIELD.search(name.rpartition(".")[2])}
    assert {name for name in risky if not HARMLESS_FIELDS.fullmatch(name)} == set()


def test_dependencies_have_lower_bounds_and_the_core_few() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = project["dependencies"]
    assert {re.split(r"[><=]", name)[0] for name in core} == {
        *("aiofiles", "aiohttp", "anyio", "click", "hf-xet", "orjson", "tqdm"),
    }
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    for name in [*core, *extras]:
        own = name.startswith("asyncpush[") or name.startswith("types-")
        assert own or re.fullmatch(r"[\w.-]+>=\d+(\.\d+)+", name.partition(";")[0]), name
