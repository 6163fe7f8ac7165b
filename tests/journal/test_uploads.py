from __future__ import annotations

import math
import os
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncpush.journal import Journal
from tests.fake_clock import NOW, FakeClock
from tests.journal.helpers import (
    DAY,
    HOUR,
    SCOPE,
    SECRET,
    SHA,
    connection_of,
    make_commit,
    make_upload,
)


def test_an_upload_resumes_from_its_verified_parts(tmp_path: Path, clock: FakeClock) -> None:
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.begin_upload(SCOPE, make_upload())
        journal.part_stored(SCOPE, SHA, 1, '"e1"')
        journal.part_stored(SCOPE, SHA, 3, '"e3"')
        journal.part_stored(SCOPE, SHA, 3, '"e3 again"')
    with Journal.open(tmp_path, clock=clock) as journal:
        expected = make_upload(etags={1: '"e1"', 3: '"e3 again"'})
        assert journal.find_upload(SCOPE, SHA) == expected
        journal.part_stored(SCOPE, SHA, 2, '"e2"')
        found = journal.find_upload(SCOPE, SHA)
        assert found is not None
        assert sorted(found.etags) == [1, 2, 3]


def test_uploads_are_distinguished_by_scope_and_oid(journal: Journal) -> None:
    journal.begin_upload(SCOPE, make_upload(mark="one"))
    journal.begin_upload("other", make_upload(mark="two"))
    journal.part_stored(SCOPE, SHA, 1, "e")
    assert journal.find_upload(SCOPE, SHA) == make_upload(mark="one", etags={1: "e"})
    assert journal.find_upload("other", SHA) == make_upload(mark="two")
    assert journal.find_upload(SCOPE, "00" * 32) is None


def test_a_restarted_upload_has_no_earlier_parts(journal: Journal) -> None:
    journal.begin_upload(SCOPE, make_upload(etags={2: "old"}))
    assert journal.find_upload(SCOPE, SHA) == make_upload(etags={2: "old"})
    journal.begin_upload(SCOPE, make_upload(mark="new"))
    assert journal.find_upload(SCOPE, SHA) == make_upload(mark="new")
    assert journal.stats().parts == 0


def test_a_part_of_a_replaced_upload_is_dropped(tmp_path: Path, clock: FakeClock) -> None:
    with Journal.open(tmp_path, clock=clock) as ours, Journal.open(tmp_path, clock=clock) as theirs:
        ours.begin_upload(SCOPE, make_upload())
        theirs.begin_upload(SCOPE, make_upload(mark="theirs"))
        ours.part_stored(SCOPE, SHA, 1, "of the old upload")
        assert theirs.find_upload(SCOPE, SHA) == make_upload(mark="theirs")


def test_watching_an_upload_leaves_it_to_whoever_sends_it(tmp_path: Path, clock: FakeClock) -> None:
    """A push that waits for another one of its process looks while that one replaces the upload:
    the parts stored next belong to the new one."""
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.begin_upload(SCOPE, make_upload(etags={1: "old"}))
        read = journal._read
        seen: list[tuple[float, int] | None] = []

        def read_before_it_is_replaced(*args: Any, **options: Any) -> Any:
            found = read(*args, **options)
            journal._read = read  # type: ignore[method-assign]
            journal.begin_upload(SCOPE, make_upload(mark="new"))
            return found

        journal._read = read_before_it_is_replaced  # type: ignore[method-assign]
        seen.append(journal.watch_upload(SCOPE, SHA))
        journal.part_stored(SCOPE, SHA, 2, "e2")
        seen.append(journal.watch_upload(SCOPE, SHA))
        started_at = make_upload().started_at
        assert seen == [(started_at, 1), (started_at, 1)]
        assert journal.find_upload(SCOPE, SHA) == make_upload(mark="new", etags={2: "e2"})
        assert journal.watch_upload("other", SHA) is None


def test_a_part_of_an_unknown_upload_is_ignored(journal: Journal) -> None:
    journal.part_stored(SCOPE, SHA, 1, "e")
    assert journal.stats().parts == 0


def test_an_ended_upload_is_gone_with_its_parts(journal: Journal) -> None:
    journal.begin_upload(SCOPE, make_upload(etags={1: "e"}))
    journal.end_upload(SCOPE, SHA)
    journal.part_stored(SCOPE, SHA, 2, "late")
    journal.end_upload(SCOPE, SHA)
    assert journal.find_upload(SCOPE, SHA) is None
    assert (journal.stats().uploads, journal.stats().parts) == (0, 0)


@pytest.mark.parametrize(
    ("passed", "alive"),
    [
        pytest.param(0.0, True, id="at once"),
        pytest.param(DAY - 61, True, id="a little left"),
        pytest.param(DAY - 59, False, id="too little left"),
        pytest.param(DAY + 1, False, id="expired"),
        pytest.param(400 * DAY, False, id="clock far ahead"),
        pytest.param(-4.0, True, id="clocks that differ a little"),
        pytest.param(-6.0, False, id="clock put back"),
    ],
)
def test_only_urls_that_surely_live_are_used(
    journal: Journal, clock: FakeClock, passed: float, alive: bool
) -> None:
    journal.begin_upload(SCOPE, make_upload())
    clock.now += passed
    assert (journal.find_upload(SCOPE, SHA) is not None) is alive


def test_url_lifetimes_are_limited(journal: Journal, clock: FakeClock) -> None:
    journal.begin_upload(SCOPE, make_upload(lifetime=math.inf))
    found = journal.find_upload(SCOPE, SHA)
    assert found is not None
    assert found.expires_at == NOW + 7 * DAY
    clock.now += 7 * DAY
    assert journal.find_upload(SCOPE, SHA) is None


@pytest.mark.parametrize("lifetime", [0.0, -HOUR, math.nan], ids=str)
def test_an_upload_with_impossible_times_is_not_kept(journal: Journal, lifetime: float) -> None:
    journal.begin_upload(SCOPE, make_upload(etags={1: "e"}))
    journal.begin_upload(SCOPE, make_upload(lifetime=lifetime, etags={1: "e"}))
    journal.part_stored(SCOPE, SHA, 2, "e")
    assert journal.find_upload(SCOPE, SHA) is None
    assert (journal.stats().uploads, journal.stats().parts) == (0, 0)


@pytest.mark.parametrize("etag", ["", '"d41d8"', "not utf-8 \udcff", "ü", "x" * 10_000])
def test_an_etag_is_kept_exactly_as_received(journal: Journal, etag: str) -> None:
    journal.begin_upload(SCOPE, make_upload())
    journal.part_stored(SCOPE, SHA, 1, etag)
    found = journal.find_upload(SCOPE, SHA)
    assert found is not None
    assert found.etags == {1: etag}


def test_odd_urls_and_numbers_come_back_as_they_were(journal: Journal) -> None:
    upload = replace(
        make_upload(), part_urls=("\udcff", "", "ü"), verify_url=None, chunk_size=2**70
    )
    journal.begin_upload(SCOPE, upload)
    assert journal.find_upload(SCOPE, SHA) == upload


@pytest.mark.parametrize(
    "meddle",
    [
        "UPDATE uploads SET details = zeroblob(100)",
        "UPDATE uploads SET details = substr(details, 1, length(details) - 5)",
        "UPDATE uploads SET details = NULL",
        "UPDATE uploads SET details = 'text'",
        f"UPDATE uploads SET details = x'{zlib.compress(b'').hex()}'",
        f"UPDATE uploads SET details = x'{zlib.compress(b'{}').hex()}'",
    ],
)
def test_damaged_urls_are_not_used(journal: Journal, meddle: str) -> None:
    journal.begin_upload(SCOPE, make_upload())
    connection_of(journal).execute(meddle)
    assert journal.find_upload(SCOPE, SHA) is None
    assert journal.disabled_reason is None


@pytest.mark.parametrize(
    "meddle",
    [
        "UPDATE parts SET etag = x'00' WHERE number = 2",
        "UPDATE parts SET number = 9 WHERE number = 2",
        "UPDATE parts SET seal = NULL WHERE number = 2",
    ],
)
def test_a_damaged_part_is_sent_again(journal: Journal, meddle: str) -> None:
    journal.begin_upload(SCOPE, make_upload(etags={1: "e1", 2: "e2"}))
    connection_of(journal).execute(meddle)
    assert journal.find_upload(SCOPE, SHA) == make_upload(etags={1: "e1"})


def test_a_part_number_beyond_the_urls_is_no_part(journal: Journal) -> None:
    journal.begin_upload(SCOPE, make_upload(etags={1: "e1", 4: "?"}))
    assert journal.find_upload(SCOPE, SHA) == make_upload(etags={1: "e1"})


def test_ten_thousand_parts_take_little_room_and_time(tmp_path: Path) -> None:
    now = time.time()
    urls = tuple(
        f"https://s3.example/{SHA}?{'p' * 600}&partNumber={n}&sig={os.urandom(32).hex()}"
        for n in range(10_000)
    )
    upload = replace(make_upload(started_at=now), part_urls=urls)
    with Journal.open(tmp_path) as journal:
        began = time.process_time()  # a busy machine changes nothing
        journal.begin_upload(SCOPE, upload)
        found = journal.find_upload(SCOPE, SHA)
        assert time.process_time() - began < 2
        assert found == upload
        assert journal.stats().size < sum(map(len, urls)) / 3


def test_uploads_expire_with_their_parts(journal: Journal, clock: FakeClock) -> None:
    journal.begin_upload(SCOPE, make_upload(etags={1: "e"}))
    journal.begin_upload("later", make_upload(lifetime=2 * DAY, etags={1: "e"}))
    clock.now += DAY + 1
    assert journal.expire() == 1
    assert (journal.stats().uploads, journal.stats().parts) == (1, 1)
    clock.now -= 4 * DAY
    assert journal.expire() == 1
    assert (journal.stats().uploads, journal.stats().parts) == (0, 0)


def test_no_url_is_in_a_repr() -> None:
    assert SECRET not in repr(make_upload())
    assert "example" not in repr(make_upload())


def test_durable_records_are_synced_together_with_hashes(journal: Journal) -> None:
    def level() -> int:
        return int(connection_of(journal).execute("PRAGMA synchronous").fetchone()[0])

    journal.forget_hash("/a")
    assert level() == 1  # NORMAL
    journal.begin_upload(SCOPE, make_upload())
    assert level() == 2  # FULL
    journal.forget_hash("/a")
    journal.part_stored(SCOPE, SHA, 1, "e")
    assert level() == 2
    journal.forget_hash("/a")
    journal.begin_commit(SCOPE, make_commit())
    assert level() == 2
