"""boto3's transfer manager. Options: connections, part_size."""

from __future__ import annotations

from pathlib import Path

from benchmarks.rivals.measuring import Figures, Job
from benchmarks.serving import BUCKET


def main() -> None:
    job, figures = Job.given(), Figures()
    with figures.importing():
        import boto3
        from boto3.s3.transfer import TransferConfig

    s3 = boto3.client("s3", endpoint_url=job.s3, region_name="us-east-1")
    config = TransferConfig(
        max_concurrency=job.options["connections"], multipart_chunksize=job.options["part_size"]
    )
    folder = Path(job.folder)
    with figures.measuring():
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            key = f"{job.repo}/{path.relative_to(folder).as_posix()}"
            s3.upload_file(str(path), BUCKET, key, Config=config)
    figures.print()


if __name__ == "__main__":
    main()
