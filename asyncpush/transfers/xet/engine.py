"""hf_xet's session of one `Uploader`, and the upload commits that are opened on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from asyncpush.events import Emitter
from asyncpush.options import UploadConfig
from asyncpush.transfers.xet.access import XetAccess, XetFailedError
from asyncpush.transfers.xet.commits import XetCommit, abort
from asyncpush.transfers.xet.progress import XetPositions
from asyncpush.transfers.xet.settings import settings
from asyncpush.transfers.xet.stalls import StallWatch, XetStalledError, watched
from asyncpush.transfers.xet.upload import XetUpload

PROGRESS_INTERVAL_MS = 200
"""Or more often, where `stall_timeout` is so short that it would miss a report."""


class XetEngine:
    """Made with its `Uploader`; its session when it is first needed."""

    def __init__(self, config: UploadConfig) -> None:
        self._config = config
        self._session: Any = None
        self._opening = asyncio.Lock()

    async def open(self, access: XetAccess, emit: Emitter) -> XetUpload:
        """Begin the upload of one push. Raises `XetFailedError`."""
        positions = XetPositions(emit)

        async def open_commit(access: XetAccess, attempt: int) -> XetCommit:
            return await self._open_commit(access, positions if emit.active else None, attempt)

        commit = await open_commit(access, 1)
        return XetUpload(commit, open_commit, positions, emit, renewals=self._config.max_retries)

    async def _open_commit(
        self, access: XetAccess, positions: XetPositions | None, attempt: int
    ) -> XetCommit:
        grant = access.grant
        watch = StallWatch(self._config.stall_timeout, attempt)
        interval = min(PROGRESS_INTERVAL_MS, max(1, int(self._config.stall_timeout * 250)))
        session = await self._opened(watch, fresh=attempt > 1)

        def on_report(group: Any, items: Mapping[Any, Any]) -> None:
            watch.on_report(group)
            if positions is not None:
                positions.on_report(group, items)

        def open_commit() -> Any:
            return session.new_upload_commit(
                endpoint=grant.cas_url,
                token=grant.token,
                token_expiry_unix_secs=grant.expires_at,
                token_refresh_url=access.refresh_url,
                token_refresh_headers=dict(access.refresh_headers),
                custom_headers=access.headers,
                progress_callback=on_report,
                progress_interval_ms=interval,
            )

        try:
            commit = await watched(open_commit, watch, discard=abort)
        except XetStalledError:
            raise
        except Exception as exc:
            raise access.failed(exc) from None
        return XetCommit(commit, access, watch)

    async def _opened(self, watch: StallWatch, *, fresh: bool) -> Any:
        """hf_xet's session; a `fresh` one has connections of its own. Those that are in use go on
        with the one they have."""
        async with self._opening:
            if self._session is None or fresh:
                self._session = await watched(self._new_session, watch)
            return self._session

    async def close(self) -> None:
        """Let go of the session; every upload has ended by now."""
        session, self._session = self._session, None
        del session

    def _new_session(self) -> Any:
        try:
            from hf_xet import XetConfig, XetSession
        except ImportError as exc:
            raise XetFailedError(f"hf_xet 1.8 or newer is needed: {exc}") from None
        return XetSession(XetConfig().with_config(settings(self._config)))
