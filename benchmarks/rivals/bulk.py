"""Many repos: `push_many`, or a loop over the official client. Options: client.

Each folder of the source goes to a repo of its own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.rivals.measuring import TOKEN, WARM_UP, Figures, Job
from benchmarks.rivals.official import warmed_up


def main() -> None:
    job, figures = Job.given(), Figures()
    repos = [
        (f"{job.repo}-{folder.name}", str(folder)) for folder in sorted(Path(job.folder).iterdir())
    ]
    client = _ours if job.options["client"] == "asyncpush" else _official
    client(job, repos, figures)
    figures.print()


def _ours(job: Job, repos: list[tuple[str, str]], figures: Figures) -> None:
    with figures.importing():
        import asyncpush

    config = asyncpush.UploadConfig(cache_dir=job.scratch, progress="none")
    pushes = [asyncpush.Push(repo_id, folder) for repo_id, folder in repos]

    async def push() -> None:
        async with asyncpush.Uploader(TOKEN, job.endpoint, config) as uploader:
            warm_up = asyncpush.PushOptions(path_in_repo="warm-up.txt")
            await uploader.push_to_hub(job.warm_up_repo, WARM_UP.encode(), warm_up)
        with figures.measuring():
            async with asyncpush.Uploader(TOKEN, job.endpoint, config) as uploader:
                await uploader.push_many(pushes)

    asyncio.run(push())


def _official(job: Job, repos: list[tuple[str, str]], figures: Figures) -> None:
    api = warmed_up(job, figures)
    with figures.measuring():
        for repo_id, folder in repos:
            api.upload_folder(repo_id=repo_id, folder_path=folder)


if __name__ == "__main__":
    main()
