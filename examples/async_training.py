"""Push checkpoints from an async training loop that never waits for an upload.

The trainer overwrites its one checkpoint folder: a snapshot of it is what is pushed. A newer
checkpoint takes the place of one that still waits, and the report names it.

HF_ENDPOINT=local python examples/async_training.py me/model
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from asyncpush import CheckpointPusher, PushOptions, Uploader

STEPS = 300
SAVE_EVERY = 100


async def train_one_step(step: int) -> bytes:
    await asyncio.sleep(0)  # the real work happens here
    return step.to_bytes(4, "big") * 50_000


async def main(repo_id: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        checkpoint.mkdir()
        async with Uploader() as up, CheckpointPusher(up, repo_id, snapshot=True) as pusher:
            for step in range(1, STEPS + 1):
                weights = await train_one_step(step)
                if step % SAVE_EVERY == 0:
                    (checkpoint / "model.bin").write_bytes(weights)
                    await pusher.push(checkpoint, PushOptions(commit_message=f"step {step}"))
            report = await pusher.flush()
    for outcome in report.outcomes:
        told = outcome.result.commit_url if outcome.result else outcome.error or ""
        print(outcome.name, outcome.status, told)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
