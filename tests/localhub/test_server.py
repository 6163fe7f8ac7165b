"""The server itself: who may ask, what is limited, how it starts and stops."""

from __future__ import annotations

import ast
import asyncio
import gzip
import hmac
import logging
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush import localhub
from asyncpush.localhub import LocalHub, serve_in_thread
from asyncpush.localhub.auth import is_loopback
from asyncpush.localhub.store import repo_folders
from asyncpush.localhub.web import MAX_JSON_BYTES
from tests.localhub.conftest import HubClient, add


async def raw(hub: LocalHub, request: bytes) -> bytes:
    """The answer to bytes that no well-behaved client would send."""
    reader, writer = await asyncio.open_connection(hub.host, hub.port)
    writer.write(request)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def request_for(target: str, host: str = "localhost") -> bytes:
    return (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer any\r\n"
        "Connection: close\r\n\r\n"
    ).encode("latin-1")


async def test_a_set_token_is_the_only_one(tmp_path: Path) -> None:
    async with LocalHub(tmp_path, token="right") as hub, aiohttp.ClientSession() as session:
        client = HubClient(hub.url, session)

        async def status(token: str | None, path: str = "/api/whoami-v2") -> int:
            return (await client.get(path, token=token)).status

        assert await status("right") == 200
        assert await status("wrong") == 401
        assert await status("right ") == 200
        assert await status("rightx") == 401
        assert await status(None) == 401
        assert await status(None, "/api/models") == 200
        assert await status("wrong", "/api/models") == 401


async def test_tokens_are_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By digests of one length each, and nothing else decides."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    async with LocalHub(tmp_path, token="right") as hub, aiohttp.ClientSession() as session:
        client = HubClient(hub.url, session)
        monkeypatch.setattr(hmac, "compare_digest", compare)
        for token in ("right", "wrong", "r", "rightx" * 9):
            assert (await client.get("/api/whoami-v2", token=token)).status == 401
    assert [(len(one), len(other)) for one, other in compared] == [(32, 32)] * 4


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer  ", "Basic", "Basic Og==", "Basic :::", "", "nonsense"]
)
async def test_any_token_is_still_a_token(client: HubClient, header: str) -> None:
    answer = await client.get("/api/whoami-v2", token=None, headers={"Authorization": header})

    assert answer.status == 401
    assert answer.headers["X-Error-Message"] == "Invalid credentials in Authorization header"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", ""])
def test_other_machines_need_a_token(tmp_path: Path, host: str) -> None:
    with pytest.raises(ValueError, match="set a token"):
        LocalHub(tmp_path, host=host)
    LocalHub(tmp_path, host=host, token="t")


def test_an_empty_token_is_no_token(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        LocalHub(tmp_path, token=" ")


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("hub.LOCALHOST", True),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback_is_reported_by_its_name(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


async def test_the_url_of_an_ipv6_hub_has_brackets(tmp_path: Path) -> None:
    async with LocalHub(tmp_path, host="::1") as hub, aiohttp.ClientSession() as session:
        assert hub.url == f"http://[::1]:{hub.port}"
        assert (await HubClient(hub.url, session).get("/api/models")).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("localhost", 200, id="loopback"),
        pytest.param("127.0.0.1:1234", 200, id="forwarded port"),
        pytest.param("evil.example.org", 403, id="name that points here"),
        pytest.param("localhost:port", 400, id="port in words"),
        pytest.param("localhost:99999", 400, id="port out of range"),
        pytest.param("a b", 403, id="space"),
        pytest.param("", 400, id="empty"),
    ],
)
async def test_a_hub_without_a_token_answers_to_its_own_names(
    hub: LocalHub, host: str, status: int
) -> None:
    answer = await raw(hub, request_for("/api/models", host))

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    "target",
    [
        "/../../../../etc/passwd",
        "/api/models/../../../etc/passwd/tree/main",
        "/api/models/%2e%2e/%2e%2e/tree/main",
        "/api/models/..%2f..%2f..%2fetc/passwd/tree/main",
        "/api/models/me/net/tree/..%2f..%2f..%2fHEAD",
        "/api/models/me/net/tree/main/..%2f..%2fsecret",
        "/api/models/me/net/revision/..%2f..%2f..%2fmodels%2fme",
        "/api/models/me/net/revision/refs%2fheads%2f..%2f..%2fHEAD",
        "/api/models/me/net/revision/%00",
        "/api/models/me/net/commits/main%0a",
        "/api/models/me%2fnet/x/tree/main",
        "/api/models/me/net.git/tree/main",
        "/me/net/resolve/main/../../../../hub/repo.json",
        "/me/net/resolve/main/%2e%2e/hub/repo.json",
        "/me/net/resolve/main/..%5c..%5chub",
        "/me/net/resolve/..%2f..%2fmain/hub/repo.json",
        "/me/net/resolve/main/%ff%fe",
        "/datasets/../me/net/resolve/main/a",
        "/me/net.git/hub/repo.json",
        "/models/me/net.git/HEAD",
        "/lfs/secret",
        "/_lfs/..%2fsecret",
        "/api/models/me/net/discussions/..%2frepo",
        "//etc/passwd",
        "http://localhost/etc/passwd",
    ],
)
async def test_no_url_leads_out_of_the_repo(client: HubClient, hub: LocalHub, target: str) -> None:
    answer = await raw(hub, request_for(target))

    status = int(answer.split(b" ", 2)[1])
    assert 400 <= status < 500
    assert b"root:" not in answer
    assert b'"author"' not in answer


@pytest.mark.parametrize(
    ("given", "echoed"), [("abc-123", True), ("a b", False), ("x" * 200, False)]
)
async def test_a_request_id_is_echoed(client: HubClient, given: str, echoed: bool) -> None:
    answer = await client.get("/api/models", headers={"X-Request-Id": given})
    assert (answer.headers["X-Request-Id"] == given) is echoed


async def test_every_answer_has_a_request_id(client: HubClient) -> None:
    answers = [
        await client.get("/api/whoami-v2"),
        await client.get("/api/whoami-v2", token=None),
        await client.get("/no/such/page/at/all"),
        await client.get("/me/net/resolve/main/.gitattributes"),
        await client.call("DELETE", "/api/whoami-v2"),
    ]

    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == 5
    assert [answer.status for answer in answers] == [200, 401, 404, 200, 405]
    assert all("error" in answer.json for answer in (*answers[1:3], answers[4]))
    assert answers[4].headers["Allow"] == "GET,HEAD"


async def test_a_failure_of_the_hub_tells_nothing_but_the_log(
    client: HubClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: object, repo: object) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(repo_folders.Repos, "info", broken)
    caplog.set_level(logging.ERROR, "asyncpush.localhub")

    answer = await client.get("/api/models/me/net")

    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "a secret of the inside" in caplog.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"{", 400, id="half"),
        pytest.param(b"[" * 200_000, 400, id="deep"),
        pytest.param(b'{"a":' * 5000, 400, id="deep objects"),
        pytest.param(b"[]", 400, id="list"),
        pytest.param(b"\xff", 400, id="not UTF-8"),
        pytest.param(b" " * ((16 << 20) + 1), 413, id="over 16 MiB"),
    ],
)
async def test_a_body_that_is_no_object_is_refused(
    client: HubClient, body: bytes, status: int
) -> None:
    answer = await client.call("POST", "/api/repos/create", data=body)

    assert answer.status == status


async def test_a_body_unlike_its_headers_is_400(client: HubClient) -> None:
    answer = await client.call(
        "POST",
        "/api/repos/create",
        data=b"not gzip at all",
        headers={"Content-Encoding": "gzip"},
        skip_auto_headers=["Content-Encoding"],
    )

    assert answer.status == 400


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        pytest.param({}, b" " * (MAX_JSON_BYTES + 1), 413, id="a large body"),
        pytest.param({}, b"[" * (1 << 20), 400, id="deep JSON"),
        pytest.param(
            {"Content-Encoding": "gzip"}, gzip.compress(bytes(64 << 20)), 413, id="a gzip bomb"
        ),
        pytest.param({"X-A": "a" * 100_000}, b"{}", 400, id="a long header"),
        pytest.param({f"X-{n}": "a" for n in range(5000)}, b"{}", 400, id="many headers"),
    ],
)
async def test_what_is_too_large_is_refused(
    client: HubClient, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = await client.call("POST", "/api/repos/create", data=body, headers=headers)
    assert answer.status == status


async def test_a_client_that_leaves_in_the_middle_breaks_nothing(
    client: HubClient, hub: LocalHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    head = await client.head()
    _, writer = await asyncio.open_connection(hub.host, hub.port)
    writer.write(
        b"POST /api/models/me/net/commit/main HTTP/1.1\r\nHost: localhost\r\n"
        b"Authorization: Bearer any\r\nContent-Length: 1000\r\n\r\n"
        b'{"key":"header","value":{"summary":"s"}}\n'
    )
    await writer.drain()
    writer.transport.abort()

    assert (await client.commit(add("a.txt"), parentCommit=head)).status == 200
    assert caplog.records == []


async def test_middlewares_stand_outside_and_know_the_route(tmp_path: Path) -> None:
    seen: list[tuple[str | None, int]] = []

    @web.middleware
    async def lose_the_answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        seen.append((request.match_info.route.name, response.status))
        if request.match_info.route.name == "create":
            return web.Response(status=504)
        return response

    async with (
        LocalHub(tmp_path, middlewares=[lose_the_answer]) as hub,
        aiohttp.ClientSession() as session,
    ):
        client = HubClient(hub.url, session)
        assert (await client.create()).status == 504
        assert (await client.get("/api/models/me/net")).status == 200
        assert (await client.get("/api/models/me/nothing")).status == 404

    assert seen == [("create", 200), ("info", 200), ("info", 404)]


async def test_every_route_has_a_name(client: HubClient, tmp_path: Path) -> None:
    names: set[str | None] = set()

    @web.middleware
    async def inspect(request: web.Request, handler: Handler) -> web.StreamResponse:
        names.update(route.name for route in request.app.router.routes())
        return await handler(request)

    async with LocalHub(tmp_path, middlewares=[inspect]) as hub, aiohttp.ClientSession() as session:
        await HubClient(hub.url, session).get("/api/models")

    assert None not in names
    assert names >= {
        *("whoami", "create", "delete", "move", "preupload", "commit", "paths-info"),
        *("validate-yaml", "tree", "refs", "branch-create", "branch-delete", "tag-create"),
        *("tag-delete", "commits", "revision", "info", "resolve", "discussions", "discussion"),
        *("settings", "batch", "part", "complete", "verify"),
    }


async def test_the_port_is_free_again_and_the_repos_stay(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with LocalHub(tmp_path) as hub:
            port = hub.port
            await HubClient(hub.url, session).create()
        async with LocalHub(tmp_path, port=port) as hub:
            assert (await HubClient(hub.url, session).get("/api/models/me/net")).status == 200


async def test_a_taken_port_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="address already in use"):
            async with LocalHub(tmp_path, port=taken.getsockname()[1]):
                pass


async def test_a_root_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tmp").write_text("in the way")

    with pytest.raises(FileExistsError):
        async with LocalHub(tmp_path):
            pass


def test_a_thread_serves_blocking_callers(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path) as hub:
        answer = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import urllib.request as r; r.urlopen('{hub.url}/api/models')",
            ],
            check=False,
        )
        assert answer.returncode == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", hub.port))


def test_a_thread_that_cannot_serve_says_why(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serving = serve_in_thread(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(OSError, match="address already in use"):
            serving.__enter__()


def test_a_missing_library_names_the_extra(tmp_path: Path) -> None:
    script = "import sys; sys.modules['pygit2'] = None; import asyncpush.localhub"

    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert "ImportError: the embedded Hub needs pygit2: pip install 'asyncpush[hub]'" in (
        answer.stderr
    )


def test_the_hub_stands_alone() -> None:
    """It is the other side of the wire: it must not share code with the client it judges."""
    folder = Path(localhub.__file__).parent
    imported = {
        module
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for module in imported_by(node)
    }

    ours = {module for module in imported if module.split(".")[0] == "asyncpush"}
    assert {module for module in ours if not module.startswith("asyncpush.localhub")} == set()


def imported_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0
        return [node.module or ""]
    return []
