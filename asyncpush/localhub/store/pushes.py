"""`git push`, received by git itself; before a ref moves, git asks this hub.

git runs a `pre-receive` hook while the pushed objects are still quarantined. The hook is a few
lines of shell that pass git's questions to the waiting hub through two pipes, and the hub's
decision back: no process has to be started for it, and the hub's own rules and stores decide.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pygit2

from asyncpush.localhub.store.gitrepo import MAIN, start_backend
from asyncpush.localhub.store.lfs_rules import StoredSize, new_card, problems_of_push
from asyncpush.localhub.store.names import RepoId, check_branch
from asyncpush.localhub.store.pulls import Discussions
from asyncpush.localhub.store.repo_folders import Repos
from asyncpush.localhub.web import Refusal

_NONE = "0" * 40
_MAX_NEW_COMMITS = 100_000

_HOOK = """#!/bin/sh
# Passes what git asks to the hub, and the hub's answer to git and to the user who pushes.
{ printf '%s\\n' "$GIT_QUARANTINE_PATH"; cat; echo end; } > "$ASYNCPUSH_ASK"
{ read -r verdict; cat >&2; } < "$ASYNCPUSH_ANSWER"
[ "$verdict" = accepted ]
"""


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """What a push does to one ref; `old` is None where it is created, `new` where it is deleted."""

    ref: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Pusher:
    """The user who pushes. A user who does not own the repo may only add to their own pull
    requests."""

    name: str
    owns: bool


def install_hook(repos: Repos) -> Path:
    """The folder with the hook. Raises a `Refusal` 501 where no program can be run from it."""
    folder = repos.root / "hooks"
    hook = folder / "pre-receive"
    if not hook.exists() or hook.read_text() != _HOOK:
        folder.mkdir(exist_ok=True)
        fresh = repos.workshop / f"pre-receive-{secrets.token_hex(8)}"
        fresh.write_text(_HOOK)
        fresh.chmod(0o755)
        fresh.replace(hook)  # other hubs of this root may be receiving
    # git ignores a hook that it cannot run: then nothing would be checked.
    if not os.access(hook, os.X_OK):
        raise Refusal(501, f"git push runs a hook, but no program can be run in {folder}")
    return folder


def receive(
    repos: Repos,
    repo: RepoId,
    body: IO[bytes],
    pusher: Pusher,
    stored: StoredSize,
    variables: Mapping[str, str],
) -> bytes:
    """Run `git http-backend` on a push whose body is complete; returns its answer."""
    hooks = install_hook(repos)
    with repos.lock(repo), tempfile.TemporaryFile() as answer:
        _remove_stale_locks(repos.path(repo))
        ask_from, ask_to = os.pipe()
        answer_from, answer_to = os.pipe()
        with open(ask_from, "rb") as question, open(answer_to, "wb") as verdict:
            try:
                process = start_backend(
                    {
                        "ASYNCPUSH_ASK": f"/dev/fd/{ask_to}",
                        "ASYNCPUSH_ANSWER": f"/dev/fd/{answer_from}",
                        **variables,
                    },
                    {"core.hooksPath": str(hooks)},
                    stdin=body,
                    stdout=answer,
                    descriptors=(ask_to, answer_from),
                )
            finally:
                os.close(ask_to)
                os.close(answer_from)
            try:
                asked = _read_question(question)
                if asked is not None:
                    problems = _problems(repos, repo, *asked, pusher, stored)
                    verdict.write(_verdict(problems))
            finally:
                verdict.close()  # An empty answer makes the hook refuse.
                process.wait()
        answer.seek(0)
        return answer.read()


def _read_question(lines: IO[bytes]) -> tuple[str, list[RefUpdate]] | None:
    """Where the new objects are, and which refs are to change how. None when git asked nothing,
    because it found an error itself or there was nothing to do."""
    texts: list[str] = []
    for line in lines:
        text = os.fsdecode(line.rstrip(b"\n"))
        if text == "end":
            quarantine, *updates = texts
            return quarantine, [_update(update) for update in updates]
        texts.append(text)
    return None


def _update(line: str) -> RefUpdate:
    old, new, ref = line.split(" ", 2)
    return RefUpdate(ref, None if old == _NONE else old, None if new == _NONE else new)


def _verdict(problems: Sequence[str]) -> bytes:
    if not problems:
        return b"accepted\n"
    text = "\n\n".join(problems)
    return os.fsencode(f"refused\n\n{text}\n\n")


def _problems(
    repos: Repos,
    repo: RepoId,
    quarantine: str,
    updates: Sequence[RefUpdate],
    pusher: Pusher,
    stored: StoredSize,
) -> list[str]:
    """Why this push must be refused; empty when it is accepted. Any failure here refuses the
    push."""
    try:
        with repos.open(repo) as opened:
            found = [why for each in updates if (why := _ref_problem(opened.path, each, pusher))]
            if found:
                return found
            git = opened.git
            if quarantine:
                git.odb.add_disk_alternate(quarantine)
            commits = _new_commits(git, updates)
            cards = list(_new_cards(git, updates))
            return problems_of_push(git, commits, cards, repo.type, stored)
    except Refusal as refusal:
        return [refusal.message]
    except pygit2.InvalidSpecError:
        return ["Branches, tags and pull requests must lead to commits"]


def _ref_problem(path: Path, update: RefUpdate, pusher: Pusher) -> str | None:
    kind, _, name = update.ref.removeprefix("refs/").partition("/")
    if kind == "pr":
        return _pull_problem(path, update, name, pusher)
    if kind not in ("heads", "tags"):
        return f"{update.ref}: only branches, tags and pull requests can be pushed"
    if not pusher.owns:
        return f"{update.ref}: {pusher.name} may not write to this repo; open a pull request"
    if update.ref == MAIN and update.new is None:
        return "Cannot delete the default branch"
    try:
        check_branch(name)
    except Refusal as refusal:
        return refusal.message
    return None


def _pull_problem(path: Path, update: RefUpdate, number: str, pusher: Pusher) -> str | None:
    if update.old is None or update.new is None or not number.isdigit():
        return f"{update.ref}: pull requests are opened and closed on the hub, not by a push"
    pull = Discussions(path).get(int(number))
    if pull.status not in ("open", "draft"):
        return f"{update.ref}: this pull request is {pull.status}"
    if not (pusher.owns or pusher.name == pull.author):
        return f"{update.ref}: only {pull.author} and the repo's owner may push to it"
    return None


def _new_commits(git: pygit2.Repository, updates: Sequence[RefUpdate]) -> list[pygit2.Commit]:
    """The commits that were not reachable from any ref before."""
    tips = [git[update.new].peel(pygit2.Commit) for update in updates if update.new]
    if not tips:
        return []
    walker = git.walk(tips[0].id)
    for tip in tips[1:]:
        walker.push(tip.id)
    for name in git.references:
        walker.hide(git.references[name].peel(pygit2.Commit).id)
    found = []
    for commit in walker:
        found.append(commit)
        if len(found) > _MAX_NEW_COMMITS:
            raise Refusal(413, f"More than {_MAX_NEW_COMMITS} commits in one push")
    return found


def _new_cards(git: pygit2.Repository, updates: Sequence[RefUpdate]) -> Iterator[bytes]:
    for update in updates:
        if update.new is None or update.ref.startswith("refs/tags/"):
            continue
        before = git[update.old].peel(pygit2.Tree) if update.old else None
        card = new_card(git[update.new].peel(pygit2.Tree), before)
        if card is not None:
            yield card


def _remove_stale_locks(path: Path) -> None:
    """Remove git's own locks, left by a push that was killed. Writers are excluded by the repo's
    lock instead."""
    for stale in (*(path / "refs").rglob("*.lock"), *path.glob("*.lock")):
        stale.unlink(missing_ok=True)
