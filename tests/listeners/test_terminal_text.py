from __future__ import annotations

import pytest

from asyncpush.listeners.format import ASCII, UNICODE, clean, fit, fit_path, text_width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\t", "two lines"),
        ("\x1b[31mred\x07", "?[31mred?"),
        ("a\u202etxt.exe", "a?txt.exe"),
        ("caf\udce9", "caf?"),
        ("模型 ✓", "模型 ✓"),
        ("\ue000", "\ue000"),
    ],
)
def test_names_cannot_command_the_terminal(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("模型", 4), ("e\u0301", 1), ("✓", 1)],
)
def test_text_has_a_width(text: str, columns: int) -> None:
    assert text_width(text) == columns


def test_fit_cuts_at_the_end_or_at_the_start() -> None:
    assert fit("abcdef", 6, UNICODE) == "abcdef"
    assert fit("abcdef", 4, UNICODE) == "abc…"
    assert fit("abcdef", 4, UNICODE, keep_end=True) == "…def"
    assert fit("模型模型", 6, UNICODE) == "模型…"
    assert fit("abcdef", 2, ASCII) == ".."


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "run/model-00001-of-00005.safetensors"),
        (33, "model-00001-of-00005.safetensors"),
        (20, "model-00001-of-00005"),
        (16, "model-0000…00005"),
        (1, "…"),
    ],
)
def test_a_path_loses_its_folders_first_and_its_middle_last(width: int, shown: str) -> None:
    assert fit_path("run/model-00001-of-00005.safetensors", width, UNICODE) == shown


def test_a_hidden_file_keeps_its_name() -> None:
    assert fit_path("deep/folder/.gitattributes", 14, UNICODE) == ".gitattributes"
