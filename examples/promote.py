"""Release what was tested: a model goes to a staging repo, and from there to production on the Hub.

HF_ENDPOINT=local python examples/promote.py out/ me/staging me/production v1.2
"""

import asyncio
import sys

from asyncpush import PushOptions, Uploader


async def passes_its_tests(repo_id: str, commit_sha: str) -> bool:
    return True  # download it at this commit and measure it


async def main(folder: str, staging: str, production: str, version: str) -> None:
    async with Uploader() as up:
        candidate = await up.push_to_hub(staging, folder, PushOptions(private=True))
        if not await passes_its_tests(staging, candidate.commit_sha):
            sys.exit(f"not released: {candidate.commit_url}")
        # Exactly the commit that was tested, even if the branch has moved.
        tested = f"hf://{staging}@{candidate.commit_sha}"
        released = await up.copy(tested, production, PushOptions(commit_message=version))
        print(f"{version} is out: {released.commit_url}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
