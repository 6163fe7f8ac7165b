"""The embedded Hub: real git repositories and LFS objects, served over the Hub's own API.

    async with LocalHub("hub/") as hub:
        await asyncpush.push_to_hub("me/model", "out/", endpoint=hub.url, token="any")

It shares no code with the client, so that one can show the mistakes of the other.
"""

from __future__ import annotations

import os as _os

if _os.name == "nt":
    raise ImportError("the embedded Hub runs on Linux and macOS; on Windows, in WSL")

try:
    import jinja2 as _jinja2  # noqa: F401
    import lz4 as _lz4  # noqa: F401
    import markdown_it as _markdown_it  # noqa: F401
    import pygit2 as _pygit2  # noqa: F401
    import yaml as _yaml  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the embedded Hub needs {error.name}: pip install 'asyncpush[hub]'", name=error.name
    ) from error

from asyncpush.localhub.faults import Fault
from asyncpush.localhub.server import LocalHub, serve_in_thread

__all__ = ["Fault", "LocalHub", "serve_in_thread"]
