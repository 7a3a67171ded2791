"""`make bench-growth`: what a full database and a long day change: speed at each size, and memory over many images.

A database is filled with a thousand, a hundred thousand and a million cases (benchmarks/filling.py); at each size the
figures of `make bench-intake` and `make bench-pipeline` are taken again, shorter, with the demo checkpoint, whose
network is quick: what is compared is the service. Then thousands of small images go through, an hour's worth at one a
second, and each program's own memory (USS) is read at every quarter. The last line is JSON: for each size the figures,
and for each program the slope of its memory over the last three quarters, in kilobytes for a thousand cases.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from benchmarks import consumption, filling
from benchmarks.ear import Ear
from benchmarks.intake import File, Intake, files, measure, say
from benchmarks.pipeline import Pipeline, environment, pipeline
from benchmarks.stage import Stage, stage
from model.checkpoint import DEMO_FOLDER
from moderation import db, tenants
from moderation.db import transaction
from moderation.vocabulary import ExplainMode

TENANTS = 20
SIZES = (1_000, 100_000, 1_000_000)
QUARTERS = 4
SMALL_SIDE = 64  # pixels
INTERVAL_S = 0.3
# What intake left waiting, cases and webhooks to nobody: workers are not to be measured on those.
WITHDRAW = (
    """
    UPDATE cases SET status = 'failed', failure_reason = 'internal', settled_at = now()
    WHERE status IN ('queued', 'screening')
    """,
    "UPDATE endpoints SET disabled_at = now()",
)


@dataclass(frozen=True)
class Figures:
    """What was found at one size."""

    cases: int
    database_bytes: int
    intake: dict[str, float]
    cpu_ms: float
    started_ms: float
    told_ms: float

    @property
    def summary(self) -> dict[str, float]:
        """Their part of the last line."""
        return {
            "cases": self.cases,
            "database_kb_per_case": round(self.database_bytes / 1024 / self.cases, 1),
            **self.intake,
            "service_cpu_ms_per_case": round(self.cpu_ms, 1),
            "accept_to_start_ms_p50": round(self.started_ms, 1),
            "settled_to_webhook_ms_p50": round(self.told_ms, 1),
        }


@dataclass(frozen=True)
class Memory:
    """Bytes of each program that are its own, at the beginning and after each quarter of so many images."""

    images: int
    at: list[dict[str, int]]

    def slope_kb(self, program: str) -> float:
        """Kilobytes for a thousand cases, by least squares from the first quarter on: what is loaded once is loaded."""
        read = [found[program] / 1024 for found in self.at[1:]]
        sent = [self.images / QUARTERS * (place + 1) / 1000 for place in range(len(read))]
        return statistics.linear_regression(sent, read).slope


def people() -> None:
    """The tenants whose cases fill the database, and the versions that judged them."""
    with transaction() as session:
        for number in range(TENANTS):
            tenants.create_tenant(session, f"tenant {number:02}")
        filling.make_versions(session)


def fill(first: int, last: int) -> None:
    """Fill up from one number of cases to another."""
    with db.engine().begin() as connection:
        filling.fill(connection, first, last)
    filling.settle_down()


def figures(place: Stage, ear: Ear, size: int, seconds: float, images: int) -> Figures:
    """Intake with no worker running, then the pipeline with all of them."""
    kinds = files()
    with transaction() as session:
        database_bytes = session.scalars(text("SELECT pg_database_size(current_database())")).one()
    intake = Intake(place, kinds, 16)
    measured = measure(intake, 2, seconds)
    with db.engine().begin() as connection:
        for statement in WITHDRAW:
            connection.execute(text(statement))
    with pipeline(place, ear, 1, ExplainMode.REVIEW, kinds[0]) as line:
        sent = [kinds[number % len(kinds)] for number in range(images)]
        way = line.saturated(sent)
        found = line.idle(sent[: images // 2], INTERVAL_S)
    started, told = statistics.median(found.started), statistics.median(found.told)
    return Figures(size, database_bytes, measured.summary, way.beside_network_ms, started, told)


def small_files(count: int) -> list[File]:
    """Small pictures of noise, no two of which look alike: what is alike is kept, and would be more and more."""
    rng = np.random.default_rng(5)
    made = []
    for _ in range(count):
        stream = io.BytesIO()
        pixels = rng.integers(0, 256, (SMALL_SIDE, SMALL_SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG")
        made.append(File(stream.getvalue()[:2], stream.getvalue()[2:]))
    return made


def memory(place: Stage, line: Pipeline, images: int) -> Memory:
    """Send so many small images, and read every program's memory at each quarter."""
    sent = small_files(images)
    size = images // QUARTERS
    at = [consumption.memory_by_program(place.pids)]
    for quarter in range(QUARTERS):
        line.saturated(sent[quarter * size : (quarter + 1) * size])
        time.sleep(1)  # what is done after the last webhook
        at.append(consumption.memory_by_program(place.pids))
        say(f"quarter {quarter + 1}: {sum(at[-1].values()) / 2**20:.0f} MiB in all")
    return Memory(size * QUARTERS, at)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--cases", type=int, nargs="*", default=SIZES, help="sizes of the database, smallest first")
    parser.add_argument("--seconds", type=float, default=6, help="of one turn of intake")
    parser.add_argument("--images", type=int, default=48, help="through the pipeline, at each size")
    parser.add_argument("--memory", type=int, default=3600, help="images over which memory is watched; 0: it is not")
    options = parser.parse_args()
    results: list[Figures] = []
    watched: Memory | None = None
    with Ear() as ear, stage(environment(ear, DEMO_FOLDER, 1), first=people) as place:
        done = 0
        for size in options.cases:
            say(f"filling up to {size:,} cases …")
            fill(done, size)
            done = size
            say(f"measuring on {size:,} cases …")
            results.append(figures(place, ear, size, options.seconds, options.images))
            say(json.dumps(results[-1].summary))
        if options.memory:
            with pipeline(place, ear, 1, ExplainMode.REVIEW, files(1)[0]) as line:
                watched = memory(place, line, options.memory)
    console = Console()
    console.print(sizes(results))
    if watched is not None:
        console.print(memories(watched))
    print(json.dumps(summary(results, watched)))  # noqa: T201  (the line that programs read)


def sizes(results: Sequence[Figures]) -> Table:
    made = Table("figure", *(f"{found.cases:,} cases" for found in results), title=consumption.machine())
    for name in results[0].summary if results else ():
        if name != "cases":
            made.add_row(name, *(f"{found.summary[name]:g}" for found in results))
    return made


def memories(watched: Memory) -> Table:
    quarters = [f"after {watched.images // QUARTERS * (place + 1)}" for place in range(QUARTERS)]
    made = Table("own memory, MiB", "before", *quarters, "kB for 1,000 cases")
    for program in watched.at[0]:
        read = (f"{found[program] / 2**20:.1f}" for found in watched.at)
        made.add_row(program, *read, f"{watched.slope_kb(program):.0f}")
    return made


def summary(results: Sequence[Figures], watched: Memory | None) -> dict[str, Any]:
    """What the last line says."""
    slopes = {name: round(watched.slope_kb(name)) for name in watched.at[0]} if watched is not None else {}
    return {"sizes": [found.summary for found in results], "memory_kb_per_1000_cases": slopes}


if __name__ == "__main__":
    main()
