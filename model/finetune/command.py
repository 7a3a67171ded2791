"""`telltale finetune` and `telltale merge`: a run in processes of its own, and an adapter made a checkpoint.

torch is imported when a command runs, not when it is listed. Nothing is decided here.
"""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from model.opening import INTERRUPTED

CONFIGURATIONS = Path(__file__).parent / "accelerate"
SHIPPED = ("single", "ddp", "zero2", "zero3", "fsdp")


@click.command()
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="What to train, as YAML.",
)
@click.option(
    "--accelerate",
    "how",
    default="single",
    show_default=True,
    metavar="NAME|FILE",
    help=f"In which processes: {', '.join(SHIPPED)} (one process for each GPU), or a file of `accelerate config`.",
)
def finetune(config: Path, how: str) -> None:
    """Train a new checkpoint, or an adapter, as the file says (docs/finetune.md).

    Ctrl-C ends it; what it had saved can be gone on from with `resume: true`.

    \b
    An adapter on the demo checkpoint, as a file:
      base: demo                # or a folder, or a hub id with its `revision`
      data: train/records.json  # FakeClue's format; images lie beside it
      validation: val/records.json
      output: runs/first
      name: my-first-adapter
      method: lora              # or qlora, full
    """
    from model.finetune.arguments import InvalidConfiguration, read

    try:
        read(config)
    except InvalidConfiguration as error:
        raise click.ClickException(str(error)) from error
    raise SystemExit(launch(config, launcher_options(how)))


@click.command()
@click.argument("adapter", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="The new version's name; the adapter's with `-merged` if none is given.")
@click.option(
    "--stored-as",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="bfloat16",
    show_default=True,
    help="What the weights are stored in.",
)
def merge(adapter: Path, output: Path, name: str | None, stored_as: str) -> None:
    """Fold ADAPTER into its base and write the checkpoint to OUTPUT: one that vLLM and plain transformers load."""
    from model import checkpoint, manifest
    from model.finetune.merge import merge

    quieten()
    try:
        click.echo(merge(adapter, output, stored_as, name))
    except (checkpoint.CheckpointError, manifest.ManifestError) as error:
        raise click.ClickException(str(error)) from error


def quieten() -> None:
    """Only what is ours is told: libraries' bars and deprecations are not the user's concern."""
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("model").setLevel(logging.INFO)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def launch(config: Path, options: list[str]) -> int:
    """`accelerate launch OPTIONS -m model.finetune --config CONFIG`: training in child processes; their exit code."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    command = [*options, "--quiet", "-m", "model.finetune", "--config", str(config)]
    with _passed_on() as received:
        try:
            launch_command(launch_command_parser().parse_args(command))
        except SystemExit as ended:
            return INTERRUPTED if received else int(ended.code or 0)
        except ChildFailedError as failed:
            return INTERRUPTED if received else failed.get_first_failure()[1].exitcode
        except SignalException:
            return INTERRUPTED
    return 0


@contextmanager
def _passed_on() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM go to the training processes, which end in order; yields the list of what was received."""
    import psutil

    received: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        for child in psutil.Process().children():
            child.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launcher_options(how: str) -> list[str]:
    """A shipped configuration with a process for each GPU, or a file as it stands."""
    if how not in SHIPPED:
        if not Path(how).is_file():
            raise click.ClickException(f"--accelerate {how} is neither a file nor one of {', '.join(SHIPPED)}.")
        return ["--config_file", how]
    options = ["--config_file", str(CONFIGURATIONS / f"{how}.yaml")]
    return options if how == "single" else [*options, "--num_processes", str(_gpus(how))]


def _gpus(how: str) -> int:
    import torch

    found, wanted = torch.cuda.device_count(), 2 if how == "ddp" else 1
    if found < wanted:
        raise click.ClickException(f"--accelerate {how} needs {wanted} GPUs or more, and this machine has {found}.")
    return found
