from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from asyncpush.events.schema import (
    SCHEMA_PATH,
    _type_schema,
    event_kinds,
    event_row,
    event_schema,
    write_schema,
)
from tests.listeners.helpers import one_of_each, record


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = orjson.loads(SCHEMA_PATH.read_bytes())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def row_of(name: str) -> dict[str, Any]:
    rows = [orjson.loads(orjson.dumps(event_row(record(event)))) for event in one_of_each()]
    return next(row for row in rows if row["event"] == name)


def test_the_shipped_schema_is_that_of_the_events(tmp_path: Path) -> None:
    write_schema(tmp_path / "new.json")
    assert (tmp_path / "new.json").read_bytes() == SCHEMA_PATH.read_bytes(), (
        "the events have changed: run"
        " python -c 'from asyncpush.events.schema import write_schema; write_schema()'"
    )


def test_every_event_is_described_and_every_row_valid(validator: Draft202012Validator) -> None:
    reported = one_of_each()
    assert {type(event) for event in reported} == set(event_kinds())
    for event in reported:
        validator.validate(orjson.loads(orjson.dumps(event_row(record(event)))))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("push.planned", {"total_files": "3"}, id="wrong type"),
        pytest.param("push.planned", {"surplus": 1}, id="unknown field"),
        pytest.param("push.planned", {"event": "push.plan"}, id="unknown event"),
        pytest.param("push.planned", {"total_bytes": None}, id="null"),
        pytest.param("push.phase", {"phase": "idling"}, id="unknown phase"),
        pytest.param("push.planned", {"time": "2025-10-09 08:53"}, id="other time"),
        pytest.param("hf_hub.preupload", {"repo_id": 7}, id="repo id"),
        pytest.param("hf_hub.preupload", {"headers": {"a": 1}}, id="header"),
        pytest.param(
            "hf_hub.lfs_batch.response", {"upload_url": "https://s3/x?sig=1"}, id="signed URL"
        ),
        pytest.param("hf_hub.preupload.response", {"files": [{"file": "x"}]}, id="no size"),
    ],
)
def test_rows_that_are_wrong_are_refused(
    validator: Draft202012Validator, name: str, change: dict[str, Any]
) -> None:
    assert not validator.is_valid(row_of(name) | change)


@pytest.mark.parametrize("missing", ["repo_id", "file", "size", "push_id", "time"])
def test_a_preupload_says_what_it_asks_about(validator: Draft202012Validator, missing: str) -> None:
    row = row_of("hf_hub.preupload")
    del row[missing]
    assert not validator.is_valid(row)


def test_a_field_of_a_new_type_is_not_passed_over() -> None:
    with pytest.raises(TypeError, match="complex"):
        _type_schema(complex)


def test_all_that_is_described_can_be_read_by_people() -> None:
    described = {name: kind["description"] for name, kind in event_schema()["$defs"].items()}
    assert described["file.skipped"].startswith("Not uploaded")
    assert described["commit.started"] == ""
