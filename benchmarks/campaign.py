"""Runs scenarios: alternating rounds (A B A B), each contender in a new process on one core."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.files import WORK, Prepared, part_sizes, prepare
from benchmarks.networks import ideal_seconds
from benchmarks.rivals import RIVALS
from benchmarks.rivals.measuring import TOKEN
from benchmarks.scenarios import CONNECTIONS, Entry, Scenario
from benchmarks.serving import KEYS, Server, pinned, serving

ROOT = Path(__file__).parent.parent
TIME_LIMIT = 1800


@dataclass(slots=True)
class Outcome:
    """One scenario, measured: a list of figures for each contender, or why there are none."""

    scenario: Scenario
    ideal: float
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def run(
    scenario: Scenario,
    *,
    rounds: int,
    only: list[str],
    say: Callable[[str], None],
) -> Outcome:
    """Measure; a contender that fails is left out from then on, and the outcome says why."""
    sets = {
        files: prepare(files, scenario.part_size)
        for files in {entry.files or scenario.files for entry in scenario.entries}
    }
    whole = sets[scenario.files]
    parts = [size for file in whole.files for size in part_sizes(file.size, scenario.part_size)]
    outcome = Outcome(scenario, ideal_seconds(scenario.network, parts, CONNECTIONS))
    entries = []
    for entry in scenario.entries:
        if only and not any(word in entry.label for word in only):
            continue
        if (reason := RIVALS[entry.rival].missing()) is not None:
            outcome.missing[entry.label] = reason
        else:
            entries.append(entry)
    with serving(scenario.network, scenario.part_size, store=scenario.store) as server:
        for number in range(rounds):
            for entry in entries:
                if entry.label in outcome.missing:
                    continue
                repo = f"bench/{scenario.name}-{number}-{entries.index(entry)}"
                try:
                    figures = _measure(server, entry, sets[entry.files or scenario.files], repo)
                except RuntimeError as exc:
                    outcome.missing[entry.label] = str(exc)
                    outcome.runs.pop(entry.label, None)
                    say(f"    {entry.label}: {exc}")
                    continue
                outcome.runs.setdefault(entry.label, []).append(figures)
                say(
                    f"    round {number + 1}  {entry.label:28} wall {figures['wall']:7.2f} s"
                    f"  CPU {figures['cpu']:6.2f} s  peak {figures['peak_rss'] / 1e6:5.0f} MB"
                    f"  sent {figures['sent'] / 1e6:6.0f} MB/s on {figures['most_in_flight']}"
                )
    return outcome


def _measure(server: Server, entry: Entry, files: Prepared, repo: str) -> dict[str, Any]:
    server.reset(files.files)
    _create(server.endpoint, "bench/warm-up", *_repos(repo, files))
    before = server.stats()
    with tempfile.TemporaryDirectory(dir=WORK, prefix="client-") as scratch:
        job = {
            "endpoint": server.endpoint,
            "repo": repo,
            "folder": str(files.folder),
            "scratch": scratch,
            "s3": server.s3,
            "options": entry.options,
        }
        command = [*pinned(server=False), *RIVALS[entry.rival].command, json.dumps(job)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                cwd=ROOT,
                env=_environment(server, scratch),
                timeout=TIME_LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not done within {TIME_LIMIT} s") from None
    if done.returncode:
        raise RuntimeError(f"failed: {_last_words(done.stderr)}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    after = server.stats()
    figures["server_cpu"] = after["cpu"] - before["cpu"]
    figures["sent"] = after["received"] / after["seconds"] if after["seconds"] else 0.0
    for name in ("received", "refused", "connections", "most_in_flight", "calls"):
        figures[name] = after[name]
    figures["sent_share"] = after["received"] / files.total if files.total else 0.0
    if server.keeps_bodies:
        figures["bytes_sent"] = after["bytes_sent"]
    return figures


def _environment(server: Server, scratch: str) -> dict[str, str]:
    """Nothing of the user's own set-up: no token, no proxy, no cache."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("HF_", "HUGGING", "ASYNCPUSH", "AWS_"))
        and "PROXY" not in name.upper()
        and name != "PYTHONDONTWRITEBYTECODE"  # imports are measured with compiled files
    }
    kept |= {**KEYS, "HOME": scratch, "PYTHONPATH": str(ROOT)}
    kept["HF_HUB_DISABLE_TELEMETRY"] = "1"  # hf_xet's too, whoever uses it
    if server.ca is not None:
        kept |= {
            "SSL_CERT_FILE": str(server.ca),
            "REQUESTS_CA_BUNDLE": str(server.ca),
            "NODE_EXTRA_CA_CERTS": str(server.ca),
        }
    return kept


def _repos(repo: str, files: Prepared) -> list[str]:
    """One, or for a set of models one for each."""
    if not files.folder.name.startswith("models"):
        return [repo]
    return [f"{repo}-{folder.name}" for folder in files.folder.iterdir()]


def _create(endpoint: str, *repo_ids: str) -> None:
    """Beforehand, for all alike: making a repo is not what is measured."""
    for repo_id in repo_ids:
        organization, _, name = repo_id.partition("/")
        body = json.dumps({"type": "model", "name": name, "organization": organization})
        request = urllib.request.Request(
            f"{endpoint}/api/repos/create",
            body.encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        try:
            urllib.request.urlopen(request).close()
        except urllib.error.HTTPError as exc:
            if exc.code != 409:
                raise RuntimeError(f"{repo_id} cannot be made: {exc}") from exc


def _last_words(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if "Error" in line or "error" in line]
    return (lines or stderr.strip().splitlines() or ["no word"])[-1][:300]
