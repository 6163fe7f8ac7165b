"""Documents lead to what is there, and workflows are ones that GitHub runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    path
    for folder in (ROOT, *(ROOT / name for name in ("asyncpush", "benchmarks", "examples")))
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
    if "node_modules" not in path.parts and ".work" not in path.parts
)
WORKFLOWS = [*(ROOT / ".github" / "workflows").glob("*.yml"), ROOT / "examples/github-actions.yml"]


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(document: Path) -> set[str]:
    """Those that GitHub makes of its headings."""
    text = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_links_lead_to_files_and_headings_that_are_there(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        there = (document.parent / target) if target else document
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_python_in_documents_is_python(document: Path) -> None:
    for example in re.findall(r"^```python\n(.*?)^```$", document.read_text("utf-8"), re.M | re.S):
        compile(example, str(document), "exec", flags=0x2000)  # await at the top level is allowed


def test_every_example_is_named_among_the_recipes() -> None:
    reported = (ROOT / "examples" / "README.md").read_text("utf-8")
    programs = [path for path in (ROOT / "examples").iterdir() if path.suffix in {".py", ".ipynb"}]
    assert programs
    assert not [path.name for path in programs if f"]({path.name})" not in reported]


def test_workflows_are_valid() -> None:
    actionlint = shutil.which("actionlint", path=str(Path(sys.executable).parent))
    assert actionlint is not None, "pip install -e '.[dev]' brings it"
    ran = subprocess.run(
        [actionlint, "-shellcheck=", "-pyflakes=", *map(str, WORKFLOWS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_ci_runs_the_command_of_the_readme() -> None:
    command = (
        "python -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m tests"
    )
    assert command.replace("python -m venv", "python3 -m venv") in (ROOT / "README.md").read_text()
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert command in [step.get("run") for step in ci["jobs"]["all"]["steps"]]


def test_hooks_and_issue_forms_are_valid_yaml() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert all({"id", "entry", "language"} <= set(hook) for hook in hooks["repos"][0]["hooks"])
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[bf]*.yml"):
        asked = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= set(asked)
        assert all(
            item["type"] in {"markdown", "textarea", "input", "checkboxes"}
            for item in asked["body"]
        )
