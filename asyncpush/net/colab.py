"""The secrets of Google Colab."""

from __future__ import annotations

from asyncpush.concurrency.threads import ProcessLock
from asyncpush.own_files import library_logger

logger = library_logger("login")

_colab_lock = ProcessLock()
_colab: list[str | None] = []  # the result of the first lookup


def colab_token() -> str | None:
    """`HF_TOKEN` from the secrets of Google Colab. The user is asked for access, once per process.
    Colab can handle one request at a time, so only one thread asks."""
    with _colab_lock:
        if not _colab:
            _colab.append(_ask_colab())
        return _colab[0]


def _ask_colab() -> str | None:
    try:
        from google.colab import userdata
        from google.colab.errors import Error
    except ImportError:
        return None
    try:
        token = userdata.get("HF_TOKEN")
    except userdata.SecretNotFoundError:
        return None
    except userdata.NotebookAccessError:
        logger.warning(
            "this notebook was not given access to the secret HF_TOKEN; restart the"
            " session to be asked for it again"
        )
        return None
    except Error as exc:
        logger.warning("Colab's secret HF_TOKEN could not be read: %s", exc)
        return None
    return token if isinstance(token, str) else None
