"""Signed URLs: what a signature covers, how long it lasts, and the secret behind it."""

from __future__ import annotations

import hmac
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.localhub.blobs import BlobError, Signer
from tests.fake_clock import NOW, FakeClock

PARAMS = {"uploadId": "ab", "partNumber": "2", "size": "8000000"}
Pairs = list[tuple[str, str]]


def signed(signer: Signer, lifetime: int = 60) -> tuple[str, Pairs]:
    url = urlsplit(signer.sign("PUT", "/_lfs/ab", PARAMS, lifetime=lifetime))
    return url.path, parse_qsl(url.query, strict_parsing=True)


def refusal(signer: Signer, method: str, path: str, query: Pairs) -> BlobError:
    with pytest.raises(BlobError) as refused:
        signer.check(method, path, query)
    return refused.value


def test_a_signed_url_gives_back_its_parameters() -> None:
    signer = Signer(b"secret", clock=FakeClock(NOW))
    path, query = signed(signer)

    assert signer.check("PUT", path, query) == PARAMS


def test_the_order_of_parameters_does_not_matter() -> None:
    signer = Signer(b"secret", clock=FakeClock(NOW))
    path, query = signed(signer)

    assert signer.check("PUT", path, reversed(query)) == PARAMS


def changed(name: str, value: str) -> Callable[[Pairs], Pairs]:
    return lambda query: [(key, value if key == name else old) for key, old in query]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(changed("partNumber", "3"), id="another part number"),
        pytest.param(changed("uploadId", "cd"), id="another upload"),
        pytest.param(changed("size", "9"), id="another length"),
        pytest.param(changed("X-Amz-Expires", "999999"), id="longer life"),
        pytest.param(changed("X-Amz-Date", "20990101T000000Z"), id="later date"),
        pytest.param(changed("X-Amz-Signature", "0" * 64), id="forged"),
        pytest.param(changed("X-Amz-Signature", ""), id="empty signature"),
        pytest.param(changed("X-Amz-Signature", "é"), id="signature not ASCII"),
        pytest.param(lambda query: query[:-1], id="no signature"),
        pytest.param(lambda query: [*query, query[-1]], id="two signatures"),
        pytest.param(lambda query: [*query, ("partNumber", "3")], id="a doubled parameter"),
        pytest.param(lambda query: [*query, ("extra", "1")], id="an extra parameter"),
        pytest.param(lambda query: query[1:], id="a missing parameter"),
        pytest.param(lambda query: [], id="nothing"),
        pytest.param(
            lambda query: [("uploadId", "ab&partNumber=2"), *query[2:]], id="smuggled separator"
        ),
    ],
)
def test_a_changed_url_is_refused(change: Callable[[Pairs], Pairs]) -> None:
    signer = Signer(b"secret", clock=FakeClock(NOW))
    path, query = signed(signer)

    error = refusal(signer, "PUT", path, change(query))

    assert (error.status, error.code) == (403, "SignatureDoesNotMatch")


def test_a_url_is_good_for_one_method_path_and_secret() -> None:
    signer = Signer(b"secret", clock=FakeClock(NOW))
    path, query = signed(signer)

    assert refusal(signer, "GET", path, query).status == 403
    assert refusal(signer, "PUT", "/_lfs/cd", query).status == 403
    assert refusal(Signer(b"other", clock=FakeClock(NOW)), "PUT", path, query).status == 403


def test_a_url_ends_when_its_lifetime_does() -> None:
    clock = FakeClock(NOW)
    signer = Signer(b"secret", clock=clock)
    path, query = signed(signer, lifetime=60)

    clock.now += 59
    assert signer.check("PUT", path, query) == PARAMS
    clock.now += 1
    error = refusal(signer, "PUT", path, query)

    assert (error.status, error.code) == (403, "AccessDenied")
    assert error.message == "Request has expired"


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    signer = Signer(b"secret", clock=FakeClock(NOW))
    path, query = signed(signer)
    monkeypatch.setattr(hmac, "compare_digest", compare)

    assert refusal(signer, "PUT", path, query).status == 403  # nothing else decides
    assert len(compared) == 1


@settings(max_examples=40)
@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=5), st.data())
def test_signed_texts_are_unchanged_and_changes_are_found(
    params: dict[str, str], data: st.DataObject
) -> None:
    params = {name: value for name, value in params.items() if not name.startswith("X-Amz-")}
    signer = Signer(b"secret", clock=FakeClock(NOW))
    url = urlsplit(signer.sign("PUT", "/x", params, lifetime=60))
    query = parse_qsl(url.query, keep_blank_values=True, strict_parsing=True)
    assert signer.check("PUT", "/x", query) == params

    index = data.draw(st.integers(0, len(query) - 1))
    name, value = query[index]
    query[index] = (name, data.draw(st.text().filter(lambda text: text != value)))
    assert refusal(signer, "PUT", "/x", query).status == 403
    assert urlencode(query)


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"

    signer = Signer.load(path, clock=FakeClock(NOW))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    where, query = signed(signer)
    assert Signer.load(path, clock=FakeClock(NOW)).check("PUT", where, query) == PARAMS
    assert [item.name for item in path.parent.iterdir()] == ["secret"]


def test_racing_hubs_end_with_one_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All see that there is none yet; then each makes one."""
    together = Barrier(4)

    def missing(path: Path) -> bool:
        together.wait(timeout=10)
        return False

    monkeypatch.setattr(Path, "exists", missing)
    with ThreadPoolExecutor(4) as threads:
        signers = list(threads.map(lambda _: Signer.load(tmp_path / "secret"), range(4)))

    where, query = signed(signers[0])
    assert all(signer.check("PUT", where, query) == PARAMS for signer in signers)
    assert [item.name for item in tmp_path.iterdir()] == ["secret"]
