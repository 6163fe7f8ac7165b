"""The model card's metadata, which the Hub checks before any byte moves (REQ-008)."""

from __future__ import annotations

from collections.abc import Sequence

from asyncpush.errors import SourceError
from asyncpush.models import FileSource
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol import cards
from asyncpush.protocol.cards import CARD_NAME
from asyncpush.sources import read_all
from asyncpush.threads import in_thread

CARD_LIMIT = 1 << 20
"""Bytes of a README that are checked; metadata stands at its top."""


async def check_card(ctx: PushContext, files: Sequence[FileSource]) -> None:
    """Raise `SourceError` when the Hub finds it wrong; warn of what it warns of."""
    card = next((file for file in files if file.path_in_repo == CARD_NAME), None)
    if card is None or card.size > CARD_LIMIT:
        return
    content = await in_thread(ctx.threads, lambda: read_all(card))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise SourceError(f"{CARD_NAME} is not UTF-8 text: {exc}") from exc
    verdict = await ctx.session.ask(
        cards.validate_request(ctx.repo, text),
        cards.parse_verdict,
        ctx.emit,
        accept=lambda response: response.status < 300 or cards.is_verdict(response),
    )
    for warning in verdict.warnings:
        ctx.warn(f"{CARD_NAME}: {warning}")
    if verdict.errors:
        raise SourceError(
            f"the Hub finds the metadata of {CARD_NAME} wrong: " + "; ".join(verdict.errors),
            problems=verdict.errors,
            suggestion="mend the YAML between the --- lines at the top of the card",
        )
