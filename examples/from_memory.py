"""Push checkpoints from memory: no file is written, and training continues while they are sent.

HF_ENDPOINT=local python examples/from_memory.py me/model
"""

import json
import sys

import numpy as np
from numpy.typing import NDArray

from asyncpush import BackgroundUploader, PushOptions, PushTicket, Tensors

STEPS = 300
SAVE_EVERY = 100

State = dict[str, NDArray[np.float32]]


def train_one_step(state: State) -> None:
    for tensor in state.values():
        tensor += 1  # the real work happens here, in place


def main(repo_id: str) -> None:
    rng = np.random.default_rng(0)
    state = {f"layers.{n}.weight": rng.random((512, 512), np.float32) for n in range(4)}
    config = json.dumps({"hidden_size": 512, "num_hidden_layers": 4}).encode()
    tickets: list[PushTicket] = []
    with BackgroundUploader() as bg:
        for step in range(1, STEPS + 1):
            train_one_step(state)
            if step % SAVE_EVERY == 0:
                # With torch: Tensors(model.state_dict(), {"format": "pt"}, copy=True)
                tensors = Tensors(state, {"format": "np"}, copy=True)
                options = PushOptions(commit_message=f"step {step}")
                ticket = bg.push(
                    repo_id, {"model.safetensors": tensors, "config.json": config}, options
                )
                tickets.append(ticket)  # it is being sent; training continues
        for ticket in tickets:
            print(ticket.result().commit_url)  # a failed push raises here: none is lost silently


if __name__ == "__main__":
    main(sys.argv[1])
