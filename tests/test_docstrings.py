"""Examples in public docstrings run as they stand, against the embedded Hub."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys

import pytest

import asyncpush
from asyncpush import background, checkpoints, models, options, uploader

MODULES = (asyncpush, background, checkpoints, models, options, uploader)

SHOWN = (
    *("push_to_hub", "Uploader", "PushOptions", "UploadConfig", "Push"),
    *("receipts_to_json", "receipts_from_json", "BackgroundUploader", "CheckpointPusher"),
)
"""What a reader will want to see in use."""


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_are_true(module: object) -> None:
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert tried
    assert not failed


@pytest.mark.parametrize("name", SHOWN)
def test_what_one_uses_first_has_an_example_that_is_run(name: str) -> None:
    value = getattr(asyncpush, name)
    examples = doctest.DocTestParser().get_examples(value.__doc__)
    assert examples
    assert not any(doctest.SKIP in example.options for example in examples)


def test_the_tour_names_everything_public() -> None:
    assert asyncpush.__doc__ is not None
    tour = set(re.findall(r"\w+", asyncpush.__doc__))
    assert set(asyncpush.__all__) - tour == {"__version__"}


def test_help_shows_the_public_names_though_they_are_imported_late() -> None:
    program = "import pydoc, asyncpush; print(pydoc.plain(pydoc.render_doc(asyncpush)))"
    run = [sys.executable, "-c", program]
    told = subprocess.run(run, capture_output=True, text=True, check=True, timeout=30).stdout
    assert "A short tour" in told.partition("PACKAGE CONTENTS")[0]
    for name in set(asyncpush.__all__) - {"__version__"}:
        assert re.search(rf"^    (class |async )?{name}\(", told, re.MULTILINE), name
