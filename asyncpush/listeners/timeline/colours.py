"""One colour for each thing that takes time, in the timeline and on the card."""

from __future__ import annotations

COLOURS: dict[str, str] = {
    "hash": "#aa6fb0",
    "queued": "#e4e7eb",
    "wait": "#f0a202",
    "connect": "#f2e05c",
    "send": "#1f6fb4",
    "answer": "#a6d0ee",
    "retry": "#d1352b",
    "call": "#7d93a0",
    "commit": "#14936a",
    "idle": "#f4f5f7",
}
