"""Discussions and pull requests: a small file each, beside the repo's refs."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from asyncpush.localhub.errors import Refusal
from asyncpush.localhub.store.durable import write_atomically
from asyncpush.localhub.store.writing import write_ref

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
    """Those of one repo. Whoever writes holds the repo's lock."""

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
        """Make the ref, then show the pull request: one that is listed can be read."""
        number = self._next_number()
        write_ref(self._repo_path, f"refs/pr/{number}", head)
        self._open(number, title, description, author, status, base)
        return number

    def open_discussion(self, title: str, description: str, author: str) -> int:
        number = self._next_number()
        self._open(number, title, description, author, "open", None)
        return number

    def save(self, discussion: Discussion, *events: Event) -> Discussion:
        """Store a changed discussion, with what has happened to it."""
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
        self.save(Discussion(number, title, status, author, first.created_at, base), first)

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _numbers(self) -> list[int]:
        return [int(path.stem) for path in self._folder.glob("[0-9]*.json")]

    def _next_number(self) -> int:
        """Above every ref too: a killed server may have made the ref and nothing more."""
        refs = (self._repo_path / "refs" / "pr").glob("[0-9]*")
        return max([0, *self._numbers(), *(int(path.name) for path in refs)]) + 1
