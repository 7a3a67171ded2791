"""`make bench-detector`: our engine against the published evaluation loop and a sensible one, on the same weights.

Every loop gets the same JPEG files and decodes and preprocesses them itself; what is timed is the whole way from file
to label. The last line is JSON: how many times as many images a second ours judges (verdict alone, and explained), and
the share of images that all agree on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import loops, small
from benchmarks.pictures import pictures
from model.answer import Reading
from model.batcher import Batcher
from model.checkpoint import Checkpoint, load
from model.decode import to_rgb
from model.detector import Detector
from model.engines.transformers import TransformersEngine

WARM_UP = 2 * loops.BATCH
PREPARING = 2  # threads that decode and preprocess while a batch runs


@dataclass(frozen=True)
class Timed:
    """One way over all images: labels in order, and seconds."""

    name: str
    labels: list[Reading]
    seconds: float


def ours(checkpoint: Checkpoint, *, explain: bool, batch: int) -> Callable[[Sequence[bytes]], list[Reading]]:
    """As `telltale detect` does it: threads prepare, the batcher runs."""
    detector = Detector(TransformersEngine(checkpoint, max_new_tokens=loops.NEW_TOKENS))

    def run(files: Sequence[bytes]) -> list[Reading]:
        with Batcher(detector, max_batch=batch, max_wait_ms=1000) as batcher, ThreadPoolExecutor(PREPARING) as threads:
            futures = list(threads.map(lambda file: batcher.submit(to_rgb(file), explain), files))
            return [future.result().verdict.label for future in futures]

    return run


def timed(name: str, run: Callable[[Sequence[bytes]], list[Reading]], files: Sequence[bytes]) -> Timed:
    """Warm it up on the first files, then time it over all."""
    run(files[:WARM_UP])
    start = time.perf_counter()
    labels = run(files)
    return Timed(name, labels, time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detector", description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64, help="images in one batch of ours")
    parser.add_argument("--checkpoint", type=Path, default=small.FOLDER)
    options = parser.parse_args()
    checkpoint = load(options.checkpoint)
    files = [picture.jpeg for picture in pictures(options.images, 3, small.SIDE)]
    ways = {
        "ours, verdict": ours(checkpoint, explain=False, batch=options.batch),
        "ours, explained": ours(checkpoint, explain=True, batch=options.batch),
        "sensible": lambda files: loops.sensible(checkpoint, files),
        "published": lambda files: loops.published(checkpoint, files),
    }
    console = Console()
    results = []
    for name, run in ways.items():
        with console.status(f"{name}: {len(files)} images …"):
            results.append(timed(name, run, files))
        print(f"{name}: {len(files)} images in {results[-1].seconds:.1f} s", file=sys.stderr)  # noqa: T201
    console.print(table(results, checkpoint))
    print(json.dumps(summary(results)))  # noqa: T201  (the line that programs read)


def table(results: Sequence[Timed], checkpoint: Checkpoint) -> Table:
    made = Table("way", "images/s", "ms per image", "real", "fake", "unparsable", title=_where(checkpoint))
    for result in results:
        counts = [str(result.labels.count(label)) for label in ("real", "fake", "unparsable")]
        pace = result.seconds / len(result.labels)
        made.add_row(result.name, f"{1 / pace:.2f}", f"{1000 * pace:.1f}", *counts)
    return made


def summary(results: Sequence[Timed]) -> dict[str, float]:
    """Ratios of images per second, and the share of images that got one and the same label from every way."""
    verdict, explained, sensible, published = results
    same = [len(set(labels)) == 1 for labels in zip(*(result.labels for result in results), strict=True)]
    return {
        "ratio_verdict": round(published.seconds / verdict.seconds, 2),
        "ratio_explained": round(published.seconds / explained.seconds, 2),
        "ratio_verdict_sensible": round(sensible.seconds / verdict.seconds, 2),
        "ratio_explained_sensible": round(sensible.seconds / explained.seconds, 2),
        "label_agreement": round(sum(same) / len(same), 4),
    }


def _where(checkpoint: Checkpoint) -> str:
    device = (
        torch.cuda.get_device_name() if checkpoint.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    return f"{checkpoint.manifest.name}, {checkpoint.dtype}, {device}"


if __name__ == "__main__":
    main()
