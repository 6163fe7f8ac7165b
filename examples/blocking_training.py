"""Push checkpoints from an ordinary training loop: it never awaits, and never waits for an upload.

HF_ENDPOINT=local python examples/blocking_training.py me/model
"""

import sys
import tempfile
from pathlib import Path

from asyncpush import BackgroundUploader, PushOptions, PushTicket

STEPS = 300
SAVE_EVERY = 100


def train_one_step(step: int) -> bytes:
    return step.to_bytes(4, "big") * 50_000  # the real work happens here


def main(repo_id: str) -> None:
    tickets: list[PushTicket] = []
    with tempfile.TemporaryDirectory() as folder, BackgroundUploader() as bg:
        for step in range(1, STEPS + 1):
            weights = train_one_step(step)
            if step % SAVE_EVERY == 0:
                checkpoint = Path(folder) / f"step-{step}"
                checkpoint.mkdir()
                (checkpoint / "model.bin").write_bytes(weights)
                options = PushOptions(commit_message=f"step {step}", path_in_repo=f"step-{step}")
                tickets.append(bg.push(repo_id, checkpoint, options))
        for ticket in tickets:
            print(ticket.result().commit_url)  # a failed push raises here: none is lost silently


if __name__ == "__main__":
    main(sys.argv[1])
