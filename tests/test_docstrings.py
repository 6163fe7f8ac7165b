"""Examples in docstrings run as they stand, against the embedded Hub."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import asyncpush

ROOT = Path(asyncpush.__file__).parent
RUN = re.compile(r"^ *>>> (?!.*\+SKIP$)", re.MULTILINE)
WITH_EXAMPLES = sorted(
    path.relative_to(ROOT.parent)
    .with_suffix("")
    .as_posix()
    .replace("/", ".")
    .removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if RUN.search(path.read_text())
)

NAMES = [name for name in asyncpush.__all__ if name != "__version__"]

POINTER = re.compile(r"[Ss]ee\s+`(\w+)`\s+for\s+an\s+example")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_are_true(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed


@pytest.mark.parametrize("name", NAMES)
def test_public_names_have_tested_examples(name: str) -> None:
    assert examples_of(name)


def examples_of(name: str) -> list[doctest.Example]:
    """Its own, or those of the name that it refers to; an error without fields of its own is caught
    and read as the kind that it is of."""
    value = getattr(asyncpush, name)
    examples = doctest.DocTestParser().get_examples(value.__doc__)
    if examples:
        return [example for example in examples if doctest.SKIP not in example.options]
    if pointer := POINTER.search(value.__doc__):
        return examples_of(pointer[1])
    if issubclass(value, Exception) and "__init__" not in vars(value):
        return examples_of(value.__base__.__name__)
    return []


@pytest.mark.parametrize("name", NAMES)
def test_every_public_method_and_property_is_documented(name: str) -> None:
    value = getattr(asyncpush, name)
    members = inspect.getmembers(value) if inspect.isclass(value) else []
    own = [each for each in members if not each[0].startswith("_") and ours(each[1])]
    assert not [member for member, found in own if not inspect.getdoc(found)]


@pytest.mark.parametrize("name", [each for each in NAMES if is_dataclass(getattr(asyncpush, each))])
def test_every_public_field_is_described(name: str) -> None:
    value = getattr(asyncpush, name)
    described = set(re.findall(r"\w+", value.__doc__.partition("Example:")[0]))
    assert {field.name for field in fields(value)} <= described


def ours(member: object) -> bool:
    function = member.fget if isinstance(member, property) else member
    return getattr(function, "__module__", "").startswith("asyncpush")


def test_the_tour_names_everything_public() -> None:
    assert asyncpush.__doc__ is not None
    tour = set(re.findall(r"\w+", asyncpush.__doc__))
    assert set(asyncpush.__all__) - tour == {"__version__"}


def test_help_shows_public_names_that_are_imported_late() -> None:
    program = "import pydoc, asyncpush; print(pydoc.plain(pydoc.render_doc(asyncpush)))"
    run = [sys.executable, "-c", program]
    output = subprocess.run(run, capture_output=True, text=True, check=True, timeout=30).stdout
    assert "A short tour" in output.partition("PACKAGE CONTENTS")[0]
    for name in set(asyncpush.__all__) - {"__version__"}:
        assert re.search(rf"^    (class |async )?{name}\(", output, re.MULTILINE), name
