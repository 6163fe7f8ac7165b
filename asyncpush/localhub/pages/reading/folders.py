"""Folders and files, of a repo at a revision or of a bucket."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from urllib.parse import quote

import pygit2
from pygit2.enums import SortMode

from asyncpush.localhub.cards import CARD_NAME
from asyncpush.localhub.pages.rendering import IMAGE_ENDINGS, plural, read_card
from asyncpush.localhub.pages.rendering import size as size_text
from asyncpush.localhub.pages.views import (
    BucketPage,
    BucketRow,
    Card,
    CardPreview,
    Choice,
    Crumb,
    File,
    FilePage,
    FolderPage,
    ImagePreview,
    Links,
    ListedBucket,
    NoPreview,
    Pager,
    Preview,
    Repo,
    Revision,
    Row,
    TextPreview,
    is_markdown,
)
from asyncpush.localhub.store.bucket_index import BucketFile, Buckets
from asyncpush.localhub.store.gitrepo import Commit, FileEntry, FolderEntry, GitRepo
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.store.repo_folders import Repos
from asyncpush.localhub.web import Refusal, entry_not_found

ROWS = 200
# The last commit of a file is searched only this far back, so that pages of a long history stay
# fast.
COMMITS_LOOKED_AT = 500
MAX_TEXT_BYTES = 256 << 10
MAX_TEXT_LINES = 5_000
MAX_CARD_BYTES = 1 << 20
# A blob is read as a whole, and `git push` may have brought one of any size.
MAX_BLOB_BYTES = 32 << 20
# A browser downloads the whole image even to show it small.
MAX_IMAGE_BYTES = 32 << 20


def read_folder(source: Source, revision: str, path: str, page: int) -> FolderPage:
    """A page of a folder, subfolders first; at the root, also the repo's card."""
    with source.repos.open(source.id) as opened:
        found = find_revision(opened, revision)
        tree = _tree_at(opened, source, revision, found.oid, path)
        names = _names(tree)
        page = page_within(page, ROWS, len(names))
        shown = names[page * ROWS :][:ROWS]
        last = last_changes(opened, found.oid, path, {name for _, name in shown})
        rows = [
            _row(opened, found.oid, path, is_file, name, last.get(name)) for is_file, name in shown
        ]
        return FolderPage(
            repo=source.repo(),
            revision=found,
            path=path,
            head=opened.commit(found.oid),
            rows=rows,
            pager=pager(
                page, ROWS, len(names), "item", lambda n: source.links.tree(revision, path, page=n)
            ),
            card=None if path else _card(opened, source, revision, found.oid),
        )


def _tree_at(opened: GitRepo, source: Source, revision: str, oid: str, path: str) -> pygit2.Tree:
    if not path:
        return opened.tree(oid)
    match opened.entry(oid, path):
        case FolderEntry(oid=tree):
            return opened.git[tree].peel(pygit2.Tree)
        case None:
            raise entry_not_found(path, revision)
        case _:
            raise Elsewhere(source.links.blob(revision, path))


def _names(tree: pygit2.Tree) -> list[tuple[bool, str]]:
    """`(is_file, name)` in the page's order. Sizes are not read yet: a folder may be large."""
    items = (item for item in tree if isinstance(item, pygit2.Tree | pygit2.Blob))
    return sorted(
        (isinstance(item, pygit2.Blob), (item.raw_name or b"").decode(errors="replace"))
        for item in items
    )


def _row(
    opened: GitRepo, oid: str, folder: str, is_file: bool, name: str, last: Commit | None
) -> Row:
    path = f"{folder}/{name}" if folder else name
    entry = opened.entry(oid, path) if is_file else None
    if not isinstance(entry, FileEntry):
        return Row(name, path, not is_file, last=last)
    return Row(name, path, False, entry.size, entry.lfs.oid if entry.lfs else None, last)


def last_changes(
    opened: GitRepo, oid: str, folder: str, names: Collection[str]
) -> dict[str, Commit]:
    """For names in a folder the newest commits that changed them, if those are not too far back.

    One walk for all of them, in which git compares whole folders.
    """
    wanted = set(names)
    found: dict[str, Commit] = {}
    walk = opened.git.walk(pygit2.Oid(hex=oid), SortMode.TIME)
    for commit in islice(walk, COMMITS_LOOKED_AT):
        changed = wanted & _changed_names(commit, folder)
        if changed:
            found.update(dict.fromkeys(changed, opened.commit(str(commit.id))))
            wanted -= changed
        if not wanted:
            break
    return found


def _changed_names(commit: pygit2.Commit, folder: str) -> set[str]:
    """Names in the folder that are different from what every parent has."""
    here = _subtree(commit, folder)
    if here is None:
        return set()
    before = [_subtree(parent, folder) for parent in commit.parents]
    if any(tree is not None and tree.id == here.id for tree in before):
        return set()
    if not before:
        return _top_names(here.diff_to_tree(swap=True))
    changes = (
        here.diff_to_tree(swap=True) if tree is None else tree.diff_to_tree(here) for tree in before
    )
    return set.intersection(*map(_top_names, changes))


def _top_names(diff: pygit2.Diff) -> set[str]:
    paths = (delta.new_file.raw_path for delta in diff.deltas)
    return {path.partition(b"/")[0].decode(errors="replace") for path in paths}


def _subtree(commit: pygit2.Commit, folder: str) -> pygit2.Tree | None:
    try:
        item = commit.tree[folder] if folder else commit.tree
    except KeyError:
        return None
    return item if isinstance(item, pygit2.Tree) else None


# -- one file --


def read_file(source: Source, revision: str, path: str, as_source: bool) -> FilePage:
    """A file with a preview; `as_source` shows the source of a Markdown file."""
    with source.repos.open(source.id) as opened:
        found = find_revision(opened, revision)
        entry = opened.entry(found.oid, path)
        if entry is None:
            raise entry_not_found(path, revision)
        if not isinstance(entry, FileEntry):
            raise Elsewhere(source.links.tree(revision, path))
        folder, _, name = path.rpartition("/")
        lfs = entry.lfs.oid if entry.lfs else None
        return FilePage(
            source.repo(),
            found,
            File(path, entry.size, entry.oid, lfs, entry.pointer_size),
            _preview(opened, source, revision, entry, as_source),
            last_changes(opened, found.oid, folder, {name}).get(name),
        )


def _preview(
    opened: GitRepo, source: Source, revision: str, file: FileEntry, as_source: bool
) -> Preview:
    if file.path.lower().endswith(IMAGE_ENDINGS) and 0 < file.size <= MAX_IMAGE_BYTES:
        return ImagePreview()
    if file.lfs:
        return NoPreview("The repo holds a pointer to this file; its bytes are in LFS.")
    if file.size > MAX_BLOB_BYTES:
        return NoPreview(f"{size_text(file.size)} are too much to show here.")
    data = opened.content(file.oid)
    if is_markdown(file.path) and not as_source and len(data) <= MAX_CARD_BYTES:
        return CardPreview(_card_of(data, source, revision, file.path))
    return preview_text(data)


def preview_text(data: bytes) -> TextPreview | NoPreview:
    """The beginning of a text, if it is one.

    >>> preview_text(b"a\\nb\\n"), preview_text(b"").reason
    (TextPreview(text='a\\nb', lines=2, is_cut=False), 'This file is empty.')
    """
    if not data:
        return NoPreview("This file is empty.")
    head = data[:MAX_TEXT_BYTES]
    try:
        # A character that the limit cuts in two is not an error.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=head == data)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return NoPreview("This is a binary file.")
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    is_cut = len(head) < len(data) or len(lines) > MAX_TEXT_LINES
    lines = lines[:MAX_TEXT_LINES]
    return TextPreview("\n".join(lines), len(lines), is_cut)


def _card(opened: GitRepo, source: Source, revision: str, oid: str) -> Card | None:
    entry = opened.entry(oid, CARD_NAME)
    if not isinstance(entry, FileEntry) or entry.lfs or entry.size > MAX_CARD_BYTES:
        return None
    return _card_of(opened.content(entry.oid), source, revision, CARD_NAME)


def _card_of(data: bytes, source: Source, revision: str, path: str) -> Card:
    text = data.decode(errors="replace")
    return read_card(text, source.id.type, source.links, revision, path)


MAX_CHOICES = 100


class Elsewhere(Exception):
    """A file was requested as a folder, or a folder as a file; `url` is the right page."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


@dataclass(frozen=True, slots=True)
class Source:
    """The repo whose page is requested, and the hub's origin as this client sees it."""

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
    """The commit that `name` points to, and the other revisions; 404 RevisionNotFound."""
    oid = repo.resolve(name)
    choices = [
        *(Choice("branch", ref.name, ref.name) for ref in repo.refs("refs/heads/")),
        *(Choice("tag", ref.name, ref.name) for ref in repo.refs("refs/tags/")),
        *(Choice("pull request", ref.ref, f"PR #{ref.name}") for ref in repo.refs("refs/pr/")),
    ]
    return Revision(name, oid, choices[:MAX_CHOICES], max(0, len(choices) - MAX_CHOICES))


def pager(page: int, length: int, count: int, noun: str, url: Callable[[int], str]) -> Pager:
    """The position of page `page` (from 0) with `length` items among `count` items."""
    if count <= length:
        return Pager(plural(count, noun))
    first, last = page * length, min(count, (page + 1) * length)
    return Pager(
        f"{first + 1:,}–{last:,} of {plural(count, noun)}",
        previous=url(page - 1) if page else None,
        next=url(page + 1) if last < count else None,
    )


def page_within(page: int, length: int, count: int) -> int:
    """The requested page, or the last one that exists."""
    return min(page, max(0, count - 1) // length)


PAGE = 200


def read_bucket(
    buckets: Buckets, bucket: RepoId, endpoint: str, path: str, number: int
) -> BucketPage:
    """Folders first, each with what it contains. A 404 for a folder without files."""
    about = buckets.info(bucket)
    folder = f"{path}/" if path else ""
    files = buckets.below(bucket, folder, "", -1)
    if path and not files:
        raise entry_not_found(path)
    root = f"/buckets/{bucket.full_name}"
    rows = _rows(files, folder, root)
    number = page_within(number, PAGE, len(rows))

    def page_url(page: int) -> str:
        return f"{_tree(root, path)}?p={page}"

    names = path.split("/") if path else []
    crumbs = [Crumb(bucket.name, root)]
    crumbs += [Crumb(name, _tree(root, "/".join(names[: n + 1]))) for n, name in enumerate(names)]
    return BucketPage(
        id=bucket,
        endpoint=endpoint,
        private=about.private,
        size=about.size,
        total_files=about.total_files,
        path=path,
        crumbs=crumbs,
        rows=rows[number * PAGE : (number + 1) * PAGE],
        pager=pager(number, PAGE, len(rows), "file", page_url),
    )


def read_buckets(
    buckets: Buckets, with_private: bool, at_most: int
) -> tuple[list[ListedBucket], int]:
    """The newest buckets, and how many there are."""
    rows = []
    for bucket in buckets.all():
        try:
            about = buckets.info(bucket)
        except Refusal:
            continue  # deleted since it was listed
        if with_private or not about.private:
            created = datetime.fromisoformat(about.created_at)
            row = ListedBucket(bucket, created, about.size, about.total_files, about.private)
            rows.append(row)
    rows.sort(key=lambda row: row.created, reverse=True)
    return rows[:at_most], len(rows)


def _rows(files: list[BucketFile], folder: str, root: str) -> list[BucketRow]:
    folders: dict[str, BucketRow] = {}
    rows = []
    for file in files:
        name, slash, _ = file.path[len(folder) :].partition("/")
        path, changed = folder + name, datetime.fromtimestamp(file.mtime / 1000, UTC)
        if not slash:
            href = f"{root}/resolve/{quote(path)}"
            rows.append(BucketRow(name, href, file.size, changed))
            continue
        found = folders.get(name)
        if found is None:
            folders[name] = BucketRow(name, _tree(root, path), file.size, changed, files=1)
        else:
            newest = max(found.changed, changed)
            size, count = found.size + file.size, found.files + 1
            folders[name] = BucketRow(name, found.href, size, newest, files=count)
    return [*folders.values(), *rows]


def _tree(root: str, path: str) -> str:
    return f"{root}/tree/{quote(path)}" if path else root
