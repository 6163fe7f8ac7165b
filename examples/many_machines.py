"""Every rank stores its own shard; rank 0 commits all of them, once.

Here the ranks are processes and receipts come back as JSON; on a cluster they travel as files or
through `torch.distributed.gather_object`.

HF_ENDPOINT=http://127.0.0.1:8080 python examples/many_machines.py me/model
"""

import asyncio
import sys
from concurrent.futures import ProcessPoolExecutor

from asyncpush import Receipt, Uploader, receipts_from_json, receipts_to_json

RANKS = 4


async def store_shard(repo_id: str, rank: int) -> bytes:
    name = f"model-{rank + 1:05}-of-{RANKS:05}.safetensors"
    async with Uploader() as up:
        return receipts_to_json(await up.upload_files(repo_id, {name: bytes([rank]) * 100_000}))


def rank_main(repo_id: str, rank: int) -> bytes:
    return asyncio.run(store_shard(repo_id, rank))


async def commit(repo_id: str, receipts: list[Receipt]) -> str:
    async with Uploader() as up:
        return (await up.commit(repo_id, receipts)).commit_url


def main(repo_id: str) -> None:
    with ProcessPoolExecutor(RANKS) as ranks:
        gathered = ranks.map(rank_main, [repo_id] * RANKS, range(RANKS))
        receipts = [receipt for told in gathered for receipt in receipts_from_json(told)]
    print(asyncio.run(commit(repo_id, receipts)))


if __name__ == "__main__":
    main(sys.argv[1])
