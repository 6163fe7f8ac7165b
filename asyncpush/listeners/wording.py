"""Bytes, rates, times and counts as people read them. Pure functions."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def format_bytes(count: float) -> str:
    """Bytes in powers of 1000, as the Hub shows them.

    >>> format_bytes(5_812_000_000)
    '5.81 GB'
    """
    value, unit = _scale(count)
    return f"{_three_digits(value, unit)} {unit}"


def format_share(part: float, whole: float) -> str:
    """Two amounts with one unit, the whole's.

    >>> format_share(1_300_000_000, 5_812_000_000)
    '1.30/5.81 GB'
    """
    value, unit = _scale(whole)
    scaled = part / 1000 ** _UNITS.index(unit)
    digits = 0 if unit == "B" else _decimals(value)
    return f"{scaled:.{digits}f}/{value:.{digits}f} {unit}"


def format_rate(bytes_per_second: float) -> str:
    """
    >>> format_rate(212_400_000)
    '212 MB/s'
    """
    return f"{format_bytes(bytes_per_second)}/s"


def format_duration(seconds: float) -> str:
    """
    >>> format_duration(9), format_duration(754), format_duration(7260)
    ('9 s', '12:34', '2:01:00')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_seconds(seconds: float) -> str:
    """As `format_duration`, but with digits where they tell something.

    >>> format_seconds(0.416), format_seconds(75)
    ('0.42 s', '1:15')
    """
    return f"{seconds:.2f} s" if seconds < 9.995 else format_duration(seconds)


def format_count(count: int, noun: str) -> str:
    """
    >>> format_count(1, "file"), format_count(1200, "file")
    ('1 file', '1,200 files')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _scale(count: float) -> tuple[float, str]:
    value = float(count)
    for unit in _UNITS[:-1]:
        # 999.5 of a unit would be rounded to four digits: that is 1.00 of the next.
        if value < 999.5:
            return value, unit
        value /= 1000
    return value, _UNITS[-1]


def _decimals(value: float) -> int:
    if value < 9.995:
        return 2
    return 1 if value < 99.95 else 0


def _three_digits(value: float, unit: str) -> str:
    return f"{value:.{0 if unit == 'B' else _decimals(value)}f}"
