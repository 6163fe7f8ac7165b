"""The token goes to the Hub's own origin and nowhere else, by whatever way it is led."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from asyncpush.errors import HubError, ProtocolError
from asyncpush.net.session import REDIRECTS_LIMIT, HubSession
from tests.fake_clock import FakeClock
from tests.net.helpers import (
    TOKEN,
    EventRecorder,
    Peer,
    ask_for,
    redirect,
    reply,
    server_context,
    serving,
    session_to,
    stream_server,
    whole,
)

REDIRECTS = (301, 302, 307, 308)


# --- URLs that the Hub names --------------------------------------------------------------------


async def test_a_url_on_the_hub_gets_the_token(
    session: HubSession, peer: Peer, recorded: EventRecorder
) -> None:
    await session.ask(ask_for(f"{peer.url}/verify", "POST", body=b"{}"), whole, recorded.events)
    assert peer.seen[0].authorization == f"Bearer {TOKEN}"


async def test_a_url_on_another_port_gets_no_token(
    session: HubSession, peer: Peer, stranger: Peer, recorded: EventRecorder
) -> None:
    await session.ask(ask_for(f"{stranger.url}/verify", "POST", body=b"{}"), whole, recorded.events)
    (seen,) = stranger.seen
    assert seen.authorization is None
    assert TOKEN not in str(seen.headers) + seen.path
    assert peer.seen == []


async def test_another_name_of_the_same_host_gets_no_token(
    session: HubSession, peer: Peer, recorded: EventRecorder
) -> None:
    url = peer.url.replace("127.0.0.1", "localhost")
    await session.ask(ask_for(f"{url}/verify", "POST", body=b"{}"), whole, recorded.events)
    assert peer.seen[0].authorization is None


async def test_a_401_from_a_stranger_asks_for_no_new_token(
    peer: Peer, stranger: Peer, recorded: EventRecorder
) -> None:
    asked: list[int] = []

    def token() -> str:
        asked.append(1)
        return TOKEN

    stranger.script(reply(401))
    async with session_to(peer.url, token=token) as session:
        with pytest.raises(HubError):
            await session.ask(ask_for(f"{stranger.url}/x"), whole, recorded.events)
    assert asked == []


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("ftp://127.0.0.1/x", id="ftp"),
        pytest.param("data:text/plain,x", id="data"),
        pytest.param("http://user:pw@127.0.0.1/x", id="credentials"),
        pytest.param("http://[::1", id="not a URL"),
        pytest.param("http://127.0.0.1:99999/", id="impossible port"),
        pytest.param("api/relative", id="relative"),
        pytest.param("", id="empty"),
        pytest.param("http://169.254.169.254/latest/meta-data", id="metadata"),
    ],
)
async def test_a_forbidden_url_is_refused_before_sending(
    session: HubSession, peer: Peer, recorded: EventRecorder, target: str
) -> None:
    with pytest.raises(ProtocolError, match="the Hub named a URL that"):
        await session.ask(ask_for(target), whole, recorded.events)
    assert peer.seen == []


@pytest.mark.parametrize("target", ["http://a..b/", "http://exa mple/x", "http://a%zz/"], ids=str)
async def test_a_host_that_cannot_be_is_a_hub_error(
    session: HubSession, recorded: EventRecorder, target: str
) -> None:
    with pytest.raises(HubError):
        await session.ask(ask_for(target), whole, recorded.events, retry=False)


# --- redirects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", REDIRECTS)
async def test_a_redirect_within_the_hub_keeps_the_token(
    session: HubSession, peer: Peer, recorded: EventRecorder, status: int
) -> None:
    peer.script(redirect(status, "/api/renamed?x=1"), reply())
    response = await session.ask(ask_for(), whole, recorded.events)
    assert response.url == f"{peer.url}/api/renamed?x=1"
    assert [seen.path for seen in peer.seen] == ["/api/thing", "/api/renamed?x=1"]
    assert {seen.authorization for seen in peer.seen} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("status", [307, 308])
async def test_a_body_goes_along_within_the_hub(
    session: HubSession, peer: Peer, recorded: EventRecorder, status: int
) -> None:
    peer.script(redirect(status, "/api/renamed"), reply())
    await session.ask(ask_for(method="POST", body=b"body"), whole, recorded.events)
    assert [(seen.method, seen.body) for seen in peer.seen] == [("POST", b"body")] * 2


@pytest.mark.parametrize("status", [301, 302])
async def test_a_redirect_from_post_to_get_is_refused(
    session: HubSession, peer: Peer, recorded: EventRecorder, status: int
) -> None:
    peer.script(redirect(status, "/api/renamed"))
    with pytest.raises(ProtocolError, match="drop the body") as caught:
        await session.ask(ask_for(method="POST", body=b"body"), whole, recorded.events)
    assert len(peer.seen) == 1
    assert "use its new name" in caught.value.suggestion


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_redirect_to_another_origin_is_not_followed(
    session: HubSession,
    peer: Peer,
    stranger: Peer,
    recorded: EventRecorder,
    status: int,
    method: str,
) -> None:
    peer.script(redirect(status, f"{stranger.url}/steal?sig=abc"))
    body = b"secret body" if method == "POST" else None
    with pytest.raises(ProtocolError, match="to another origin") as caught:
        await session.ask(ask_for(method=method, body=body), whole, recorded.events)
    assert stranger.seen == []
    assert len(peer.seen) == 1
    assert "sig=abc" not in str(caught.value)
    assert "HF_ENDPOINT" in caught.value.suggestion


@pytest.mark.parametrize("status", REDIRECTS)
async def test_a_strangers_redirect_leads_nowhere_near_the_hub(
    session: HubSession, peer: Peer, stranger: Peer, recorded: EventRecorder, status: int
) -> None:
    stranger.script(redirect(status, f"{peer.url}/api/repos/delete"))
    with pytest.raises(ProtocolError, match="to another origin"):
        await session.ask(ask_for(f"{stranger.url}/x"), whole, recorded.events)
    assert peer.seen == []


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("//evil.example/x", id="no scheme"),
        pytest.param("http://127.0.0.1:1/x", id="another port"),
        pytest.param("https:{own}/x", id="another scheme"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("http://[::1", id="not a URL"),
        pytest.param("javascript:alert(1)", id="javascript"),
    ],
)
async def test_odd_redirects_are_refused(
    session: HubSession, peer: Peer, recorded: EventRecorder, location: str
) -> None:
    peer.script(redirect(307, location.replace("{own}", peer.url.partition(":")[2])))
    with pytest.raises(ProtocolError):
        await session.ask(ask_for(), whole, recorded.events)
    assert len(peer.seen) == 1


async def test_a_redirect_cannot_put_other_credentials_on_the_request(
    session: HubSession, peer: Peer, recorded: EventRecorder
) -> None:
    peer.script(redirect(307, peer.url.replace("://", "://user:password@") + "/x"))
    with pytest.raises(ProtocolError, match="holds credentials"):
        await session.ask(ask_for(), whole, recorded.events)
    assert len(peer.seen) == 1


@pytest.mark.parametrize("location", ["/api/thing", ""], ids=["to itself", "no Location"])
async def test_endless_redirects_end(
    session: HubSession, peer: Peer, recorded: EventRecorder, location: str
) -> None:
    peer.script(redirect(307, location))
    with pytest.raises(ProtocolError, match=f"more than {REDIRECTS_LIMIT} times"):
        await session.ask(ask_for(), whole, recorded.events)
    assert len(peer.seen) == REDIRECTS_LIMIT


async def test_cookies_are_not_kept(
    session: HubSession, peer: Peer, recorded: EventRecorder
) -> None:
    peer.script(reply(Set_Cookie="id=1; Path=/"))
    await session.ask(ask_for(), whole, recorded.events)
    await session.ask(ask_for(), whole, recorded.events)
    assert "Cookie" not in peer.seen[1].headers


# --- TLS ----------------------------------------------------------------------------------------


async def test_https_with_a_trusted_certificate(secure_peer: Peer, recorded: EventRecorder) -> None:
    async with session_to(secure_peer.url) as session:
        await session.ask(ask_for(), whole, recorded.events)
    assert secure_peer.seen[0].authorization == f"Bearer {TOKEN}"


async def test_an_untrusted_certificate_is_not_retried(recorded: EventRecorder) -> None:
    async with serving(tls=server_context(trustme.CA())) as peer, session_to(peer.url) as session:
        with pytest.raises(HubError) as caught:
            await session.ask(ask_for(), whole, recorded.events)
    assert caught.value.attempt == 1
    assert "SSL_CERT_FILE" in caught.value.suggestion
    assert peer.seen == []


@pytest.mark.parametrize("status", REDIRECTS)
async def test_a_redirect_from_https_to_http_is_not_followed(
    secure_peer: Peer, stranger: Peer, recorded: EventRecorder, status: int
) -> None:
    location = stranger.url.replace("127.0.0.1", "localhost") + "/x"
    secure_peer.script(redirect(status, location))
    async with session_to(secure_peer.url) as session:
        with pytest.raises(ProtocolError, match="another origin"):
            await session.ask(ask_for(), whole, recorded.events)
    assert stranger.seen == []


async def test_a_url_that_goes_down_to_http_is_refused(
    secure_peer: Peer, stranger: Peer, recorded: EventRecorder
) -> None:
    async with session_to(secure_peer.url) as session:
        with pytest.raises(ProtocolError, match="plain http although"):
            await session.ask(
                ask_for(f"{stranger.url}/x", "POST", body=b"{}"), whole, recorded.events
            )
    assert stranger.seen == []


# --- what the environment holds -----------------------------------------------------------------


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login me password netrc-password\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


async def test_netrc_goes_to_nobody(
    netrc: None, session: HubSession, peer: Peer, stranger: Peer, recorded: EventRecorder
) -> None:
    await session.ask(ask_for(auth="none"), whole, recorded.events)
    await session.ask(ask_for(f"{stranger.url}/x"), whole, recorded.events)
    assert peer.seen[0].authorization is None
    assert stranger.seen[0].authorization is None


async def test_a_proxy_of_the_environment_is_used(
    peer: Peer, stranger: Peer, recorded: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = stranger.url.removeprefix("http://")
    monkeypatch.setenv("http_proxy", f"http://me:p%40ss%3A%2F@{host}")
    async with session_to("http://hub.example") as session:
        await session.ask(ask_for(), whole, recorded.events)
    (seen,) = stranger.seen
    assert seen.path == "http://hub.example/api/thing"
    assert seen.headers["Proxy-Authorization"] == "Basic bWU6cEBzczov"  # me:p@ss:/
    for record in recorded.records:
        assert "bWU6" not in repr(record)


async def test_a_session_looks_for_a_hosts_proxy_once(
    stranger: Peer, recorded: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", stranger.url)
    async with session_to("http://hub.example") as session:
        await session.ask(ask_for(), whole, recorded.events)
        monkeypatch.delenv("http_proxy")
        await session.ask(ask_for(), whole, recorded.events)
    assert len(stranger.seen) == 2


async def test_a_proxy_without_credentials_gets_none(
    stranger: Peer, recorded: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", stranger.url.removeprefix("http://"))
    async with session_to("http://hub.example") as session:
        await session.ask(ask_for(), whole, recorded.events)
    assert stranger.seen[0].path == "http://hub.example/api/thing"
    assert "Proxy-Authorization" not in stranger.seen[0].headers


async def test_no_proxy_is_honoured(
    peer: Peer, stranger: Peer, recorded: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", stranger.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with session_to(peer.url) as session:
        await session.ask(ask_for(), whole, recorded.events)
    assert len(peer.seen) == 1
    assert stranger.seen == []


class Tunnel:
    """A proxy that knows CONNECT alone: it answers as told, then joins the two ends."""

    def __init__(self, answer: bytes, *, to: Peer | None = None) -> None:
        self.heads: list[bytes] = []
        self._answer = answer
        self._to = to

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 " + self._answer + b"\r\n\r\n")
        if self._to is not None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to.port)
            try:
                await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))
            finally:
                far_writer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
    writer.close()


@asynccontextmanager
async def tunnelling(tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    async with stream_server(tunnel.serve) as url:
        monkeypatch.setenv("https_proxy", url.replace("//", "//me:pa55word@"))
        yield


async def test_a_proxy_never_sees_the_token(
    secure_peer: Peer, recorded: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel = Tunnel(b"200 OK", to=secure_peer)
    async with tunnelling(tunnel, monkeypatch), session_to(secure_peer.url) as session:
        await session.ask(ask_for(), whole, recorded.events)
    (head,) = tunnel.heads
    assert head.startswith(f"CONNECT localhost:{secure_peer.port} ".encode())
    assert b"Proxy-Authorization: Basic bWU6cGE1NXdvcmQ=" in head
    assert TOKEN.encode() not in head
    assert secure_peer.seen[0].authorization == f"Bearer {TOKEN}"
    assert "Proxy-Authorization" not in secure_peer.seen[0].headers


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"403 Forbidden"])
async def test_a_proxy_that_refuses_is_named_and_not_asked_again(
    ca: trustme.CA, recorded: EventRecorder, monkeypatch: pytest.MonkeyPatch, status: bytes
) -> None:
    tunnel = Tunnel(status)
    async with tunnelling(tunnel, monkeypatch), session_to("https://hub.example") as session:
        session.note_reached()
        with pytest.raises(HubError) as caught:
            await session.ask(ask_for(), whole, recorded.events)
    assert len(tunnel.heads) == 1
    assert "the proxy refuses" in caught.value.suggestion
    assert "pa55word" not in str(caught.value) + repr(recorded.records)


async def test_a_proxy_in_trouble_is_waited_for(
    ca: trustme.CA, recorded: EventRecorder, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel = Tunnel(b"502 Bad Gateway")
    proxied = session_to("https://hub.example", clock=clock, max_retries=1)
    async with tunnelling(tunnel, monkeypatch), proxied as session:
        with pytest.raises(HubError) as caught:
            await session.ask(ask_for(), whole, recorded.events)
    assert len(tunnel.heads) == 2
    assert caught.value.unreachable


async def test_a_proxy_that_is_away_is_named(
    recorded: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://me:pa55word@127.0.0.1:1")
    async with session_to("http://hub.example", max_retries=0) as session:
        with pytest.raises(HubError) as caught:
            await session.ask(ask_for(), whole, recorded.events)
    assert "proxy" in caught.value.suggestion
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy",
    ["socks5://127.0.0.1:1080", "http://[bad", "http://host:port", "://", "http://"],
    ids=str,
)
async def test_an_unusable_proxy_is_a_hub_error(
    recorded: EventRecorder, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    async with session_to("http://hub.example", max_retries=0) as session:
        with pytest.raises(HubError) as caught:
            await session.ask(ask_for(), whole, recorded.events)
    assert "proxy" in str(caught.value).lower()
