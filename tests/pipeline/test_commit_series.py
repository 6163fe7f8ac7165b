"""How the changes of a push are split into a series of commits, without I/O."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from asyncpush import PushOptions
from asyncpush.pipeline.changes import SERIES_LIMITS, UNBOUNDED, CommitLimits, commit_limits, split
from asyncpush.protocol.commits import AddInline, AddLfs, Change, Delete

sizes = st.integers(0, 50)
changes = st.lists(
    st.one_of(
        st.builds(AddInline, st.just("a"), sizes, st.just("")),
        st.builds(AddLfs, st.just("b"), sizes, st.just("")),
        st.builds(Delete, st.just("c")),
    ),
    max_size=40,
)
bounds = st.none() | st.integers(1, 60)


def _weight(commit: list[Change]) -> tuple[int, int, int]:
    lfs = sum(isinstance(change, AddLfs) for change in commit)
    inline = sum(change.size for change in commit if isinstance(change, AddInline))
    return len(commit), lfs, inline


@given(changes, st.builds(CommitLimits, bounds, bounds, bounds))
def test_prop_commits_hold_all_changes_in_order(changes: list[Change], size: CommitLimits) -> None:
    commits = [list(commit) for commit in split(changes, size)]
    assert [change for commit in commits for change in commit] == changes
    assert all(commit for commit in commits)
    assert all(len(commit) == 1 or size.fits(*_weight(commit)) for commit in commits)
    for commit, following in itertools.pairwise(commits):
        assert not size.fits(*_weight([*commit, following[0]])), "the commit was cut too early"


def test_commit_limits_of_push_options() -> None:
    assert commit_limits(PushOptions()) == SERIES_LIMITS
    assert commit_limits(PushOptions(create_pr=True)) == SERIES_LIMITS
    assert commit_limits(PushOptions(max_files_per_commit=7, revision="dev")) == CommitLimits(
        files=7
    )
    assert commit_limits(PushOptions(revision="dev")) == UNBOUNDED
    assert commit_limits(PushOptions(parent_commit="ab" * 20)) == UNBOUNDED
