"""URLs that carry their own permission: HMAC-SHA256 over method, path, parameters and expiry."""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from asyncpush.localhub.blobs import BlobError

# S3's own names: whoever redacts or reads expiry from a presigned URL knows these.
DATE, EXPIRES, SIGNATURE = "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature"

DATE_FORMAT = "%Y%m%dT%H%M%SZ"


class Signer:
    """Signs URLs and checks them. A URL is valid for exactly one method, path and parameter set.

    >>> signer = Signer(b"secret", clock=lambda: 0)
    >>> signer.sign("PUT", "/_lfs/ab", {"size": "3"}, lifetime=60)[:37]
    '/_lfs/ab?size=3&X-Amz-Date=19700101T0'
    """

    def __init__(self, secret: bytes, *, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self.clock = clock

    @classmethod
    def load(cls, path: Path, *, clock: Callable[[], float] = time.time) -> Signer:
        """The signer with the secret kept in `path`, which is created (mode 0600) when missing."""
        return cls(_load_secret(path), clock=clock)

    @property
    def name(self) -> str:
        """Identifies this signer without revealing its secret."""
        return hmac.digest(self._secret, b"name", "sha256").hex()[:16]

    def sign(self, method: str, path: str, params: Mapping[str, str], *, lifetime: int) -> str:
        """`path` with `params`, the date, the lifetime in seconds, and the signature."""
        issued = datetime.fromtimestamp(int(self.clock()), UTC).strftime(DATE_FORMAT)
        pairs = [*params.items(), (DATE, issued), (EXPIRES, str(lifetime))]
        signature = self._signature(method, path, pairs)
        return f"{path}?{urlencode([*pairs, (SIGNATURE, signature)])}"

    def check(self, method: str, path: str, query: Iterable[tuple[str, str]]) -> dict[str, str]:
        """The signed parameters. Raises `BlobError` 403 when they were not signed here or have
        expired."""
        pairs = list(query)
        claimed = [value for name, value in pairs if name == SIGNATURE]
        signed = [pair for pair in pairs if pair[0] != SIGNATURE]
        if len(claimed) != 1 or not hmac.compare_digest(
            claimed[0].encode(), self._signature(method, path, signed).encode()
        ):
            raise BlobError(
                403,
                "The request signature we calculated does not match the signature you provided.",
                "SignatureDoesNotMatch",
            )
        # What is signed was written by `sign`, so it parses.
        params = dict(signed)
        issued = datetime.strptime(params.pop(DATE), DATE_FORMAT).replace(tzinfo=UTC)
        if self.clock() >= issued.timestamp() + int(params.pop(EXPIRES)):
            raise BlobError(403, "Request has expired", "AccessDenied")
        return params

    def _signature(self, method: str, path: str, pairs: Iterable[tuple[str, str]]) -> str:
        # Percent-encoding keeps a separator inside a value from being read as one.
        message = f"{method}\n{path}\n{urlencode(sorted(pairs))}"
        return hmac.digest(self._secret, message.encode(), "sha256").hex()


def _load_secret(path: Path) -> bytes:
    """Read the secret, or create it so that racing processes all end up with the same one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, secrets.token_bytes(32))
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(fresh, path)  # Unlike a rename, this never replaces the winner's secret.
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_bytes()
