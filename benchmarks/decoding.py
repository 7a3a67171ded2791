"""`python -m benchmarks.decoding`: what to do with rows that have ended, measured on whole batches of explanations.

The batch can run at full width to its longest row, or let finished rows go once they are a share of it; transformers'
own generation, which keeps them all and copies its cache at every step, stands beside. Same weights, same answers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import loops, small
from benchmarks.pictures import pictures
from model.checkpoint import Checkpoint, load
from model.decode import to_rgb
from model.engines import decoding
from model.engines.transformers import TransformersEngine

SHARES = {"full width to the end": 2.0, "half": 1 / 2, "a quarter": 1 / 4, "an eighth": 1 / 8, "one row": 1e-9}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    checkpoint = load(small.FOLDER)
    table = Table("finished rows go at", *(f"batch {size}, ms per image" for size in options.batches))
    rows: dict[str, list[str]] = {name: [] for name in [*SHARES, "never (transformers' generate)"]}
    for size in options.batches:
        ways = _ways(checkpoint, size)
        best = {name: min(_seconds(run) for _ in range(options.repeats)) for name, run in ways.items()}
        for name, seconds in best.items():
            rows[name].append(f"{1000 * seconds / size:.1f}")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console().print(table)


def _ways(checkpoint: Checkpoint, size: int) -> dict[str, Callable[[], object]]:
    engine = TransformersEngine(checkpoint, max_new_tokens=loops.NEW_TOKENS)
    files = [picture.jpeg for picture in pictures(size, 5, small.SIDE)]
    prepared = [engine.prepare(to_rgb(file)) for file in files]

    def sharing(share: float) -> Callable[[], object]:
        def run() -> object:
            decoding.FINISHED_SHARE = share
            return engine.complete(prepared)

        return run

    ways = {name: sharing(share) for name, share in SHARES.items()}
    ids = torch.tensor([checkpoint.tokens.prompt] * size, device=checkpoint.device)
    pixels = torch.stack(prepared).to(checkpoint.device, checkpoint.model.dtype)
    eos = checkpoint.processor.tokenizer.eos_token_id
    ways["never (transformers' generate)"] = lambda: checkpoint.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        do_sample=False,
        max_new_tokens=loops.NEW_TOKENS,
        eos_token_id=eos,
        pad_token_id=checkpoint.processor.tokenizer.pad_token_id,
    )
    return ways


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
