"""The disk store's own promises: killed, restarted, shared, swept, and a disk that is full."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.localhub import blobs as blobs_module
from asyncpush.localhub.blobs import BlobError, part_size_for
from asyncpush.localhub.blobs import disk as disk_module
from asyncpush.localhub.blobs.disk import DiskStore
from asyncpush.localhub.blobs.multipart import Completion, PartWriter, Upload
from tests.fake_clock import FakeClock
from tests.localhub.lfs_site import oid_of

PART = 1000
DAY = 86_400


@pytest.fixture
def clock() -> FakeClock:
    # Folders and files get the true time from the system, so this one starts there too.
    return FakeClock(time.time())


@pytest.fixture
async def store(tmp_path: Path) -> DiskStore:
    store = DiskStore(tmp_path, part_size=PART)
    await store.start()
    return store


async def body(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def open_upload(store: DiskStore, data: bytes) -> str:
    ticket = await store.ticket(oid_of(data), len(data), base_url="http://hub")
    assert ticket.upload_id is not None
    return ticket.upload_id


async def send(store: DiskStore, upload_id: str, data: bytes, number: int) -> str:
    part = data[(number - 1) * store.part_size : number * store.part_size]
    return await store.receive(
        oid_of(data), len(part), body(part), upload_id=upload_id, part_number=number
    )


async def send_all(store: DiskStore, upload_id: str, data: bytes) -> list[tuple[int, str]]:
    count = -(-len(data) // store.part_size)
    return [(n, await send(store, upload_id, data, n)) for n in range(1, count + 1)]


async def sent_upload(store: DiskStore) -> tuple[bytes, str, list[tuple[int, str]]]:
    """An object of two parts, its upload, and the parts as the store has taken them."""
    data = os.urandom(2 * PART)
    upload_id = await open_upload(store, data)
    return data, upload_id, await send_all(store, upload_id, data)


async def content(store: DiskStore, oid: str) -> bytes | None:
    path = store.path(oid)
    return path.read_bytes() if path.exists() else None


def parts_of(store: DiskStore, upload_id: str) -> Upload:
    return Upload.open(store.root / "uploads" / upload_id)


# Several processes, and one that was killed


async def test_two_hubs_share_one_upload(store: DiskStore, tmp_path: Path) -> None:
    data = os.urandom(2 * PART)
    other = DiskStore(tmp_path, part_size=7)  # its own part size is for its own uploads
    await other.start()
    upload_id = await open_upload(store, data)

    first = await send(store, upload_id, data, 1)
    second = await other.receive(
        oid_of(data), PART, body(data[PART:]), upload_id=upload_id, part_number=2
    )
    await other.complete(upload_id, oid_of(data), len(data), [(1, first), (2, second)])

    assert await content(store, oid_of(data)) == data


async def test_a_signed_url_outlives_the_hub_that_signed_it(
    store: DiskStore, tmp_path: Path
) -> None:
    url = await store.download_url("0" * 64, base_url="")
    path, _, query = url.partition("?")

    restarted = DiskStore(tmp_path)

    pairs = [tuple(pair.split("=")) for pair in query.split("&")]
    assert restarted.signer.check("GET", path, [(name, value) for name, value in pairs]) == {}


KILLED_IN_A_PART = """
import os, signal, sys
from pathlib import Path
from asyncpush.localhub.blobs.multipart import PartWriter, Upload

writer = PartWriter(Upload.open(Path(sys.argv[1])), 1)
writer.write([b"half"])
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_a_hub_killed_within_a_part_has_not_stored_it(
    store: DiskStore, tmp_path: Path
) -> None:
    data, upload_id, parts = await sent_upload(store)
    folder = tmp_path / "uploads" / upload_id

    command = [sys.executable, "-c", KILLED_IN_A_PART, str(folder)]
    killed = await anyio.run_process(command, check=False)

    assert killed.returncode == -signal.SIGKILL
    restarted = DiskStore(tmp_path, part_size=PART)
    await restarted.start()
    with pytest.raises(BlobError, match="part 1"):
        await restarted.complete(upload_id, oid_of(data), len(data), parts)
    await send(restarted, upload_id, data, 1)
    await restarted.complete(upload_id, oid_of(data), len(data), parts)
    assert await content(restarted, oid_of(data)) == data


async def test_a_hub_killed_within_a_completion_can_complete_again(
    store: DiskStore, tmp_path: Path
) -> None:
    data, upload_id, parts = await sent_upload(store)
    killed = Completion(parts_of(store, upload_id), parts)
    killed.begin()
    killed.close()

    with pytest.raises(BlobError, match="does not exist"):  # sealed: its bytes stay as they are
        await send(store, upload_id, data, 1)
    await DiskStore(tmp_path, part_size=PART).complete(upload_id, oid_of(data), len(data), parts)

    assert await content(store, oid_of(data)) == data


async def test_an_upload_whose_file_was_renamed_already_is_gone(store: DiskStore) -> None:
    """Killed after the rename, before the folder was removed."""
    data, upload_id, parts = await sent_upload(store)
    (store.root / "uploads" / upload_id / "data").unlink()

    with pytest.raises(BlobError) as refused:
        await store.complete(upload_id, oid_of(data), len(data), parts)
    assert refused.value.status == 404
    with pytest.raises(BlobError) as refused:
        await send(store, upload_id, data, 1)
    assert refused.value.status == 404


# Writers and completions at the same time


async def test_a_late_writer_cannot_change_what_was_hashed(store: DiskStore) -> None:
    data, upload_id, parts = await sent_upload(store)
    upload = parts_of(store, upload_id)
    late = PartWriter(upload, 1)
    late.write([b""])  # it has the file open
    late.finish([data[:PART]])
    completion = Completion(upload, parts)
    completion.begin()

    with pytest.raises(BlobError) as while_hashing:
        late.write([b"other"])
    while completion.hash_some(1):
        pass
    completion.commit(store.path(oid_of(data)))
    completion.close()
    with pytest.raises(BlobError) as afterwards:
        late.write([b"other"])
    late.close()

    assert while_hashing.value.status == afterwards.value.status == 404
    assert await content(store, oid_of(data)) == data


async def test_a_writer_waits_while_etags_are_compared(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(2 * PART)
    upload_id = await open_upload(store, data)
    upload = parts_of(store, upload_id)
    comparing = os.open(upload.data, os.O_RDONLY)
    fcntl.flock(comparing, fcntl.LOCK_EX)
    asked: list[int] = []

    def flock(fd: int, operation: int) -> None:
        asked.append(operation)
        if operation == fcntl.LOCK_SH:  # it waits: let the other one finish
            real_flock(comparing, fcntl.LOCK_UN)
        real_flock(fd, operation)

    real_flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    await send(store, upload_id, data, 1)
    os.close(comparing)

    assert fcntl.LOCK_SH in asked


async def test_two_completions_at_once_store_once(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, upload_id, parts = await sent_upload(store)
    upload = parts_of(store, upload_id)
    first, second = Completion(upload, parts), Completion(upload, parts)
    first.begin()

    def flock(fd: int, operation: int) -> None:
        while first.hash_some(1 << 20):  # what the second waits for
            pass
        first.commit(store.path(oid_of(data)))
        first.close()
        real_flock(fd, operation)

    real_flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(BlobError) as refused:
        second.begin()
    second.close()

    assert refused.value.code == "NoSuchUpload"
    assert await content(store, oid_of(data)) == data


async def test_a_refused_part_list_leaves_the_upload_open(store: DiskStore) -> None:
    data, upload_id, parts = await sent_upload(store)

    with pytest.raises(BlobError):
        await store.complete(upload_id, oid_of(data), len(data), [(1, '"00"'), parts[1]])
    with pytest.raises(BlobError):
        await store.complete(upload_id, oid_of(data), len(data) + 1, parts)
    with pytest.raises(BlobError):
        await store.complete(upload_id, "0" * 64, len(data), parts)
    await store.complete(upload_id, oid_of(data), len(data), parts)

    assert await content(store, oid_of(data)) == data


async def test_wrong_bytes_close_the_upload(store: DiskStore) -> None:
    data, wrong = os.urandom(2 * PART), os.urandom(2 * PART)
    upload_id = await open_upload(store, data)
    parts = [
        (n, await store.receive(oid_of(data), PART, body(half), upload_id=upload_id, part_number=n))
        for n, half in ((1, wrong[:PART]), (2, wrong[PART:]))
    ]

    with pytest.raises(BlobError, match="sha256"):
        await store.complete(upload_id, oid_of(data), len(data), parts)

    assert list((store.root / "uploads").iterdir()) == []
    assert await store.size(oid_of(data)) is None


# Bodies that are not what was promised


@pytest.mark.parametrize("kind", ["single", "part"])
@pytest.mark.parametrize(
    ("length", "code"), [(PART - 1, "IncompleteBody"), (PART + 1, "EntityTooLarge")]
)
async def test_a_body_of_another_length_is_not_stored(
    store: DiskStore, kind: str, length: int, code: str
) -> None:
    data = os.urandom(2 * PART)
    upload_id = await open_upload(store, data) if kind == "part" else None

    with pytest.raises(BlobError) as refused:
        await store.receive(oid_of(data), PART, body(bytes(length)), upload_id=upload_id)

    assert refused.value.code == code
    assert list((store.root / "incoming").iterdir()) == []
    assert await store.size(oid_of(data)) is None


@pytest.mark.parametrize("sent", [0, 3, 700], ids=["nothing", "a little", "after a write"])
async def test_a_body_cut_short_voids_no_less_than_its_part(
    store: DiskStore, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part sent again is written over the first: broken off, it counts no more."""
    monkeypatch.setattr(disk_module, "HOP", 500)
    data, upload_id, parts = await sent_upload(store)

    with pytest.raises(BlobError):
        await store.receive(oid_of(data), PART, body(bytes(sent)), upload_id=upload_id)

    touched = sent >= 500
    if touched:
        with pytest.raises(BlobError, match="part 1"):
            await store.complete(upload_id, oid_of(data), len(data), parts)
    else:
        await store.complete(upload_id, oid_of(data), len(data), parts)


async def test_an_aborted_second_upload_of_a_part_keeps_the_first(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client sends a crawling part again and drops the slower one, as S3 lets it."""
    monkeypatch.setattr(disk_module, "HOP", 500)
    data, upload_id, parts = await sent_upload(store)
    with pytest.raises(BlobError):
        await store.receive(oid_of(data), PART, body(data[:700]), upload_id=upload_id)
    await store.complete(upload_id, oid_of(data), len(data), parts)


async def test_a_body_that_fails_leaves_nothing(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "HOP", 10)
    data = os.urandom(100)

    async def failing() -> AsyncIterator[bytes]:
        yield data[:50]
        assert len(list((store.root / "incoming").iterdir())) == 1
        yield data[50:90]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await store.receive(oid_of(data), len(data), failing())

    assert list((store.root / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "size"),
    [(0, PART), (3, PART), (-1, PART), (2, PART), (1, PART - 1), (2, 0)],
)
async def test_a_part_that_the_upload_does_not_have_is_refused(
    store: DiskStore, number: int, size: int
) -> None:
    data = os.urandom(2 * PART - 1)
    upload_id = await open_upload(store, data)

    with pytest.raises(BlobError) as refused:
        await store.receive(
            oid_of(data), size, body(bytes(size)), upload_id=upload_id, part_number=number
        )

    assert refused.value.code == "InvalidPart"


async def test_an_upload_belongs_to_its_oid(store: DiskStore) -> None:
    data = os.urandom(2 * PART)
    upload_id = await open_upload(store, data)

    with pytest.raises(BlobError) as refused:
        await store.receive("0" * 64, PART, body(data[:PART]), upload_id=upload_id)

    assert refused.value.status == 404


# Durability, and a disk that is full


async def test_an_object_is_synced_before_it_is_readable(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(fd: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        done.append(f"sync {kind}")
        fsync(fd)

    def note_replace(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    await store.receive(oid_of(b"text"), 4, body(b"text"))

    assert done == ["sync file", "rename", *["sync folder"] * 3]
    assert stat.S_IMODE(store.path(oid_of(b"text")).stat().st_mode) == 0o444


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_reported_as_such(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(BlobError) as refused:
        await store.receive(oid_of(b"text"), 4, body(b"text"))

    assert refused.value.status == 507
    assert list((store.root / "incoming").iterdir()) == []


async def test_another_failure_of_the_disk_is_not_hidden(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int, data: bytes) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "write", broken)
    with pytest.raises(OSError, match="broken"):
        await store.receive(oid_of(b"text"), 4, body(b"text"))


async def test_a_disk_that_takes_less_than_asked_is_asked_again(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
    data = os.urandom(100)

    await store.receive(oid_of(data), 100, body(data[:60], data[60:]))

    assert await content(store, oid_of(data)) == data


# Uploads that nobody finishes


async def test_uploads_are_removed_once_their_urls_are_dead(
    tmp_path: Path, clock: FakeClock
) -> None:
    store = DiskStore(tmp_path, part_size=PART, clock=clock)
    await store.start()
    data = os.urandom(2 * PART)
    old = await open_upload(store, data)
    killed_early = tmp_path / "uploads" / ("0" * 32)
    killed_early.mkdir()
    (tmp_path / "incoming" / "cut").write_bytes(b"half")

    clock.now += DAY
    new = await open_upload(store, data)
    assert {path.name for path in (tmp_path / "uploads").iterdir()} == {
        old,
        new,
        killed_early.name,
    }
    # The mtime of what has no promise in it is the system's time, which is a little later.
    clock.now += 2 * 3600
    newest = await open_upload(store, data)

    assert {path.name for path in (tmp_path / "uploads").iterdir()} == {new, newest}
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_uploads_under_way_survive_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    store = DiskStore(tmp_path, part_size=PART, clock=clock)
    await store.start()
    data, upload_id, parts = await sent_upload(store)

    clock.now += DAY - 1
    restarted = DiskStore(tmp_path, part_size=PART, clock=clock)
    await restarted.start()
    await restarted.complete(upload_id, oid_of(data), len(data), parts)
    await restarted.close()

    assert await content(restarted, oid_of(data)) == data


async def test_sweeping_beside_another_hub_is_no_error(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What this one has listed, the other has removed."""
    ghost = tmp_path / "incoming" / "ghost"
    listed = {tmp_path / "uploads": [tmp_path / "uploads" / "ghost"], ghost.parent: [ghost]}
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(listed[path]))

    await store.start()


# Part sizes


@pytest.mark.parametrize(
    ("size", "part_size"),
    [(1, 8_000_000), (80_000_000_000, 8_000_000), (80_000_000_001, 8_000_001)],
    ids=["one byte", "exactly 10,000 parts", "one byte more"],
)
def test_there_are_ten_thousand_parts_at_most(size: int, part_size: int) -> None:
    assert part_size_for(size, 8_000_000) == part_size


async def test_a_ticket_tells_the_grown_part_size(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "MAX_PARTS", 10)

    ticket = await store.ticket("0" * 64, 10 * PART + 1, base_url="http://hub")

    assert (ticket.chunk_size, len(ticket.part_urls)) == (PART + 1, 10)


async def test_a_large_upload_takes_no_space_before_its_bytes(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, part_size=1 << 36)
    await store.start()
    ticket = await store.ticket("0" * 64, 1 << 40, base_url="http://hub")
    assert ticket.upload_id is not None

    data = store.root / "uploads" / ticket.upload_id / "data"

    assert data.stat().st_size == 1 << 40
    assert data.stat().st_blocks < 1000


async def test_a_long_hash_is_done_in_slices(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_HASH_SLICE", 1)
    data = os.urandom(3 * PART)
    upload_id = await open_upload(store, data)
    parts = await send_all(store, upload_id, data)

    await store.complete(upload_id, oid_of(data), len(data), parts)

    assert await content(store, oid_of(data)) == data


async def test_a_read_ends_with_the_object(store: DiskStore) -> None:
    await store.receive(oid_of(b"text"), 4, body(b"text"))

    pieces = [piece async for piece in store.read(oid_of(b"text"), 1, 100)]

    assert b"".join(pieces) == b"ext"


# Properties


@st.composite
def uploads(draw: st.DrawFn) -> tuple[bytes, int, list[int], int]:
    """Bytes, a part size, an order of the parts, and the length of the pieces they come in."""
    part_size = draw(st.integers(1, 400))
    data = draw(st.binary(min_size=part_size + 1, max_size=part_size * 12))
    count = -(-len(data) // part_size)
    order = draw(st.permutations(range(1, count + 1)))
    again = draw(st.lists(st.sampled_from(order), max_size=3))
    return data, part_size, [*order, *again], draw(st.integers(1, 300))


async def upload(
    store: DiskStore, data: bytes, oid: str, order: Iterable[int], piece: int
) -> tuple[str, dict[int, str]]:
    ticket = await store.ticket(oid, len(data), base_url="http://hub")
    assert ticket.upload_id is not None
    etags = {}
    for number in order:
        part = data[(number - 1) * ticket.chunk_size : number * ticket.chunk_size]
        pieces = [part[at : at + piece] for at in range(0, len(part), piece)]
        etags[number] = await store.receive(
            oid, len(part), body(*pieces), upload_id=ticket.upload_id, part_number=number
        )
        assert etags[number] == f'"{hashlib.md5(part).hexdigest()}"'
    return ticket.upload_id, etags


@pytest.mark.no_cover
@given(uploads())
@settings(max_examples=30, deadline=None)
async def test_any_parts_in_any_order_make_exactly_the_object(
    case: tuple[bytes, int, list[int], int],
) -> None:
    data, part_size, order, piece = case
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_module, "HOP", 128)
        store = DiskStore(folder, part_size=part_size)
        await store.start()
        upload_id, etags = await upload(store, data, oid_of(data), order, piece)

        await store.complete(upload_id, oid_of(data), len(data), list(etags.items()))

        assert await content(store, oid_of(data)) == data
        assert list((Path(folder) / "uploads").iterdir()) == []


@pytest.mark.no_cover
@given(uploads(), st.data())
@settings(max_examples=30, deadline=None)
async def test_a_wrong_bit_is_refused(
    case: tuple[bytes, int, list[int], int], draw: st.DataObject
) -> None:
    data, part_size, order, piece = case
    with tempfile.TemporaryDirectory() as folder:
        store = DiskStore(folder, part_size=part_size)
        await store.start()
        flipped = bytearray(data)
        in_body = draw.draw(st.booleans(), label="in the body")
        if in_body:
            flipped[draw.draw(st.integers(0, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
        upload_id, etags = await upload(store, bytes(flipped), oid_of(data), order, piece)
        if not in_body:
            number = draw.draw(st.sampled_from(sorted(etags)))
            digest = bytearray.fromhex(etags[number].strip('"'))
            digest[draw.draw(st.integers(0, 15))] ^= 1 << draw.draw(st.integers(0, 7))
            etags[number] = f'"{digest.hex()}"'

        with pytest.raises(BlobError):
            await store.complete(upload_id, oid_of(data), len(data), list(etags.items()))

        assert await store.size(oid_of(data)) is None
