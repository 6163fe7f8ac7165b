"""Git LFS over HTTP: the batch API, and the URLs that the hub serves itself.

    POST /{repo}.git/info/lfs/objects/batch    "batch"     which objects, and how to send them
    POST /{repo}.git/info/lfs/objects/verify   "verify"    is it stored?
    PUT  /_lfs/{oid}?…                         "part"      a part or a whole object, to disk
    POST /_lfs/{oid}/complete?…                "complete"  join the parts
    GET  /_lfs/{oid}?…                         "download"  a stored object, from disk

The first two need the Hub token; the others carry their permission in the URL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import escape

import orjson
from aiohttp import ClientConnectionError, web
from aiohttp.web_response import StreamResponse
from anyio import CapacityLimiter, create_task_group

from asyncpush.localhub.blobs import (
    MAX_OBJECT_SIZE,
    OBJECTS_PATH,
    BlobError,
    BlobStore,
    PartSink,
    UploadTicket,
    check_oid,
    no_such_object,
)

ROUTES = frozenset({"batch", "verify", "part", "complete", "download"})
LFS_JSON = "application/vnd.git-lfs+json"
MAX_BATCH = 256

# The longest valid body has 10,000 parts of 70 bytes each.
_MAX_BODY = 2 << 20
_OBJECTS_AT_ONCE = 16

_REPO = r"/{prefix:(?:(?:datasets|spaces|kernels)/)?}{namespace:[^/]+}/{name:[^/]+}"
_OBJECT = OBJECTS_PATH + "/{oid:[0-9a-f]{64}}"

Operation = Literal["upload", "download", "verify"]
Access = Callable[[web.Request, Operation], Awaitable[None]]
"""Raises an aiohttp HTTP error unless the request's user has this right on the request's repo."""

XetGrant = Callable[[web.Request, str | None], dict[str, Any]]
"""The `actions.upload` that sends an object of the request's repo through Xet, for the ref of this
name (None: a pull request that is not open yet)."""

Handler = Callable[[web.Request], Awaitable[StreamResponse]]


def add_routes(
    app: web.Application, store: BlobStore, access: Access, *, xet: XetGrant | None = None
) -> None:
    """Serve LFS from `store`. Repo routes ask `access` first; their `match_info` has `repo_type`
    ("", "datasets/", "spaces/" or "kernels/"), `namespace` and `name`. A client that also supports
    Xet is directed there where the hub grants it."""
    lfs = _Lfs(store, access, xet)
    objects = f"{_REPO}.git/info/lfs/objects"
    app.router.add_post(f"{objects}/batch", _json_errors(lfs.batch), name="batch")
    app.router.add_post(f"{objects}/verify", _json_errors(lfs.verify), name="verify")
    app.router.add_post(f"{_OBJECT}/complete", _json_errors(lfs.complete), name="complete")
    if isinstance(store, PartSink):
        files = _DiskRoutes(store, store)
        app.router.add_put(_OBJECT, _xml_errors(files.part), name="part")
        app.router.add_get(_OBJECT, _xml_errors(files.download), name="download")


@dataclass(frozen=True, slots=True)
class _Batch:
    operation: Literal["upload", "download"]
    multipart: bool
    xet: bool
    ref: str | None
    objects: Sequence[Any]


class _Lfs:
    def __init__(self, store: BlobStore, access: Access, xet: XetGrant | None) -> None:
        self._store = store
        self._access = access
        self._xet = xet

    async def batch(self, request: web.Request) -> StreamResponse:
        batch = parse_batch(await _json_body(request))
        await self._access(request, batch.operation)
        by_xet = self._xet(request, batch.ref) if batch.xet and self._xet else None
        answers: list[dict[str, Any]] = [{} for _ in batch.objects]
        # One at a time would be slow where each question goes to another server.
        limiter = CapacityLimiter(_OBJECTS_AT_ONCE)

        async def answer(index: int, item: Any) -> None:
            async with limiter:
                answers[index] = await self._answer(request, batch, item, by_xet)

        async with create_task_group() as tasks:
            for index, item in enumerate(batch.objects):
                tasks.start_soon(answer, index, item)
        in_parts = any(
            "chunk_size" in answer.get("actions", {}).get("upload", {}).get("header", {})
            for answer in answers
        )
        transfer = "xet" if by_xet else "multipart" if in_parts else "basic"
        return _lfs_json({"transfer": transfer, "objects": answers, "hash_algo": "sha256"})

    async def _answer(
        self, request: web.Request, batch: _Batch, item: Any, by_xet: dict[str, Any] | None
    ) -> dict[str, Any]:
        """What to do about one object. An invalid one does not fail the others."""
        try:
            oid, size = parse_object(item)
            actions = await self._actions(request, batch, oid, size, by_xet)
        except BlobError as exc:
            return {**_named(item), "error": {"code": exc.status, "message": exc.message}}
        named = {"oid": oid, "size": size, "authenticated": True}
        return {**named, "actions": actions} if actions else named

    async def _actions(
        self,
        request: web.Request,
        batch: _Batch,
        oid: str,
        size: int,
        by_xet: dict[str, Any] | None,
    ) -> dict[str, Any]:
        stored = await self._store.size(oid)
        base_url = f"{request.scheme}://{request.host}"
        if stored is not None and stored != size:
            raise _other_size(stored, size)
        if batch.operation == "download":
            if stored is None:
                raise no_such_object()
            return {"download": {"href": await self._store.download_url(oid, base_url=base_url)}}
        if stored is not None:
            return {}
        if by_xet:
            return {"upload": by_xet}
        ticket = await self._store.ticket(oid, size, base_url=base_url, multipart=batch.multipart)
        beside = base_url + request.rel_url.raw_path.removesuffix("batch")
        verify: dict[str, Any] = {"href": f"{beside}verify"}
        if shown := request.headers.get("Authorization"):
            # "authenticated": Git LFS looks for no other credentials.
            verify["header"] = {"Authorization": shown}
        return {"upload": upload_action(ticket), "verify": verify}

    async def verify(self, request: web.Request) -> StreamResponse:
        await self._access(request, "verify")
        oid, size = parse_object(await _json_body(request))
        stored = await self._store.size(oid)
        if stored is None:
            raise no_such_object()
        if stored != size:
            raise _other_size(stored, size)
        return _lfs_json({"oid": oid, "size": size})

    async def complete(self, request: web.Request) -> StreamResponse:
        scope = self._store.signer.check("POST", request.path, request.query.items())
        oid = request.match_info["oid"]
        parts = parse_completion(await _json_body(request), oid)
        await self._store.complete(scope["uploadId"], oid, int(scope["size"]), parts)
        return _lfs_json({"oid": oid, "size": int(scope["size"])})


class _DiskRoutes:
    """The hub as the object server; only for a store that keeps its objects here."""

    def __init__(self, store: BlobStore, sink: PartSink) -> None:
        self._store = store
        self._sink = sink

    async def part(self, request: web.Request) -> StreamResponse:
        scope = self._store.signer.check("PUT", request.path, request.query.items())
        size = int(scope["size"])
        length = request.content_length
        if length is None:  # A chunked body; S3 does not accept those either.
            raise BlobError(
                411, "You must provide the Content-Length HTTP header.", "MissingContentLength"
            )
        if length != size:
            code = "EntityTooLarge" if length > size else "IncompleteBody"
            raise BlobError(400, f"this URL takes {size} bytes, not {length}", code)
        etag = await self._sink.receive(
            request.match_info["oid"],
            size,
            _pieces(request),
            upload_id=scope.get("uploadId"),
            part_number=int(scope.get("partNumber", "1")),
        )
        return web.Response(headers={"ETag": etag})

    async def download(self, request: web.Request) -> StreamResponse:
        self._store.signer.check("GET", request.path, request.query.items())
        oid = request.match_info["oid"]
        path = self._store.path(oid)
        if path is not None and path.exists():
            return web.FileResponse(path)
        size = await self._store.size(oid)
        if size is None:
            raise no_such_object()
        response = web.StreamResponse()  # An object that is stored in chunks.
        response.content_type = "application/octet-stream"
        response.content_length = size
        await response.prepare(request)
        async for piece in self._store.read(oid, 0, size):
            await response.write(piece)
        return response


def parse_batch(body: Any) -> _Batch:
    """The batch request, its objects not checked yet. Raises `BlobError` 409 or 422."""
    if not isinstance(body, dict):
        raise BlobError(422, "the body must be a JSON object")
    operation = body.get("operation")
    if operation not in ("upload", "download"):
        raise BlobError(422, 'operation must be "upload" or "download"')
    # The npm client spells it with an underscore.
    if body.get("hash_algo", "sha256") not in ("sha256", "sha_256"):
        raise BlobError(409, "hash_algo must be sha256")
    transfers = body.get("transfers", ["basic"])
    if not isinstance(transfers, list) or not all(isinstance(name, str) for name in transfers):
        raise BlobError(422, "transfers must be a list of names")
    objects = body.get("objects")
    if not isinstance(objects, list) or not 1 <= len(objects) <= MAX_BATCH:
        raise BlobError(422, f"objects must be a list of 1 to {MAX_BATCH}")
    xet = operation == "upload" and "xet" in transfers
    return _Batch(operation, "multipart" in transfers, xet, _ref_name(body), objects)


def _ref_name(body: dict[str, Any]) -> str | None:
    """The branch that the objects are for. Raises `BlobError` 422. Git LFS sends its full name."""
    ref = body.get("ref")
    name = ref.get("name") if isinstance(ref, dict) else ref
    if not (name is None or isinstance(name, str)):
        raise BlobError(422, "ref must be an object with a name")
    return name.removeprefix("refs/heads/") if name else None


def parse_object(item: Any) -> tuple[str, int]:
    """`oid` and `size` of an LFS object. Raises `BlobError` 422."""
    if not isinstance(item, dict):
        raise BlobError(422, "an object must be a JSON object")
    oid, size = str(item.get("oid")), item.get("size")
    check_oid(oid)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_OBJECT_SIZE:
        raise BlobError(422, f"size must be a whole number from 0 to {MAX_OBJECT_SIZE}")
    return oid, size


def parse_completion(body: Any, oid: str) -> list[tuple[int, str]]:
    """The `(part_number, etag)` pairs of a completion body. Raises `BlobError` 400."""
    if not isinstance(body, dict) or body.get("oid") != oid:
        raise BlobError(400, "the oid is not the one of this URL")
    parts = body.get("parts")
    if not isinstance(parts, list):
        raise BlobError(400, "parts must be a list")
    return [_parse_part(part) for part in parts]


def _parse_part(part: Any) -> tuple[int, str]:
    number = part.get("partNumber") if isinstance(part, dict) else None
    etag = part.get("etag") if isinstance(part, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or not isinstance(etag, str):
        raise BlobError(400, "a part has a partNumber and an etag")
    return number, etag


def upload_action(ticket: UploadTicket) -> dict[str, Any]:
    """A ticket as the batch answer's `actions.upload`: part URLs are in `header`, by number."""
    header = dict(ticket.headers)
    if ticket.part_urls:
        header["chunk_size"] = str(ticket.chunk_size)
        if ticket.upload_id is not None:
            header["upload_id"] = ticket.upload_id
        header |= {str(number): url for number, url in enumerate(ticket.part_urls, 1)}
    return {"href": ticket.href, "header": header, "expires_in": ticket.expires_in}


def _other_size(stored: int, claimed: int) -> BlobError:
    return BlobError(422, f"the object has {stored} bytes, not {claimed}")


def _named(item: Any) -> dict[str, Any]:
    """What can be repeated of an invalid object, so that the client knows which one it was."""
    if not isinstance(item, dict):
        return {}
    return {key: item[key] for key in ("oid", "size") if isinstance(item.get(key), str | int)}


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes from the socket, never joined; it ends early if the connection is
    cut."""
    try:
        while True:
            piece, _ = await request.content.readchunk()
            if not piece:
                return
            yield piece
    except (ClientConnectionError, web.RequestPayloadError, ConnectionError):
        return  # The store notices that the body is short, and keeps nothing.


async def _json_body(request: web.Request) -> Any:
    body = bytearray()
    async for piece in _pieces(request):
        body += piece
        if len(body) > _MAX_BODY:
            raise BlobError(413, f"the body is longer than {_MAX_BODY} bytes")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BlobError(400, "the body is not JSON") from None


def _lfs_json(data: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(data), status=status, content_type=LFS_JSON)


def _json_errors(handler: Handler) -> Handler:
    async def answer(request: web.Request) -> StreamResponse:
        try:
            return await handler(request)
        except BlobError as exc:
            # "message" is Git LFS's key, "error" the Hub's.
            data = {"message": exc.message, "error": exc.message, "code": exc.code}
            return _lfs_json(data, exc.status)

    return answer


def _xml_errors(handler: Handler) -> Handler:
    async def answer(request: web.Request) -> StreamResponse:
        try:
            return await handler(request)
        except BlobError as exc:
            text = (
                '<?xml version="1.0" encoding="UTF-8"?>\n'
                f"<Error><Code>{escape(exc.code)}</Code>"
                f"<Message>{escape(exc.message)}</Message></Error>"
            )
            return web.Response(text=text, status=exc.status, content_type="application/xml")

    return answer
