"""What every page of a repo begins with: the repo, the revision, and which part of a long list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asyncpush.localhub.pages.links import Links
from asyncpush.localhub.pages.rendering import plural
from asyncpush.localhub.pages.views import Choice, Pager, Repo, Revision
from asyncpush.localhub.store.gitrepo import GitRepo
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.store.repos import Repos

MAX_CHOICES = 100


class Elsewhere(Exception):
    """A file was asked for as a folder, or the other way round; `url` is its page."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


@dataclass(frozen=True, slots=True)
class Source:
    """The repo whose page is read, and the origin that this reader knows the hub by."""

    repos: Repos
    id: RepoId
    endpoint: str

    @property
    def links(self) -> Links:
        return Links.of(self.id)

    def repo(self) -> Repo:
        info = self.repos.info(self.id)
        return Repo(self.id, self.endpoint, info.private, bool(info.gated), info.sdk)


def find_revision(repo: GitRepo, name: str) -> Revision:
    """What `name` stands for, and what else there is; 404 RevisionNotFound."""
    oid = repo.resolve(name)
    choices = [
        *(Choice("branch", ref.name, ref.name) for ref in repo.refs("refs/heads/")),
        *(Choice("tag", ref.name, ref.name) for ref in repo.refs("refs/tags/")),
        *(Choice("pull request", ref.ref, f"PR #{ref.name}") for ref in repo.refs("refs/pr/")),
    ]
    return Revision(name, oid, choices[:MAX_CHOICES], max(0, len(choices) - MAX_CHOICES))


def pager(page: int, length: int, count: int, noun: str, url: Callable[[int], str]) -> Pager:
    """Where page number `page` (from 0), of `length` items, lies among `count` of them."""
    if count <= length:
        return Pager(plural(count, noun))
    first, last = page * length, min(count, (page + 1) * length)
    return Pager(
        f"{first + 1:,}–{last:,} of {plural(count, noun)}",
        previous=url(page - 1) if page else None,
        next=url(page + 1) if last < count else None,
    )


def page_within(page: int, length: int, count: int) -> int:
    """The page that was asked for, or the last one there is."""
    return min(page, max(0, count - 1) // length)
