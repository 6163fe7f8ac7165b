from __future__ import annotations

from typing import Any

import pytest

from asyncpush.errors import ProtocolError
from asyncpush.protocol.commits import CardVerdict, is_verdict, parse_verdict, validate_request
from tests.protocol.helpers import DATASET, answer, said


def test_the_card_is_sent_with_the_type_of_its_repo() -> None:
    request = validate_request(DATASET, "# é")

    assert request.target == "/api/validate-yaml"
    assert isinstance(request.body, bytes)
    assert said(request.body) == {"content": "# é", "repoType": "dataset"}
    assert request.fields["size"] == 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({}, CardVerdict(), id="nothing to say"),
        pytest.param({"errors": None, "warnings": []}, CardVerdict(), id="null and empty"),
        pytest.param({"errors": [{"message": "e"}]}, CardVerdict(("e",)), id="an error"),
        pytest.param(
            {"warnings": [{"message": "w"}, {"message": "v"}]},
            CardVerdict((), ("w", "v")),
            id="two warnings",
        ),
    ],
)
def test_the_verdict_lists_what_the_hub_says(value: Any, expected: CardVerdict) -> None:
    assert parse_verdict(answer(value)) == expected


@pytest.mark.parametrize(
    "value",
    [{"errors": "x"}, {"errors": ["x"]}, {"warnings": [{}]}, {"errors": [{"message": 1}]}, []],
    ids=str,
)
def test_an_impossible_verdict_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolError):
        parse_verdict(answer(value))


@pytest.mark.parametrize(
    ("status", "value", "expected"),
    [
        pytest.param(400, {"errors": []}, True, id="400 with errors"),
        pytest.param(200, {"errors": []}, False, id="200"),
        pytest.param(400, {"error": "x"}, False, id="400 that refuses the call"),
        pytest.param(400, [], False, id="400 with a list"),
        pytest.param(400, b"<html>", False, id="400 of a proxy"),
    ],
)
def test_a_400_that_lists_errors_judges_the_card(status: int, value: Any, expected: bool) -> None:
    assert is_verdict(answer(value, status)) is expected
