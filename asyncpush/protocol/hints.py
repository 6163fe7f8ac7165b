"""How long a server asks to wait: Retry-After and RateLimit headers, and the clock of its
answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from asyncpush.lazy_dataclass import dataclass

_LIMIT = r'"(?P<name>[^"]*)"\s*;\s*r=(?P<left>\d{1,9})\s*;\s*t=(?P<reset>\d{1,9})'
_QUOTA = r'"(?P<name>[^"]*)"\s*;\s*q=(?P<quota>\d{1,9})'
_SPELLED = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"half an": 0.5, "half a": 0.5, "an": 1.0, "a": 1.0} | {
    word: float(number) for number, word in enumerate(_SPELLED, start=1)
}
_WORDS = "|".join(_NUMBERS)
_AMOUNT = rf"[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]{{1,6}}(?:\.[0-9]{{1,6}})?|(?:{_WORDS})(?= )"
_UNIT = "milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d"
_FLAGS = re.IGNORECASE | re.ASCII  # otherwise letters of other scripts could match some of these
_STEP = rf"(?P<amount>{_AMOUNT}) ?(?:more )?(?P<unit>{_UNIT})(?![a-z])(?P<half> and a half\b)?"
_STEPS = rf"(?:{_AMOUNT}) ?(?:more )?(?:{_UNIT})(?![a-z])"
_IN_WORDS = (
    r"\b(?:retry|try again|wait|come back|available|resets?|blocked)\b"
    # Not a rate: "128 commits per hour" says nothing about the wait.
    r"[^.]{0,60}?(?<![\w.,])(?<!per )(?<!every )(?<!each )(?<!requests in )(?<!commits in )"
    rf"(?P<wait>{_STEPS}(?:,? ?(?:and )?{_STEPS})*(?: and a half\b)?)"
)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

LONGEST_WAIT = 366 * 86_400.0
"""Seconds. A longer hint makes no difference and is reduced to this: a date that far off may not be
valid."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`remaining` requests are left in this window, which ends in `reset` seconds."""

    remaining: int
    reset: float
    quota: int | None = None


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """The seconds that `Retry-After` asks to wait: a number, or a date compared with `now`.

    See RFC 9110 §10.2.3. A date is compared with the answer's own `Date` if there is one, so that a
    wrong local clock does no harm. An invalid value counts as no hint.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text):
        return min(LONGEST_WAIT, float(text))
    until = _date(text)
    if until is None:
        return None
    server_time = _date(headers.get("date", ""))
    return min(LONGEST_WAIT, max(0.0, until - (now if server_time is None else server_time)))


def rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """`RateLimit: "api";r=0;t=55` with `RateLimit-Policy: "fixed window";"api";q=500;w=300`."""
    said = headers.get("ratelimit")
    limit = re.search(_LIMIT, said) if said else None
    if limit is None:
        return None
    quota = re.search(_QUOTA, headers.get("ratelimit-policy", ""))
    return RateLimit(
        int(limit["left"]), float(limit["reset"]), int(quota["quota"]) if quota else None
    )


def wait_hint(status: int, headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds to wait before the next request, if this answer says so."""
    if (seconds := retry_after(headers, now=now)) is not None:
        return seconds
    limit = rate_limit(headers)
    if status == 429 and limit is not None and limit.remaining == 0:
        return limit.reset
    return None


def wait_in_words(said: str) -> float | None:
    """The seconds to wait that the text of an answer asks for. The Hub reports its hourly quota of
    commits only in the text, "Retry this action in about 1 hour", without a header.

    >>> wait_in_words("Please wait 1 hour and 20 minutes, then retry")
    4800.0
    """
    # Not compiled with the module, which takes 2 ms: few pushes are told to wait.
    match = re.search(_IN_WORDS, said, _FLAGS)
    if match is None:
        return None
    steps = re.finditer(_STEP, match["wait"], _FLAGS)
    return min(LONGEST_WAIT, sum(_seconds_of(step) for step in steps))


def _seconds_of(step: re.Match[str]) -> float:
    amount, unit = step["amount"].lower(), step["unit"].lower()
    number = _NUMBERS.get(amount) or float(amount.replace(",", ""))
    if step["half"]:
        number += 0.5
    return number * (0.001 if unit.startswith(("ms", "mil")) else _SECONDS[unit[0]])


def clock_skew(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds by which this machine's clock is ahead of the server's, according to the answer's
    `Date`; None when there is none. Use it for an answer that has just arrived. It is approximate:
    a `Date` has whole seconds, and the answer takes a while to arrive."""
    server_time = _date(headers.get("date", ""))
    return None if server_time is None else now - server_time


def _date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()  # years 1 and 9999 may overflow here
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
