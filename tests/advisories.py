"""Known vulnerabilities of what asyncpush runs on: `python -m tests.advisories`.

Asks pip-audit (`pip install -e '.[audit]'`) about the installed versions of every package that
`asyncpush[all]` brings, and about nothing else of the environment. Where the advisory service
cannot be reached, pip-audit itself says "not found on PyPI" of each package and ends well; here
that is NOT CHECKED, said aloud. It fails the build with `--require` alone: what is offline must
build too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CLEAN, VULNERABLE, NOT_CHECKED = 0, 1, 3


@dataclass(frozen=True, slots=True)
class Verdict:
    code: int
    lines: tuple[str, ...]


def needed(requirement: str, seen: set[str] | None = None) -> Iterator[tuple[str, str]]:
    """Name and installed version of all that a requirement brings, itself left out."""
    seen = set() if seen is None else seen
    wanted = Requirement(requirement)
    extras = wanted.extras or {""}
    for line in distribution(wanted.name).requires or ():
        each = Requirement(line)
        if each.marker and not any(each.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(each.name)
        if (key := f"{name}{sorted(each.extras)}") in seen:
            continue
        seen.add(key)
        try:
            version = distribution(name).version
        except PackageNotFoundError:  # for another system
            continue
        if name != canonicalize_name(wanted.name):
            yield name, version
        each.marker = None
        yield from needed(str(each), seen)


def verdict(report: str, packages: Sequence[str]) -> Verdict:
    """What pip-audit's JSON means; it may be empty or broken when the service is away."""
    try:
        rows = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        rows = []
    found = [
        f"{row['name']} {row['version']}: {vulnerability['id']}, fixed in"
        f" {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for row in rows
        for vulnerability in row.get("vulns", ())
    ]
    if found:
        return Verdict(VULNERABLE, tuple(found))
    checked = {canonicalize_name(row["name"]) for row in rows if "vulns" in row}
    unknown = sorted(set(packages) - checked)
    if not unknown:
        return Verdict(CLEAN, (f"no known vulnerability in {len(checked)} packages",))
    return Verdict(
        NOT_CHECKED,
        (
            f"NOT CHECKED: the advisory service knows nothing of {len(unknown)} of"
            f" {len(packages)} packages, or cannot be reached: {', '.join(unknown)}",
        ),
    )


def ask(packages: Sequence[tuple[str, str]]) -> str:
    """pip-audit's report; what it complains of goes to stderr."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "pins.txt")
        pins.write_text("".join(f"{name}=={version}\n" for name, version in packages))
        command = [sys.executable, "-m", "pip_audit", "-r", str(pins), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off"]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout


def main(arguments: Sequence[str]) -> int:
    packages = sorted(set(needed("asyncpush[all]")))
    reported = verdict(ask(packages), [name for name, _ in packages])
    sys.stdout.write("".join(f"advisories: {line}\n" for line in reported.lines))
    return reported.code if reported.code == VULNERABLE or "--require" in arguments else CLEAN


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
