"""Where each page of a repo is, quoted so that any name is safe in a URL."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from asyncpush.localhub.store.names import RepoId

MAIN_BRANCH = "main"


@dataclass(frozen=True, slots=True)
class Links:
    """The paths of one repo's pages. Revisions are quoted whole, as the Hub's API has them.

    >>> Links("/me/net").blob("refs/pr/1", "a b/c.txt")
    '/me/net/blob/refs%2Fpr%2F1/a%20b/c.txt'
    """

    root: str

    @classmethod
    def of(cls, repo: RepoId) -> Links:
        return cls(f"/{repo.url_path}")

    def tree(self, revision: str, path: str = "", page: int = 0) -> str:
        if revision == MAIN_BRANCH and not path:
            return self.root + _query(page)
        folder = f"/{_quoted(path, '/')}" if path else ""
        return f"{self._at('tree', revision)}{folder}{_query(page)}"

    def blob(self, revision: str, path: str) -> str:
        return f"{self._at('blob', revision)}/{_quoted(path, '/')}"

    def source(self, revision: str, path: str) -> str:
        """The page that shows a Markdown file's source."""
        return f"{self.blob(revision, path)}?source=1"

    def raw(self, revision: str, path: str) -> str:
        return f"{self._at('resolve', revision)}/{_quoted(path, '/')}"

    def download(self, revision: str, path: str) -> str:
        return f"{self.raw(revision, path)}?download=true"

    def commits(self, revision: str, page: int = 0) -> str:
        return self._at("commits", revision) + _query(page)

    def commit(self, oid: str) -> str:
        return self._at("commit", oid)

    def discussions(self, page: int = 0) -> str:
        return f"{self.root}/discussions{_query(page)}"

    def discussion(self, number: int) -> str:
        return f"{self.root}/discussions/{number}"

    def _at(self, kind: str, revision: str) -> str:
        return f"{self.root}/{kind}/{_quoted(revision)}"


def _query(page: int) -> str:
    return f"?p={page}" if page else ""


def _quoted(text: str, safe: str = "") -> str:
    return quote(text, safe, errors="replace")
