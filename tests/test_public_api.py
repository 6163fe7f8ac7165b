from __future__ import annotations

import inspect
import types

import pytest

import asyncpush


def test_all_names_are_what_is_exported() -> None:
    exported = {
        name
        for name, value in vars(asyncpush).items()
        if not isinstance(value, types.ModuleType) and not name.startswith("_")
    }

    assert sorted(exported | {"__version__"}) == asyncpush.__all__


def test_all_is_sorted_without_repeats() -> None:
    assert sorted(set(asyncpush.__all__)) == asyncpush.__all__


@pytest.mark.parametrize("name", asyncpush.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(asyncpush, name)
    if name == "__version__":
        assert value.count(".") >= 2
    else:
        assert inspect.getdoc(value)


@pytest.mark.parametrize("name", [name for name in asyncpush.__all__ if name.endswith("Error")])
def test_every_error_has_one_root(name: str) -> None:
    assert issubclass(getattr(asyncpush, name), asyncpush.AsyncPushError)
