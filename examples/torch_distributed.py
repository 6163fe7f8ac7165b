"""Each rank uploads the shard it has; rank 0 commits all of them, once.

torchrun --nproc-per-node 4 examples/torch_distributed.py me/model    # PyTorch gathers
python examples/torch_distributed.py me/model                         # plain processes do

Receipts travel as JSON, which is checked when it is read. A rank that fails says so instead, or
rank 0 would wait for it.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from asyncpush import AsyncPushError, Receipt, Uploader, receipts_from_json, receipts_to_json

RANKS = 4


async def store(repo_id: str, shard: Path) -> list[Receipt]:
    async with Uploader() as up:
        return await up.upload_files(repo_id, shard)


def store_shard(repo_id: str, rank: int, ranks: int) -> bytes | str:
    """This rank's receipts, or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / f"model-{rank + 1:05}-of-{ranks:05}.safetensors"
        shard.write_bytes(bytes([rank]) * 100_000)  # the real weights of this rank
        try:
            return receipts_to_json(asyncio.run(store(repo_id, shard)))
        except AsyncPushError as error:
            return f"rank {rank}: {error}"


async def commit(repo_id: str, gathered: Sequence[bytes | str | None]) -> None:
    failures = [told for told in gathered if not isinstance(told, bytes)]
    if failures:
        raise SystemExit(f"nothing is committed: {failures}")
    receipts = [r for told in gathered if isinstance(told, bytes) for r in receipts_from_json(told)]
    async with Uploader() as up:
        result = await up.commit(repo_id, receipts)
    print(result.commit_url)


def with_torch(repo_id: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    gathered: list[bytes | str | None] | None = [None] * ranks if rank == 0 else None
    dist.gather_object(store_shard(repo_id, rank, ranks), gathered)
    if gathered is not None:
        asyncio.run(commit(repo_id, gathered))
    dist.destroy_process_group()


def with_processes(repo_id: str) -> None:
    with ProcessPoolExecutor(RANKS) as ranks:
        gathered = ranks.map(store_shard, [repo_id] * RANKS, range(RANKS), [RANKS] * RANKS)
        asyncio.run(commit(repo_id, list(gathered)))


if __name__ == "__main__":
    if "RANK" in os.environ:  # set by torchrun
        with_torch(sys.argv[1])
    else:
        with_processes(sys.argv[1])
