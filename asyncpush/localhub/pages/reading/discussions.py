"""Discussions and pull requests."""

from __future__ import annotations

from datetime import datetime

from asyncpush.localhub.pages.links import MAIN
from asyncpush.localhub.pages.markdown import Base, to_html
from asyncpush.localhub.pages.reading.history import read_changes
from asyncpush.localhub.pages.reading.source import Source, page_within, pager
from asyncpush.localhub.pages.views import (
    Comment,
    DiscussionPage,
    DiscussionRow,
    DiscussionsPage,
    Happening,
    Pull,
)
from asyncpush.localhub.store import pulls
from asyncpush.localhub.store.discussions import Discussion, Event

ROWS = 50


def read_discussions(source: Source, page: int) -> DiscussionsPage:
    """A page of all of them, newest first."""
    found = pulls.list_all(source.repos, source.id)
    page = page_within(page, ROWS, len(found))
    return DiscussionsPage(
        source.repo(),
        [_row(discussion) for discussion in found[page * ROWS :][:ROWS]],
        open_count=sum(discussion.status in ("open", "draft") for discussion in found),
        count=len(found),
        pager=pager(page, ROWS, len(found), "discussion", source.links.discussions),
    )


def read_discussion(source: Source, number: int) -> DiscussionPage:
    """What was said, and for a pull request what it would change; 404 EntryNotFound."""
    discussion, details = pulls.details(source.repos, source.id, number)
    pull = None
    if details and discussion.base:
        with source.repos.open(source.id) as opened:
            head = details.commits[-1].oid if details.commits else discussion.base
            changes = read_changes(opened, discussion.base, head)
        pull = Pull(discussion.ref, details.commits, changes, discussion.merge_commit)
    base = Base(source.links, pull.revision if pull else MAIN)
    return DiscussionPage(
        source.repo(),
        _row(discussion),
        [_event(event, base) for event in discussion.events],
        pull,
    )


def _row(discussion: Discussion) -> DiscussionRow:
    comments = sum(event.type == "comment" for event in discussion.events)
    return DiscussionRow(
        discussion.num,
        discussion.title,
        discussion.status,
        discussion.author,
        datetime.fromisoformat(discussion.created_at),
        discussion.is_pull_request,
        comments - 1,  # the first is the description
    )


def _event(event: Event, base: Base) -> Comment | Happening:
    at, data = datetime.fromisoformat(event.created_at), event.data
    match event.type:
        case "comment":
            return Comment(event.author, at, to_html(data["raw"], base).html)
        case "status-change":
            return Happening(event.author, at, _STATUS_WORDS.get(data["status"], data["status"]))
        case "title-change":
            return Happening(event.author, at, f"changed the title from “{data['from']}”")
        case other:
            return Happening(event.author, at, other)


_STATUS_WORDS = {"open": "opened this again", "closed": "closed this", "merged": "merged this"}
