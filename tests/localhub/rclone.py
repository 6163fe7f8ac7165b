"""A third-party S3 server: `rclone serve s3` on a loopback port."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import benchmarks.s3server

BUCKET = "models"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


@dataclass(frozen=True)
class S3Server:
    url: str
    folder: Path
    """The bucket as a folder: what the server holds, seen from behind."""

    def listing(self) -> list[str]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What boto3 reads; nothing of the machine's own AWS set-up comes in."""


@contextmanager
def serve_s3(folder: Path) -> Iterator[S3Server]:
    """An S3 server with one empty bucket, until the block ends."""
    with benchmarks.s3server.serve_s3(folder, BUCKET, (ACCESS_KEY, SECRET_KEY)) as url:
        yield S3Server(url, folder / BUCKET)
