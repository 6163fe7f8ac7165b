"""The result of a push as a small card in notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import get_args

from asyncpush.listeners.format import (
    format_bytes,
    format_count,
    format_rate,
    format_seconds,
)
from asyncpush.listeners.timeline.model import COLOURS
from asyncpush.models import Activity, Route, UploadResult

_LISTED = 100
"""Paths that the card lists; further ones are only counted."""

_WIDTH, _CURVE, _LANE = 480, 40, 7
_FEWEST = 8
"""With fewer slices than this, the push is too short for a useful picture."""

_AREA = "#4f9bdc"  # readable on a dark page too

_LANES = {
    "hash": "hash",
    "call": "Hub calls",
    "send": "send",
    "wait": "wait",
    "retry": "failed",
    "commit": "commit",
}

# The page's own colours, made lighter: they fit a dark page and a light one.
_CARD = (
    "display:inline-block;min-width:22em;max-width:44em;padding:.8em 1.1em;border-radius:8px;"
    "border:1px solid rgba(128,128,128,.35);background:rgba(128,128,128,.06);"
    "font-family:system-ui,sans-serif;font-size:14px;line-height:1.5;color:inherit"
)
_DIM = "opacity:.65"
_LINK = "color:inherit;text-underline-offset:2px"  # browsers' default blue is hard to read on black
_GOOD = "color:#2da44e"
_CODE = "font-family:ui-monospace,monospace;font-size:.92em"


def result_card(result: UploadResult) -> str:
    """HTML without scripts, style sheets or anything to fetch. All text in it is escaped."""
    rows = [_headline(result), _commit(result), _amounts(result), _picture(result.activity)]
    if result.pr_url:
        rows.append(_link(result.pr_url, "pull request"))
    rows += [f'<span style="{_DIM}">{escape(text)}</span>' for text in result.warnings]
    rows.append(_files(result))
    body = "".join(f"<div>{row}</div>" for row in rows if row)
    return f'<div style="{_CARD}">{body}</div>'


def _headline(result: UploadResult) -> str:
    name = f"<b>{_link(result.repo_url, _without_scheme(result.repo_url))}</b>"
    if result.plan:
        return f'{name} <span style="{_DIM}">dry run, nothing was changed</span>'
    if result.verified:
        return f'{name} <span style="{_GOOD}">✓ verified</span>'
    return f'{name} <span style="{_DIM}">not verified</span>'


def _commit(result: UploadResult) -> str:
    if result.plan or not result.commit_sha:
        return ""
    sha = _link(result.commit_url, result.commit_sha[:10])
    what = "commit" if result.files_uploaded or result.files_deleted else "nothing new, still at"
    return f'<span style="{_DIM}">{what}</span> <span style="{_CODE}">{sha}</span>'


def _amounts(result: UploadResult) -> str:
    if result.plan:
        size = sum(file.size for file in result.plan if file.action in get_args(Route))
        return f"{format_count(len(result.plan), 'file')}, {format_bytes(size)} to send"
    words = [format_count(len(result.files_uploaded), "file")]
    sent = f"{format_bytes(result.bytes_transferred)} sent"
    if result.elapsed_seconds > 0 and result.bytes_transferred:
        rate = format_rate(result.bytes_transferred / result.elapsed_seconds)
        sent += f" in {format_seconds(result.elapsed_seconds)} ({rate})"
    words.append(sent)
    if result.bytes_deduplicated:
        words.append(f"{format_bytes(result.bytes_deduplicated)} already there")
    for paths, what in (
        (result.files_unchanged, "unchanged"),
        (result.files_ignored, "ignored"),
        (result.files_deleted, "deleted"),
    ):
        if paths:
            words.append(f"{len(paths):,} {what}")
    if result.retries:
        words.append("1 retry" if result.retries == 1 else f"{result.retries:,} retries")
    return " · ".join(words)


def _picture(activity: Activity) -> str:
    """A small timeline: throughput, and below it a lane for each activity.

    It is drawn without a plotting library, so that every notebook can show it, from a few kilobytes
    of data in the result.
    """
    slices = len(activity.sent)
    if slices < _FEWEST:
        return ""
    step = _WIDTH / slices
    lanes = [(kind, busy) for kind in _LANES for name, busy in activity.busy if name == kind]
    curve, peak = _curve(activity, step)
    drawn = [f'<path d="{curve}" fill="{_AREA}" fill-opacity=".65"></path>']
    for number, (kind, busy) in enumerate(lanes):
        top = _CURVE + 4 + number * _LANE
        path = _lane(busy, step, top, activity.slice_seconds)
        drawn.append(f'<path d="{path}" fill="{COLOURS[kind]}"></path>')
    height = _CURVE + 4 + len(lanes) * _LANE
    seconds = format_seconds(slices * activity.slice_seconds)
    words = f"throughput over {seconds}, at most {format_rate(peak)}"
    key = "".join(
        f' <span style="color:{COLOURS[kind]}">■</span> <span style="{_DIM}">{_LANES[kind]}</span>'
        for kind, _ in lanes
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="100%" height="{height}" role="img"'
        f' preserveAspectRatio="none" aria-label="{words}">{"".join(drawn)}</svg>'
        f'<div style="font-size:.85em"><span style="{_DIM}">{words};</span>{key}</div>'
    )


def _curve(activity: Activity, step: float) -> tuple[str, float]:
    """A step-shaped area, and the highest rate in bytes per second."""
    most = max(*activity.sent, 1)
    path = f"M0 {_CURVE}"
    for at, amount in enumerate(activity.sent):
        height = _CURVE * (1 - amount / most)
        path += f"L{at * step:.1f} {height:.1f}H{(at + 1) * step:.1f}"
    return f"{path}V{_CURVE}Z", max(activity.sent) / activity.slice_seconds


def _lane(busy: Sequence[float], step: float, top: int, slice_seconds: float) -> str:
    """A bar wherever the activity took at least a tenth of a slice, or where it took the
    longest."""
    least = min(slice_seconds / 10, max(busy))
    path, at = "", 0
    while at < len(busy):
        end = at
        while end < len(busy) and busy[end] >= least > 0:
            end += 1
        if end > at:
            path += f"M{at * step:.1f} {top}H{end * step:.1f}v{_LANE - 2}H{at * step:.1f}Z"
        at = max(end, at + 1)
    return path


def _files(result: UploadResult) -> str:
    named = (
        [f"{file.path_in_repo} ({file.action})" for file in result.plan]
        if result.plan
        else list(result.files_uploaded)
    )
    if not named:
        return ""
    items = "".join(f"<div>{escape(name)}</div>" for name in named[:_LISTED])
    if len(named) > _LISTED:
        items += f'<div style="{_DIM}">and {len(named) - _LISTED:,} more</div>'
    return (
        f'<details><summary style="{_DIM}">files</summary>'
        f'<div style="{_CODE};max-height:16em;overflow:auto">{items}</div></details>'
    )


def _link(url: str, text: str) -> str:
    # The URL came over the network, so it becomes a link only if it is an ordinary web URL.
    if not url.startswith(("https://", "http://")):
        return escape(text)
    target = 'target="_blank" rel="noopener noreferrer"'
    return f'<a href="{escape(url)}" {target} style="{_LINK}">{escape(text)}</a>'


def _without_scheme(url: str) -> str:
    return url.partition("://")[2] or url
