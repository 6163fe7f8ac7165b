"""The Trainer's callback, driven by Transformers' own handler, state and flow of saves.

The Trainer itself needs PyTorch, which is too large for here; everything it says to callbacks goes
through `CallbackHandler`, and `DefaultFlowCallback` decides when to save.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncpush import BackgroundUploader, UploadConfig
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN
from tests.faults import FaultLayer
from tests.reading import commits_of, download, files_of
from tests.request_blocker import RequestBlocker


@pytest.fixture
def hub(hub_in_thread: LocalHub) -> LocalHub:
    return hub_in_thread


@pytest.fixture
def bg(hub: LocalHub, config: UploadConfig) -> Iterator[BackgroundUploader]:
    with BackgroundUploader(TOKEN, hub.url, config) as uploader:
        yield uploader


class Run:
    """What the Trainer does around its steps, without the steps."""

    def __init__(self, callback: Any, output_dir: Path, **arguments: Any) -> None:
        from transformers import TrainerControl, TrainerState, TrainingArguments
        from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

        self.args = TrainingArguments(
            output_dir=str(output_dir), save_steps=10, report_to=[], **arguments
        )
        self.state = TrainerState(max_steps=30, save_steps=10)
        self.control = TrainerControl()
        self.handler = CallbackHandler([DefaultFlowCallback, callback], None, None, None, None)

    def steps(self, count: int) -> None:
        from transformers.trainer_utils import rotate_checkpoints

        for _ in range(count):
            self.control = self.handler.on_step_begin(self.args, self.state, self.control)
            self.state.global_step += 1
            self.control = self.handler.on_step_end(self.args, self.state, self.control)
            if self.control.should_save:
                self.save()
                rotate_checkpoints(self.args.output_dir, self.args.save_total_limit)
                self.control = self.handler.on_save(self.args, self.state, self.control)

    def save(self) -> None:
        step = self.state.global_step
        folder = Path(self.args.output_dir) / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"\0weights %d" % step)
        (folder / "config.json").write_text("{}")
        (folder / "optimizer.pt").write_bytes(b"\0moments")
        (folder / "rng_state.pth").write_bytes(b"\0chance")
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def end(self) -> None:
        self.control = self.handler.on_train_end(self.args, self.state, self.control)


MODEL_FILES = {"model.safetensors", "config.json", "trainer_state.json"}


@pytest.mark.heavy
class TestWithTransformers:
    def test_every_save_is_pushed_or_reported(
        self, hub: LocalHub, bg: BackgroundUploader, blocker: RequestBlocker, tmp_path: Path
    ) -> None:
        from asyncpush.training.transformers import PushCheckpoints

        callback = PushCheckpoints("me/m", uploader=bg)
        run = Run(callback, tmp_path / "run", save_total_limit=1)
        blocker.hold("part")
        run.steps(10)
        blocker.wait()
        run.steps(20)  # two more saves, and the first checkpoint is deleted while it is pushed
        assert not (tmp_path / "run" / "checkpoint-10").exists()
        blocker.release()
        run.end()
        assert str(callback.report) == "2 pushed, 1 skipped"
        assert asyncio.run(files_of(hub, "me/m")) - {".gitattributes"} == MODEL_FILES
        files = asyncio.run(download(hub, "me/m", ["model.safetensors"]))
        assert files == {"model.safetensors": b"\0weights 30"}
        titles = [row["title"] for row in asyncio.run(commits_of(hub, "me/m"))]
        assert titles[:2] == ["Training in progress, step 30", "Training in progress, step 10"]

    def test_it_makes_and_closes_an_uploader_of_its_own(
        self, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from asyncpush.training.transformers import PushCheckpoints

        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        callback = PushCheckpoints("me/m", with_state=True, policy="all")
        run = Run(callback, tmp_path / "run")
        run.end()  # of a training without saves: nothing
        run.steps(30)
        run.end()
        assert str(callback.report) == "3 pushed"
        assert asyncio.run(files_of(hub, "me/m")) >= {*MODEL_FILES, "optimizer.pt"}

    def test_a_failed_push_does_not_stop_the_training(
        self, bg: BackgroundUploader, faults: FaultLayer, tmp_path: Path
    ) -> None:
        from asyncpush.training.transformers import PushCheckpoints

        faults.add("commit", "422", times=9)
        callback = PushCheckpoints("me/m", uploader=bg)
        run = Run(callback, tmp_path / "run")
        run.steps(10)
        run.end()
        assert str(callback.report) == "1 failed"

    def test_other_processes_of_a_world_push_nothing(
        self, bg: BackgroundUploader, faults: FaultLayer, tmp_path: Path
    ) -> None:
        from asyncpush.training.transformers import PushCheckpoints

        run = Run(PushCheckpoints("me/m", uploader=bg), tmp_path / "run")
        run.state.is_world_process_zero = False
        run.steps(10)
        run.end()
        assert faults.seen["create"] == 0


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "asyncpush.training.transformers", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'asyncpush\[transformers\]'"):
        import asyncpush.training.transformers  # noqa: F401
