"""`make bench-gpu`: FakeVLM's size on the GPU at hand: images a second by batch size, memory, share of the roofline.

Weights are random and every explanation is 100 tokens long, so the numbers are of the work and not of any answer.
Images are prepared beforehand: decoding is the CPU's and overlaps. The last line is JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from peft import get_peft_model
from rich.console import Console
from rich.table import Table

from benchmarks import large, small
from model.checkpoint import Checkpoint, load
from model.engines.decoding import CompiledDecoder, Slab, decode
from model.engines.transformers import TransformersEngine
from model.finetune import parts
from model.finetune.arguments import Lora
from model.prompt import Label

EXPLANATION = 100  # tokens, opening sentence not counted
NO_END = -1  # no token has this id: every row runs to its full length
REPEATS = 3
TRAINED_LENGTH = 750  # tokens of prompt and answer, as FakeVLM's training rows have (700 to 750)

# The roofline of an H200, and what one image costs of it: calculated for LLaVA-1.5-7B in bfloat16.
FLOPS, BANDWIDTH = 790e12, 4.3e12  # per second: arithmetic, bytes
PREFILL_FLOP = 8.5e12
WEIGHTS, CACHED_TOKEN = 13.5e9, 512 * 1024  # bytes


class FixedLength(TransformersEngine):
    """Every explanation is exactly `max_new_tokens` long."""

    def _decode(self, cache: Slab, first: torch.Tensor) -> list[list[int]]:
        return decode(self._model, cache, first, end=NO_END, limit=self._max_new_tokens)


class FixedCompiled(CompiledDecoder):
    """The same for the compiled step."""

    def decode(self, first: torch.Tensor, wanted: Sequence[int], *, end: int, limit: int) -> list[list[int]]:
        return super().decode(first, wanted, end=NO_END, limit=limit)


@dataclass(frozen=True)
class Pace:
    """What was measured of one way at one batch size; memory in GiB at its peak."""

    way: str
    batch: int
    images_per_second: float
    peak_gib: float | None
    roofline: float | None


def roofline(batch: int, explained: bool, prompt: int) -> float:
    """Images a second that an H200 could do at most: arithmetic for the prefill, memory traffic for each token."""
    seconds = PREFILL_FLOP / FLOPS
    if explained:
        cached = (prompt + EXPLANATION / 2) * CACHED_TOKEN
        seconds += EXPLANATION * (WEIGHTS / batch + cached) / BANDWIDTH
    return 1 / seconds


def paced(way: str, batch: int, run: Callable[[], object], bound: float | None) -> Pace:
    """Once to warm up, then the median of `REPEATS`."""
    _reset_memory()
    run()
    times = []
    for _ in range(REPEATS):
        _wait()
        start = time.perf_counter()
        run()
        _wait()
        times.append(time.perf_counter() - start)
    rate = batch / sorted(times)[REPEATS // 2]
    return Pace(way, batch, round(rate, 2), _peak(), None if bound is None else round(rate / bound, 3))


def detection(checkpoint: Checkpoint, batches: Sequence[int], compiled: int) -> list[Pace]:
    """Verdict alone and explained, at each batch size; small ones also with a compiled step."""
    engine = FixedLength(checkpoint, max_new_tokens=EXPLANATION)
    prompt = len(checkpoint.tokens.prompt)
    paces = []
    for batch in [size for size in batches if size <= engine.largest_batch] or [engine.largest_batch]:
        images = [torch.randn(3, small.SIDE, small.SIDE)] * batch
        for way, label in (("verdict", None), ("explained", "fake")):
            run = partial(_answer, engine, images, label)
            pace = paced(way, batch, run, roofline(batch, label is not None, prompt))
            if engine.largest_batch >= batch:  # it did not have to be run in smaller parts
                paces.append(pace)
    if compiled:
        quick = TransformersEngine(checkpoint, max_new_tokens=EXPLANATION)
        quick._compiled = FixedCompiled(checkpoint.model, compiled, quick._length)
        images = [torch.randn(3, small.SIDE, small.SIDE)] * compiled
        bound = roofline(compiled, True, prompt)
        paces.append(paced("explained, compiled step", compiled, partial(_answer, quick, images, "fake"), bound))
    return paces


def _answer(engine: TransformersEngine, images: Sequence[torch.Tensor], label: Label | None) -> None:
    engine.answer(images, lambda index, score: label)


def training(checkpoint: Checkpoint, batches: Sequence[int]) -> list[Pace]:
    """LoRA on the language model as `telltale finetune` sets it up; rows of `TRAINED_LENGTH` tokens, no checkpointing.

    A batch that does not fit memory ends the series. The network cannot be used for anything else afterwards.
    """
    adapted = get_peft_model(checkpoint.model, parts.adapters(checkpoint.model, Lora(), {"language_model"}))
    parts.train_in_full_precision(adapted)
    adapted.train()
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    paces = []
    for batch in batches:
        try:
            step = partial(_step, adapted, optimizer, _rows(checkpoint, batch), len(checkpoint.tokens.prompt))
            paces.append(paced("LoRA training", batch, step, None))
        except torch.OutOfMemoryError:
            optimizer.zero_grad()
            break
    return paces


def _rows(checkpoint: Checkpoint, batch: int) -> dict[str, torch.Tensor]:
    """Rows of one length: prompt, then any tokens."""
    prompt = checkpoint.tokens.prompt
    answer = [checkpoint.tokens.real] * (TRAINED_LENGTH - len(prompt))
    ids = torch.tensor([[*prompt, *answer]] * batch, device=checkpoint.device)
    pixels = torch.randn(batch, 3, small.SIDE, small.SIDE, device=checkpoint.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def _step(network: Any, optimizer: torch.optim.Optimizer, rows: dict[str, torch.Tensor], start: int) -> None:
    targets = rows["input_ids"][:, start:]
    with torch.autocast(rows["input_ids"].device.type, dtype=torch.bfloat16):
        logits = network(**rows, logits_to_keep=targets.shape[1] + 1, use_cache=False).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten()).backward()
    optimizer.step()
    optimizer.zero_grad()


def _reset_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak() -> float | None:
    """GiB; None where there is no GPU to ask."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def table(paces: Sequence[Pace], title: str) -> Table:
    made = Table("way", "batch", "images/s", "peak GiB", "of the H200 roofline", title=title)
    for pace in paces:
        share = "" if pace.roofline is None else f"{100 * pace.roofline:.1f} %"
        made.add_row(pace.way, str(pace.batch), f"{pace.images_per_second:.2f}", str(pace.peak_gib or ""), share)
    return made


def main() -> int:
    """Measure and print; 1 where there is no GPU and none was waived."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--training-batches", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--compiled", type=int, default=8, metavar="ROWS", help="also with a compiled step; 0: not")
    parser.add_argument("--small-on-cpu", action="store_true", help="try the harness itself, on the small checkpoint")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.small_on_cpu:
        print("There is no GPU here: nothing was measured. --small-on-cpu tries the harness.", file=sys.stderr)  # noqa: T201
        return 1
    console = Console()
    with console.status("building …"):
        checkpoint = load(small.FOLDER) if options.small_on_cpu else large.build(torch.device("cuda"), torch.bfloat16)
    device = (
        "CPU, the small checkpoint: no measure of anything" if options.small_on_cpu else torch.cuda.get_device_name()
    )
    with console.status("detecting …"):
        detected = detection(checkpoint, options.batches, options.compiled)
    with console.status("training …"):
        trained = training(checkpoint, options.training_batches)
    console.print(table([*detected, *trained], f"{device}, {checkpoint.dtype}, {datetime.date.today()}"))
    print(json.dumps({"device": device, "paces": [asdict(pace) for pace in [*detected, *trained]]}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
