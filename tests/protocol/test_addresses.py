"""Addresses as people copy them, with the official client's parser as the witness."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub.errors import HfUriError
from huggingface_hub.utils._hf_uris import HfUri, parse_hf_uri
from hypothesis import example, given
from hypothesis import strategies as st

from asyncpush import InvalidRepoIdError, PushOptions
from asyncpush.options import PUBLIC_ENDPOINT
from asyncpush.protocol.addresses import (
    Address,
    any_target_of,
    bucket_of,
    is_address,
    names_bucket,
    parse_address,
    source_of,
    target_of,
)

PUBLIC = "https://huggingface.co"

READ_ALIKE = [
    "hf://me/m",
    "hf://me/m/",
    "hf://models/me/m",
    "hf://datasets/me/d",
    "hf://spaces/me/s",
    "hf://kernels/me/k",
    "hf://buckets/me/b",
    "hf://buckets/me/b/runs/1",
    "hf://datasets/me/d/train",
    "hf://datasets/me/d/train/a.csv",
    "hf://datasets/me/d/train/",
    "hf://me/m@v1",
    "hf://me/m@v1/sub/file.txt",
    "hf://me/m@refs/pr/1",
    "hf://me/m@refs/pr/10/sub",
    "hf://datasets/me/d@refs/convert/parquet",
    "hf://datasets/me/d@refs/convert/parquet-v2/train/0.parquet",
    "hf://datasets/me/d@refs%2Fconvert%2Fparquet/train",
    "hf://me/m@feature%2Fx",
    "hf://me/m@feature%2Fx/sub",
    "hf://me/m@ä ö%23/sub",
    "hf://me/m/file@1.txt",
    "hf://me/m/sub/a@b/c",
    "hf://me/m@v1/file@2.txt",
    "hf://me/m/a b/%20.txt",
    "hf://me/m@0123456789abcdef0123456789abcdef01234567",
    "hf://datasets/datasets/datasets",
    f"{PUBLIC}/me/m",
    f"{PUBLIC}/me/m/",
    f"{PUBLIC}/models/me/m",
    f"{PUBLIC}/datasets/me/d",
    f"{PUBLIC}/spaces/me/s",
    f"{PUBLIC}/kernels/me/k",
    f"{PUBLIC}/buckets/me/b",
    f"{PUBLIC}/buckets/me/b/tree/runs/1",
    f"{PUBLIC}/buckets/me/b/resolve/runs/1.txt",
    f"{PUBLIC}/me/m/tree/main",
    f"{PUBLIC}/me/m/tree/main/sub",
    f"{PUBLIC}/me/m/tree/main/sub/deep?x=1#readme",
    f"{PUBLIC}/me/m/blob/main/config.json",
    f"{PUBLIC}/me/m/raw/main/config.json",
    f"{PUBLIC}/me/m/blame/main/config.json",
    f"{PUBLIC}/me/m/resolve/main/config.json?download=true",
    f"{PUBLIC}/datasets/me/d/tree/refs%2Fpr%2F1/train",
    f"{PUBLIC}/datasets/me/d/tree/refs/pr/1/train",
    f"{PUBLIC}/datasets/me/d/tree/refs%2Fconvert%2Fparquet",
    f"{PUBLIC}/me/m/tree/feature%2Fx",
    f"{PUBLIC}/me/m/tree/feature%2Fx/a%20b/%C3%A4%23.txt",
    f"{PUBLIC}/me/m/tree/main/100%25",
    f"{PUBLIC}/me/m/tree",
    "HTTPS://HuggingFace.co/me/m",
    "http://huggingface.co/me/m",
    "https://hf.co/datasets/me/d",
    "hf.co/datasets/me/d",
    "huggingface.co/me/m/tree/main",
]

REFUSED_ALIKE = [
    "hf://",
    "hf://gpt2",
    "hf://datasets",
    "hf://datasets/",
    "hf://dataset/me/d",
    "hf://bucket/me/b",
    "hf://me@v1",
    "hf://me@v1/m",
    "hf://me/m@",
    "hf://me/m@/sub",
    "hf://me/m//sub",
    "hf://me/m@v1//sub",
    "hf://me//m",
    "hf://me/--m",
    "hf://me/m.git",
    "hf://me/a b",
    "hf://buckets/me",
    "hf://buckets/me/b@v1",
    PUBLIC,
    f"{PUBLIC}/me",
    f"{PUBLIC}/datasets/me",
    f"{PUBLIC}/me/m/commit/main",
    f"{PUBLIC}/me/m/discussions/1",
    f"{PUBLIC}/me/m/settings",
    f"{PUBLIC}/buckets/me/b/blob/x",
    f"{PUBLIC}/docs/hub/index",
    "https://example.org/me/m",
    "https://[huggingface.co/me/m",
]

REFUSED_BY_US = [
    pytest.param("hf://me/m@refs/heads/main", "main, not refs/heads/main", id="a git ref"),
    pytest.param("hf://me/m@refs/pr/1a/x", "refs/pr/NUMBER", id="no number of a pull request"),
    pytest.param(f"{PUBLIC}/me/m/tree/a%252541", "encoded twice", id="encoded twice"),
    pytest.param(f"{PUBLIC}/me/m/tree/main/a%2Fb", "write / instead", id="an encoded slash"),
    pytest.param("https://u:secret@huggingface.co/me/m", "user name", id="credentials"),
    pytest.param("https://huggingface.co:8443/me/m", "endpoint in use", id="another port"),
    pytest.param(f"{PUBLIC}/me/m.ipynb", "must not end in", id="no name of the Hub's"),
]


def their_reading(text: str, endpoint: str | None = None) -> tuple[Any, ...] | None:
    try:
        uri = parse_hf_uri(text, endpoint)
    except (HfUriError, ValueError):
        return None
    return uri.type, uri.id, uri.revision, uri.path_in_repo.rstrip("/")


def our_reading(text: str, endpoint: str = PUBLIC) -> tuple[Any, ...] | None:
    assert is_address(text, endpoint)
    try:
        address = parse_address(text, endpoint)
    except InvalidRepoIdError as error:
        return None if error.suggestion else ("it does not say what to do",)
    return address.kind, address.repo_id, address.revision, address.path.rstrip("/")


@pytest.mark.parametrize("text", READ_ALIKE)
def test_an_address_is_read_as_the_official_client_reads_it(text: str) -> None:
    assert our_reading(text) is not None
    assert our_reading(text) == their_reading(text)


@pytest.mark.parametrize("text", REFUSED_ALIKE)
def test_an_address_that_the_official_client_refuses_is_refused(text: str) -> None:
    assert our_reading(text) is None
    assert their_reading(text) is None


@pytest.mark.parametrize(("text", "expected"), REFUSED_BY_US)
def test_what_can_hardly_be_meant_is_refused(text: str, expected: str) -> None:
    with pytest.raises(InvalidRepoIdError) as caught:
        parse_address(text)

    assert expected in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://dataset/me/d", "'dataset' is not a repo type"),
        ("https://[huggingface.co/me/m", "it is not a valid URL"),
        (f"{PUBLIC}/me/m/settings", "files cannot be written to a /settings/ page"),
        ("hf://me/m@refs/heads/main", "the only revisions under refs/ are refs/pr/NUMBER"),
        ("hf://me/m//sub", "its path contains an empty name, //"),
        (f"{PUBLIC}/me", "it does not contain namespace/name"),
    ],
)
def test_a_refused_address_says_why_in_plain_words(text: str, expected: str) -> None:
    with pytest.raises(InvalidRepoIdError) as caught:
        parse_address(text)

    assert f"{text} is not the address of a repo: {expected}" in str(caught.value)


@pytest.mark.parametrize("text", ["hf://me/m@a..b", "https://huggingface.co/me/m/tree/-x"])
def test_a_revision_that_git_cannot_have_is_refused(text: str) -> None:
    for read in (target_of, any_target_of):
        with pytest.raises(InvalidRepoIdError, match=r"its revision '(a..b|-x)' "):
            read(text, PushOptions(), PUBLIC_ENDPOINT)
    with pytest.raises(InvalidRepoIdError, match=r"its revision '(a..b|-x)' "):
        source_of(text, "model", PUBLIC_ENDPOINT)


def test_a_bucket_is_refused_where_a_commit_is_made() -> None:
    with pytest.raises(InvalidRepoIdError, match="is a bucket, and buckets have no commits"):
        target_of("hf://buckets/me/b", PushOptions(), PUBLIC)


names = st.from_regex(r"[a-zA-Z0-9](?:[a-zA-Z0-9_]|[.-][a-zA-Z0-9]){0,8}", fullmatch=True)
segments = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs", "Cc"]))
plain = segments.filter(lambda text: text.strip(".") and text == text.strip())
revisions = st.one_of(
    st.sampled_from(["main", "refs/pr/7", "refs/convert/duckdb.v1", "feature/x"]),
    st.lists(plain, min_size=1, max_size=2).map("/".join),
)
paths = st.lists(plain, max_size=3).map("/".join)
uris = st.builds(
    HfUri,
    type=st.sampled_from(["model", "dataset", "space", "kernel"]),
    id=st.tuples(names, names).map("/".join).filter(lambda text: not text.endswith(".git")),
    revision=st.none() | revisions.filter(lambda text: "%" not in text and text[:4] != "refs"),
    path_in_repo=paths,
)


@given(uris)
def test_addresses_of_the_official_client_are_read(uri: HfUri) -> None:
    meant = uri.type, uri.id, uri.revision, uri.path_in_repo
    page = "main" if uri.path_in_repo and uri.revision is None else uri.revision

    assert our_reading(uri.to_uri()) == meant
    assert our_reading(uri.to_url(PUBLIC)) == (uri.type, uri.id, page, uri.path_in_repo)


_PIECES = "hf:// me m / // @ %2F %25 %41 datasets/ dataset/ buckets/ tree/ blob/ é .."
_REFS = "refs/pr/1 refs/heads/x refs/convert/a"
pieces = st.sampled_from([*_PIECES.split(), *_REFS.split(), PUBLIC, " "])


@given(st.lists(pieces, max_size=9).map("".join))
@example(f"{PUBLIC}/me/m/tree/a%2541")
@example("hf:///me/m")
def test_texts_are_read_as_by_the_official_client(text: str) -> None:
    if not is_address(text, PUBLIC):
        return
    ours = our_reading(text)

    assert ours is None or ours == their_reading(text)


@pytest.mark.parametrize(
    ("text", "endpoint", "path"),
    [
        ("http://localhost:8080/hf/datasets/me/d/tree/dev/a", "http://localhost:8080/hf", "a/"),
        ("localhost:8080/datasets/me/d/tree/dev/a", "http://localhost:8080", "a/"),
        ("https://hub.example/datasets/me/d/blob/dev/a", "https://hub.example/", "a"),
        ("https://hub.example:443/datasets/me/d/raw/dev/a", "https://HUB.example", "a"),
        ("http://[::1]:80/datasets/me/d/resolve/dev/a", "http://[::1]", "a"),
    ],
)
def test_a_url_of_another_endpoint_in_use_is_read(text: str, endpoint: str, path: str) -> None:
    assert is_address(text, endpoint)
    assert parse_address(text, endpoint) == Address(text, "dataset", "me/d", "dev", path)


def test_a_url_of_another_endpoint_says_how_to_use_it() -> None:
    with pytest.raises(InvalidRepoIdError) as caught:
        parse_address("https://huggingface.co/me/m?token=secret", "http://127.0.0.1:8000")

    message = str(caught.value)
    assert "http://127.0.0.1:8000" in message
    assert "endpoint='https://huggingface.co'" in message
    assert "secret" not in message


@pytest.mark.parametrize("text", ["me/m", "m", "", "huggingface.co/m", "HF://me/m", None, 1])
def test_a_repo_id_is_no_address(text: object) -> None:
    assert not is_address(text, PUBLIC)


def filled_in(text: str, *given: str, **options: Any) -> PushOptions:
    return target_of(text, PushOptions(**options), PUBLIC_ENDPOINT, given=given)[1]


def test_an_address_fills_in_what_was_left_at_its_default() -> None:
    repo, options = target_of(
        "hf://datasets/me/d@dev/train/", PushOptions(private=True), PUBLIC_ENDPOINT
    )

    assert (repo.repo_id, repo.repo_type) == ("me/d", "dataset")
    assert options == PushOptions(
        repo_type="dataset", revision="dev", path_in_repo="train/", private=True
    )


def test_options_complete_an_address() -> None:
    options = PushOptions(revision="dev", path_in_repo="sub")

    for text, path in (("me/m", "sub"), ("hf://me/m@dev", "sub"), ("hf://me/m@dev/sub/", "sub/")):
        _, options = target_of(text, options, PUBLIC_ENDPOINT)
        assert options == replace(options, path_in_repo=path)


@pytest.mark.parametrize(
    ("text", "given", "options", "named"),
    [
        ("hf://me/m@v1", (), {"revision": "dev"}, ["revision 'dev'", "'v1'"]),
        ("hf://me/m", (), {"repo_type": "dataset"}, ["repo_type 'dataset'", "'model'"]),
        ("hf://me/m/a", (), {"path_in_repo": "b"}, ["path_in_repo 'b'", "'a'"]),
        ("hf://me/m@v1", ("revision",), {}, ["revision 'main'", "'v1'"]),
        (f"{PUBLIC}/me/m/tree/v1", (), {"revision": "dev"}, ["/tree/v1", "'dev'"]),
    ],
)
def test_a_contradiction_names_both(
    text: str, given: tuple[str, ...], options: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ValueError, match="contradicts") as caught:
        filled_in(text, *given, **options)

    assert all(words in str(caught.value) for words in [*named, text])


def test_a_bucket_is_refused_for_the_time_being() -> None:
    for text in ("hf://buckets/me/b/run-7", f"{PUBLIC}/buckets/me/b"):
        with pytest.raises(InvalidRepoIdError, match="is a bucket"):
            filled_in(text)


def test_a_protected_repo_has_to_be_a_space() -> None:
    assert filled_in("hf://spaces/me/s", visibility="protected").visibility == "protected"
    for text in ("hf://datasets/me/d", "me/m"):
        with pytest.raises(ValueError, match="visibility='protected' needs"):
            filled_in(text, visibility="protected")


def test_space_sdk_needs_a_space() -> None:
    assert filled_in("hf://spaces/me/s", space_sdk="gradio").space_sdk == "gradio"
    for text in ("hf://me/m", "me/m"):
        with pytest.raises(ValueError, match="space_sdk needs"):
            filled_in(text, space_sdk="gradio")
    with pytest.raises(ValueError, match="space_sdk needs"):
        PushOptions(repo_type="dataset", space_sdk="gradio")


def test_a_bucket_is_told_by_the_path_alone() -> None:
    assert names_bucket("https://huggingface.co/buckets/me/runs")
    assert not names_bucket("https://buckets/me/runs")
    assert not names_bucket("https://huggingface.co/me/m?from=/buckets/me/runs")
    assert not names_bucket("https://[huggingface.co/me/m")  # not a valid URL


@pytest.mark.parametrize("text", ["hf://buckets/me", f"{PUBLIC_ENDPOINT}/buckets/me"])
def test_an_unfinished_bucket_address_says_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidRepoIdError, match="not the address of a bucket") as caught:
        bucket_of(text, PUBLIC_ENDPOINT)
    assert "hf://buckets/namespace/name" in str(caught.value)
