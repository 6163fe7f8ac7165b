"""Every node of a Ray cluster uploads the files it has; the driver commits all of them, once.

HF_TOKEN=hf_... python examples/ray_cluster.py me/model /data/checkpoint

Needs `pip install 'asyncpush[ray]'` on each node.
"""

import asyncio
import os
import sys

from asyncpush import PushOptions
from asyncpush.distributed.ray import NodeSource, on_every_node, push_distributed


def notes() -> dict[str, bytes]:
    """A callable runs on its node and says what to upload from there."""
    return {"notes.txt": f"written by process {os.getpid()}".encode()}


async def main(repo_id: str, folder: str) -> None:
    sources = [*on_every_node(folder), NodeSource(notes)]
    result = await push_distributed(repo_id, sources, PushOptions(commit_message="step 1000"))
    print(result.commit_url)


if __name__ == "__main__":
    import ray

    ray.init()
    asyncio.run(main(*sys.argv[1:3]))
