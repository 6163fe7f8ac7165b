"""Handlers that answer a request for a page with HTML, also if the page does not exist."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from aiohttp import web

from asyncpush.localhub.auth import user_of
from asyncpush.localhub.pages import reading
from asyncpush.localhub.pages.reading import Elsewhere, Source
from asyncpush.localhub.pages.rendering import ICON, ICON_URL, STYLE, STYLE_URL, render
from asyncpush.localhub.pages.views import ErrorPage, Hint, Page
from asyncpush.localhub.routes.bucket_api import readable
from asyncpush.localhub.state import HubState, repo_of, state_of
from asyncpush.localhub.store.bucket_index import Buckets
from asyncpush.localhub.store.names import RepoId, check_path, parse_repo_type
from asyncpush.localhub.web import Refusal, flag_in_query, number_in_query, repo_not_found

# URLs of the API and of the hub itself never lead to pages, not even to an error page.
_REPO = r"/{prefix:(?:datasets/|spaces/|kernels/)?}{namespace:(?!api/|_)[^/]+}/{name}"
_MAX_PAGE = 100_000

_Handler = Callable[[web.Request], Awaitable[web.Response]]

routes = web.RouteTableDef()


def _page(path: str, name: str) -> Callable[[_Handler], _Handler]:
    """Serve a page, and failures as pages too. A browser is never told to log in, because there is
    no login."""

    def register(handler: _Handler) -> _Handler:
        @functools.wraps(handler)
        async def serve(request: web.Request) -> web.Response:
            try:
                return await handler(request)
            except Refusal as refusal:
                if refusal.status == 401 and refusal.code == "RepoNotFound":
                    refusal = repo_not_found()
                return await _refusal(request, refusal)

        routes.get(path, name=name)(serve)
        return serve

    return register


@_page("/", "page-index")
async def index(request: web.Request) -> web.Response:
    state = state_of(request)
    user = user_of(request)
    with_private = user is not None and state.users.is_single
    wanted = request.query.get("type")
    repo_type = None if wanted is None else parse_repo_type(wanted)
    return await _html(
        state,
        reading.read_index,
        state.repos,
        state.base_url(request),
        with_private,
        repo_type,
        _number(request),
    )


@_page("/buckets/{namespace}/{name}", "page-bucket")
async def bucket(request: web.Request) -> web.Response:
    return await _of_bucket(request, "")


@_page("/buckets/{namespace}/{name}/tree/{path:.+}", "page-bucket-tree")
async def bucket_tree(request: web.Request) -> web.Response:
    return await _of_bucket(request, check_path(request.match_info["path"].strip("/")))


async def _of_bucket(request: web.Request, path: str) -> web.Response:
    state = state_of(request)
    found, _ = await readable(request)
    at = Buckets(state.repos.root), found, state.base_url(request)
    return await _html(state, reading.read_bucket, *at, path, _number(request))


@_page(_REPO, "page-repo")
async def repo(request: web.Request) -> web.Response:
    return await _of_repo(request, reading.read_folder, "main", "", _number(request))


@_page(_REPO + "/tree/{revision}{path:(?:/.*)?}", "page-tree")
async def tree(request: web.Request) -> web.Response:
    path = request.match_info["path"].strip("/")
    path = check_path(path) if path else ""
    return await _of_repo(request, reading.read_folder, _revision(request), path, _number(request))


@_page(_REPO + "/blob/{revision}/{path:.+}", "page-blob")
async def blob(request: web.Request) -> web.Response:
    path = check_path(request.match_info["path"].rstrip("/"))
    as_source = flag_in_query(request, "source")
    return await _of_repo(request, reading.read_file, _revision(request), path, as_source)


@_page(_REPO + "/commits/{revision}", "page-commits")
async def commits(request: web.Request) -> web.Response:
    return await _of_repo(request, reading.read_commits, _revision(request), _number(request))


@_page(_REPO + "/commit/{revision}", "page-commit")
async def commit(request: web.Request) -> web.Response:
    return await _of_repo(request, reading.read_commit, _revision(request))


@_page(_REPO + "/discussions", "page-discussions")
async def discussions(request: web.Request) -> web.Response:
    return await _of_repo(request, reading.read_discussions, _number(request))


@_page(_REPO + r"/discussions/{number:[1-9]\d{0,8}}", "page-discussion")
async def discussion(request: web.Request) -> web.Response:
    return await _of_repo(request, reading.read_discussion, int(request.match_info["number"]))


@routes.get(STYLE_URL, name="page-style")
async def style(request: web.Request) -> web.Response:
    return static_answer(STYLE, "text/css")


@routes.get(ICON_URL, name="page-icon")
async def icon(request: web.Request) -> web.Response:
    return static_answer(ICON, "image/svg+xml")


def _revision(request: web.Request) -> str:
    return request.match_info["revision"]


def _number(request: web.Request) -> int:
    return number_in_query(request, "p", 0, high=_MAX_PAGE)


async def _of_repo(request: web.Request, read: Callable[..., Page], *args: object) -> web.Response:
    state = state_of(request)
    allowed = state.open_to_read if read in _SHOWING_FILES else state.readable
    source = Source(state.repos, await allowed(request), state.base_url(request))
    try:
        return await _html(state, read, source, *args)
    except Elsewhere as elsewhere:
        raise web.HTTPFound(elsewhere.url) from None


async def _html(state: HubState, read: Callable[..., Page], *args: object) -> web.Response:
    """Read and render in a thread: a long card takes time."""
    return html_answer(await state.run(_read_and_render, read, *args))


def _read_and_render(read: Callable[..., Page], *args: object) -> str:
    return render(read(*args), datetime.now(UTC))


# These pages show the content of files. A gated repo's card and lists are visible to everybody.
_SHOWING_FILES = (reading.read_file, reading.read_commit, reading.read_discussion)

# -- failures --


async def _refusal(request: web.Request, refusal: Refusal) -> web.Response:
    page = await _error_page(request, refusal)
    answer = html_answer(render(page, datetime.now(UTC)), status=refusal.status)
    if refusal.code:
        answer.headers["X-Error-Code"] = refusal.code
    return answer


async def _error_page(request: web.Request, refusal: Refusal) -> ErrorPage:
    match refusal.code:
        case "RepoNotFound":
            return await _repo_not_found(request)
        case "RevisionNotFound":
            title = "No such revision"
        case "EntryNotFound":
            title = "Nothing here"
        case "GatedRepo":
            title = "A gated repo"
        case _:
            title = "This address is not valid"
    return ErrorPage(refusal.status, title, refusal.message)


async def _repo_not_found(request: web.Request) -> ErrorPage:
    """A hub with a token does not reveal which private repos it has."""
    state = state_of(request)
    try:
        wanted = repo_of(request)
    except Refusal:
        return ErrorPage(404, "No such repo", "This is not a valid name for a repo.")
    hints = _ways_in(state, request, wanted)
    if not state.users.is_open:
        text = "There is no such repo here, or it is private: browsers send no token."
        return ErrorPage(404, "No such repo", text, hints)
    if await state.run(state.repos.path(wanted).exists):
        text = (
            "This repo is private, and browsers send no token. Those who have access can read it:"
        )
        return ErrorPage(404, "A private repo", text, hints)
    text = f"There is no {wanted.type} {wanted.full_name} on this hub."
    return ErrorPage(404, "No such repo", text)


def _ways_in(state: HubState, request: web.Request, repo: RepoId) -> tuple[Hint, ...]:
    """How to read a private repo for those who have access."""
    endpoint = state.base_url(request)
    kind = "" if repo.type == "model" else f" --repo-type {repo.type}"
    api = f"{endpoint}/api/{repo.type}s/{repo.full_name}"
    return (
        Hint(
            "With the official client:",
            f"HF_ENDPOINT={endpoint} HF_TOKEN=… hf download {repo.full_name}{kind}",
        ),
        Hint("Through the HTTP API:", f'curl -H "Authorization: Bearer $HF_TOKEN" {api}'),
        Hint("With git, the token as password:", f"git clone {endpoint}/{repo.url_path}"),
    )


_POLICY = {
    "default-src": "'none'",
    "style-src": "'self'",
    "img-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def html_answer(html: str, *, status: int = 200) -> web.Response:
    return web.Response(
        body=html.encode(),
        status=status,
        headers={**HEADERS, "Cache-Control": "no-cache", "Vary": "Authorization"},
        content_type="text/html",
        charset="utf-8",
    )


def static_answer(body: bytes, content_type: str) -> web.Response:
    """For a URL that changes with its content."""
    headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return web.Response(body=body, headers=headers, content_type=content_type)
