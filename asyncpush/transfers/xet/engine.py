"""hf_xet's session of one `Uploader`, and the upload commits that are opened on it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asyncpush.events import Emitter
from asyncpush.options import UploadConfig
from asyncpush.threads import in_thread
from asyncpush.transfers.xet.access import XetAccess, XetFailedError
from asyncpush.transfers.xet.commits import XetCommit, abort
from asyncpush.transfers.xet.progress import XetPositions
from asyncpush.transfers.xet.settings import settings
from asyncpush.transfers.xet.upload import XetUpload

PROGRESS_INTERVAL_MS = 200
THREADS = 64
"""Threads wait for hf_xet, one for each push; none is made before it is needed."""


class XetEngine:
    """Made with its `Uploader`; its session when it is first needed."""

    def __init__(self, config: UploadConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(THREADS, "asyncpush-xet")
        self._session: Any = None
        self._opening = asyncio.Lock()

    async def open(self, access: XetAccess, emit: Emitter) -> XetUpload:
        """Begin the upload of one push. Raises `XetFailedError`."""
        async with self._opening:
            if self._session is None:
                self._session = await in_thread(self._threads, self._new_session)
        positions = XetPositions(emit)

        async def open_commit(access: XetAccess) -> XetCommit:
            return await self._open_commit(access, positions if emit.active else None)

        commit = await open_commit(access)
        return XetUpload(commit, open_commit, positions, emit, renewals=self._config.max_retries)

    async def _open_commit(self, access: XetAccess, positions: XetPositions | None) -> XetCommit:
        grant = access.grant

        def open_commit() -> Any:
            return self._session.new_upload_commit(
                endpoint=grant.cas_url,
                token=grant.token,
                token_expiry_unix_secs=grant.expires_at,
                token_refresh_url=access.refresh_url,
                token_refresh_headers=dict(access.refresh_headers),
                custom_headers=access.headers,
                progress_callback=None if positions is None else positions.on_report,
                progress_interval_ms=PROGRESS_INTERVAL_MS,
            )

        try:
            commit = await in_thread(self._threads, open_commit, discard=abort)
        except Exception as exc:
            raise access.failed(exc) from None
        return XetCommit(commit, access, self._threads)

    async def close(self) -> None:
        """Let go of the session; every upload has ended by now."""
        session, self._session = self._session, None
        del session
        self._threads.shutdown(wait=False)

    def _new_session(self) -> Any:
        try:
            from hf_xet import XetConfig, XetSession
        except ImportError as exc:
            raise XetFailedError(f"hf_xet 1.8 or newer is needed: {exc}") from None
        return XetSession(XetConfig().with_config(settings(self._config)))
