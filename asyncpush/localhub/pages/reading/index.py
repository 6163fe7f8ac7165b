"""All repos of the hub, newest first."""

from __future__ import annotations

from datetime import datetime

from asyncpush.localhub.errors import Refusal
from asyncpush.localhub.pages.reading.source import page_within, pager
from asyncpush.localhub.pages.rendering import plural
from asyncpush.localhub.pages.views import IndexPage, Pager, RepoRow, Section
from asyncpush.localhub.store.gitrepo import MAIN
from asyncpush.localhub.store.names import REPO_TYPES, RepoId, RepoType
from asyncpush.localhub.store.repos import Repos

REPOS_ON_A_PAGE = 60
REPOS_OF_EACH_TYPE = 12


def read_index(
    repos: Repos, endpoint: str, with_private: bool, repo_type: RepoType | None, page: int
) -> IndexPage:
    """The newest repos of each type, or a page of those of one type."""
    if repo_type is None:
        sections = [_overview(repos, each, with_private) for each in REPO_TYPES]
    else:
        sections = [_listing(repos, repo_type, with_private, page)]
    return IndexPage(endpoint, sections)


def _overview(repos: Repos, repo_type: RepoType, with_private: bool) -> Section:
    rows = _newest_first(repos, repo_type, with_private)
    more = f"/?type={repo_type}" if len(rows) > REPOS_OF_EACH_TYPE else None
    shown = rows[:REPOS_OF_EACH_TYPE]
    return Section(repo_type, len(rows), shown, Pager(plural(len(rows), "repo"), next=more))


def _listing(repos: Repos, repo_type: RepoType, with_private: bool, page: int) -> Section:
    rows = _newest_first(repos, repo_type, with_private)
    page = page_within(page, REPOS_ON_A_PAGE, len(rows))
    shown = rows[page * REPOS_ON_A_PAGE :][:REPOS_ON_A_PAGE]
    url = f"/?type={repo_type}&p={{}}".format
    return Section(
        repo_type, len(rows), shown, pager(page, REPOS_ON_A_PAGE, len(rows), "repo", url)
    )


def _newest_first(repos: Repos, repo_type: RepoType, with_private: bool) -> list[RepoRow]:
    rows = (_row(repos, repo) for repo in repos.list(repo_type))
    shown = [row for row in rows if row is not None and (with_private or not row.private)]
    return sorted(shown, key=lambda row: row.updated, reverse=True)


def _row(repos: Repos, repo: RepoId) -> RepoRow | None:
    """None for a repo that was deleted since it was listed."""
    try:
        info = repos.info(repo)
        with repos.open(repo) as opened:
            oid = opened.ref_target(MAIN)
            head = opened.commit(oid) if oid else None
    except Refusal:
        return None
    return RepoRow(repo, datetime.fromisoformat(info.created_at), head, info.private, info.sdk)
