"""What is published: the same bytes from the same sources, with what belongs in it and no more."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from asyncpush.transfers.xet.installation import has_wheels

WHEELS = {
    # What PyPI has of hf-xet 1.8.0: cp38-abi3 and cp314-cp314t for each of these.
    ("CPython", "linux", "x86_64"): True,
    ("CPython", "linux", "aarch64"): True,
    ("CPython", "darwin", "x86_64"): True,
    ("CPython", "darwin", "arm64"): True,
    ("CPython", "win32", "AMD64"): True,
    ("CPython", "win32", "ARM64"): True,
    ("CPython", "win32", "x86"): False,
    ("CPython", "linux", "i686"): False,
    ("CPython", "linux", "armv7l"): False,
    ("CPython", "linux", "ppc64le"): False,
    ("CPython", "linux", "riscv64"): False,
    ("CPython", "freebsd14", "amd64"): False,
    ("CPython", "emscripten", "wasm32"): False,
    ("PyPy", "linux", "x86_64"): False,
}
ROOT = Path(__file__).resolve().parent.parent
BUILD = (
    "import sys; from hatchling.build import build_sdist, build_wheel;"
    "print(build_sdist(sys.argv[1])); print(build_wheel(sys.argv[1]))"
)
PUBLISHED = (
    "asyncpush",
    "tests",
    "examples",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "hatch_build.py",
    ".gitignore",
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Path]]:
    """An sdist and a wheel, built twice from copies made at different times and places."""
    built = []
    for number, when in enumerate((1_700_000_000, 1_800_000_000)):
        copy = tmp_path_factory.mktemp(f"copy{number}") / f"source-{number}"
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
        for name in filter(None, files):
            if name.split("/")[0] in (*PUBLISHED, "pyproject.toml"):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, copy / name)
                os.utime(copy / name, (when, when))
        out = copy.parent / "dist"
        made = subprocess.run(
            [sys.executable, "-c", BUILD, str(out)],
            cwd=copy,
            env={**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=True,
            umask=0o022 if number else 0o077,
        ).stdout.split()
        built.append({Path(name).suffix: out / name for name in made})
    return built


def test_hf_xet_is_required_only_where_it_has_wheels() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [xet] = [need for need in map(Requirement, project["dependencies"]) if need.name == "hf-xet"]
    assert xet.marker is not None
    for (implementation, system, machine), wheels in WHEELS.items():
        environment = {
            "platform_python_implementation": implementation,
            "sys_platform": system,
            "platform_machine": machine,
        }
        assert xet.marker.evaluate(environment) is wheels, environment
        assert has_wheels(implementation, system, machine) is wheels, environment
    assert project["optional-dependencies"]["xet"] == []


def test_the_same_sources_make_the_same_bytes(packages: list[dict[str, Path]]) -> None:
    first, second = (
        {kind: hashlib.sha256(path.read_bytes()).hexdigest() for kind, path in each.items()}
        for each in packages
    )
    assert set(first) == {".gz", ".whl"}
    assert first == second


def test_the_wheel_holds_the_package_alone(packages: list[dict[str, Path]]) -> None:
    with zipfile.ZipFile(packages[0][".whl"]) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"asyncpush"}
    assert {"asyncpush/py.typed", "asyncpush/events/events.schema.json"} <= set(names)
    assert any(name.endswith("static/style.css") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_is_named_and_nothing_else(packages: list[dict[str, Path]]) -> None:
    with tarfile.open(packages[0][".gz"]) as sdist:
        members = sdist.getmembers()
    names = {member.name.partition("/")[2].split("/")[0] for member in members}
    assert names == {*PUBLISHED, "pyproject.toml", "PKG-INFO"}
    assert all(member.isfile() and not member.name.startswith(("/", "..")) for member in members)
    assert not any("__pycache__" in member.name for member in members)


def test_the_description_needs_no_other_file(packages: list[dict[str, Path]]) -> None:
    with zipfile.ZipFile(packages[0][".whl"]) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith("METADATA")]
        metadata = message_from_bytes(wheel.read(name))
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert text.startswith("# asyncpush\n\nAn asyncio uploader")
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", text) == []
    assert "`CONTRIBUTING.md`" in text
    assert "sources (`examples/README.md`)" in text
