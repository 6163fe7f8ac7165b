"""The official client takes the embedded Hub's buckets for the Hub's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from huggingface_hub import HfApi, close_session, constants, get_session
from huggingface_hub._oidc import exchange_oidc_token
from huggingface_hub.errors import (
    BucketNotFoundError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
)

from asyncpush.localhub import LocalHub, serve_in_thread
from asyncpush.localhub.routes import bucket_api
from tests.conftest import TOKEN

NOISE = random.Random(20).randbytes(300_000)
FILES = {"a.bin": NOISE, "logs/one.txt": b"one", "logs.json": b"{}", "empty": b"", "ö/ü.txt": b"u"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with serve_in_thread(tmp_path / "hub", token=TOKEN, xet=True) as hub:
        yield hub


@pytest.fixture
def api(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[HfApi]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    yield HfApi(endpoint=hub.url, token=TOKEN)
    close_session()


def fill(api: HfApi, files: dict[str, bytes]) -> None:
    add: list[Any] = [(content, path) for path, content in files.items()]
    api.batch_bucket_files("me/runs", add=add)


def test_files_come_back_byte_for_byte(api: HfApi, tmp_path: Path) -> None:
    url = api.create_bucket("me/runs", private=True)
    assert url.bucket_id == "me/runs"
    assert api.create_bucket("me/runs", exist_ok=True).bucket_id == "me/runs"
    fill(api, FILES)
    info = api.bucket_info("me/runs")
    assert (info.private, info.total_files) == (True, len(FILES))
    assert info.size == sum(map(len, FILES.values()))
    assert [bucket.id for bucket in api.list_buckets("me")] == ["me/runs"]
    out = tmp_path / "out"
    downloads: list[Any] = [(path, out / path) for path in FILES]
    api.download_bucket_files("me/runs", downloads)
    assert {path: (out / path).read_bytes() for path in FILES} == FILES


def test_sync_of_the_official_client_works_both_ways(api: HfApi, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for path, content in FILES.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    api.create_bucket("me/runs")
    api.sync_bucket(str(source), "hf://buckets/me/runs/run-7")
    api.sync_bucket("hf://buckets/me/runs/run-7", str(tmp_path / "back"))
    back = {path: (tmp_path / "back" / path).read_bytes() for path in FILES}
    assert back == FILES


def test_a_tree_has_text_prefixes_and_pages(api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_api, "PAGE", 2)
    api.create_bucket("me/runs")
    fill(api, FILES)
    whole = [file.path for file in api.list_bucket_tree("me/runs", recursive=True)]
    assert sorted(whole) == sorted(FILES)
    below = {file.path for file in api.list_bucket_tree("me/runs", "logs", recursive=True)}
    assert below == {"logs/one.txt", "logs.json"}
    level = {(file.type, file.path) for file in api.list_bucket_tree("me/runs")}
    assert ("directory", "logs") in level
    assert ("file", "logs.json") in level
    found = api.get_bucket_paths_info("me/runs", ["a.bin", "absent"])
    assert [(file.path, file.size) for file in found] == [("a.bin", len(NOISE))]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pages_of_a_folder_show_each_entry_once(
    api: HfApi, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(bucket_api, "PAGE", size)
    api.create_bucket("me/runs")
    fill(api, dict.fromkeys(["run-1/a", "run.txt", "run/a", "run/b", "run 2", "run0"], b"x"))
    level = [(file.type, file.path) for file in api.list_bucket_tree("me/runs")]
    folders, files = ["run-1", "run"], ["run.txt", "run 2", "run0"]
    assert sorted(level) == sorted(
        [*(("directory", path) for path in folders), *(("file", path) for path in files)]
    )


def test_failed_operations_are_listed_and_the_others_are_done(api: HfApi) -> None:
    api.create_bucket("me/runs")
    fill(api, {"a": b"a"})
    (there,) = api.get_bucket_paths_info("me/runs", ["a"])
    copies: list[Any] = [
        ("bucket", "me/runs", there.xet_hash, "copy"),
        ("bucket", "me/runs", "ab" * 32, "bad"),
    ]
    with pytest.raises(HfHubHTTPError, match="1 out of 2"):
        api._batch_bucket_files("me/runs", copy=copies)
    with pytest.raises(HfHubHTTPError, match="1 out of 1"):
        api._batch_bucket_files("me/runs", copy=copies[1:])
    api.batch_bucket_files("me/runs", delete=["a"])
    assert [file.path for file in api.list_bucket_tree("me/runs")] == ["copy"]


def test_a_time_that_no_listing_can_show_is_refused(api: HfApi) -> None:
    api.create_bucket("me/runs")
    for mtime in (-(10**14), 10**15):
        row = {"type": "addFile", "path": "a", "xetHash": "0" * 64, "mtime": mtime}
        answer = get_session().post(
            f"{api.endpoint}/api/buckets/me/runs/batch",
            headers={"Authorization": f"Bearer {TOKEN}"},
            json=row,
        )
        assert (answer.status_code, len(answer.json()["failed"])) == (422, 1)
    assert list(api.list_bucket_tree("me/runs")) == []


def test_a_bucket_moves_with_its_files(api: HfApi) -> None:
    api.create_bucket("me/runs", private=True)
    api.create_bucket("me/taken")
    fill(api, FILES)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.move_bucket("me/runs", "me/taken")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.move_bucket("me/runs", "me/runs")
    api.move_bucket("me/runs", "org/kept")
    assert {file.path for file in api.list_bucket_tree("org/kept", recursive=True)} == set(FILES)
    assert api.bucket_info("org/kept").private
    with pytest.raises(BucketNotFoundError):
        api.bucket_info("me/runs")
    with pytest.raises(RepositoryNotFoundError):
        api.move_bucket("me/runs", "me/other")


def test_an_owner_moves_a_bucket_where_they_may_write(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path / "hub", users={"ann": "hf_ann", "ben": "hf_ben"}) as hub:
        ann, ben = (HfApi(endpoint=hub.url, token=f"hf_{name}") for name in ("ann", "ben"))
        ann.create_bucket("ann/runs")
        for api, target in ((ben, "ben/runs"), (ann, "ben/runs")):
            with pytest.raises(HfHubHTTPError, match="403"):
                api.move_bucket("ann/runs", target)
        assert [bucket.id for bucket in ann.list_buckets("ann")] == ["ann/runs"]


def test_a_token_for_a_repo_writes_to_no_bucket(tmp_path: Path) -> None:
    trusted = {"me/runs": lambda id_token: True}
    with serve_in_thread(tmp_path / "hub", token=TOKEN, trusted_publishers=trusted) as hub:
        HfApi(endpoint=hub.url, token=TOKEN).create_bucket("me/runs")
        login = exchange_oidc_token(subject_token="job", resource="me/runs", endpoint=hub.url)
        api = HfApi(endpoint=hub.url, token=login["access_token"])
        with pytest.raises(HfHubHTTPError, match="403"):
            api.batch_bucket_files("me/runs", delete=["a"])
        with pytest.raises(HfHubHTTPError, match="403"):
            api.create_bucket("me/other")


def test_what_is_not_there_is_said_so(api: HfApi) -> None:
    with pytest.raises(BucketNotFoundError):
        api.bucket_info("me/absent")
    api.create_bucket("me/runs")
    with pytest.raises(EntryNotFoundError):
        api.get_bucket_file_metadata("me/runs", "absent")
    api.delete_bucket("me/runs")
    api.delete_bucket("me/runs", missing_ok=True)
    with pytest.raises(BucketNotFoundError):
        list(api.list_bucket_tree("me/runs"))


async def test_ranges_and_strangers(api: HfApi, hub: LocalHub) -> None:
    api.create_bucket("me/runs", private=True)
    fill(api, {"a.bin": NOISE})
    url = f"{hub.url}/buckets/me/runs/resolve/a.bin"
    headers = {"Authorization": f"Bearer {TOKEN}", "Range": "bytes=70000-70009"}
    async with aiohttp.ClientSession() as session:
        async with session.get(url, headers=headers) as answer:
            assert answer.status == 206
            assert await answer.read() == NOISE[70_000:70_010]
        async with session.get(url) as answer:
            assert answer.status == 401
        too_many = b'{"type":"deleteFile","path":"a"}\n' * 1001
        api_url = f"{hub.url}/api/buckets/me/runs/batch"
        async with session.post(api_url, headers=headers, data=too_many) as answer:
            assert answer.status == 400


def test_buckets_take_files_without_xet_for_repos(
    tmp_path: Path, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_in_thread(tmp_path / "other", token=TOKEN, xet=False) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        other = HfApi(endpoint=hub.url, token=TOKEN)
        other.create_bucket("me/runs")
        fill(other, {"a": NOISE})
        assert other.bucket_info("me/runs").size == len(NOISE)


def test_a_copy_needs_a_readable_source_with_the_file(
    tmp_path: Path, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = {"ann": "hf_ann", "ben": "hf_ben"}
    with serve_in_thread(tmp_path / "shared", users=users, xet=True) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        ann = HfApi(endpoint=hub.url, token="hf_ann")
        ben = HfApi(endpoint=hub.url, token="hf_ben")
        hashes: dict[str, str] = {}
        for name, private, content in (("open", False, b"open"), ("closed", True, b"closed")):
            ann.create_bucket(f"ann/{name}", private=private)
            ann.batch_bucket_files(f"ann/{name}", add=[(content, "a")])
            hashes[name] = next(iter(ann.get_bucket_paths_info(f"ann/{name}", ["a"]))).xet_hash
        for name, private in (("model", False), ("hidden", True)):
            ann.create_repo(f"ann/{name}", private=private)
            ann.upload_file(
                path_or_fileobj=name.encode() + NOISE, path_in_repo="w.bin", repo_id=f"ann/{name}"
            )
            info: Any = ann.get_paths_info(f"ann/{name}", ["w.bin"])[0]
            hashes[name] = info.xet_hash
        ben.create_bucket("ben/copies")

        def copied(kind: str, source: str, of: str) -> bool:
            copy: Any = [(kind, source, hashes[of], of)]
            try:
                ben._batch_bucket_files("ben/copies", copy=copy)
            except HfHubHTTPError:
                return False
            return True

        assert copied("bucket", "ann/open", "open")
        assert copied("model", "ann/model", "model")
        assert not copied("bucket", "ann/closed", "closed")
        assert not copied("model", "ann/hidden", "hidden")
        assert not copied("bucket", "ann/open", "closed")
        assert not copied("model", "ann/model", "hidden")
        assert not copied("nothing", "ann/open", "open")
        assert {file.path for file in ben.list_bucket_tree("ben/copies")} == {"open", "model"}


def test_the_hf_command_works_with_the_hubs_buckets(
    api: HfApi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub.cli.hf import app

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.bin").write_bytes(NOISE)

    def hf(*words: str) -> str:
        assert not app.main(list(words), prog_name="hf", standalone_mode=False)
        return capsys.readouterr().out

    run = "hf://buckets/me/runs"
    hf("buckets", "create", "me/runs")
    hf("sync", "out", f"{run}/x")
    hf("cp", "out/a.bin", f"{run}/y/a.bin")
    hf("cp", f"{run}/x/a.bin", f"{run}/z/a.bin")
    hf("cp", f"{run}/z/a.bin", "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == NOISE
    hf("buckets", "rm", "me/runs/x/a.bin", "-y")
    listed = hf("buckets", "list", "me/runs", "-R")
    assert [line.split()[-1] for line in listed.splitlines() if ".bin" in line] == [
        "y/a.bin",
        "z/a.bin",
    ]
    hf("buckets", "delete", "me/runs", "-y")
    with pytest.raises(BucketNotFoundError):
        api.bucket_info("me/runs")
