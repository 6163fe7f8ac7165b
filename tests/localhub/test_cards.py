"""Cards: the metadata at the head of a README, and what is said of it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import orjson
import pytest

from asyncpush.localhub import cards
from asyncpush.localhub.cards import check_card, split_card
from tests.clients import installing
from tests.clients.installing import NotInstalledError
from tests.localhub.conftest import HubClient


def card(metadata: str) -> str:
    return f"---\n{metadata}\n---\n# Text\n"


@pytest.mark.parametrize(
    ("content", "metadata", "text"),
    [
        pytest.param("---\na: 1\n---\nText", "a: 1\n", "Text", id="plain"),
        pytest.param("---\r\na: 1\r\n---\r\nText", "a: 1\r\n", "Text", id="Windows"),
        pytest.param("\ufeff\n---\na: 1\n---", "a: 1\n", "", id="byte order mark"),
        pytest.param("---\n---\nText", "", "Text", id="empty"),
        pytest.param("# Text", None, "# Text", id="none"),
        pytest.param("", None, "", id="nothing at all"),
        pytest.param("---\na: 1\nText", None, "---\na: 1\nText", id="not closed"),
        pytest.param("Text\n---\na: 1\n---\n", None, "Text\n---\na: 1\n---\n", id="not first"),
    ],
)
def test_metadata_stands_between_two_lines(content: str, metadata: str | None, text: str) -> None:
    assert split_card(content) == (metadata, text)


def test_good_metadata_is_read_without_a_word() -> None:
    check = check_card(card("license: mit\ntags: [a]\nlanguage: en\nbase_model: [x/y]"))

    assert check.data == {"license": "mit", "tags": ["a"], "language": "en", "base_model": ["x/y"]}
    assert (check.errors, check.warnings) == ([], [])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("a: [1", "Invalid YAML: did not find expected ',' or ']' (line 2, column 1)"),
        (
            "a: b: c",
            "Invalid YAML: mapping values are not allowed in this context (line 1, column 5)",
        ),
        ("- a\n- b", "The metadata must be a mapping of names to values"),
        ("just text", "The metadata must be a mapping of names to values"),
        ("license: [mit]", '"license" must be a string'),
        ("license: 7", '"license" must be a string'),
        ("a: 1\nb: 2\na: 3", "Invalid YAML: duplicated mapping key 'a' (line 3, column 1)"),
        ("a: [{x: 1, x: 2}]", "Invalid YAML: duplicated mapping key 'x' (line 1, column 12)"),
        ("model-index: {name: x}", '"model-index" must be an array'),
        ("datasets: [1]", '"datasets" must be a string or an array of strings'),
        ("tags: one", '"tags" must be an array of strings'),
        ("tags: [1]", '"tags" must be an array of strings'),
        ("language: {a: b}", '"language" must be a string or an array of strings'),
        ("pipeline_tag: [a]", '"pipeline_tag" must be a string'),
    ],
)
def test_bad_metadata_is_explained(metadata: str, message: str) -> None:
    assert check_card(card(metadata)).errors == [message]


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param("a: " + "[" * 10_000, id="deep"),
        pytest.param("[" * 60 + "]" * 60, id="deeper than 50"),
        pytest.param("a: " + "9" * 5000, id="endless number"),
        pytest.param("a: !!python/object/apply:os.system [ls]", id="code"),
        pytest.param("a: *nowhere", id="unknown alias"),
        pytest.param("a: &a [*a]", id="holds itself"),
        pytest.param("? [a]\n: b", id="key is a list"),
        pytest.param("a: \x07", id="control character"),
        pytest.param("a: !!timestamp x", id="no date"),
        pytest.param("a: !!int x", id="no number"),
        pytest.param(
            "\n".join(
                [
                    "a0: &a0 [x, x, x, x, x, x, x, x, x]",
                    *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)),
                ]
            ),
            id="a billion values",
        ),
        pytest.param(f"a: [{', '.join(['1'] * 50_001)}]", id="many values"),
        pytest.param("a: &a 1\nb: [" + "*a, " * 101 + "]", id="many aliases"),
        pytest.param("a: " + "x" * cards.MAX_FRONT_MATTER, id="long"),
    ],
)
def test_hostile_metadata_is_an_error_not_a_crash(metadata: str) -> None:
    check = check_card(card(metadata))

    assert check.errors
    assert check.data == {}


@pytest.mark.parametrize(
    ("metadata", "value"),
    [
        ("a: 2024-05-01", "2024-05-01"),
        ("a: 2024-05-01T10:00:00Z", "2024-05-01T10:00:00+00:00"),
        ("a: .inf", "inf"),
        ("a: 1.5", 1.5),
        ("a: 18446744073709551616", "18446744073709551616"),
        ("a: {1: x}", {"1": "x"}),
        ("a: !!set {x}", ["x"]),
        ("a: !!binary aGk=", "b'hi'"),
        ("a: null", None),
        ("a: 2024-13-45", "2024-13-45"),
        ("a: {<<: {x: 1, y: 2}, x: 3}", {"x": 3, "y": 2}),
        ("a: [true, &b hi, *b]", [True, "hi", "hi"]),
    ],
)
def test_values_are_such_that_json_can_hold_them(metadata: str, value: Any) -> None:
    assert check_card(card(f"license: mit\n{metadata}")).data["a"] == value


@pytest.mark.parametrize(
    ("content", "repo_type", "warning"),
    [
        pytest.param("# Text", "model", "empty or missing yaml metadata", id="none"),
        pytest.param(card(""), "model", "empty or missing yaml metadata", id="empty"),
        pytest.param(card("tags: [a]"), "model", '"license" is missing', id="no license"),
        pytest.param(card("license: mit"), "space", '"sdk" is missing', id="no sdk"),
    ],
)
def test_what_is_missing_is_a_warning(content: str, repo_type: str, warning: str) -> None:
    check = check_card(content, repo_type)

    assert check.errors == []
    assert check.warnings[0].startswith(warning)


@pytest.mark.parametrize("license_name", ["MIT 2.0", "apache", "mit,apache-2.0"])
def test_a_license_is_one_that_the_hub_knows(license_name: str) -> None:
    (message,) = check_card(card(f"license: {license_name}")).errors
    assert message.startswith('"license" must be one of [apache-2.0, mit, openrail, ')
    assert message.endswith(f"other], not {license_name!r}")
    assert check_card(card(f"license: [mit, {license_name!r}]"), "dataset").errors == [message]


def test_a_dataset_or_a_metric_needs_no_list() -> None:
    check = check_card(card("license: mit\ndatasets: beans\nmetrics: acc"))
    assert check.errors == []


def test_a_name_of_a_merged_mapping_may_be_given_anew() -> None:
    merged = "license: mit\nb: {deep: &m {<<: {x: 1}, x: 2}}\na: {<<: *m}"
    assert check_card(card(merged)).errors == []


def test_words_that_yaml_1_1_took_for_others_are_texts() -> None:
    metadata = "license: mit\nlanguage: no\ntags: [on, yes, Off, y, 16:9, 1:30:00, 0o8, 1_]"
    check = check_card(card(metadata))
    assert check.errors == []
    assert check.data["language"] == "no"
    assert check.data["tags"] == ["on", "yes", "Off", "y", "16:9", "1:30:00", "0o8", "1_"]


SCALARS = (
    """
no|yes|on|off|y|n|true|True|TRUE|tRue|false|null|Null|NULL|nULL|~|''|'no'|16:9|1:30|190:20:30|0|010
08|0o17|0o8|0x1F|0xg|0b101|0b2|-0x10|+12|-12|1_000|1_|_1|1.5|1.|.5|-.5|1e3|1e|1E-2|1_0.2_5|.inf
-.INF|.nan|.|-|+|=|<|1.2.3|2024-05-01|2024-5-1|2024-05-01T10:00:00Z|2024-05-01 10:00:00|v1|!!str 1
!!int 7|1 000|0.1.0|12e03|0_1|+.inf|...x|1e+3|- 1|00
""".strip()
    .replace("\n", "|")
    .split("|")
)


@pytest.mark.no_cover
def test_scalars_are_what_js_yaml_takes_them_for() -> None:
    try:
        folder, node = installing.npm_package("js-yaml", "4"), installing.node()
    except NotInstalledError as missing:
        pytest.skip(str(missing))
    script = """
        const yaml = require(process.argv[1] + "/node_modules/js-yaml");
        const told = JSON.parse(process.argv[2]).map((text) => {
          try {
            const value = yaml.load(text).a;
            const date = value instanceof Date;
            return date ? "date" : value === null ? "null" : typeof value + " " + String(value);
          } catch (error) { return "error"; }
        });
        console.log(JSON.stringify(told));
    """
    texts = [f"a: {scalar}" for scalar in SCALARS]
    command = [str(node), "-e", script, str(folder), json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = dict(zip(SCALARS, json.loads(done.stdout), strict=True))

    def ours(scalar: str) -> str:
        check = check_card(card(f"a: {scalar}"))
        if check.errors:
            return "error"
        value = check.data["a"]
        if value is None:
            return "null"
        return {str: "string", bool: "boolean", int: "number", float: "number"}[type(value)]

    # JSON holds neither dates nor infinite numbers: there they are texts.
    as_text = {"date": "string", "number Infinity": "string", "number -Infinity": "string"}
    as_text["number NaN"] = "string"
    expected = {
        scalar: as_text.get(kind, kind if kind == "error" else kind.split()[0])
        for scalar, kind in said.items()
    }
    assert {scalar: ours(scalar) for scalar in SCALARS} == expected


def test_a_dataset_may_have_several_licenses() -> None:
    assert check_card(card("license: [mit, apache-2.0]"), "dataset").errors == []


async def test_validate_yaml_answers_as_the_hub_does(client: HubClient) -> None:
    async def validate(content: Any, **body: Any) -> tuple[int, Any]:
        answer = await client.post("/api/validate-yaml", {"content": content, **body}, token=None)
        return answer.status, answer.json

    assert await validate(card("license: mit")) == (200, {"errors": [], "warnings": []})
    status, body = await validate(card("license: [mit]"), repoType="model")
    assert (status, body["errors"]) == (400, [{"message": '"license" must be a string'}])
    status, body = await validate("# Text")
    assert (status, len(body["warnings"])) == (200, 1)
    assert (await validate(7))[0] == 400
    assert (await validate("", repoType="bucket"))[0] == 400


async def test_a_card_has_a_limit(client: HubClient) -> None:
    body = orjson.dumps({"content": "x" * (9 << 20)})

    assert (await client.call("POST", "/api/validate-yaml", data=body)).status == 400
