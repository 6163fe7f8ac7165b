"""A pytest plugin that hides what some systems lack: `python -m pytest -p tests.bare_system`.

Without `fcntl`, `resource`, `os.sendfile`, `os.preadv`, `os.nice`, opening folders by descriptor
and signal handlers of the event loop, it is as on Windows, as far as that can be had elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any


def no_signal_handlers(*_: Any) -> None:
    raise NotImplementedError


for module in ("fcntl", "resource"):
    sys.modules[module] = None  # type: ignore[assignment]
for name in ("sendfile", "preadv", "pwritev", "nice"):
    delattr(os, name)
os.supports_fd.discard(os.scandir)
for loop in (asyncio.BaseEventLoop, asyncio.SelectorEventLoop):
    loop.add_signal_handler = no_signal_handlers  # type: ignore[method-assign,assignment]
