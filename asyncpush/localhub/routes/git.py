"""git over HTTP: clone, fetch, pull and push, by the `git http-backend` that git brings along.

    GET  /{repo}[.git]/info/refs?service=…    "git-refs"
    POST /{repo}[.git]/git-upload-pack        "git-fetch"
    POST /{repo}[.git]/git-receive-pack       "git-push"

The token is the password, whatever the user's name. LFS is served below the same URL.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from tempfile import TemporaryFile
from typing import IO

from aiohttp import web

from asyncpush.localhub.auth import require_user
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store.gitrepo import check_installed, stream_backend
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.store.pushes import Pusher, receive
from asyncpush.localhub.web import Refusal, bad_request, too_large

ROUTES = frozenset({"git-refs", "git-fetch", "git-push"})
MAX_PUSH_BYTES = 4 << 30
MAX_WANTS_BYTES = 64 << 20
_REPO = (
    r"/{prefix:(?:(?:datasets|spaces|kernels)/)?}{namespace:(?!api/|_)[^/]+}"
    r"/{name:[^/]+?}{git:(?:\.git)?}"
)
_PIECE = 256 << 10

routes = web.RouteTableDef()


@routes.get(_REPO + "/info/refs", name="git-refs")
async def refs(request: web.Request) -> web.StreamResponse:
    service = request.query.get("service")
    if service not in ("git-upload-pack", "git-receive-pack"):
        raise bad_request("Use a version of git with the smart HTTP protocol")
    state = state_of(request)
    if service == "git-receive-pack":
        repo = await state.contributable(request)
    else:
        repo = await state.open_to_read(request)
    return await _stream(request, state, repo, "info/refs", b"")


@routes.post(_REPO + "/git-upload-pack", name="git-fetch")
async def fetch(request: web.Request) -> web.StreamResponse:
    state = state_of(request)
    repo = await state.open_to_read(request)
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > MAX_WANTS_BYTES:
            raise too_large(f"The request of a fetch has at most {MAX_WANTS_BYTES} bytes")
    return await _stream(request, state, repo, "git-upload-pack", bytes(body))


@routes.post(_REPO + "/git-receive-pack", name="git-push")
async def push(request: web.Request) -> web.StreamResponse:
    """The body is read completely before the repo is locked, so that a slow client does not block
    others."""
    state, user = state_of(request), require_user(request)
    repo = await state.contributable(request)
    check_installed()
    info = await state.run(state.repos.info, repo)
    pusher = Pusher(user, owns=state.owns(user, repo, info))
    loop = asyncio.get_running_loop()

    def stored(oid: str) -> int | None:
        """For the thread that receives the push."""
        return asyncio.run_coroutine_threadsafe(_size(state, oid), loop).result()

    with TemporaryFile(dir=state.repos.workshop) as body:
        size = await _spool(request, state, body)
        variables = _variables(request, state, repo, "git-receive-pack") | {
            "CONTENT_LENGTH": str(size),
            "REMOTE_USER": user,
        }
        answer = await state.run_exclusively(
            repo, receive, state.repos, repo, body, pusher, stored, variables
        )
    head, _, content = answer.partition(b"\r\n\r\n")
    status, headers = _parse_head(head)
    return web.Response(status=status, headers=headers, body=content)


async def _size(state: HubState, oid: str) -> int | None:
    return await state.blobs.size(oid)


async def _spool(request: web.Request, state: HubState, body: IO[bytes]) -> int:
    size = 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > MAX_PUSH_BYTES:
            raise too_large(f"A push has at most {MAX_PUSH_BYTES} bytes: large files go to LFS")
        await state.run(body.write, piece)
    await state.run(body.flush)
    body.seek(0)
    return size


async def _stream(
    request: web.Request, state: HubState, repo: RepoId, path: str, body: bytes
) -> web.StreamResponse:
    """Run git on a request, and pass on its answer as it is produced."""
    check_installed()
    variables = _variables(request, state, repo, path) | {
        "CONTENT_LENGTH": str(len(body)),
        "REMOTE_USER": "anyone",  # The user's permission was checked above.
    }
    process = await stream_backend(variables)
    async with _ended(process):
        assert process.stdin is not None
        assert process.stdout is not None
        feeding = asyncio.create_task(_feed(process.stdin, body))
        try:
            status, headers = _parse_head(await process.stdout.readuntil(b"\r\n\r\n"))
            response = web.StreamResponse(status=status, headers=headers)
            await response.prepare(request)
            while piece := await process.stdout.read(_PIECE):
                await response.write(piece)
            await response.write_eof()
        finally:
            feeding.cancel()
    return response


async def _feed(stdin: asyncio.StreamWriter, body: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        stdin.write(body)
        await stdin.drain()
        stdin.close()


@contextlib.asynccontextmanager
async def _ended(process: Process) -> AsyncIterator[None]:
    """No git process outlives its request."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    finally:
        await process.wait()


def _variables(request: web.Request, state: HubState, repo: RepoId, path: str) -> dict[str, str]:
    """The request in CGI variables. aiohttp has decoded the body, whatever its encoding."""
    variables = {
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_PROJECT_ROOT": str(state.repos.root.absolute()),
        "REQUEST_METHOD": request.method,
        "PATH_INFO": f"/{repo.type}s/{repo.full_name}.git/{path}",
        "QUERY_STRING": request.query_string,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "REMOTE_ADDR": request.remote or "",
    }
    if protocol := request.headers.get("Git-Protocol"):
        variables["HTTP_GIT_PROTOCOL"] = variables["GIT_PROTOCOL"] = protocol
    return variables


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers of a CGI answer. An answer without headers is a failure of git itself."""
    status, headers = 200, {}
    for line in head.decode("latin-1").splitlines():
        name, _, value = line.partition(":")
        if name.lower() == "status":
            status = int(value.split()[0])
        elif name:
            headers[name] = value.strip()
    if not headers:
        raise Refusal(500, "git failed to answer")
    return status, headers
