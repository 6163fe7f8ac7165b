from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.protocol.hints import (
    LONGEST_WAIT,
    RateLimit,
    rate_limit,
    retry_after,
    wait_hint,
    wait_in_words,
)

NOW = 1_750_000_000.0  # 2025-06-15 15:06:40 UTC


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("", None, id="empty"),
        pytest.param("0", 0.0, id="zero"),
        pytest.param("120", 120.0, id="seconds"),
        pytest.param(" 5 ", 5.0, id="with spaces"),
        pytest.param("1.5", 1.5, id="a fraction"),
        pytest.param("Sun, 15 Jun 2025 15:07:40 GMT", 60.0, id="a date"),
        pytest.param("Sun, 15 Jun 2025 15:07:40 -0000", 60.0, id="a date of no zone"),
        pytest.param("Sun, 15 Jun 2025 17:07:40 +0200", 60.0, id="a date elsewhere"),
        pytest.param("Sun, 15 Jun 2025 15:05:40 GMT", 0.0, id="a date gone by"),
        pytest.param("-1", None, id="negative"),
        pytest.param("soon", None, id="a word"),
        pytest.param("9" * 40, None, id="endless"),
        pytest.param("1e9", None, id="an exponent"),
        pytest.param("nan", None, id="nan"),
        pytest.param("Sun, 99 Jun 2025 15:07:40 GMT", None, id="no such day"),
        pytest.param("Mon, 01 Jan 0001 00:00:00 +2300", 0.0, id="before all years"),
    ],
)
def test_retry_after(value: str, expected: float | None) -> None:
    assert retry_after({"retry-after": value}, now=NOW) == expected


def test_a_date_is_counted_from_the_servers_own_clock() -> None:
    headers = {
        "retry-after": "Sun, 15 Jun 2025 15:07:40 GMT",
        "date": "Sun, 15 Jun 2025 15:07:30 GMT",
    }

    assert retry_after(headers, now=0) == 10


def test_no_header_is_no_hint() -> None:
    assert retry_after({}, now=NOW) is None
    assert rate_limit({}) is None
    assert wait_hint(429, {}, now=NOW) is None


@settings(max_examples=50)
@given(st.text() | st.from_regex(r"\w{3}, \d{1,3} \w{3} \d{1,6} \d\d:\d\d:\d\d [+-]\d{1,9}"))
def test_any_text_is_a_wait_or_no_hint(text: str) -> None:
    headers = {"retry-after": text, "date": text, "ratelimit": text, "ratelimit-policy": text}

    seconds = wait_hint(429, headers, now=NOW)

    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("limit", "policy", "expected"),
    [
        pytest.param('"api";r=3;t=55', "", RateLimit(3, 55.0), id="limit alone"),
        pytest.param(
            '"api"; r=0; t=55',
            '"fixed window";"api";q=500;w=300',
            RateLimit(0, 55.0, 500),
            id="all",
        ),
        pytest.param("r=0;t=5", "", None, id="no name"),
        pytest.param('"api";r=-1;t=5', "", None, id="negative"),
        pytest.param('"api";t=5;r=1', "", None, id="another order"),
    ],
)
def test_rate_limit(limit: str, policy: str, expected: RateLimit | None) -> None:
    assert rate_limit({"ratelimit": limit, "ratelimit-policy": policy}) == expected


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        pytest.param(429, {"ratelimit": '"a";r=0;t=9'}, 9.0, id="used up"),
        pytest.param(429, {"ratelimit": '"a";r=1;t=9'}, None, id="calls left"),
        pytest.param(503, {"ratelimit": '"a";r=0;t=9'}, None, id="another trouble"),
        pytest.param(503, {"retry-after": "2"}, 2.0, id="Retry-After"),
        pytest.param(429, {"retry-after": "2", "ratelimit": '"a";r=0;t=9'}, 2.0, id="both"),
    ],
)
def test_the_wait_that_an_answer_asks_for(
    status: int, headers: dict[str, str], expected: float | None
) -> None:
    assert wait_hint(status, headers, now=NOW) == expected


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("You have exceeded 128 commits per hour. Retry this action in about 1 hour.", 3600.0),
        ("Retry after 1 hour", 3600.0),
        ("Please wait 5 minutes before you try again", 300.0),
        ("try again in 10 min", 600.0),
        ("Rate limited, retry in 30s", 30.0),
        ("retry in 500ms", 0.5),
        ("Try again in 1.5 hours.", 5400.0),
        ("Come back in less than an hour", 3600.0),
        ("Retry in 1 hour and 20 minutes", 4800.0),
        ("wait 1h20m", 4800.0),
        ("wait 1 day, 2 hours, and 3 seconds", 93_603.0),
        ("Wait an hour and a half", 5400.0),
        ("please wait half an hour", 1800.0),
        ("Wait two more minutes", 120.0),
        ("The limit resets in 1,200 seconds", 1200.0),
        ("Retry-After: 7 seconds", 7.0),
        ("Retry in 999999 days", LONGEST_WAIT),
        ("128 commits per hour are allowed", None),
        ("wait: 128 commits per hour are allowed", None),
        ("500 requests in 5 minutes", None),
        ("try again later: 500 requests in 1 hour are allowed", None),
        ("wait as long as you like", None),
        ("try again in a few minutes", None),
        ("try again later", None),
        ("retry in 5 \u017f", None),
        ("", None),
    ],
)
def test_a_wait_that_is_reported_in_words(said: str, seconds: float | None) -> None:
    assert wait_in_words(said) == seconds


WORDS = st.sampled_from(
    (
        *("retry", "wait", "in", "about", "and", "a", "half", "an", "per", "hour", "days", "m"),
        *("s", "1", "1.5", "9" * 6, "9" * 400, ",", ".", " ", "\n", "\u017f", "\u0663", "\u212a"),
    )
)


@settings(max_examples=100)
@given(st.text(max_size=200) | st.lists(WORDS, max_size=40).map(" ".join))
def test_no_text_about_waiting_raises(said: str) -> None:
    reported = wait_in_words(said)
    assert reported is None or 0 <= reported <= LONGEST_WAIT


def test_a_long_text_about_waiting_is_read_quickly() -> None:
    began = time.thread_time()
    for text in ("retry " * 700, "wait 1 hour and " * 260, "wait " + "1" * 4000, "wait 1," * 580):
        wait_in_words(text)
    assert time.thread_time() - began < 0.5
