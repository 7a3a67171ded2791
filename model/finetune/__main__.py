"""`python -m model.finetune --config run.yaml`, or the same behind `accelerate launch -m`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from model.checkpoint import CheckpointError
from model.decode import UndecodableImage
from model.finetune.adapters import MergeFailed
from model.finetune.arguments import InvalidConfiguration, read
from model.finetune.records import InvalidRecords
from model.finetune.run import finetune
from model.manifest import ManifestError

REFUSALS = (CheckpointError, InvalidConfiguration, InvalidRecords, ManifestError, MergeFailed, UndecodableImage)


def main(argv: list[str] | None = None) -> int:
    """0 when a checkpoint was written; 1, with the reason on stderr, when the run was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m model.finetune", description="Finetune a LLaVA on FakeClue-format rows."
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file; see model/finetune/arguments.py")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        folder = finetune(read(options.config))
    except REFUSALS as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
