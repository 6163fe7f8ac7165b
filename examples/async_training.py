"""Push checkpoints from an async training loop that never waits for them.

HF_ENDPOINT=local python examples/async_training.py me/model
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from asyncpush import PushHandle, PushOptions, Uploader

STEPS = 300
SAVE_EVERY = 100


async def train_one_step(step: int) -> bytes:
    await asyncio.sleep(0)  # the real work happens here
    return step.to_bytes(4, "big") * 50_000


async def main(repo_id: str) -> None:
    pushes: list[PushHandle] = []
    with tempfile.TemporaryDirectory() as folder:
        async with Uploader() as up:
            for step in range(1, STEPS + 1):
                weights = await train_one_step(step)
                if step % SAVE_EVERY == 0:
                    checkpoint = Path(folder) / f"step-{step}"
                    checkpoint.mkdir()
                    (checkpoint / "model.bin").write_bytes(weights)
                    options = PushOptions(
                        commit_message=f"step {step}", path_in_repo=f"step-{step}"
                    )
                    pushes.append(up.start_push(repo_id, checkpoint, options))
            for push in pushes:
                result = await push  # a failed push raises here: none is lost silently
                print(result.commit_url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
