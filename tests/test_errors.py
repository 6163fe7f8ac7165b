from __future__ import annotations

import ast
import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

from asyncpush import errors
from asyncpush.errors import AsyncPushError, HubError, MissingTokenError, SourceError
from asyncpush.models import SyncFailure, SyncResult

HUB_FIELDS: dict[str, Any] = {
    "status": 503,
    "body": "the body",
    "method": "POST",
    "url": "https://h/api/x",
    "attempt": 3,
    "elapsed_seconds": 12.34,
    "request_id": "r-1",
    "error_code": "Busy",
    "headers": {"retry-after": "5"},
    "retryable": True,
    "unreachable": True,
    "retry_after": 5.0,
    "suggestion": "try later",
}
CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, AsyncPushError)
]


def full(kind: type[AsyncPushError]) -> AsyncPushError:
    """An error with every field set to something of its own."""
    if kind is MissingTokenError:
        return MissingTokenError("no token")
    fields: dict[str, Any] = {"suggestion": "try later"}
    if issubclass(kind, HubError):
        fields = HUB_FIELDS
    elif issubclass(kind, SourceError):
        fields["problems"] = ("one", "two")
    elif kind is errors.SyncError:
        result = SyncResult("https://hub/buckets/me/r", ("a",), (), (), 1, 0, False, 1.0)
        fields |= {"failures": (SyncFailure("b", "missing"),), "result": result}
    elif kind is errors.VerificationError:
        fields |= {"problems": ("one",), "commit_sha": "c" * 40}
    return kind("it failed", **fields)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_travels_whole(kind: type[AsyncPushError]) -> None:
    error = full(kind)
    error.add_note("in the push to me/m")

    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(copied) is kind
        assert vars(copied) == vars(error)
        assert copied.args == error.args
        assert str(copied) == str(error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_says_what_next(kind: type[AsyncPushError]) -> None:
    error = full(kind)

    assert error.message in str(error)
    assert error.suggestion
    assert f"next: {error.suggestion}" in str(error)


@pytest.mark.parametrize(
    "kind", [kind for kind in CLASSES if issubclass(kind, HubError)], ids=lambda kind: kind.__name__
)
def test_an_error_of_the_hub_tells_the_whole_story(kind: type[HubError]) -> None:
    text = str(full(kind))

    for piece in (
        "it failed",
        "HTTP 503",
        "POST https://h/api/x",
        "attempt 3",
        "after 12.3 s",
        "request id: r-1",
        "headers: retry-after: 5",
        "body: the body",
        "next: try later",
    ):
        assert piece in text


def test_an_error_without_an_answer_says_so() -> None:
    assert str(HubError("cut off", url="u", method="PUT")).splitlines() == [
        "cut off (no answer)",
        "  request: PUT u, attempt 1, after 0.0 s",
    ]


@pytest.mark.parametrize(
    ("kind", "suggestion"),
    [
        (errors.ProtocolError, "HF_ENDPOINT"),
        (errors.SourceError, "exclude them"),
        (errors.SourceChangedError, "once nothing writes"),
        (errors.IntegrityError, "try again"),
    ],
)
def test_errors_have_a_default_suggestion(kind: type[AsyncPushError], suggestion: str) -> None:
    assert suggestion in kind("it failed").suggestion
    assert kind("it failed", suggestion="go").suggestion == "go"


def test_an_error_that_asked_nothing_speaks_of_no_request() -> None:
    assert str(HubError("no", suggestion="go")) == "no\n  next: go"


def test_headers_are_shown_in_part_and_steer_no_terminal() -> None:
    error = HubError("x", status=500, headers={"a": "\x1b[2J", "b": "b" * 5000})
    line = next(line for line in str(error).splitlines() if "headers" in line)
    assert len(line) < 1100
    assert "\x1b" not in line


def test_a_plain_error_is_its_message() -> None:
    assert str(AsyncPushError("it failed")) == "it failed"


def test_only_the_start_of_a_body_is_kept() -> None:
    assert len(HubError("x", body="b" * 5000).body) == 1024


def test_no_error_is_changed_after_it_was_made() -> None:
    """Read from the source: attributes that errors have are assigned to `self` alone. (What the
    embedded Hub raises and changes are aiohttp's answers.)"""
    attributes = {"args", *vars(errors.HubError("x")), *vars(errors.VerificationError("x"))}
    changed, root = [], Path(errors.__file__).parent
    for path in root.rglob("*.py"):
        if path.is_relative_to(root / "localhub"):
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        caught = {node.name for node in nodes if isinstance(node, ast.ExceptHandler)}
        caught |= {
            node.arg
            for node in nodes
            if isinstance(node, ast.arg) and "Error" in ast.unparse(node.annotation or node)
        }
        for node in nodes:
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.attr in attributes
                and node.value.id in caught | {"error", "exc", "final", "latest"}
            ):
                changed.append(f"{path.name}:{node.lineno}")
    assert changed == []


def test_a_converted_error_keeps_fields_and_is_independent() -> None:
    cause = OSError("the cable")
    try:
        raise errors.HubError("busy", **HUB_FIELDS) from cause
    except errors.HubError as exc:
        error = exc
    error.add_note("a note")
    copied = error.as_(errors.RetriesExhaustedError, message="tried", attempt=9)
    assert type(copied) is errors.RetriesExhaustedError
    changed = {"message": "tried", "attempt": 9}
    assert {**vars(error), **changed, "__notes__": ["a note"]} == vars(copied)
    assert (copied.args, copied.__cause__, copied.__traceback__) == (
        ("tried",),
        cause,
        error.__traceback__,
    )
    copied.add_note("another")
    assert error.__notes__ == ["a note"]
    assert (error.message, error.attempt) == ("busy", HUB_FIELDS["attempt"])
    with pytest.raises(TypeError, match="HubError has no attributes colour"):
        error.with_(colour="red")


def test_an_error_without_a_request_names_none() -> None:
    assert str(HubError("the Hub is away", status=503)) == "the Hub is away (HTTP 503)"
    named = HubError("the Hub is away", status=503, url="https://hub/api")
    assert "  request: https://hub/api, attempt 1, after 0.0 s" in str(named).splitlines()
