"""What all stages of one push share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import field
from typing import TYPE_CHECKING

from asyncpush.concurrency.task_groups import FairSlots
from asyncpush.concurrency.threads import PushThreads
from asyncpush.events import Emitter, Notice, PhaseChanged
from asyncpush.journal import Journal, NullJournal
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import PHASES, Phase, Repo
from asyncpush.net.session import HubSession
from asyncpush.options import PushOptions, UploadConfig
from asyncpush.pipeline.content_cache import CacheMemory, ContentCache
from asyncpush.pipeline.hashing import Hasher
from asyncpush.pipeline.shared_content import SharedContent
from asyncpush.protocol import routes
from asyncpush.transfers.interface import Transfers

if TYPE_CHECKING:
    from asyncpush.net.parts import PartSender


@dataclass(slots=True, kw_only=True)
class PushContext:
    """One push: its destination, its options, and shared objects. `warnings` collects what the user
    should know besides the result."""

    repo: Repo
    options: PushOptions
    push_id: str
    session: HubSession
    part_sender: Callable[[], Awaitable[PartSender]]
    hasher: Hasher
    transfers: Transfers
    journal: Journal | NullJournal
    push_threads: PushThreads
    events: Emitter
    slots: FairSlots
    contents: ContentCache = field(default_factory=lambda: ContentCache(CacheMemory(0)), repr=False)
    sending: SharedContent = field(default_factory=SharedContent, repr=False)
    warnings: list[str] = field(default_factory=list)
    pull_request: int | None = None
    """The number of the pull request that this push has opened."""
    repo_created: bool = False
    """Whether this push has created the repo."""
    files_there: bool = False
    """Whether the branch is known to have some of the push's files."""
    oids_reported: bool = False
    """Whether preupload has named the content of a file in the repo. Some Hubs never do."""
    describe_failure: Callable[[BaseException], BaseException] = lambda error: error
    """The error to raise for one that has ended this push, also for its timeout: whoever changes
    the Hub in several steps says here how far it got."""
    _phases: list[Phase] = field(default_factory=lambda: list(PHASES), init=False)
    """The phases that have not begun yet."""

    @property
    def threads(self) -> Executor:
        """Threads for reading the source, and for other slow work outside the journal."""
        return self.push_threads.read.threads

    @property
    def config(self) -> UploadConfig:
        return self.session.config

    @property
    def scope(self) -> str:
        """The repo and Hub that journal entries belong to."""
        return self.repo_url

    @property
    def repo_url(self) -> str:
        return routes.page(self.session.endpoint, self.repo)

    def commit_url(self, oid: str) -> str:
        return routes.commit_page(self.session.endpoint, self.repo, oid)

    def pull_request_url(self, number: int) -> str:
        return routes.pull_request_page(self.session.endpoint, self.repo, number)

    def enter(self, phase: Phase) -> None:
        """Report that a phase begins. An earlier phase is not reported again, even if its work is
        repeated (objects stored again because the commit was refused)."""
        if phase in self._phases:
            self._phases = self._phases[self._phases.index(phase) + 1 :]
            self.events.emit(PhaseChanged(phase))

    def warn(self, message: str) -> None:
        """Warn the user without stopping: by an event, and in the result."""
        self.warnings.append(message)
        self.events.emit(Notice(message))
