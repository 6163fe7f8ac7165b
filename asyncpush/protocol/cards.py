"""Model cards: the Hub's check of a README's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asyncpush.errors import ProtocolError
from asyncpush.models import Repo
from asyncpush.protocol.answers import a_list, a_text, an_object, json_object
from asyncpush.protocol.http import HubRequest, HubResponse, post_json

CARD_NAME = "README.md"


@dataclass(frozen=True, slots=True)
class CardVerdict:
    """Sentences of the Hub about the card: any error means that it would refuse the commit."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def validate_request(repo: Repo, card: str) -> HubRequest:
    return post_json(
        "validate_yaml",
        "/api/validate-yaml",
        {"content": card, "repoType": repo.repo_type},
        repo_id=repo.repo_id,
        file=CARD_NAME,
        size=len(card.encode()),
    )


def parse_verdict(response: HubResponse) -> CardVerdict:
    """Answers 200 with warnings, or 400 with errors."""
    answer = json_object(response)
    return CardVerdict(
        _messages(answer.get("errors"), "errors"), _messages(answer.get("warnings"), "warnings")
    )


def is_verdict(response: HubResponse) -> bool:
    """A 400 that judges the card, rather than one that refuses the call."""
    if response.status != 400:
        return False
    try:
        answer = json_object(response)
    except ProtocolError:
        return False
    return isinstance(answer.get("errors"), list)


def _messages(rows: Any, name: str) -> tuple[str, ...]:
    return tuple(
        a_text(an_object(row, f"{name}[]").get("message"), f"{name}[].message")
        for row in a_list(rows or [], name)
    )
