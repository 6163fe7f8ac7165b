"""A timeline as a file: the name's ending says which kind."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import PurePath

from asyncpush.listeners.timeline.model import Timeline

ENDINGS = (".svg", ".json")

MISSING = "drawing a timeline needs matplotlib: pip install 'asyncpush[viz]'"


def check_target(path: PurePath) -> None:
    """What can be known before anything is recorded.

    Raises `ValueError` for an ending that means no format, and `ImportError` naming the extra when
    the format needs one that is not installed.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path.name!r} must end in .svg (a picture) or .json (for Perfetto)")
    if path.suffix.lower() == ".svg" and find_spec("matplotlib") is None:
        raise ImportError(MISSING, name="matplotlib")


def render(timeline: Timeline, path: PurePath) -> bytes:
    """The content of a file of this name. Raises what `check_target` raises."""
    check_target(path)
    if path.suffix.lower() == ".json":
        from asyncpush.listeners.timeline.trace import trace_events

        return trace_events(timeline)
    try:
        from asyncpush.listeners.timeline.svg import draw_svg
    except ImportError as error:
        raise ImportError(MISSING, name=error.name) from error
    return draw_svg(timeline)
