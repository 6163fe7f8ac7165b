"""The pages in a real browser: they look like something, and nothing in them runs."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import DEVNULL

import anyio
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush.localhub import LocalHub
from tests.localhub.conftest import HubClient, add, add_lfs
from tests.localhub.dom import Element, parse

pytestmark = pytest.mark.timeout(180)

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
)
DARK = "--blink-settings=preferredColorScheme=0"

HOSTILE = b"""---
license: other
license_name: "<script>document.title='pwned'</script>"
---
# Card <script>document.title = 'pwned'</script>

<script>document.title = "pwned"</script>

<img src="x" onerror="document.title='pwned'"> <svg onload="document.title='pwned'">

<style>body { display: none }</style>

[link](javascript:document.title='pwned') ![image](x"onerror="document.title='pwned')
<meta http-equiv="refresh" content="0;url=javascript:document.title='pwned'">
"""
INJECTED = (
    b"<script>document.title = 'pwned'</script>"
    b"<img src='data:,' onerror=\"document.title = 'pwned'\">"
)


@web.middleware
async def injecting(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A hub whose pages fail to escape a script, with its security policy or without."""
    answer = await handler(request)
    if "inject" in request.query:
        assert isinstance(answer, web.Response)
        assert isinstance(answer.body, bytes)
        answer.body = answer.body.replace(b"</main>", INJECTED + b"</main>")
        if request.query["inject"] == "without-policy":
            del answer.headers["Content-Security-Policy"]
    return answer


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[LocalHub]:
    async with LocalHub(tmp_path / "hub", middlewares=[injecting]) as hub:
        yield hub


class Browser:
    """Headless Chromium, a new one for each page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    async def dom(self, url: str) -> Element:
        """The document as it is after whatever there is has run."""
        return parse(await self._run("--dump-dom", url))

    async def picture(self, url: str, *options: str, width: int) -> tuple[bytes, bytes]:
        """A PNG of the page, and the three bytes of its first pixel."""
        path = self._folder / f"{width}{len(options)}.png"
        await self._run(f"--screenshot={path}", f"--window-size={width},900", *options, url)
        png = path.read_bytes()
        assert png.startswith(b"\x89PNG")
        assert struct.unpack(">I", png[16:20]) == (width,)
        start = png.index(b"IDAT")
        (length,) = struct.unpack(">I", png[start - 4 : start])
        # Every filter leaves the first pixel as it is; before it stands the filter's number.
        return png, zlib.decompressobj().decompress(png[start + 4 :][:length], 4)[1:]

    async def _run(self, *arguments: str) -> bytes:
        program = shutil.which("chromium")
        if program is None:
            pytest.fail("this test needs Chromium: apt-get install chromium (a Debian package)")
        self._count += 1
        home = self._folder / f"chromium-{self._count}"
        home.mkdir()
        command = [program, *FLAGS, f"--user-data-dir={home}", *arguments]
        environment = {**os.environ, "HOME": str(home)}
        done = await anyio.run_process(command, env=environment, stderr=DEVNULL)
        return done.stdout


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    return Browser(tmp_path)


async def test_a_repo_page_opens_in_a_browser(client: HubClient, browser: Browser) -> None:
    card = b"---\nlicense: mit\n---\n# A small net\n\n| Task | Score |\n|---|--:|\n| copy | 0.9 |\n"
    oid = await client.store(b"w" * 1_500_000)
    await client.commit(add("README.md", card), add_lfs("model.safetensors", oid))
    url = f"{client.url}/me/net"

    document = await browser.dom(url)
    light, light_pixel = await browser.picture(url, width=1200)
    dark, dark_pixel = await browser.picture(url, DARK, width=400)

    assert document.one("title").text == "me/net · asyncpush hub"
    rows = [row.words for row in document.one("table", class_="files").one("tbody").all("tr")]
    assert [row.removesuffix(" change just now") for row in rows] == [
        ".gitattributes 1.56 kB initial commit just now",
        f"README.md {len(card)} B",
        "model.safetensors LFS 1.5 MB",
    ]
    shown = document.one("section", class_="card")
    assert shown.one("dl").words == "licensemit"
    assert shown.one("h1").words == "A small net"
    assert shown.one("td", class_="right").words == "0.9"
    # The stylesheet was used: a white bar on top, and a dark one for who prefers the dark.
    assert light_pixel == b"\xff\xff\xff"
    assert max(dark_pixel) < 0x40
    assert min(len(light), len(dark)) > 10_000


async def test_a_hostile_card_is_only_text(client: HubClient, browser: Browser) -> None:
    await client.commit(
        add("README.md", HOSTILE),
        add("<img src=x onerror=document.title='pwned'>"),
        summary="<script>document.title='pwned'</script>",
        description="<script>document.title='pwned'</script>",
    )

    document = await browser.dom(f"{client.url}/me/net")

    assert document.one("title").text == "me/net · asyncpush hub"
    assert not list(document.all("script"))
    assert not list(document.all("style"))
    assert not [name for element in document.all() for name in element.attrs if name[:2] == "on"]
    card = document.one("section", class_="card").words
    assert "Card <script>document.title = 'pwned'</script>" in card
    assert "[link](javascript:document.title='pwned')" in card


async def test_the_policy_stops_a_script_that_was_not_escaped(
    client: HubClient, browser: Browser
) -> None:
    """Were there ever a hole in the escaping, the browser still runs nothing."""
    stopped = await browser.dom(f"{client.url}/me/net?inject=with-policy")
    ran = await browser.dom(f"{client.url}/me/net?inject=without-policy")

    assert len(list(stopped.all("script"))) == 1
    assert stopped.one("title").text == "me/net · asyncpush hub"
    assert ran.one("title").text == "pwned"


async def test_without_chromium_the_tests_say_what_is_missing(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        await browser.dom("http://127.0.0.1/")
