"""The README against the package: its table of errors, and its map."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from huggingface_hub import HfApi

import asyncpush

README = Path(__file__).resolve().parents[2] / "README.md"


def section(title: str) -> str:
    text = README.read_text("utf-8").partition(f"\n## {title}\n")[2]
    return text.partition("\n## ")[0]


def test_troubleshooting_names_every_error_with_what_to_do() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", section("Troubleshooting"), re.MULTILINE)
    public = [getattr(asyncpush, name) for name in asyncpush.__all__]
    errors = [each for each in public if isinstance(each, type) and issubclass(each, Exception)]
    assert sorted(rows) == [error.__name__ for error in errors]


def test_the_map_shows_everything_in_the_package() -> None:
    named = set(
        re.findall(r"[a-z_]+(?:\.py|/)", section("Where things are").partition("```\n\n")[0])
    )
    package = Path(asyncpush.__file__).parent
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    assert folders <= named
    assert all(
        (package / name).exists() or (package.parent / name).exists()
        for name in named - {"asyncpush/"}
    )


def test_settings_shared_with_the_official_client_are_listed() -> None:
    calls = (HfApi.upload_folder, HfApi.upload_file, HfApi.create_commit)
    theirs = {name for call in calls for name in inspect.signature(call).parameters}
    ours = {field.name for field in fields(asyncpush.PushOptions)}
    text = section("Coming from huggingface_hub")
    assert len(theirs & ours) >= 10
    assert [name for name in sorted(theirs & ours) if f"`{name}`" not in text] == []
