"""One process of a run: what it is asked for, what of it is told to people, and how it ends.

It knows nothing of how it was started, or of how many there are.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from model.checkpoint import CheckpointError
from model.decode import UndecodableImage
from model.finetune.arguments import Arguments, InvalidConfiguration, read
from model.finetune.command import quieten
from model.finetune.records import InvalidRecords
from model.finetune.run import finetune
from model.manifest import ManifestError
from model.opening import INTERRUPTED

REFUSALS = (CheckpointError, FloatingPointError, InvalidConfiguration, InvalidRecords, ManifestError, UndecodableImage)

SHORT_OF_MEMORY = (
    "The GPU's memory does not suffice: halve `batch_size` and double `accumulate`, which trains the same; or set "
    "`gradient_checkpointing: true`, `method: lora` or `qlora`, or share the weights out (--accelerate zero3, fsdp)."
)


def main(argv: list[str] | None = None) -> int:
    """0 when a checkpoint was written; 1, with the reason on stderr, when the run was refused; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m model.finetune", description="Finetune a LLaVA on FakeClue-format rows."
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file; see docs/finetune.md")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell or launcher that ignores Ctrl-C hands that on
    quieten()
    try:
        arguments = read(options.config)
        return _run(arguments)
    except REFUSALS as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except torch.OutOfMemoryError as error:
        sys.stderr.write(f"{SHORT_OF_MEMORY} ({error})\n")
        return 1


def _run(arguments: Arguments) -> int:
    try:
        folder = finetune(arguments)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it may come twice: from the terminal, and from the launcher
        if PartialState().is_main_process:
            sys.stderr.write(f"\nStopped. {resuming(arguments)}\n")
        return INTERRUPTED
    if PartialState().is_main_process:
        sys.stdout.write(f"{folder}\n")
    return 0


def resuming(arguments: Arguments) -> str:
    """How to go on with a run that was stopped."""
    if not arguments.states:
        return "Nothing had been saved yet: run it again to start from the beginning (`save_every` saves more often)."
    return f"Set `resume: true` and run it again to go on from {arguments.states[-1]}."
