"""What became of the files of one push."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from asyncpush.events import Emitter, FileRouted, FileSkipped
from asyncpush.models import FileSource, Receipt


@dataclass(slots=True)
class Stored:
    """Receipts by path, and the files that the Hub ignores."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    ignored: list[FileSource] = field(default_factory=list)

    def add(self, receipt: Receipt, emit: Emitter) -> None:
        """A file that moves no bytes now: it rides in the commit, or is there already."""
        self.receipts[receipt.path_in_repo] = receipt
        if receipt.unchanged:
            emit.emit(FileSkipped(receipt.path_in_repo, receipt.size, "unchanged"))
        else:
            emit.emit(FileRouted(receipt.path_in_repo, receipt.size, receipt.route))

    def settle(self, receipt: Receipt, emit: Emitter, *, unchanged: bool) -> None:
        """`add` it, all of its bytes being there when it is `unchanged`."""
        kept = receipt.size if unchanged else 0
        self.add(replace(receipt, unchanged=unchanged, bytes_deduplicated=kept), emit)

    def ignore(self, file: FileSource, emit: Emitter) -> None:
        """A file that a .gitignore leaves out."""
        self.ignored.append(file)
        emit.emit(FileSkipped(file.path_in_repo, file.size, "ignored"))
