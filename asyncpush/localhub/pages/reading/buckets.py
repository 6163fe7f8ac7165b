"""A bucket's folder, as its page shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

from asyncpush.localhub.pages.reading.files import page_within, pager
from asyncpush.localhub.pages.views import BucketPage, BucketRow, Crumb, ListedBucket
from asyncpush.localhub.store.buckets import BucketFile, Buckets
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.web import Refusal, entry_not_found

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
        bucket,
        endpoint,
        about.private,
        about.size,
        about.total_files,
        path,
        crumbs,
        rows[number * PAGE : (number + 1) * PAGE],
        pager(number, PAGE, len(rows), "file", page_url),
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
