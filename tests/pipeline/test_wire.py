"""What goes over the wire, call by call: the official client and we ask one recording Hub.

A Hub of somebody else has been tried with the official client alone. So whatever we send, the
official client has to send too: the same method, path, quoting, query, headers and body. Where we
differ on purpose, `DIFFERENCES` says so, with the reason.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import anyio
import orjson
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

import asyncpush
from asyncpush import PushOptions, SyncOptions, UploadConfig, Uploader
from asyncpush.events import RequestStarted
from asyncpush.localhub import LocalHub
from asyncpush.options import RepoType
from asyncpush.pipeline.checkpoint_sets import MARKER, PRUNED
from asyncpush.protocol.http import VERIFY
from tests.conftest import TOKEN, open_hub
from tests.event_recorder import EventRecorder
from tests.faults import FaultLayer, with_body
from tests.oauth import ID_TOKEN_PATH, TokenRequests, store_login

PART_SIZE = 64 << 10

Request: TypeAlias = tuple[dict[str, str], frozenset[str]]
"""Fields by name, and the items that it is about."""

_COMMIT = re.compile(r"\b[0-9a-f]{40}\b")
_ISSUED = re.compile(r"(hf_(?:oauth|jwt|refresh)_)[\w-]+")
"""A token that the Hub gave out: no two are alike."""


@dataclass(frozen=True)
class Difference:
    """Where `route` may differ in `field`: what the official client sends and what we do, as
    patterns of the whole text; None where the field is not sent at all."""

    route: str
    field: str
    theirs: str | None
    ours: str | None
    reason: str

    def covers(self, route: str, field: str, theirs: str | None, ours: str | None) -> bool:
        def fits(pattern: str | None, value: str | None) -> bool:
            if pattern is None or value is None:
                return pattern is value
            return re.fullmatch(pattern, value, re.DOTALL) is not None

        return (
            self.route in ("*", route)
            and self.field == field
            and fits(self.theirs, theirs)
            and fits(self.ours, ours)
        )


DIFFERENCES = (
    Difference(
        "*",
        "header user-agent",
        r"(unknown/None; hf_hub/\S+; python/.+|python-httpx2/\S+)",
        r"asyncpush/\S+; python/\S+",
        "Each says who it is, in the form name/version; python/version. We are not hf_hub.",
    ),
    Difference(
        "*",
        "header accept-encoding",
        r"gzip, deflate.*",
        "identity",
        "Answers are read as they are, within limits: a compressed one could blow up to any size.",
    ),
    *(
        difference
        for route in ("xet-write-token", "bucket-xet-write-token")
        for difference in (
            Difference(
                route,
                "header accept-encoding",
                None,
                "identity",
                "Their hf_xet asks for it, and takes no compressed answer either.",
            ),
            Difference(
                route,
                "header x-xet-session-id",
                "a random one",
                None,
                "Of hf_xet's own session. There it asks for the first token too, which we hand to"
                " it.",
            ),
        )
    ),
    Difference("*", "header connection", "keep-alive", None, "HTTP/1.1 keeps connections anyway."),
    Difference(
        "paths-info",
        "items",
        None,
        r".+",
        "Folders above the files: a file of the repo there is told of before anything is stored.",
    ),
    Difference(
        "paths-info",
        "path",
        r"/api/\w+/me/m/paths-info/\(a commit\)",
        r"/api/\w+/me/m/paths-info/(main|refs%2Fpr%2F1)",
        "Asked for beside the head, whose commit is not known then. After the commit we name it.",
    ),
    Difference(
        "*",
        "header x-amzn-trace-id",
        "a random one",
        None,
        "An id for the Hub's support. We name the one in its answer; a trace has its own headers.",
    ),
    *(
        Difference(
            route,
            field,
            r'"A description\."',
            r'"A description\.\\n\\nAsyncpush-Push-Id: [0-9a-f]{32}"',
            "The trailer by which a push finds what it made when the answer is lost.",
        )
        for route, field in (
            ("commit", "body header description"),
            ("discussion-create", "body description"),
        )
    ),
    Difference(
        "commits",
        "query limit",
        None,
        "100",
        "Among the newest hundred is our commit, if it landed, however long the Hub's pages are.",
    ),
    Difference(
        "discussion",
        "query diff",
        "1",
        None,
        "We read the status and the description; the changes themselves may be very long.",
    ),
)


class Recorder:
    """Keeps every request as it came, and lets the Hub answer it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Request]] = []

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
            body = await request.read()
            route = request.match_info.route.name or request.path
            self.sent.append((route, _described(request, body)))
            return await with_body(request, body, handler)

        return record

    def by_route(self) -> dict[str, list[Request]]:
        """The requests to each route. Those that differ in their items alone (files, objects)
        count as one: how many go in one call is each client's own choice."""
        merged: dict[str, dict[str, Request]] = defaultdict(dict)
        for route, (fields, items) in self.sent:
            key = repr(sorted(fields.items()))
            _, known = merged[route].get(key, (fields, frozenset()))
            merged[route][key] = fields, known | items
        return {route: list(requests.values()) for route, requests in merged.items()}


def _described(request: web.Request, body: bytes) -> Request:
    """A request's fields, and the items (files, objects, paths) that it is about."""
    path, _, query = request.raw_path.partition("?")
    fields = {"method": request.method, "path": path}
    for name, _, value in (pair.partition("=") for pair in query.split("&") if pair):
        fields[f"query {name}"] = value.replace(quote(request.host, safe=""), "the Hub's")
    for name, value in request.headers.items():
        fields[f"header {name.lower()}"] = value
    fields["header host"] = fields["header host"].replace(request.host, "the Hub's")
    if fields.get("header content-length") == str(len(body)):
        fields["header content-length"] = "right"
    if request.match_info.route.name in ("part", "complete"):  # of a signature, its names
        fields |= {name: "signed" for name in fields if name.startswith("query ")}
    reported, items = _body(request.content_type if body else "", body)
    fields |= reported
    if "json" in request.content_type:
        fields["body encoding"] = "ASCII" if body.isascii() else "UTF-8"
    for name in ("header x-amzn-trace-id", "header x-xet-session-id"):
        if name in fields:
            fields[name] = "a random one"
    for name, value in fields.items():
        fields[name] = _ISSUED.sub(r"\1...", _COMMIT.sub("(a commit)", value))
    return fields, items


def _body(content_type: str, body: bytes) -> Request:
    match content_type:
        case "application/json" | "application/vnd.git-lfs+json":
            value = orjson.loads(body)
            lists = [field for field in value.values() if isinstance(field, list)]
            fields = {f"body {name}": _text(field) for name, field in value.items()}
            fields |= {f"body {name}": "a list" for name in value if value[name] in lists}
            return fields, frozenset(_text(item) for field in lists for item in field)
        case "application/x-ndjson":
            header, *lines = map(orjson.loads, body.splitlines())
            if "type" in header:  # the batch of a bucket
                return {}, frozenset(_text(_at_a_time(row)) for row in (header, *lines))
            assert header["key"] == "header"
            reported = {
                f"body header {name}": _text(value) for name, value in header["value"].items()
            }
            return reported, frozenset(map(_text, lines))
        case "application/x-www-form-urlencoded":
            pairs = [pair.split("=") for pair in body.decode("ascii").split("&")]
            reported = {f"body {name}": value for name, value in pairs if name != "paths"}
            return reported, frozenset(value for name, value in pairs if name == "paths")
        case _:
            return {"body": hashlib.sha256(body).hexdigest()}, frozenset()


def _at_a_time(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "mtime": type(row["mtime"]).__name__} if "mtime" in row else row


def _text(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _between(theirs: Request, ours: Request) -> dict[str, tuple[str | None, str | None]]:
    """By field: what the official client sends, and what we do. Not all of its items need be in
    ours: which files have to be asked about is another question."""
    found = {
        name: (theirs[0].get(name), ours[0].get(name))
        for name in {*theirs[0], *ours[0]}
        if theirs[0].get(name) != ours[0].get(name)
    }
    if extra := ours[1] - theirs[1]:
        found["items"] = None, "; ".join(sorted(extra))
    return found


def unexplained(
    theirs: Recorder, ours: Recorder, used: set[Difference], *, only: str = ""
) -> Iterator[str]:
    """What in our requests neither the official client's closest one nor `DIFFERENCES` has."""
    known = theirs.by_route()
    for route, requests in ours.by_route().items():
        if only not in ("", route):
            continue
        for request in requests:
            theirs_here = known.get(route, [({}, frozenset())])
            closest = min((_between(their, request) for their in theirs_here), key=len)
            for name, (their, our) in closest.items():
                fitting = [d for d in DIFFERENCES if d.covers(route, name, their, our)]
                used.update(fitting)
                if not fitting:
                    yield f"{route}, {name}: they send {their!r}, we {our!r}"


FIRST: dict[str, bytes] = {
    ".gitignore": b"*.log\n",
    "README.md": "---\nlicense: mit\nsdk: static\n---\n# Größe 100% & more\n".encode(),
    "a b#c%20d+e&f=g?.txt": b"odd",
    "naïve café/日本語 файл.txt": "ünïcode\n".encode(),
    "part.bin": b"p" * PART_SIZE,
    'quo\'te "double" 100%/x y.bin': b"small",
    "two parts.safetensors": b"t" * (PART_SIZE + 1),
}
SECOND = {"second.txt": b"2"}
THIRD = {"third.txt": b"3"}
FOURTH = {"fourth.txt": b"4"}
FIFTH = {"fifth.txt": b"5"}
SERIES = {"1.txt": b"1", "2.txt": b"2"}
DELETED = "a b#c%20d+e&f=g?.txt"
TITLE, DESCRIPTION = "Größe, first", "A description."

BRANCHES: dict[RepoType, str] = {
    "model": "feature/ä+1#2%20x",
    "dataset": "a&b=c",
    "space": "release-1.0",
}


def official(url: str, repo_type: RepoType, branch: str) -> None:
    """By the official client what `ours` does, step by step."""
    api = HfApi(endpoint=url, token=TOKEN)
    repo: dict[str, Any] = {"repo_id": "me/m", "repo_type": repo_type}
    on_branch = {**repo, "revision": branch}
    api.whoami()
    if repo_type == "space":
        api.create_repo(**repo, visibility="protected", region="eu", space_sdk="static")
    else:
        api.create_repo(**repo, private=True, resource_group_id="rg-1")
    api.auth_check(**repo, write=True)
    api.repo_info(**repo, expand="usedStorage")
    api.create_branch(**repo, branch=branch)

    def head_of(revision: str) -> str:
        return str(api.repo_info(**repo, revision=revision).sha)

    def commit(
        files: dict[str, bytes],
        revision: str,
        *deleted: str,
        title: str = TITLE,
        create_pr: bool = False,
    ) -> None:
        api.create_commit(
            **repo,
            operations=[
                *(CommitOperationAdd(path, content) for path, content in files.items()),
                *(CommitOperationDelete(path) for path in deleted),
            ],
            revision=revision,
            parent_commit=head_of(revision),
            commit_message=title,
            commit_description=DESCRIPTION,
            create_pr=create_pr,
        )

    def preupload(files: dict[str, bytes], *, create_pr: bool = False) -> None:
        additions = [CommitOperationAdd(path, content) for path, content in files.items()]
        api.preupload_lfs_files("me/m", additions, repo_type=repo_type, create_pr=create_pr)

    commit(FIRST, branch)
    commit(SECOND, branch, DELETED)
    for revision in (head_of(branch), branch):
        files = [*FIRST, *SECOND, *THIRD, *FOURTH, *FIFTH, *SERIES, ".gitattributes"]
        api.get_paths_info("me/m", files, repo_type=repo_type, revision=revision)
        list(api.list_repo_tree(**repo, revision=revision, recursive=True))
    list(api.list_repo_commits(**on_branch))
    api.list_repo_refs(**repo)

    commit(THIRD, branch, create_pr=True)
    list(api.get_repo_discussions(**repo, discussion_type="pull_request", discussion_status="open"))
    list(api.list_repo_commits(**repo, revision="refs/pr/1"))
    api.get_discussion_details(**repo, discussion_num=1)
    commit(FOURTH, "refs/pr/1")

    head_of("main")
    api.create_pull_request(**repo, title=TITLE, description=DESCRIPTION)
    preupload(FIFTH, create_pr=True)
    commit(FIFTH, "refs/pr/2")
    api.get_discussion_details(**repo, discussion_num=2)
    api.change_discussion_status(**repo, discussion_num=2, new_status="open")

    api.create_pull_request(**repo, title=TITLE, description=DESCRIPTION)
    preupload(SERIES)
    for number, path in enumerate(SERIES, start=1):
        title = f"{TITLE} (part {number} of {len(SERIES)})"
        commit({path: SERIES[path]}, "refs/pr/3", title=title)
    api.get_discussion_details(**repo, discussion_num=3)
    api.change_discussion_status(**repo, discussion_num=3, new_status="open")
    api.merge_pull_request(**repo, discussion_num=3)

    commit(FIFTH, "main", create_pr=True)


async def ours(
    hub: LocalHub, faults: FaultLayer, config: UploadConfig, repo_type: RepoType, branch: str
) -> None:
    options = PushOptions(repo_type=repo_type, commit_message=TITLE, commit_description=DESCRIPTION)
    on_branch = replace(options, revision=branch)
    in_pull_request = replace(options, revision="refs/pr/1")

    def lose_next_answer(route: str) -> None:
        """We look for what landed then."""
        faults.add(route, "done, then 504", nth=faults.seen[route] + 1)

    async with Uploader(TOKEN, hub.url, config) as uploader:
        new = replace(on_branch, create_branch=True)
        if repo_type == "space":
            new = replace(new, visibility="protected", region="eu")
        else:
            new = replace(new, private=True, resource_group="rg-1")
        await uploader.push_to_hub("me/m", FIRST, new)
        deleting = replace(on_branch, delete_patterns=["a b*"])
        await uploader.push_to_hub("me/m", SECOND, deleting)
        await uploader.audit("me/m", SECOND, on_branch)
        await uploader.doctor("me/m", on_branch)
        lose_next_answer("commit")
        await uploader.push_to_hub("me/m", THIRD, replace(on_branch, create_pr=True))
        lose_next_answer("commit")
        await uploader.push_to_hub("me/m", FOURTH, in_pull_request)
        await uploader.push_to_hub("me/m", FIFTH, replace(options, create_pr=True))
        lose_next_answer("discussion-create")
        await uploader.push_to_hub("me/m", SERIES, replace(options, max_files_per_commit=1))


def official_kernel(url: str) -> None:
    """What the official client does with a kernel: no branches, no pull requests."""
    api = HfApi(endpoint=url, token=TOKEN)
    repo: dict[str, Any] = {"repo_id": "me/k", "repo_type": "kernel"}
    api.create_repo(**repo)
    head = api.repo_info(**repo, revision="main").sha
    api.create_commit(
        **repo,
        operations=[CommitOperationAdd(path, content) for path, content in FIRST.items()],
        parent_commit=head,
        revision="main",
        commit_message=TITLE,
        commit_description=DESCRIPTION,
    )
    for revision in (str(api.repo_info(**repo, revision="main").sha), "main"):
        files = [*FIRST, ".gitattributes"]
        api.get_paths_info("me/k", files, repo_type="kernel", revision=revision)
        list(api.list_repo_tree(**repo, revision=revision, recursive=True))


async def ours_kernel(hub: LocalHub, faults: FaultLayer, config: UploadConfig) -> None:
    options = PushOptions(commit_message=TITLE, commit_description=DESCRIPTION)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("hf://kernels/me/k", FIRST, options)
        await uploader.audit("hf://kernels/me/k", FIRST)


def expiring_login(url: str, patch: pytest.MonkeyPatch) -> None:
    """The one that was stored."""
    home = Path(os.environ["HF_HOME"])
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    patch.setattr(constants, "ENDPOINT", url)


def trusted_publishing(url: str, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("GITHUB_ACTIONS", "true")
    patch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{url}{ID_TOKEN_PATH}")
    patch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a runner's")
    patch.setenv("HF_OIDC_RESOURCE", "datasets/me/d")


def official_login(url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        expiring_login(url, patch)
        HfApi(endpoint=url).whoami()
        trusted_publishing(url, patch)
        HfApi(endpoint=url).whoami()


async def ours_login(hub: LocalHub, faults: FaultLayer, config: UploadConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        expiring_login(hub.url, patch)
        async with Uploader(endpoint=hub.url, config=config) as uploader:
            await uploader.doctor()
        trusted_publishing(hub.url, patch)
        async with Uploader(endpoint=hub.url, config=config) as uploader:
            await uploader.doctor()


def official_xet(url: str, folder: Path) -> None:
    api = HfApi(endpoint=url, token=TOKEN)
    api.create_repo("me/m")
    texts: dict[str, Any] = {"commit_message": TITLE, "commit_description": DESCRIPTION}
    api.upload_folder(repo_id="me/m", folder_path=folder, **texts)
    (folder / "new.bin").write_bytes(b"new")
    api.upload_folder(repo_id="me/m", folder_path=folder, create_pr=True, **texts)


async def ours_xet(hub: LocalHub, faults: FaultLayer, config: UploadConfig, folder: Path) -> None:
    options = PushOptions(commit_message=TITLE, commit_description=DESCRIPTION)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", folder, options)
        (folder / "new.bin").write_bytes(b"new")
        await uploader.push_to_hub("me/m", folder, replace(options, create_pr=True))


COPIED = {"model.bin": b"m" * PART_SIZE, "weights of a/x y.txt": b"text"}


def official_copy(url: str, folder: Path) -> None:
    """From one repo to another, to a bucket, and from there to another bucket."""
    api = HfApi(endpoint=url, token=TOKEN)
    for repo in ("me/source", "me/target"):
        api.create_repo(repo)
    commit = api.upload_folder(repo_id="me/source", folder_path=folder).oid
    api.copy_files(f"hf://me/source@{commit}/", "hf://me/target/")
    for bucket in ("me/b", "me/c"):
        api.bucket_info(api.create_bucket(bucket, private=True).bucket_id)
    api.sync_bucket(str(folder), "hf://buckets/me/b/a folder")
    api.copy_files(f"hf://me/source@{commit}/", "hf://buckets/me/b/")
    api.copy_files("hf://buckets/me/b/a folder/", "hf://buckets/me/c/")
    api.batch_bucket_files("me/c", delete=["model.bin"])
    names = [f"{place}{name}" for place in ("", "weights of a/") for name in (MARKER, PRUNED)]
    names.append("weights of a")  # a folder: a file of this name would be in its way
    files = [f"{place}{name}" for name in (*COPIED, *names) for place in ("a folder/", "")]
    for bucket in ("me/b", "me/c"):
        list(api.get_bucket_paths_info(bucket, files))
        list(api.list_bucket_tree(bucket, recursive=True))
        list(api.list_bucket_tree(bucket, "a folder", recursive=True))


async def ours_copy(hub: LocalHub, faults: FaultLayer, config: UploadConfig, folder: Path) -> None:
    options = SyncOptions(private=True)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/source", folder)
        await uploader.copy("hf://me/source", "hf://me/target")
        await uploader.sync(folder, "hf://buckets/me/b/a folder", options)
        await uploader.copy("hf://me/source", "hf://buckets/me/b")
        await uploader.copy("hf://buckets/me/b/a folder/", "hf://buckets/me/c", options)
        only = replace(options, delete=True, allow_patterns=["weights*", "model.bin"])
        (folder / "model.bin").unlink()
        await uploader.sync(folder, "hf://buckets/me/c", only)


COPY_ROUTES = (
    *("lfs-files-duplicate", "resolve", "bucket-create", "bucket", "bucket-batch"),
    *("bucket-paths-info", "bucket-tree", "bucket-tree-below", "bucket-xet-write-token"),
)


def known_calls() -> set[str]:
    """The names of all requests that this library makes, read from its source."""
    root = Path(asyncpush.__file__).parent
    makers = {"HubRequest", "get", "post_json"}
    found = set()
    for path in (*root.glob("protocol/*.py"), root / "net" / "parts.py"):
        module = ast.parse(path.read_text())
        constants: dict[str, Any] = {"VERIFY": VERIFY} | {
            target.id: node.value.value
            for node in module.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(module):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id not in makers:
                continue
            match node.args[0]:
                case ast.Constant(value):
                    found.add(str(value))
                case ast.Name(name) if name in constants:
                    found.add(str(constants[name]))
    return found


async def recorded(
    folder: Path,
    official: Callable[[str], None],
    ours: Callable[[LocalHub, FaultLayer], Awaitable[None]],
    *,
    xet: bool = False,
    logins: bool = False,
) -> tuple[Recorder, Recorder]:
    """What the official client and we sent to Hubs alike."""
    theirs, our = Recorder(), Recorder()
    for recorder in theirs, our:
        faults = FaultLayer()
        path = folder / ("theirs" if recorder is theirs else "ours")
        tokens = TokenRequests()
        async with open_hub(
            path,
            faults,
            recorder.middleware,
            tokens.middleware,
            part_size=PART_SIZE,
            xet=xet,
            xet_token_lifetime=10,  # so that hf_xet asks for the next one
            trusted_publishers={"datasets/me/d": tokens.is_ours},
        ) as hub:
            if logins:  # one that is about to expire
                home = Path(os.environ["HF_HOME"])
                store_login(home, hub.log_in(), expires_at=time.time() + 3600)
            if recorder is theirs:
                await anyio.to_thread.run_sync(official, hub.url)
            else:
                await ours(hub, faults)
    return theirs, our


@pytest.mark.no_cover
@pytest.mark.usefixtures("official_lfs")
async def test_we_send_what_the_official_client_sends(
    tmp_path: Path,
    write: Callable[..., Path],
    config: UploadConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = EventRecorder()
    config = replace(config, events=listener)
    used: set[Difference] = set()
    problems: list[str] = []
    for repo_type, branch in BRANCHES.items():
        theirs, our = await recorded(
            tmp_path / repo_type,
            partial(official, repo_type=repo_type, branch=branch),
            partial(
                ours, config=replace(config, transfer="lfs"), repo_type=repo_type, branch=branch
            ),
        )
        problems += [f"{repo_type}: {text}" for text in unexplained(theirs, our, used)]
    theirs, our = await recorded(
        tmp_path / "kernel",
        official_kernel,
        partial(ours_kernel, config=replace(config, transfer="lfs")),
    )
    problems += [f"kernel: {text}" for text in unexplained(theirs, our, used)]
    theirs, our = await recorded(
        tmp_path / "login", official_login, partial(ours_login, config=config), logins=True
    )
    assert [name for name, _ in our.sent] == [name for name, _ in theirs.sent]
    problems += [f"login: {text}" for text in unexplained(theirs, our, used)]

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    files = {"model.bin": b"m" * PART_SIZE}
    theirs, our = await recorded(
        tmp_path / "xet",
        partial(official_xet, folder=write(files, "their-folder")),
        partial(ours_xet, config=config, folder=write(files, "our-folder")),
        xet=True,
    )
    tokens = our.by_route()["xet-write-token"]
    assert any("header x-xet-session-id" in fields for fields, _ in tokens), "none was renewed"
    problems += [f"xet: {text}" for text in unexplained(theirs, our, used, only="xet-write-token")]
    theirs, our = await recorded(
        tmp_path / "copy",
        partial(official_copy, folder=write(COPIED, "theirs-to-copy")),
        partial(ours_copy, config=config, folder=write(COPIED, "ours-to-copy")),
        xet=True,
    )
    for route in COPY_ROUTES:
        assert route in our.by_route()
        problems += [f"copy: {text}" for text in unexplained(theirs, our, used, only=route)]
    assert not problems, "\n".join(problems)
    assert used == set(DIFFERENCES), "differences that there are no more"
    assert {event.call for event in listener.of(RequestStarted)} == known_calls()
