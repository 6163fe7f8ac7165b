"""A folder to a bucket, by `asyncpush.sync` or, with the option official, by `sync_bucket`.

Other options are fields of UploadConfig.
"""

from __future__ import annotations

import asyncio

from benchmarks.rivals.measuring import TOKEN, WARM_UP, Figures, Job
from benchmarks.rivals.official import warmed_up


def main() -> None:
    job, figures = Job.given(), Figures()
    options = dict(job.options)
    if options.pop("official", False):
        _official(job, figures)
    else:
        asyncio.run(_ours(job, figures, options))
    figures.print()


async def _ours(job: Job, figures: Figures, options: dict[str, object]) -> None:
    with figures.importing():
        import asyncpush

    config = asyncpush.UploadConfig(cache_dir=job.scratch, progress="none", **options)  # type: ignore[arg-type]
    async with asyncpush.Uploader(TOKEN, job.endpoint, config) as uploader:
        await uploader.sync({"warm-up.txt": WARM_UP.encode()}, f"hf://buckets/{job.warm_up_repo}")
        with figures.measuring():
            result = await uploader.sync(job.folder, f"hf://buckets/{job.repo}")
    if not result.verified:
        raise AssertionError("it was not verified")


def _official(job: Job, figures: Figures) -> None:
    api = warmed_up(job, figures)
    api.create_bucket(job.warm_up_repo, exist_ok=True)
    api.batch_bucket_files(job.warm_up_repo, add=[(WARM_UP.encode(), "warm-up.txt")])
    with figures.measuring():
        api.create_bucket(job.repo, exist_ok=True)
        api.sync_bucket(job.folder, f"hf://buckets/{job.repo}", quiet=True)


if __name__ == "__main__":
    main()
