"""The trainer as a run sees it: its command, its progress from a growing log, and what a kill leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from click import ClickException

from model.finetune.arguments import LOGS, WORK
from workers.retraining import training
from workers.retraining.training import Progress

LINES = """epoch 0.10 of 1, update 1 of 10: loss 2.5000, learning rate 0.002
epoch 0.10 of 1, update 1 of 10: validation loss 2.4000
epoch 0.20 of 1, update 2 of 10: loss 1.2500, learning rate 0.002
"""


def test_the_command_launches_finetuning_with_a_configuration_of_accelerates(tmp_path: Path) -> None:
    command = training.command(tmp_path / "run.yaml", "single")
    assert command[2:4] == ["-m", "accelerate.commands.launch"]
    assert Path(command[command.index("--config_file") + 1]).name == "single.yaml"
    assert command[-4:] == ["-m", "model.finetune", "--config", str(tmp_path / "run.yaml")]
    with pytest.raises(ClickException, match="neither a file nor one of"):
        training.command(tmp_path / "run.yaml", "everything")


def test_progress_is_the_newest_whole_line_and_told_once(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    progress = Progress(log)
    assert progress.news() is None
    log.write_text(LINES[:-10])
    assert progress.news() == {"update": 1, "updates": 10, "loss": 2.5, "seconds_left": None}
    assert progress.news() is None
    log.write_text(LINES)
    news = progress.news()
    assert news is not None and (news["update"], news["loss"]) == (2, 1.25)
    assert news["seconds_left"] == 0  # eight updates at the pace of this test
    assert progress.latest == news


def test_what_an_earlier_trainer_said_is_past(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(LINES)
    progress = Progress(log)
    assert progress.news() is None
    with log.open("a") as file:
        file.write("epoch 0.30 of 1, update 3 of 10: loss 1.0000, learning rate 0.002\n")
    news = progress.news()
    assert news is not None and news["update"] == 3


def test_only_states_that_are_whole_are_gone_on_from(tmp_path: Path) -> None:
    output = tmp_path / "adapter"
    for name, state in (("checkpoint-2", "{}"), ("checkpoint-4", "{"), ("checkpoint-6", None)):
        (output / WORK / name).mkdir(parents=True)
        if state is not None:
            (output / WORK / name / training.STATE).write_text(state)
    (output / LOGS).mkdir()
    (output / "golden").mkdir()
    (output / "telltale.json").write_text("{}")
    assert not training.is_done(output)
    training.prepare_to_resume(output)
    assert sorted(path.name for path in output.iterdir()) == [LOGS, WORK]
    assert [path.name for path in (output / WORK).iterdir()] == ["checkpoint-2"]


def test_an_adapter_is_done_when_the_trainers_work_is_gone(tmp_path: Path) -> None:
    assert not training.is_done(tmp_path / "none")
    training.prepare_to_resume(tmp_path / "none")
    (tmp_path / "telltale.json").write_text("{}")
    assert training.is_done(tmp_path)
