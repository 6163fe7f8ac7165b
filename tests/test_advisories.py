"""That an advisory service which cannot be reached is not taken for a clean answer."""

from __future__ import annotations

import json

import pytest

from tests.advisories import CLEAN, NOT_CHECKED, VULNERABLE, needed, verdict

CHECKED = {"name": "aiohttp", "version": "3.14.5", "vulns": []}
SKIPPED = {"name": "orjson", "skip_reason": "Dependency not found on PyPI and could not be audited"}
BAD = {
    "name": "tqdm",
    "version": "4.66.2",
    "vulns": [{"id": "PYSEC-2024-1", "fix_versions": ["4.66.3"]}, {"id": "X", "fix_versions": []}],
}


@pytest.mark.parametrize(
    ("rows", "packages", "code", "said"),
    [
        ([CHECKED], ["aiohttp"], CLEAN, "no known vulnerability in 1 packages"),
        ([CHECKED, BAD], ["aiohttp", "tqdm"], VULNERABLE, "tqdm 4.66.2: PYSEC-2024-1, fixed in"),
        ([SKIPPED, BAD], ["orjson", "tqdm"], VULNERABLE, "tqdm 4.66.2: X, fixed in no version"),
        ([CHECKED, SKIPPED], ["aiohttp", "orjson"], NOT_CHECKED, "1 of 2 packages"),
        ([SKIPPED], ["orjson"], NOT_CHECKED, "NOT CHECKED"),
        ([], ["orjson"], NOT_CHECKED, "cannot be reached: orjson"),
    ],
    ids=["clean", "a vulnerability", "one and a gap", "a gap", "offline", "nothing"],
)
def test_what_an_audit_says(rows: list[object], packages: list[str], code: int, said: str) -> None:
    findings = verdict(json.dumps({"dependencies": rows, "fixes": []}), packages)
    assert findings.code == code
    assert said in "\n".join(findings.lines)


@pytest.mark.parametrize("report", ["", "Traceback", "[]", "{}"])
def test_an_audit_that_broke_is_no_clean_one(report: str) -> None:
    assert verdict(report, ["aiohttp"]).code == NOT_CHECKED


def test_what_is_audited_is_what_users_get() -> None:
    names = {name for name, _ in needed("asyncpush[all]")}
    assert {"aiohttp", "yarl", "tqdm", "pygit2", "boto3", "botocore", "pyyaml"} <= names
    assert not names & {"asyncpush", "pytest", "mypy", "ruff", "pip"}
