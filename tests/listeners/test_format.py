from __future__ import annotations

import pytest

from asyncpush.listeners.format import (
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    format_share,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1_234, "1.23 kB"),
        (12_345, "12.3 kB"),
        (123_456, "123 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (9_994_000, "9.99 MB"),
        (9_996_000, "10.0 MB"),
        (99_960_000, "100 MB"),
        (5_812_000_000, "5.81 GB"),
        (7 * 10**12, "7.00 TB"),
        (5 * 10**15, "5.00 PB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_bytes_have_three_digits(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0/0 B"),
        (5, 900, "5/900 B"),
        (1_300_000_000, 5_812_000_000, "1.30/5.81 GB"),
        (1_000, 58_120_000_000, "0.0/58.1 GB"),
        (5, 581_200_000_000, "0/581 GB"),
    ],
)
def test_a_share_has_the_unit_of_the_whole(part: int, whole: int, text: str) -> None:
    assert format_share(part, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (9.6, "10 s"),
        (59.6, "1:00"),
        (754, "12:34"),
        (3599.7, "1:00:00"),
        (90_061, "25:01:01"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_rates_and_counts() -> None:
    assert format_rate(212_400_000) == "212 MB/s"
    assert format_count(0, "file") == "0 files"
    assert format_count(1, "file") == "1 file"
    assert format_count(12_345, "file") == "12,345 files"
