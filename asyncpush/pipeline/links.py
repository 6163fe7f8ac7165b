"""How many changes one commit call may carry: pure sums, no Hub asked.

The Hub cuts a commit call off after a minute. Usually the commit lands behind it and is found
again, so a few hundred LFS files stay one commit; past what a call survives, or past what the user
asked for, the changes are split into the links of a chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asyncpush.options import PushOptions
from asyncpush.protocol.commits import AddInline, AddLfs, Change

DEFAULT_BRANCH = "main"
"""The one branch that the Hub merges pull requests into: only there a chain shows in one step."""

LFS_FILES_A_COMMIT = 1_000
"""Most LFS files that go in one commit call unasked: the upper end of what the official client
commits at a time, and ten times the hundred a minute that the Hub advises."""

INLINE_BYTES_A_COMMIT = 1 << 30
"""Most payload of regular files in one call unasked; the official client stops at about 100 MB."""


@dataclass(frozen=True, slots=True)
class LinkSize:
    """Bounds of one link; None means no bound. A single change always fits."""

    files: int | None = None
    lfs_files: int | None = None
    inline_bytes: int | None = None

    def fits(self, files: int, lfs_files: int, inline_bytes: int) -> bool:
        return (
            _within(files, self.files)
            and _within(lfs_files, self.lfs_files)
            and _within(inline_bytes, self.inline_bytes)
        )


UNBOUNDED = LinkSize()
SURVIVABLE = LinkSize(lfs_files=LFS_FILES_A_COMMIT, inline_bytes=INLINE_BYTES_A_COMMIT)


def link_size(options: PushOptions) -> LinkSize:
    """Bounds of this push's commits; unbounded where it stays one commit, however large.

    What was asked for holds everywhere. Unasked, a chain is made only where it shows in one step,
    and not on a pinned parent: a merge cannot promise to follow it directly.
    """
    if options.max_files_per_commit is not None:
        return LinkSize(files=options.max_files_per_commit)
    if options.revision != DEFAULT_BRANCH or options.parent_commit is not None:
        return UNBOUNDED
    return SURVIVABLE


def split(changes: Iterable[Change], size: LinkSize) -> list[Sequence[Change]]:
    """`changes` in order, in as few links within `size` as that allows."""
    links: list[Sequence[Change]] = []
    link: list[Change] = []
    lfs_files = inline_bytes = 0
    for change in changes:
        lfs = isinstance(change, AddLfs)
        inline = change.size if isinstance(change, AddInline) else 0
        if link and not size.fits(len(link) + 1, lfs_files + lfs, inline_bytes + inline):
            links.append(link)
            link = []
            lfs_files = inline_bytes = 0
        link.append(change)
        lfs_files += lfs
        inline_bytes += inline
    if link:
        links.append(link)
    return links


def _within(value: int, bound: int | None) -> bool:
    return bound is None or value <= bound
