"""What each page shows and where it is, as small frozen values: no request, no git."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal
from urllib.parse import quote

from markupsafe import Markup

from asyncpush.localhub.store.gitrepo import Commit
from asyncpush.localhub.store.names import RepoId, RepoType
from asyncpush.localhub.store.pulls import Status

MAIN_BRANCH = "main"


@dataclass(frozen=True, slots=True)
class Links:
    """The paths of one repo's pages, quoted so that any name is safe in a URL.
    Revisions are quoted whole, as the Hub's API has them.

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


@dataclass(frozen=True, slots=True)
class Pager:
    """`label` says which rows are shown here, and of how many ("1–200 of 10,000")."""

    label: str
    previous: str | None = None
    next: str | None = None

    @property
    def is_needed(self) -> bool:
        return self.previous is not None or self.next is not None


# -- every page of a repo --


@dataclass(frozen=True, slots=True)
class Repo:
    """`endpoint` is the hub's origin as this reader sees it."""

    id: RepoId
    endpoint: str
    private: bool = False
    gated: bool = False
    sdk: str | None = None

    @property
    def links(self) -> Links:
        return Links.of(self.id)


@dataclass(frozen=True, slots=True)
class Choice:
    """Another branch, tag or pull request to view."""

    kind: Literal["branch", "tag", "pull request"]
    name: str
    label: str


@dataclass(frozen=True, slots=True)
class Revision:
    """`name` is the revision in the URL, `oid` the commit it points to."""

    name: str
    oid: str
    choices: Sequence[Choice] = ()
    choices_left_out: int = 0

    @property
    def label(self) -> str:
        return revision_label(self.name)


def revision_label(name: str) -> str:
    """
    >>> revision_label("refs/pr/3"), revision_label("main"), revision_label("ab" * 20)
    ('PR #3', 'main', 'ababababab')
    """
    if name.startswith("refs/pr/"):
        return f"PR #{name.removeprefix('refs/pr/')}"
    return (
        name[:10] if is_oid(name) else name.removeprefix("refs/heads/").removeprefix("refs/tags/")
    )


def is_oid(name: str) -> bool:
    return len(name) == 40 and not set(name) - set("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Crumb:
    """A folder on the path to what is shown."""

    name: str
    href: str


def crumbs(links: Links, revision: str, path: str) -> tuple[Crumb, ...]:
    """From the repo's root down to `path`.

    >>> [crumb.name for crumb in crumbs(Links("/me/net"), "main", "a/b.txt")]
    ['net', 'a', 'b.txt']
    """
    names = path.split("/") if path else []
    below = (
        Crumb(name, links.tree(revision, "/".join(names[: depth + 1])))
        for depth, name in enumerate(names)
    )
    return (Crumb(links.root.rpartition("/")[2], links.tree(revision)), *below)


# -- the pages --


@dataclass(frozen=True, slots=True)
class RepoRow:
    """`head` is main's newest commit; a repo whose main was deleted has none."""

    id: RepoId
    created: datetime
    head: Commit | None
    private: bool = False
    sdk: str | None = None

    @property
    def href(self) -> str:
        return Links.of(self.id).root

    @property
    def updated(self) -> datetime:
        return self.head.date if self.head else self.created


@dataclass(frozen=True, slots=True)
class Section:
    """The repos of a type, newest first: the first few, or a page of them."""

    type: RepoType
    count: int
    rows: Sequence[RepoRow]
    pager: Pager

    @property
    def href(self) -> str:
        return f"/?type={self.type}"


@dataclass(frozen=True, slots=True)
class ListedBucket:
    """A bucket in the index."""

    id: RepoId
    created: datetime
    size: int
    files: int
    private: bool = False

    @property
    def href(self) -> str:
        return f"/buckets/{self.id.full_name}"


@dataclass(frozen=True, slots=True)
class IndexPage:
    """`buckets` are the newest of them, out of `bucket_count`."""

    template: ClassVar[str] = "index.html"
    endpoint: str
    sections: Sequence[Section]
    buckets: Sequence[ListedBucket] = ()
    bucket_count: int = 0


@dataclass(frozen=True, slots=True)
class Fact:
    """A name in a card's metadata and its values; `left_out` are not shown."""

    name: str
    values: Sequence[str]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Card:
    """A README.md, rendered. `problem` says why its metadata could not be read."""

    path: str
    facts: Sequence[Fact]
    html: Markup
    is_cut: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A file or a folder in a folder. `lfs` is the sha256 of a file that is kept in LFS.

    A folder has no size, and neither has a file whose name is not UTF-8, which no API can request.
    `last` is the last commit that changed it, if that is not too far back in the history to look
    for.
    """

    name: str
    path: str
    is_folder: bool
    size: int | None = None
    lfs: str | None = None
    last: Commit | None = None


@dataclass(frozen=True, slots=True)
class FolderPage:
    template: ClassVar[str] = "folder.html"
    repo: Repo
    revision: Revision
    path: str
    head: Commit
    rows: Sequence[Row]
    pager: Pager
    card: Card | None = None

    @property
    def crumbs(self) -> tuple[Crumb, ...]:
        return crumbs(self.repo.links, self.revision.name, self.path)

    @property
    def is_default(self) -> bool:
        return not self.path and self.revision.name == MAIN_BRANCH


@dataclass(frozen=True, slots=True)
class BucketRow:
    """A file of a bucket, or a folder that contains `files` files. Sizes are bytes."""

    name: str
    href: str
    size: int
    changed: datetime
    files: int = 0


@dataclass(frozen=True, slots=True)
class BucketPage:
    """`size` and `total_files` count the whole bucket."""

    template: ClassVar[str] = "bucket.html"
    id: RepoId
    endpoint: str
    private: bool
    size: int
    total_files: int
    path: str
    crumbs: Sequence[Crumb]
    rows: Sequence[BucketRow]
    pager: Pager

    @property
    def address(self) -> str:
        return "/".join(filter(None, (f"hf://buckets/{self.id.full_name}", self.path)))


@dataclass(frozen=True, slots=True)
class TextPreview:
    kind: ClassVar[str] = "text"
    text: str
    lines: int
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class CardPreview:
    kind: ClassVar[str] = "card"
    card: Card


@dataclass(frozen=True, slots=True)
class ImagePreview:
    kind: ClassVar[str] = "image"


@dataclass(frozen=True, slots=True)
class NoPreview:
    kind: ClassVar[str] = "none"
    reason: str


Preview = TextPreview | CardPreview | ImagePreview | NoPreview


@dataclass(frozen=True, slots=True)
class File:
    path: str
    size: int
    oid: str
    lfs: str | None = None
    pointer_size: int = 0

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class FilePage:
    template: ClassVar[str] = "file.html"
    repo: Repo
    revision: Revision
    file: File
    preview: Preview
    last: Commit | None = None

    @property
    def crumbs(self) -> tuple[Crumb, ...]:
        return crumbs(self.repo.links, self.revision.name, self.file.path)

    @property
    def is_markdown(self) -> bool:
        return is_markdown(self.file.path)


def is_markdown(path: str) -> bool:
    return path.lower().endswith((".md", ".markdown"))


@dataclass(frozen=True, slots=True)
class CommitsPage:
    template: ClassVar[str] = "commits.html"
    repo: Repo
    revision: Revision
    commits: Sequence[Commit]
    pager: Pager


Change = Literal["added", "changed", "deleted"]


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """`before` and `after` are sizes in bytes; None if there is no file, or its size is unknown."""

    path: str
    change: Change
    before: int | None = None
    after: int | None = None
    lfs: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """The first of the changed files, and the number of all changed files."""

    files: Sequence[ChangedFile]
    count: int


@dataclass(frozen=True, slots=True)
class CommitPage:
    template: ClassVar[str] = "commit.html"
    repo: Repo
    commit: Commit
    changes: Changes


@dataclass(frozen=True, slots=True)
class DiscussionRow:
    number: int
    title: str
    status: Status
    author: str
    created: datetime
    is_pull_request: bool
    comments: int = 0


@dataclass(frozen=True, slots=True)
class DiscussionsPage:
    template: ClassVar[str] = "discussions.html"
    repo: Repo
    rows: Sequence[DiscussionRow]
    open_count: int
    count: int
    pager: Pager


@dataclass(frozen=True, slots=True)
class Comment:
    author: str
    at: datetime
    html: Markup


@dataclass(frozen=True, slots=True)
class Happening:
    """Anything but a comment, described in a few words."""

    author: str
    at: datetime
    words: str


@dataclass(frozen=True, slots=True)
class Pull:
    """What a pull request would bring into main."""

    revision: str
    commits: Sequence[Commit]
    changes: Changes
    merge_commit: str | None = None


@dataclass(frozen=True, slots=True)
class DiscussionPage:
    template: ClassVar[str] = "discussion.html"
    repo: Repo
    row: DiscussionRow
    events: Sequence[Comment | Happening]
    pull: Pull | None = None


@dataclass(frozen=True, slots=True)
class Hint:
    """A command or an address to copy, for a next step."""

    words: str
    code: str


@dataclass(frozen=True, slots=True)
class ErrorPage:
    template: ClassVar[str] = "error.html"
    status: int
    title: str
    text: str
    hints: Sequence[Hint] = ()


Page = (
    IndexPage
    | BucketPage
    | FolderPage
    | FilePage
    | CommitsPage
    | CommitPage
    | DiscussionsPage
    | DiscussionPage
    | ErrorPage
)
