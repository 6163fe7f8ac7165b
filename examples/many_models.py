"""Publish many models at once: one session, shared limits; a failed push does not stop the others.

HF_ENDPOINT=local python examples/many_models.py me
"""

import asyncio
import sys

from asyncpush import Push, Uploader, UploadResult


async def main(namespace: str) -> None:
    pushes = [
        Push(f"{namespace}/model-{number}", {"config.json": b'{"number": %d}' % number})
        for number in range(5)
    ]
    async with Uploader() as up:
        outcomes = await up.push_many(pushes, return_exceptions=True)
    for push, outcome in zip(pushes, outcomes, strict=True):
        told = outcome.commit_url if isinstance(outcome, UploadResult) else f"failed: {outcome}"
        print(f"{push.repo_id}: {told}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
