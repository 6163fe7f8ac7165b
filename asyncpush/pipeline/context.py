"""What every stage of one push has at hand."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field

from asyncpush.concurrency.scheduling import FairSlots
from asyncpush.concurrency.threads import PushThreads
from asyncpush.events import Emitter, Notice, PhaseChanged
from asyncpush.journal import Journal, NullJournal
from asyncpush.models import PHASES, Phase, Repo
from asyncpush.net.parts import PartSender
from asyncpush.net.session import HubSession
from asyncpush.options import PushOptions, UploadConfig
from asyncpush.pipeline.hashing import Hasher
from asyncpush.protocol import routes
from asyncpush.transfers.interface import TransferFactory
from asyncpush.transfers.xet import XetEngine


@dataclass(slots=True, kw_only=True)
class PushContext:
    """One push: where to, how, and the shared machinery. `warnings` collects what the user should
    hear besides the result."""

    repo: Repo
    options: PushOptions
    push_id: str
    session: HubSession
    sender: PartSender
    hasher: Hasher
    transfers: tuple[TransferFactory, ...]
    """Those that a file may go by, the preferred one first."""
    xet: XetEngine
    """For buckets, which hold nothing else."""
    journal: Journal | NullJournal
    push_threads: PushThreads
    events: Emitter
    slots: FairSlots
    warnings: list[str] = field(default_factory=list)
    pull_request: int | None = None
    """The number of the pull request that this push has opened."""
    repo_created: bool = False
    """Whether this push has created the repo."""
    _phases: list[Phase] = field(default_factory=lambda: list(PHASES), init=False)
    """Those that have not begun."""

    @property
    def threads(self) -> Executor:
        """For what reads the source, or takes long for another reason than the journal."""
        return self.push_threads.read.threads

    @property
    def config(self) -> UploadConfig:
        return self.session.config

    @property
    def scope(self) -> str:
        """What journal entries belong to: one repo on one Hub."""
        return self.repo_url

    @property
    def repo_url(self) -> str:
        return routes.page(self.session.endpoint, self.repo)

    def commit_url(self, oid: str) -> str:
        return routes.commit_page(self.session.endpoint, self.repo, oid)

    def pull_request_url(self, number: int) -> str:
        return routes.pull_request_page(self.session.endpoint, self.repo, number)

    def enter(self, phase: Phase) -> None:
        """Tell that a phase begins. One that lies behind is not entered again, whatever has to be
        done anew (objects stored again because the commit was refused)."""
        if phase in self._phases:
            self._phases = self._phases[self._phases.index(phase) + 1 :]
            self.events.emit(PhaseChanged(phase))

    def warn(self, message: str) -> None:
        """Say something that stops nothing: as an event, and in the result."""
        self.warnings.append(message)
        self.events.emit(Notice(message))
