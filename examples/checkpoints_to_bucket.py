"""Keep the newest checkpoints of a training run in a bucket, each one marked when it is complete.

HF_ENDPOINT=local python examples/checkpoints_to_bucket.py hf://buckets/me/runs/run-7
"""

import asyncio
import sys

from asyncpush import CheckpointPusher, Uploader

STEPS = 500
SAVE_EVERY = 100


async def train_one_step(step: int) -> bytes:
    await asyncio.sleep(0)  # the real work happens here
    return step.to_bytes(4, "big") * 50_000


async def main(run: str) -> None:
    async with Uploader() as up:
        async with CheckpointPusher(up, run, keep=3, policy="all") as pusher:
            for step in range(1, STEPS + 1):
                weights = await train_one_step(step)
                if step % SAVE_EVERY == 0:
                    files = {"model.bin": weights, "state.json": b'{"step": %d}' % step}
                    await pusher.push(files, name=f"step-{step}")
            print(await pusher.flush())
        for checkpoint in await up.checkpoints_in(run):  # to resume, take the last one
            print(checkpoint.address, checkpoint.size)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
