"""Pushes each save of the Transformers `Trainer` while training continues (extra `transformers`).

from asyncpush.training.transformers import PushCheckpoints

trainer = Trainer(..., callbacks=[PushCheckpoints("me/model")])

The Trainer's own `push_to_hub=True` silently skips each save made while an earlier one is still
being pushed. This callback keeps the newest one waiting, and reports those it replaces. Do not use
both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from asyncpush.options import PushOptions, SyncOptions
from asyncpush.protocol.addresses import names_bucket
from asyncpush.sources.snapshot import SnapshotChoice
from asyncpush.training.background import BackgroundCheckpoints, BackgroundUploader
from asyncpush.training.checkpoints import CheckpointOutcome, CheckpointReport, Policy

try:
    from transformers import TrainerCallback
except ImportError as exc:
    raise ImportError(
        "the Trainer's callback needs Transformers: pip install 'asyncpush[transformers]'"
    ) from exc


STATE_FILES = (
    "optimizer.*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "global_step*/*",
)
"""Files that are needed to resume training (DeepSpeed's too) but are not part of the model."""


class PushCheckpoints(TrainerCallback):  # type: ignore[misc]
    """A `TrainerCallback` that pushes the model of every save, in the background.

    The end of the training waits for the remaining pushes. When the training crashes, the end of
    the process waits for them, at most for `BackgroundUploader`'s `exit_timeout`. In distributed
    training only the process of global rank 0 pushes. A failed push never stops the training: it is
    logged as an error, passed to `on_outcome`, and listed in `report`.

    In a bucket, `PushCheckpoints("hf://buckets/me/runs/run-7", keep=3, with_state=True)`, each save
    becomes a checkpoint set, such as `step-1000`, which readers can tell to be complete; see
    `CheckpointPusher`.

    Args:
        repo_id: the destination: a repo id, or an address as for `push_to_hub` or `sync`.
        options: the options of each push: `PushOptions`, or `SyncOptions` for a bucket. The commit
            message defaults to one that names the step.
        keep: in a bucket, how many complete checkpoints to keep; None keeps all.
        with_state: also push what is needed to resume training, which is about twice as large as
            the model.
        policy: "latest" or "all"; see `CheckpointPusher`.
        snapshot: see `CheckpointPusher`. Hard links are enough here: the Trainer deletes old
            checkpoints (`save_total_limit`) and does not write into them again.
        on_outcome: called in the background thread with each `CheckpointOutcome`.
        uploader: a `BackgroundUploader` to use, which stays open. By default one is created, and
            closed at the end.
    """

    def __init__(
        self,
        repo_id: str,
        options: PushOptions | SyncOptions | None = None,
        *,
        keep: int | None = None,
        with_state: bool = False,
        policy: Policy = "latest",
        snapshot: SnapshotChoice = "hardlink",
        on_outcome: Callable[[CheckpointOutcome], object] | None = None,
        uploader: BackgroundUploader | None = None,
    ) -> None:
        self._repo_id = repo_id
        in_bucket = names_bucket(repo_id)
        self._options = options or (SyncOptions() if in_bucket else PushOptions())
        if not with_state:
            ignored = self._options.ignore_patterns or ()
            ignored = (ignored,) if isinstance(ignored, str) else tuple(ignored)
            self._options = replace(self._options, ignore_patterns=(*ignored, *STATE_FILES))
        self._how: dict[str, Any] = {
            "keep": keep,
            "policy": policy,
            "snapshot": snapshot,
            "on_outcome": on_outcome,
        }
        self._given = uploader
        self._own: BackgroundUploader | None = None
        self._checkpoints: BackgroundCheckpoints | None = None
        self._report = CheckpointReport()

    @property
    def report(self) -> CheckpointReport:
        """The outcomes of the saves of the current training, or of the last one."""
        return self._report if self._checkpoints is None else self._checkpoints.report

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Queue a saved checkpoint to be pushed."""
        if not state.is_world_process_zero:
            return
        if self._checkpoints is None:
            uploader = self._given or BackgroundUploader()
            self._own = None if self._given else uploader
            self._checkpoints = uploader.checkpoints(self._repo_id, **self._how)
        options, name = self._options, f"step-{state.global_step}"
        if isinstance(options, PushOptions):
            if options.commit_message is None:
                message = f"Training in progress, step {state.global_step}"
                options = replace(options, commit_message=message)
            name = options.commit_message or name
        folder = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        self._checkpoints.push(folder, options, name=name)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the remaining checkpoints."""
        if self._checkpoints is None:
            return
        self._report = self._checkpoints.flush()
        self._checkpoints = None
        if self._own is not None:
            self._own.close()
