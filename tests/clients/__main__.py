"""The embedded Hub against clients that we did not write: `python -m tests.clients [NAME...]`.

Each is installed from its registry (once, into `.clients/`) and makes the calls that its users
make: create, upload, commit, list, branch, pull request, download, delete. A table tells how many
were answered as they should be; what was not is told below it, and the exit code is 1. Names choose
among the clients ("npm", "datasets", "huggingface_hub 0.14"). This takes minutes, and gigabytes of
packages: it is no part of the test command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyncpush.localhub import LocalHub, serve_in_thread
from tests.clients import installing
from tests.clients.installing import NotInstalledError

HERE = Path(__file__).resolve().parent
TOKEN = "hf_local"
OFFICIAL = ("0.14.1", "0.16.4", "0.19.4", "0.23.5", "0.27.1", "0.30.2", "0.36.2", "1.0.1", "2.4.0")
INSTALL_SECONDS = 900.0

Row = dict[str, Any]


@dataclass
class Outcome:
    """What one client said of its calls."""

    name: str
    version: str = ""
    good: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    missing: str | None = None
    seconds: float = 0.0


def is_good(row: Row) -> bool:
    """A call that compares says true, or a list without a false; others just must not fail."""
    value = row.get("value")
    falsehoods = value is False or (isinstance(value, list) and False in value)
    expected = {"exists no more": value is False, "file exists": value == [True, False]}
    return "error" not in row and expected.get(row["call"], not falsehoods)


def rows_of(command: list[str], environment: dict[str, str]) -> Iterator[Row]:
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield json.loads(line)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        yield {"call": "the script", "error": said}


def official(version: str) -> Callable[[LocalHub, Path], Iterator[Row]]:
    def run(hub: LocalHub, work: Path) -> Iterator[Row]:
        packages = installing.python_packages(f"huggingface_hub=={version}", with_dependencies=True)
        script = [sys.executable, str(HERE / "official.py"), hub.url, TOKEN, "me/net", str(work)]
        return rows_of(script, _python(hub, work, packages))

    return run


def library(name: str, *requirements: str) -> Callable[[LocalHub, Path], Iterator[Row]]:
    def run(hub: LocalHub, work: Path) -> Iterator[Row]:
        packages = installing.python_packages(*requirements, with_dependencies=True)
        script = [sys.executable, str(HERE / "libraries.py"), name, hub.url, TOKEN, str(work)]
        return rows_of(script, _python(hub, work, packages))

    return run


def _python(hub: LocalHub, work: Path, packages: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": str(packages),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(work / "hf-home"),
        "HOME": str(work),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def npm(hub: LocalHub, work: Path) -> Iterator[Row]:
    folder = installing.npm_package("@huggingface/hub", "2.17")
    script = [str(installing.node()), str(HERE / "npm.mjs"), str(folder), hub.url, TOKEN, "me/net"]
    about = json.loads((folder / "node_modules/@huggingface/hub/package.json").read_text())
    yield {"call": "version", "value": about["version"]}
    yield from rows_of(script, {"HOME": str(work)})


def git(hub: LocalHub, work: Path) -> Iterator[Row]:
    for program in ("git", "git-lfs"):
        installing.program(program)
    url = hub.url.replace("://", f"://me:{TOKEN}@")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(work),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    (work / ".gitconfig").write_text("[user]\nname = Me\nemail = me@example.org\n")
    (work / "large").write_bytes(os.urandom(2_000_000))
    create = (
        f"curl -sf -X POST {hub.url}/api/repos/create -H 'Authorization: Bearer {TOKEN}'"
        """ -d '{"name": "me/net"}'"""
    )
    steps = {
        "create": create,
        "lfs install": "git lfs install",
        "clone": f"git clone {url}/me/net",
        "commit": "cd net && cp ../large model.bin && git add . && git commit -qm one",
        "push": "cd net && git push",
        "clone again": f"git clone {url}/me/net again && cmp large again/model.bin",
        "branch": "cd net && git push origin HEAD:dev",
        "fetch": "cd again && git fetch && git checkout dev",
        "tag": "cd net && git tag v1 && git push --tags",
        "delete branch": "cd net && git push origin :dev",
    }
    yield {"call": "version", "value": _said(["git", "--version"], environment, work).split()[2]}
    for name, step in steps.items():
        try:
            yield {
                "call": name,
                "value": bool(_said(["sh", "-ec", step], environment, work)) or True,
            }
        except subprocess.CalledProcessError as error:
            yield {"call": name, "error": (error.stderr or "").strip()}


def _said(command: list[str], environment: dict[str, str], work: Path) -> str:
    return subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, check=True
    ).stdout


CLIENTS: dict[str, Callable[[LocalHub, Path], Iterator[Row]]] = {
    **{f"huggingface_hub {version}": official(version) for version in OFFICIAL},
    "npm @huggingface/hub": npm,
    # datasets 5.2 cannot hash a table with what dill and pyarrow are today.
    "datasets": library("datasets", "datasets<5", "pyarrow<22"),
    "transformers": library("transformers", "transformers"),
    "hfutils": library("hfutils", "hfutils"),
    "git and git-lfs": git,
}


def outcome_of(name: str) -> Outcome:
    """A hub of its own for each, so that none helps another."""
    outcome = Outcome(name)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        with serve_in_thread(Path(folder) / "hub", token=TOKEN, part_size=1_000_000) as hub:
            try:
                for row in CLIENTS[name](hub, work):
                    if row["call"] == "version":
                        outcome.version = str(row.get("value", "?"))
                    elif is_good(row):
                        outcome.good += 1
                    else:
                        outcome.bad[row["call"]] = str(row.get("error", row.get("value")))
            except NotInstalledError as missing:
                outcome.missing = str(missing)
    outcome.seconds = time.monotonic() - began
    return outcome


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(names: list[str]) -> int:
    installing.PATIENCE = INSTALL_SECONDS
    chosen = [name for name in CLIENTS if not names or any(word in name for word in names)]
    say(f"{'client':<28} {'version':<12} {'calls':>5} {'failed':>6} {'seconds':>8}")
    failed = []
    for name in chosen:
        outcome = outcome_of(name)
        calls = outcome.good + len(outcome.bad)
        output = f"{calls:>5} {len(outcome.bad):>6} {outcome.seconds:>8.1f}"
        say(f"{name:<28} {outcome.version:<12} {outcome.missing or output}")
        failed += [f"{name}: {call}: {why}" for call, why in outcome.bad.items()]
    say("\n".join(("", *failed)))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
