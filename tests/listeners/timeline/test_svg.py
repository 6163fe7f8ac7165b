"""The picture: well-formed, complete, without secrets, and leaving matplotlib as it was."""

from __future__ import annotations

from functools import cache
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.events import Notice, PushFailed, RequestFailed, RetryScheduled, Waiting
from asyncpush.listeners.timeline.model import Timeline
from asyncpush.listeners.timeline.trace import trace_events
from tests.listeners.timeline.scripts import EventScript, one_file, timeline_of

SVG = "{http://www.w3.org/2000/svg}"


def draw(timeline: Timeline) -> bytes:
    from asyncpush.listeners.timeline.svg import draw_svg  # matplotlib takes a second to import

    return draw_svg(timeline)


@cache
def typical() -> bytes:
    return draw(timeline_of(one_file()))


def texts(svg: bytes) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_it_tells_who_what_and_where_the_time_went() -> None:
    output = texts(typical())
    assert "me/m: done" in output
    assert "Hub calls" in output
    assert "connections (2)" in output
    assert {"#1", "#2", "w.bin", "commit", "throughput"} <= set(output)
    assert {"hash", "send", "wait", "failed attempt", "store's answer", "Hub call"} <= set(output)
    assert any(text.startswith("The largest share of the time went into") for text in output)
    assert {"0 s", "1 s", "6 s"} <= set(output)


def test_it_is_small_and_fetches_nothing() -> None:
    svg = typical()
    for element in ElementTree.fromstring(svg).iter():
        for name, value in element.attrib.items():
            if name.endswith("href"):
                assert value.startswith("#")
    assert b"url(http" not in svg
    assert b"@import" not in svg
    assert b"<image" not in svg
    assert len(svg) < 60_000


def test_every_colour_is_one_path() -> None:
    """A path for each block would make a run of a thousand parts a file of megabytes."""
    script = EventScript()
    for number in range(1, 1001):
        start = number // 24 * 0.2
        script.part("w.bin", number, start, start + 0.19, connected=start, connection=number % 24)
    script.done(8.6)
    svg = draw(timeline_of(script))
    assert "1,000 parts" in " ".join(texts(svg))
    assert len(svg) < 250_000
    fills = [e.get("style") for e in ElementTree.fromstring(svg).iter(f"{SVG}path")]
    assert sum(style is not None and "#1f6fb4" in style for style in fills) < 10


def test_an_empty_run_is_a_picture_too() -> None:
    assert "me/m: unfinished" in texts(draw(timeline_of(EventScript())))


def leaky(name: str, secret: str) -> Timeline:
    """Credentials wherever somebody could have forgotten them."""
    token, url = f"hf_{secret}", f"https://s3/b/k?X-Amz-Signature={secret}"
    error = f"PUT {url} Bearer {secret} failed"
    path = f"{name} {token}"
    script = EventScript(repo_id=f"me/{token}")
    script.hashed(path, 0.0, 1.0)
    script.transfer(path, 1.0)
    span = script.part(path, 1, 1.0, connected=1.0)
    script.emit(
        2.0,
        RequestFailed(
            call="part",
            url=url,
            error=error,
            status=500,
            retry_attempt=1,
            backoff_ms=None,
            fields={"file": path},
        ),
        span,
    )
    script.emit(2.0, RetryScheduled("part", 1, 0.5, error, path, 1))
    script.emit(2.0, Waiting(1.0, error))
    script.emit(2.5, Notice(error))
    script.emit(2.0, Waiting(60.0, "rate limit of the Hub"))
    script.emit(6.0, PushFailed(f"$no$ & <b> {error}", "HubError", details={"token": token}))
    return timeline_of(script)


@settings(max_examples=25)
@given(st.text(max_size=12), st.text(st.sampled_from("xyz7"), min_size=20, max_size=24))
def test_prop_no_secret_reaches_what_is_drawn(name: str, secret: str) -> None:
    timeline = leaky(name, secret)
    assert secret not in repr(timeline)
    assert secret.encode() not in trace_events(timeline)


def test_a_failed_run_is_drawn_with_its_reason() -> None:
    name = "$x^{_\\frac</svg>&\x00\x1b[31m\udcff\u202e漢字🤗" + "long" * 50
    svg = draw(leaky(name, "xyz7" * 6))
    assert b"xyz7xyz7" not in svg
    output = texts(svg)
    assert any("longlong" in text for text in output)
    assert any(text.startswith("HubError: $no$ & <b> PUT https://s3/") for text in output)
    assert "rate limit of the Hub, 4.00 s" in output


def test_the_users_own_plots_stay_as_they_are() -> None:
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True, "svg.fonttype": "path", "font.size": 31.0}):
        before = dict(matplotlib.rcParams)
        assert draw(timeline_of(one_file())) == typical()  # nor does their style touch ours,
        # and equal runs give equal files
        assert dict(matplotlib.rcParams) == before
