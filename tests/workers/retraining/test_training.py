"""The trainer as a run sees it: its command, its progress from a growing log, and what a kill leaves behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from click import ClickException

from model import manifest as manifests
from model.finetune.arguments import LOGS, WORK
from tests.model import finetune_records
from tests.model.finetune.conftest import TWO_CPUS
from tests.workers.retraining.conftest import RECIPE
from workers.retraining import child, training
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


def test_progress_is_the_newest_whole_line_and_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([100.0, 103.0])
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    log = tmp_path / "train.log"
    progress = Progress(log)
    assert progress.news() is None
    log.write_text(LINES[:-10])
    assert progress.news() == {"update": 1, "updates": 10, "loss": 2.5, "seconds_left": None}
    assert progress.news() is None
    log.write_text(LINES)
    news = progress.news()
    assert news is not None and (news["update"], news["loss"]) == (2, 1.25)
    assert news["seconds_left"] == 24, "eight updates of three seconds"
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


class Killed(Exception):
    """The worker has lost its lease, say."""


@pytest.mark.timeout(300)
def test_a_run_in_two_processes_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, champion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run does it: the launcher with a file of accelerate's, DDP over gloo, four rows a process and update."""
    monkeypatch.setattr(child, "TICK_S", 0.02)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output, log, config = tmp_path / "adapter", tmp_path / "train.log", tmp_path / "run.yaml"
    processes = tmp_path / "two-cpus.yaml"
    processes.write_text(TWO_CPUS)
    data = finetune_records.write(tmp_path / "data", 8)
    settings = {
        **RECIPE,
        **{"base": str(champion_folder), "data": str(data), "output": str(output), "name": "two"},
        **{"epochs": 30, "save_every": 3, "log_every": 1, "resume": True},
    }
    config.write_text(yaml.safe_dump(settings))
    command = training.command(config, str(processes))

    def kill_once_a_state_is_whole() -> None:
        if any(training._is_whole(state) for state in (output / WORK).glob("checkpoint-*")):
            raise Killed

    with pytest.raises(Killed):
        child.run(command, log, kill_once_a_state_is_whole)
    assert not _trainers(config)
    training.prepare_to_resume(output)
    state = max(int(path.name.rpartition("-")[2]) for path in (output / WORK).glob("checkpoint-*"))
    progress, before = Progress(log), log.stat().st_size
    child.run(command, log, lambda: None)
    said = [int(match["update"]) for match in training.LINE.finditer(log.read_bytes()[before:].decode())]
    assert said == list(range(state + 1, 31)), "one process speaks, and begins after the state"
    news = progress.news()
    assert news is not None and (news["update"], news["updates"]) == (30, 30)
    assert training.is_done(output)
    trained = manifests.read(output).training
    assert (trained["processes"], trained["sharding"], trained["updates"]) == (2, "ddp", 30)


def _trainers(config: Path) -> list[int]:
    """Processes of the run that are left."""
    return [each.pid for each in psutil.process_iter(["cmdline"]) if str(config) in (each.info["cmdline"] or ())]
