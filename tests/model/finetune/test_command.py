"""`telltale finetune` as its user sees it: one process or several, what it prints, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from click.testing import CliRunner

from model import manifest as manifests
from model.finetune import process
from model.finetune.arguments import STATE_FILE, Arguments
from model.finetune.command import CONFIGURATIONS, SHIPPED, finetune
from model.finetune.process import main
from tests.model import finetune_records
from tests.model.finetune.conftest import TWO_CPUS, apart, arguments, weights

TELLTALE = str(Path(sys.executable).with_name("telltale"))
# Processes that import torch: where the machine is busy, each takes a minute for that alone.
pytestmark = pytest.mark.timeout(600)


def configuration(folder: Path, base: Path, data: Path, **changes: Any) -> Path:
    """A file that asks for what `arguments` asks for, into `out`."""
    asked = arguments(base, data, folder / "out", **changes)
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(asked.model_dump(mode="json", exclude_defaults=True)))
    return path


def test_the_module_writes_a_checkpoint_and_says_where(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(configuration(tmp_path, tiny_checkpoint, data))]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    assert manifests.read(tmp_path / "out").name == "tiny-2"


def test_the_module_refuses_bad_data_with_a_status(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = finetune_records.write(tmp_path / "data", extra=[finetune_records.row("images/gone.png", 1)])
    assert main(["--config", str(configuration(tmp_path, tiny_checkpoint, data))]) == 1
    assert "row 9 (images/gone.png): the image file does not exist" in capsys.readouterr().err


def test_memory_that_does_not_suffice_is_told_with_what_to_do(
    tmp_path: Path,
    tiny_checkpoint: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(_: Arguments) -> Path:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(process, "finetune", full)
    assert main(["--config", str(configuration(tmp_path, tiny_checkpoint, data))]) == 1
    told = capsys.readouterr().err
    assert "halve `batch_size` and double `accumulate`" in told
    assert "CUDA out of memory." in told


def test_ctrl_c_while_it_imports_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"}
    command = [sys.executable, "-m", "model.finetune", "--config", "run.yaml"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


def test_two_processes_train_what_one_does_with_batches_of_twice_the_size(
    tmp_path: Path, tiny_checkpoint: Path, data: Path
) -> None:
    """Also the loss they print; only the first of them speaks, reads the records and writes."""
    processes = tmp_path / "two-cpus.yaml"
    processes.write_text(TWO_CPUS)
    run = configuration(tmp_path, tiny_checkpoint, data, batch_size=2, epochs=2, validation=data)
    command = [TELLTALE, "finetune", "--config", str(run), "--accelerate", str(processes)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert sum("update 2 of 4: loss" in line for line in lines) == 1
    assert lines[-1] == str(tmp_path / "out")
    (tmp_path / "one").mkdir()
    alone = configuration(tmp_path / "one", tiny_checkpoint, data, batch_size=4, epochs=2, validation=data)
    assert main(["--config", str(alone)]) == 0
    two, one = (manifests.read(folder / "out") for folder in (tmp_path, tmp_path / "one"))
    assert (two.training["processes"], two.training["sharding"]) == (2, "ddp")
    assert two.training["losses"] == pytest.approx(one.training["losses"], abs=2e-4)
    assert two.metrics["validation_loss"] == pytest.approx(one.metrics["validation_loss"], abs=2e-4)
    assert apart(weights(tmp_path / "one" / "out"), weights(tmp_path / "out")) < 1e-4


# The trainer, which forks nothing: a copy of it might wait for what its threads held.
FORKLESS = "import os, runpy; del os.fork; runpy.run_module('model.finetune', run_name='__main__', alter_sys=True)"


def test_images_prepared_by_other_processes_train_the_same_weights(
    tmp_path: Path, tiny_checkpoint: Path, data: Path
) -> None:
    assert main(["--config", str(configuration(tmp_path, tiny_checkpoint, data, epochs=2))]) == 0
    (tmp_path / "there").mkdir()
    there = configuration(tmp_path / "there", tiny_checkpoint, data, epochs=2, workers=2)
    command = [sys.executable, "-c", FORKLESS, "--config", str(there)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as many as here: another number sums in another order
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert apart(weights(tmp_path / "out"), weights(tmp_path / "there" / "out")) < 1e-5


def test_a_run_that_is_stopped_says_how_to_go_on(tmp_path: Path, tiny_checkpoint: Path, data: Path) -> None:
    run = configuration(tmp_path, tiny_checkpoint, data, epochs=10_000, save_every=5)
    command = [TELLTALE, "finetune", "--config", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("update 12 of" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
    assert process.returncode == 130
    # The state that was being saved just then, if any, is not whole.
    whole = [path.parent for path in (tmp_path / "out" / "work").glob(f"checkpoint-*/{STATE_FILE}")]
    newest = max(whole, key=lambda path: int(path.name.partition("-")[2]))
    assert told.splitlines()[-1] == f"Stopped. Set `resume: true` and run it again to go on from {newest}."


def test_the_help_s_example_is_a_configuration(tmp_path: Path, data: Path) -> None:
    told = CliRunner().invoke(finetune, ["--help"]).output
    example = yaml.safe_load(told.partition("as a file:\n")[2].partition("\n\n")[0])
    assert example.keys() >= {"base", "data", "output", "name"}
    Arguments.model_validate(example | {"data": data, "validation": data, "output": tmp_path / "out"})


def test_a_refused_configuration_starts_no_process(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("{base: demo, data: d, output: o, name: n, patience: 1}")
    result = CliRunner().invoke(finetune, ["--config", str(path)])
    assert result.exit_code == 1
    assert result.output == f"Error: {path}: `patience` and `validation_images` need a `validation` file.\n"


@pytest.mark.parametrize(
    ("how", "says"), [("zero9", "neither a file nor one of single, ddp"), ("ddp", "needs 2 GPUs or more")]
)
def test_processes_that_cannot_be_had_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch, how: str, says: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    run = configuration(tmp_path, tiny_checkpoint, data)
    result = CliRunner().invoke(finetune, ["--config", str(run), "--accelerate", how])
    assert result.exit_code == 1
    assert says in result.output


# --- the shipped configurations --------------------------------------------------------------------------------------

KINDS = {
    "single": DistributedType.NO,
    "ddp": DistributedType.MULTI_GPU,
    "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED,
    "fsdp": DistributedType.FSDP,
}


def test_every_shipped_configuration_is_offered() -> None:
    assert {path.stem for path in CONFIGURATIONS.glob("*.yaml")} == set(SHIPPED) == set(KINDS)


@pytest.mark.parametrize("name", SHIPPED)
def test_accelerate_reads_every_shipped_configuration(name: str) -> None:
    """Also every setting below `deepspeed_config` and `fsdp_config`, which its own loader does not look at."""
    read = load_config_from_file(str(CONFIGURATIONS / f"{name}.yaml"))
    assert read.distributed_type == KINDS[name]
    assert (read.num_processes, read.main_process_port) == ((1, None) if name == "single" else (8, 0))
    known = {action.dest for action in launch_command_parser()._actions}
    assert {*(read.deepspeed_config or {}), *(read.fsdp_config or {})} <= known


def test_deepspeed_s_stages_and_what_is_gathered_when_saving() -> None:
    two, three, fsdp = (
        load_config_from_file(str(CONFIGURATIONS / f"{name}.yaml")) for name in ("zero2", "zero3", "fsdp")
    )
    assert (two.deepspeed_config["zero_stage"], three.deepspeed_config["zero_stage"]) == (2, 3)
    assert three.deepspeed_config["zero3_save_16bit_model"] is True
    assert fsdp.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
