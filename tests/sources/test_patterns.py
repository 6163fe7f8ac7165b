"""Patterns choose what the official client would choose."""

from __future__ import annotations

import pytest
from huggingface_hub.utils._paths import filter_repo_objects
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncpush.sources import select
from asyncpush.sources.paths import PatternFilter

NO_DEADLINE = settings(deadline=None)  # the machine may be busy

names = st.text(alphabet="abB./\\*?[]!-\né ", max_size=8)
patterns = st.none() | names | st.lists(names, max_size=3)


@NO_DEADLINE
@given(st.lists(names, max_size=8), patterns, patterns)
@example(["a/b", "a"], "a/", None)
@example(["a"], [], None)
@example(["a"], None, [])
@example(["a", ""], "", None)
def test_patterns_mean_what_they_mean_to_the_official_client(
    paths: list[str], allow: list[str] | str | None, ignore: list[str] | str | None
) -> None:
    official = filter_repo_objects(paths, allow_patterns=allow, ignore_patterns=ignore)

    assert select(paths, allow, ignore) == list(official)


@NO_DEADLINE
@given(names, names, patterns, patterns)
@example("a", "b", None, "a/*")
@example("a", "b", None, "a/")
@example("[", "b", None, "[*")
def test_nothing_is_chosen_in_a_folder_that_is_not_walked(
    folder: str, name: str, allow: list[str] | str | None, ignore: list[str] | str | None
) -> None:
    chosen = PatternFilter(allow, ignore)

    if chosen.ignores_all_below(f"{folder}/"):
        assert not chosen(f"{folder}/{name}")


@pytest.mark.parametrize(
    ("ignore", "below"),
    [
        pytest.param("logs/*", True, id="all below"),
        pytest.param("logs/", True, id="trailing slash"),
        pytest.param("*", True, id="everything"),
        pytest.param("logs", False, id="the name alone, which matches no file in it"),
        pytest.param("logs/*.txt", False, id="some below"),
        pytest.param(None, False, id="none"),
    ],
)
def test_folders_are_not_walked_when_that_is_safe(ignore: str | None, below: bool) -> None:
    assert PatternFilter(None, ignore).ignores_all_below("logs/") is below
