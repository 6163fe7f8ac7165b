"""The official client, its progress bars off. Options: twice, changed, xet (else off)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rivals.measuring import TOKEN, WARM_UP, Figures, Job, change

if TYPE_CHECKING:
    from huggingface_hub import HfApi  # its import is timed


def main() -> None:
    job, figures = Job.given(), Figures()
    api = warmed_up(job, figures)
    if job.options.get("twice"):
        api.upload_folder(repo_id=job.repo, folder_path=job.folder)
    folder: str | Path = job.folder
    if (share := job.options.get("changed")) is not None:
        folder = job.copy()
        api.upload_folder(repo_id=job.repo, folder_path=folder)
        change(folder, share)
    with figures.measuring():
        api.upload_folder(repo_id=job.repo, folder_path=folder)
    figures.print()


def warmed_up(job: Job, figures: Figures) -> HfApi:
    """The official client, its settings and its first connection made."""
    os.environ |= {
        "HF_ENDPOINT": job.endpoint,
        "HF_HOME": job.scratch,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if not job.options.get("xet"):
        os.environ["HF_HUB_DISABLE_XET"] = "1"
    with figures.importing():
        from huggingface_hub import HfApi

    api = HfApi(endpoint=job.endpoint, token=TOKEN)
    api.create_repo(job.warm_up_repo, exist_ok=True)
    api.upload_file(
        path_or_fileobj=WARM_UP.encode(), path_in_repo="warm-up.txt", repo_id=job.warm_up_repo
    )
    return api


if __name__ == "__main__":
    main()
