"""Discussions and pull requests: one small file for each, next to the repo's refs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson
import pygit2

from asyncpush.localhub.store.gitrepo import MAIN, Commit, GitRepo
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.store.repo_folders import Repos
from asyncpush.localhub.store.writing import (
    commit_message,
    commit_tree,
    new_objects,
    sync_objects,
    write_atomically,
    write_ref,
)
from asyncpush.localhub.web import Refusal, bad_request, conflict

Status = Literal["open", "closed", "merged", "draft"]


@dataclass(frozen=True, slots=True)
class Event:
    """A comment, a change of status, a new title; `data` as the Hub's API gives it."""

    type: str
    author: str
    data: dict[str, Any]
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())


@dataclass(frozen=True, slots=True)
class Discussion:
    """`base` is the commit that a pull request started from, None for a plain discussion."""

    num: int
    title: str
    status: Status
    author: str
    created_at: str
    base: str | None = None
    merge_commit: str | None = None
    events: Sequence[Event] = ()

    @property
    def is_pull_request(self) -> bool:
        return self.base is not None

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"


class Discussions:
    """The discussions of one repo. Hold the repo's lock for writing."""

    def __init__(self, repo_path: Path) -> None:
        self._repo_path = repo_path
        self._folder = repo_path / "hub" / "discussions"

    def all(self) -> list[Discussion]:
        """Newest first."""
        return [self.get(number) for number in sorted(self._numbers(), reverse=True)]

    def get(self, number: int) -> Discussion:
        try:
            data = orjson.loads(self._file(number).read_bytes())
        except FileNotFoundError:
            raise Refusal(404, f"Discussion {number} not found", code="EntryNotFound") from None
        data["events"] = [Event(**event) for event in data["events"]]
        return Discussion(**data)

    def open_pull_request(
        self,
        title: str,
        description: str,
        author: str,
        *,
        base: str,
        head: str,
        status: Status = "open",
    ) -> int:
        """Create the ref first, then the pull request: one that is listed can always be read."""
        number = self._next_number()
        write_ref(self._repo_path, f"refs/pr/{number}", head)
        self._open(number, title, description, author, status, base)
        return number

    def open_discussion(self, title: str, description: str, author: str) -> int:
        number = self._next_number()
        self._open(number, title, description, author, "open", None)
        return number

    def save(self, discussion: Discussion, *events: Event) -> Discussion:
        """Store a changed discussion, with its new events."""
        discussion = replace(discussion, events=[*discussion.events, *events])
        write_atomically(self._file(discussion.num), orjson.dumps(asdict(discussion)))
        return discussion

    def _open(
        self,
        number: int,
        title: str,
        description: str,
        author: str,
        status: Status,
        base: str | None,
    ) -> None:
        first = Event("comment", author, {"raw": description})
        self.save(
            Discussion(
                num=number,
                title=title,
                status=status,
                author=author,
                created_at=first.created_at,
                base=base,
            ),
            first,
        )

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _numbers(self) -> list[int]:
        return [int(path.stem) for path in self._folder.glob("[0-9]*.json")]

    def _next_number(self) -> int:
        """Higher than every ref's number too: a server that was killed may have created only the
        ref."""
        refs = (self._repo_path / "refs" / "pr").glob("[0-9]*")
        return max([0, *self._numbers(), *(int(path.name) for path in refs)]) + 1


MAX_DIFF = 1 << 20


@dataclass(frozen=True, slots=True)
class PullDetails:
    """What git knows about a pull request; computed on request, since its ref may move."""

    commits: list[Commit]
    diff: str


def create(
    repos: Repos, repo: RepoId, title: str, description: str, author: str, pull_request: bool
) -> Discussion:
    """A discussion, or a pull request without commits: a draft that points to main's head."""
    with repos.lock(repo), repos.open(repo) as opened:
        discussions = Discussions(opened.path)
        if not pull_request:
            return discussions.get(discussions.open_discussion(title, description, author))
        head = opened.resolve(MAIN)
        return discussions.get(
            discussions.open_pull_request(
                title, description, author, base=head, head=head, status="draft"
            )
        )


def list_all(repos: Repos, repo: RepoId) -> list[Discussion]:
    with repos.open(repo) as opened:
        return Discussions(opened.path).all()


def author(repos: Repos, repo: RepoId, number: int) -> str:
    with repos.open(repo) as opened:
        return Discussions(opened.path).get(number).author


def details(
    repos: Repos, repo: RepoId, number: int, *, with_diff: bool = False
) -> tuple[Discussion, PullDetails | None]:
    with repos.open(repo) as opened:
        discussion = Discussions(opened.path).get(number)
        if discussion.base is None:
            return discussion, None
        head = opened.ref_target(discussion.ref) or discussion.base
        return discussion, PullDetails(
            # Oldest first.
            opened.history(head, until=discussion.base)[::-1],
            _diff(opened, discussion.base, head) if with_diff else "",
        )


def comment(repos: Repos, repo: RepoId, number: int, author: str, text: str) -> Event:
    return _happened(repos, repo, number, Event("comment", author, {"raw": text}))


def rename(repos: Repos, repo: RepoId, number: int, author: str, title: str) -> Event:
    with repos.lock(repo), repos.open(repo) as opened:
        discussions = Discussions(opened.path)
        before = discussions.get(number)
        event = Event("title-change", author, {"from": before.title, "to": title})
        discussions.save(replace(before, title=title), event)
        return event


def set_status(
    repos: Repos,
    repo: RepoId,
    number: int,
    author: str,
    status: Literal["open", "closed"],
    text: str | None,
) -> Event:
    """Open or close, with a comment if there is one."""
    with repos.lock(repo), repos.open(repo) as opened:
        discussions = Discussions(opened.path)
        before = discussions.get(number)
        if before.status == "merged":
            raise bad_request("This pull request is merged")
        event = Event("status-change", author, {"status": status})
        discussions.save(replace(before, status=status), *_comments(author, text), event)
        return event


def merge(repos: Repos, repo: RepoId, number: int, author: str, text: str | None) -> str:
    """Merge an open pull request into main with a merge commit; 409 when they conflict."""
    with repos.lock(repo), repos.open(repo) as opened:
        discussions = Discussions(opened.path)
        pull = discussions.get(number)
        if not pull.is_pull_request or pull.status not in ("open", "draft"):
            raise bad_request(f"Discussion {number} is not an open pull request")
        main, head = opened.resolve(MAIN), opened.resolve(pull.ref)
        oid = _merge_commit(opened, main, head, f"Merge PR #{number}: {pull.title}", author)
        write_ref(opened.path, MAIN, oid)
        event = Event("status-change", author, {"status": "merged"})
        merged = replace(pull, status="merged", merge_commit=oid)
        discussions.save(merged, *_comments(author, text), event)
        return oid


def _merge_commit(repo: GitRepo, main: str, head: str, title: str, author: str) -> str:
    index = repo.git.merge_commits(pygit2.Oid(hex=main), pygit2.Oid(hex=head))
    if index.conflicts is not None:
        raise conflict("This pull request conflicts with main")
    tree = index.write_tree(repo.git)
    oid = commit_tree(repo.git, tree, [main, head], author, commit_message(title, ""))
    sync_objects(repo.path, [*new_objects(repo.git, tree, repo.tree(main).id), oid])
    return str(oid)


def _happened(repos: Repos, repo: RepoId, number: int, event: Event) -> Event:
    with repos.lock(repo), repos.open(repo) as opened:
        discussions = Discussions(opened.path)
        discussions.save(discussions.get(number), event)
        return event


def _comments(author: str, text: str | None) -> Iterator[Event]:
    if text:
        yield Event("comment", author, {"raw": text})


def _diff(repo: GitRepo, base: str, head: str) -> str:
    """Only the beginning of a long diff."""
    return (repo.tree(base).diff_to_tree(repo.tree(head)).patch or "")[:MAX_DIFF]
