"""`python -m model.demo build` rebuilds the demo checkpoint; `… evaluate` measures the shipped one."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from model.demo import evaluate
from model.detector import Detector

WORK = Path(".telltale/demo-recipe")


def main(argv: list[str] | None = None) -> int:
    """Run one command; its result is on stdout, the last line as JSON."""
    parser = argparse.ArgumentParser(prog="python -m model.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="train the checkpoint from its recipe (about an hour on two cores)")
    builder.add_argument("--work", type=Path, default=WORK, help="folder for photos and intermediate results")
    commands.add_parser("evaluate", help="measure the shipped checkpoint on the shipped held-out images")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    summary = _build(options.work) if options.command == "build" else _evaluate()
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def _build(work: Path) -> dict[str, int | float]:
    logging.getLogger("model").setLevel(logging.INFO)
    from model.demo.build import build  # needs scikit-image, which only the recipe does

    return build(work)


def _evaluate() -> dict[str, int | float]:
    scored = evaluate.score(Detector.load(evaluate.CHECKPOINT, device="cpu"), evaluate.HELDOUT)
    sys.stdout.write(evaluate.table(evaluate.measure(scored)) + "\n")
    return evaluate.summary(scored)


if __name__ == "__main__":
    sys.exit(main())
