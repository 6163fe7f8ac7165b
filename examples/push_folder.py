"""Push a folder, then check that the Hub has exactly its files.

HF_TOKEN=hf_... python examples/push_folder.py me/model out/
HF_ENDPOINT=local python examples/push_folder.py me/model out/    # the embedded Hub
"""

import asyncio
import sys

from asyncpush import PushOptions, Uploader


async def main(repo_id: str, folder: str) -> None:
    async with Uploader() as up:
        result = await up.push_to_hub(repo_id, folder, PushOptions(commit_message="First weights"))
        print(f"{len(result.files_uploaded)} files, {result.bytes_transferred} bytes")
        print(result.commit_url)

        report = await up.audit(repo_id, folder)
        print("the repo holds exactly this folder" if report.exact else report)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
