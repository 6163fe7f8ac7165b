"""The resume journal: what a push would otherwise have to do again, in SQLite.

Hashes by file identity, multipart uploads with their presigned URLs and verified ETags, commits
whose answer has not been seen, and locks by which the processes of one host share the work. A
killed process (SIGKILL) loses nothing that it gave to the journal, and neither does a power cut,
except for hashes of the last second (on a power cut: since the last part), which are computed
again. See `database` for how. SQLite is imported, and the file opened, when something is first
looked up or remembered.
"""

from asyncpush.journal.journal import Journal, NullJournal
from asyncpush.journal.locks import Claim, HostPeers
from asyncpush.journal.tables import Entry, HashRecord, OpenUpload, PendingCommit, Stats

__all__ = [
    "Claim",
    "Entry",
    "HashRecord",
    "HostPeers",
    "Journal",
    "NullJournal",
    "OpenUpload",
    "PendingCommit",
    "Stats",
]
