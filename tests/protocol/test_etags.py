"""Which ETags are MD5s, and which are the store's own business."""

from __future__ import annotations

import pytest

from asyncpush.protocol.lfs import md5_of_etag

MD5 = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("etag", "headers", "expected"),
    [
        pytest.param(MD5, {}, MD5, id="bare"),
        pytest.param(f'"{MD5}"', {}, MD5, id="quoted"),
        pytest.param(f' "{MD5}" ', {}, MD5, id="with spaces"),
        pytest.param(f'W/"{MD5}"', {}, MD5, id="weak"),
        pytest.param(f'"{MD5.upper()}"', {}, MD5, id="capitals"),
        pytest.param(f'"{MD5}-2"', {}, None, id="of a multipart object"),
        pytest.param('"0x8D"', {}, None, id="another store's form"),
        pytest.param("", {}, None, id="empty"),
        pytest.param(MD5, {"x-amz-server-side-encryption": "AES256"}, MD5, id="SSE-S3"),
        pytest.param(MD5, {"x-amz-server-side-encryption": "aws:kms"}, None, id="KMS"),
        pytest.param(MD5, {"x-amz-server-side-encryption": "aws:kms:dsse"}, None, id="two KMS"),
        pytest.param(
            MD5,
            {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
            None,
            id="SSE-C",
        ),
    ],
)
def test_an_etag_is_an_md5_where_the_store_says_so(
    etag: str, headers: dict[str, str], expected: str | None
) -> None:
    assert md5_of_etag(etag, headers) == expected
