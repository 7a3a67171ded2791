"""A run that was stopped and gone on with ends in the weights of one that was not, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers.trainer_callback import TrainerCallback

from model import manifest as manifests
from model.adapters import WEIGHTS as ADAPTER_WEIGHTS
from model.finetune import trainer
from model.finetune.arguments import InvalidConfiguration
from model.finetune.run import finetune
from tests.model.finetune.conftest import Run, arguments, moved, weights


class Stop(TrainerCallback):
    """Ctrl-C, after so many updates: at once, with nothing said to anyone."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_begin(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        if state.global_step == self.after:
            raise KeyboardInterrupt


@pytest.fixture
def stop() -> Iterator[Any]:
    """Make the next runs end before a given update; None: let them end by themselves."""
    monkeypatch = pytest.MonkeyPatch()

    def after(updates: int | None) -> None:
        monkeypatch.undo()
        if updates is not None:
            train = trainer.AnswerTrainer.train

            def stopping(self: Any, **options: Any) -> Any:
                self.add_callback(Stop(updates))
                return train(self, **options)

            monkeypatch.setattr(trainer.AnswerTrainer, "train", stopping)

    yield after
    monkeypatch.undo()


# Eight rows in batches of three are three updates an epoch: a state in the middle of the second epoch, one at its end,
# and one in the middle of batches that are accumulated.
@pytest.mark.parametrize(
    ("settings", "stopped", "state"),
    [
        ({"method": "full"}, 5, 4),
        ({"method": "full"}, 7, 6),
        ({"method": "full", "batch_size": 1, "accumulate": 3}, 5, 4),
        ({"method": "lora", "train": ["language_model", "projector", "vision_tower"], "learning_rate": 0.02}, 5, 4),
    ],
    ids=["amid an epoch", "at an epoch's end", "accumulated", "lora with dropout"],
)
def test_going_on_equals_never_having_stopped(
    run: Run, stop: Any, tmp_path: Path, settings: dict[str, Any], stopped: int, state: int
) -> None:
    settings = settings | {"epochs": 3, "save_every": 2}
    through = run("through", **settings)
    stop(stopped)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", **settings)
    assert [path.name for path in (tmp_path / "stopped" / "work").glob("checkpoint-*")] == [f"checkpoint-{state}"]
    stop(None)
    resumed = run("stopped", **settings, resume=True)
    assert not moved(weights(through), weights(resumed))
    one, two = (manifests.read(folder).training for folder in (through, resumed))
    assert one["losses"] == two["losses"]
    assert one["updates"] == two["updates"] == 9


def test_a_state_of_other_settings_is_refused(run: Run, stop: Any, tmp_path: Path, tiny_checkpoint: Path) -> None:
    stop(2)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", save_every=1)
    stop(None)
    with pytest.raises(InvalidConfiguration, match=r"other settings \(learning_rate, seed\)"):
        run("stopped", save_every=1, resume=True, seed=5, learning_rate=0.5)
    run("stopped", save_every=1, resume=tmp_path / "stopped" / "work" / "checkpoint-2", log_every=3)


def test_a_run_that_is_resumed_on_other_data_is_refused(run: Run, stop: Any, data: Path) -> None:
    stop(2)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", save_every=1)
    stop(None)
    image = data.parent / "images" / "0.png"
    image.write_bytes((data.parent / "images" / "1.png").read_bytes())
    with pytest.raises(InvalidConfiguration, match="data_hash"):
        run("stopped", save_every=1, resume=True)


def test_with_nothing_to_resume_a_run_begins(run: Run) -> None:
    assert not moved(weights(run("fresh")), weights(run("resumed", resume=True)))


def test_a_folder_that_is_no_state_is_refused(tmp_path: Path, tiny_checkpoint: Path, data: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValidationError, match="no state that was saved whole"):
        arguments(tiny_checkpoint, data, tmp_path / "out", resume=tmp_path / "folder")
    (tmp_path / "folder" / "trainer_state.json").write_text("{}")
    with pytest.raises(InvalidConfiguration, match="no state of a finetuning run"):
        finetune(arguments(tiny_checkpoint, data, tmp_path / "out", resume=tmp_path / "folder"))


def test_a_run_killed_over_its_result_makes_it_anew(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.finetune.results.complete", killed)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", save_every=2)
    assert (tmp_path / "stopped" / "model.safetensors").is_file()
    (tmp_path / "stopped" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ValidationError, match="set `resume: true`"):
        run("stopped", save_every=2)
    monkeypatch.undo()
    resumed = run("stopped", save_every=2, resume=True)
    assert not moved(weights(run("through", save_every=2)), weights(resumed))


def test_a_run_killed_while_it_saves_goes_on_from_the_state_before(
    run: Run, tmp_path: Path, tiny_checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = trainer.AnswerTrainer._save_rng_state

    def killed(self: Any, folder: str) -> None:
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        save(self, folder)

    monkeypatch.setattr(trainer.AnswerTrainer, "_save_rng_state", killed)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", save_every=1)
    work = tmp_path / "stopped" / "work"
    assert {path.name for path in work.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert (work / "checkpoint-2" / "optimizer.pt").is_file()
    assert arguments(tiny_checkpoint, data, tmp_path / "stopped", resume=True).state == work / "checkpoint-1"
    monkeypatch.undo()
    resumed = run("stopped", save_every=1, resume=True)
    assert not moved(weights(run("through", save_every=1)), weights(resumed))


def test_a_state_that_half_matches_is_not_gone_on_from(run: Run, stop: Any, tmp_path: Path) -> None:
    """The Trainer itself would say so in a warning, and train on weights that were never loaded."""
    from safetensors.torch import load_file, save_file

    stop(2)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", save_every=1)
    stop(None)
    path = tmp_path / "stopped" / "work" / "checkpoint-2" / "model.safetensors"
    state = load_file(path)
    save_file({name.removeprefix("model."): tensor for name, tensor in state.items()}, path, {"format": "pt"})
    with pytest.raises(InvalidConfiguration, match="does not fit the network"):
        run("stopped", save_every=1, resume=True)


def test_the_result_of_a_run_that_was_stopped_leaves_no_state(run: Run, stop: Any, tmp_path: Path) -> None:
    stop(2)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", method="lora", learning_rate=0.02, save_every=1)
    stop(None)
    folder = run("stopped", method="lora", learning_rate=0.02, save_every=1, resume=True)
    assert {path.name for path in folder.iterdir()} == {
        ADAPTER_WEIGHTS, "adapter_config.json", "telltale.json", "logs",
    }  # fmt: skip
