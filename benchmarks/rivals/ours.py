"""asyncpush. Options: uvloop, lag, twice, hashed, changed, and any of UploadConfig's fields."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.rivals.lag import LagMeter
from benchmarks.rivals.measuring import TOKEN, WARM_UP, Figures, Job, change


def main() -> None:
    job, figures = Job.given(), Figures()
    options = dict(job.options)
    changed = options.pop("changed", None)
    ways = {name: options.pop(name, False) for name in ("uvloop", "lag", "twice", "hashed")}
    with figures.importing():
        import asyncpush

    if "fixed_parts" in options:
        fix_parts(options.pop("fixed_parts"), options)
    config = asyncpush.UploadConfig(cache_dir=job.scratch, progress="none", **options)

    async def push() -> None:
        async with asyncpush.Uploader(TOKEN, job.endpoint, config) as uploader:
            folder: str | Path = job.folder
            warm_up = asyncpush.PushOptions(path_in_repo="warm-up.txt")
            await uploader.push_to_hub(job.warm_up_repo, WARM_UP.encode(), warm_up)
            if changed is not None:
                folder = job.copy()
                await uploader.push_to_hub(job.repo, folder)
                change(folder, changed)
                # In the same session: the official client keeps hf_xet's, and its connections,
                # for as long as the process lives.
                with figures.measuring():
                    await uploader.push_to_hub(job.repo, folder)
                return
            elif ways["twice"]:
                await uploader.push_to_hub(job.repo, job.folder)
            elif ways["hashed"]:
                await uploader.push_to_hub(
                    job.repo, job.folder, asyncpush.PushOptions(dry_run=True)
                )
        with figures.measuring(), _lag(figures, enabled=bool(ways["lag"])):
            await asyncpush.push_to_hub(
                job.repo, folder, token=TOKEN, endpoint=job.endpoint, config=config
            )

    if ways["uvloop"]:
        import uvloop

        uvloop.run(push())
    else:
        asyncio.run(push())
    if not Path(job.folder).exists():
        raise AssertionError("the source is gone")
    figures.print()


@contextmanager
def _lag(figures: Figures, *, enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    meter = LagMeter()
    with meter.running():
        yield
    figures.more |= meter.output()


def fix_parts(count: int, options: dict[str, Any]) -> None:
    """So many parts at once, whatever happens: for the sweep that the steered one is held to."""
    from asyncpush.net import adaptive_limit

    options["max_concurrent_parts"] = count
    options.setdefault("max_memory", 256 << 20)
    adaptive_limit.START = count
    adaptive_limit.AdaptiveLimit.overloaded = lambda self, *_: None  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
