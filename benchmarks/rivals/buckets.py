"""A folder to a bucket, by `asyncpush.sync` or, with the option official, by `sync_bucket`.

With the option checked, size and Xet hash of each file are then compared with what the Hub lists,
as a sync of ours does. With the option unverified, ours does not. Other options are fields of
UploadConfig.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rivals.measuring import TOKEN, WARM_UP, Figures, Job
from benchmarks.rivals.official import warmed_up

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def main() -> None:
    job, figures = Job.given(), Figures()
    options = dict(job.options)
    if options.pop("official", False):
        _official(job, figures, checked=options.pop("checked", False))
    else:
        asyncio.run(_ours(job, figures, options))
    figures.print()


async def _ours(job: Job, figures: Figures, options: dict[str, object]) -> None:
    with figures.importing():
        import asyncpush

    verify = not options.pop("unverified", False)
    config = asyncpush.UploadConfig(cache_dir=job.scratch, progress="none", **options)  # type: ignore[arg-type]
    async with asyncpush.Uploader(TOKEN, job.endpoint, config) as uploader:
        await uploader.sync({"warm-up.txt": WARM_UP.encode()}, f"hf://buckets/{job.warm_up_repo}")
        with figures.measuring():
            result = await uploader.sync(
                job.folder, f"hf://buckets/{job.repo}", asyncpush.SyncOptions(verify=verify)
            )
    if result.verified != verify:
        raise AssertionError("it was not verified, or was")


def _official(job: Job, figures: Figures, *, checked: bool) -> None:
    api = warmed_up(job, figures)
    api.create_bucket(job.warm_up_repo, exist_ok=True)
    api.batch_bucket_files(job.warm_up_repo, add=[(WARM_UP.encode(), "warm-up.txt")])
    with figures.measuring():
        api.create_bucket(job.repo, exist_ok=True)
        api.sync_bucket(job.folder, f"hf://buckets/{job.repo}", quiet=True)
        if checked:
            _compare(api, job)


def _compare(api: HfApi, job: Job) -> None:
    import hf_xet

    folder = Path(job.folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sent = {
        path.relative_to(folder).as_posix(): (found.file_size, found.hash)
        for path, found in zip(paths, hf_xet.hash_files([str(path) for path in paths]), strict=True)
    }
    listed = {
        each.path: (each.size, each.xet_hash)
        for each in api.get_bucket_paths_info(job.repo, list(sent))
    }
    if listed != sent:
        raise AssertionError("the bucket has other files")


if __name__ == "__main__":
    main()
