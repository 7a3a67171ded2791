"""`make bench-pipeline`: the whole service against the bare detector, and how long a case waits between two hands.

Saturated: images are sent as files, so many that some always wait, and counted when the webhook with the last word on
them has come: api, S3, Postgres, relay, Celery, screening, delivery. In turns with that, the detector alone goes from
the same bytes to the same verdicts and explanations, with the same batches and threads. The checkpoint is
benchmarks/checkpoint (336 pixels, 576 image tokens). The service's own CPU is that of all its processes and services
less what the bare detector, which decodes and preprocesses too, took for the same images in the same run. Client and
receiver are this process, and no part of it.
Idle: images come one by one, at a fifth of what the detector can do; from the rows' times and the receiver's clock.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from benchmarks import consumption
from benchmarks.ear import LAST_WORDS, Ear
from benchmarks.intake import File, Numbers, Sender, files, say
from benchmarks.stage import SERVICES, Customer, Stage, new_customer, stage
from moderation.db import transaction
from moderation.tables import Case, Event
from moderation.vocabulary import EventType, ExplainMode

BATCH = 8  # TELLTALE_BATCH_SIZE's default
SENDERS = 4
OUTSTANDING = 48  # twice what the relay offers to the broker
IDLE_LOAD = 0.2
READY_S, SETTLED_S = 180, 300
SCREENING = "screening"


@dataclass(frozen=True)
class Way:
    """One turn over all images, by the service or by the bare detector: seconds, and CPU by program.

    `network_s` is the CPU of the service's busiest threads, as many as the network may use: those run it, and nothing
    else.
    """

    images: int
    seconds: float
    cpu_s: dict[str, float]
    network_s: float = 0.0

    @property
    def per_s(self) -> float:
        return self.images / self.seconds

    @property
    def beside_network_ms(self) -> float:
        """CPU milliseconds of a case that are not the network's."""
        return 1000 * (sum(self.cpu_s.values()) - self.network_s) / self.images


@dataclass(frozen=True)
class Hops:
    """Milliseconds from accepted to started and from settled to the webhook, one of each for every case."""

    started: list[float]
    told: list[float]


class Pipeline:
    """A stage with workers, a platform that sends, and its ear."""

    def __init__(self, stage: Stage, ear: Ear, customer: Customer, threads: int) -> None:
        self._stage = stage
        self._ear = ear
        self._customer = customer
        self._threads = threads
        self._numbers = Numbers()

    def wait_ready(self, file: File) -> None:
        """Send one image, and return when it has gone all the way. Raises TimeoutError."""
        self._ear.wait_for([self._send_one(file)], READY_S)

    def saturated(self, sent: Sequence[File]) -> Way:
        """All of them; OUTSTANDING are on their way at any time, so that something always waits for the detector."""
        left, cases, lock = list(sent), [], threading.Lock()
        heard = len(self._ear.settled)

        def work() -> None:
            sender = Sender(self._stage.port, self._customer, key=False)
            while True:
                with lock:
                    if not left:
                        break
                    file = left.pop()
                    under_way = len(sent) - len(left)
                self._ear.wait_until_heard(heard + under_way - OUTSTANDING, SETTLED_S)
                cases.append(sender.send(file, self._numbers.take()))
            sender.close()

        before, network = self._cpu()
        start = time.perf_counter()
        threads = [threading.Thread(target=work) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = self._ear.wait_for(cases, SETTLED_S) - start
        after, network_after = self._cpu()
        if len(cases) != len(sent):
            raise AssertionError(f"{len(cases)} of {len(sent)} images were accepted")
        used = {name: after[name] - before[name] for name in before}
        return Way(len(sent), seconds, used, consumption.busiest_s(network, network_after, self._threads))

    def idle(self, sent: Sequence[File], interval_s: float) -> Hops:
        """One by one, `interval_s` apart on average: never in step with anything that polls."""
        cases = []
        for file in sent:
            cases.append(self._send_one(file))
            time.sleep(interval_s * random.uniform(0.75, 1.25))
        self._ear.wait_for(cases, SETTLED_S)
        return hops(cases, self._ear)

    def standing(self, seconds: float) -> dict[str, float]:
        """Which share of one core each program takes while there is nothing to do."""
        before, _ = self._cpu()
        time.sleep(seconds)
        after, _ = self._cpu()
        return {name: (after[name] - before[name]) / seconds for name in before}

    def _send_one(self, file: File) -> UUID:
        sender = Sender(self._stage.port, self._customer, key=False)
        case_id = sender.send(file, self._numbers.take())
        sender.close()
        return case_id

    def _cpu(self) -> tuple[dict[str, float], dict[int, float]]:
        pids = self._stage.pids
        return consumption.cpu_by_program(pids), consumption.cpu_by_thread(pids[SCREENING])


def hops(cases: Sequence[UUID], ear: Ear) -> Hops:
    """From the rows' own times and the receiver's clock, which on one machine is the same."""
    of_these = Event.case_id.in_(cases)
    at = {}
    with transaction() as session:
        for type_ in (EventType.SUBMISSION_ACCEPTED, EventType.CASE_TAKEN):
            rows = session.execute(select(Event.case_id, Event.created_at).where(of_these, Event.type == type_))
            at[type_] = {row[0]: row[1] for row in rows}
        settled = {row.id: row.settled_at for row in session.scalars(select(Case).where(Case.id.in_(cases)))}
    heard = ear.settled
    accepted, taken = at[EventType.SUBMISSION_ACCEPTED], at[EventType.CASE_TAKEN]
    return Hops(
        [1000 * (taken[case] - accepted[case]).total_seconds() for case in cases],
        [1000 * (heard[case] - settled[case]).total_seconds() for case in cases],
    )


def bare(threads: int) -> Callable[[Sequence[File]], Way]:
    """The detector alone, loaded here: from bytes to verdicts and explanations, in batches of the service's size."""
    import torch

    from benchmarks import small
    from benchmarks.detector import ours
    from model.checkpoint import load

    torch.set_num_threads(threads)
    run = ours(load(small.FOLDER, device="cpu"), explain=True, batch=BATCH)

    def over(sent: Sequence[File]) -> Way:
        data = [b"".join(file.numbered(number)) for number, file in enumerate(sent)]
        before, start = time.process_time(), time.perf_counter()
        run(data)
        return Way(len(sent), time.perf_counter() - start, {SCREENING: time.process_time() - before})

    return over


@contextmanager
def pipeline(stage_: Stage, ear: Ear, threads: int, explain: ExplainMode, first: File) -> Iterator[Pipeline]:
    """A platform on a stage whose workers run for as long as the block, and are ready when it begins."""
    made = Pipeline(
        stage_, ear, new_customer(f"pipeline {time.time_ns()}", ear.url, sorted(LAST_WORDS), explain), threads
    )
    stage_.start_workers()
    try:
        made.wait_ready(first)
        yield made
    finally:
        stage_.stop_workers()


def environment(ear: Ear, checkpoint: Path, threads: int) -> dict[str, str]:
    """What the stage's processes are told beside the defaults."""
    hosts = json.dumps([ear.server.host])
    return {"TELLTALE_MODEL": str(checkpoint), "TELLTALE_ALLOWED_HOSTS": hosts, "OMP_NUM_THREADS": str(threads)}


def summary(service: Sequence[Way], alone: Sequence[Way], found: Hops) -> dict[str, float]:
    """What the last line says."""
    return {
        "ratio_to_detector": round(_pace(service) / _pace(alone), 3),
        "service_cpu_ms_per_case": round(sum(own_ms(service, alone).values()), 1),
        "accept_to_start_ms_p50": round(statistics.median(found.started), 1),
        "settled_to_webhook_ms_p50": round(statistics.median(found.told), 1),
    }


def own_ms(service: Sequence[Way], alone: Sequence[Way]) -> dict[str, float]:
    """CPU milliseconds of a case by program, less what the bare detector takes for it."""
    whole, bare_ms = _ms_by_program(service), _ms_by_program(alone)
    return {name: spent - bare_ms.get(name, 0.0) for name, spent in whole.items()}


def _ms_by_program(ways: Sequence[Way]) -> dict[str, float]:
    images = sum(way.images for way in ways)
    return {name: 1000 * sum(way.cpu_s[name] for way in ways) / images for name in ways[0].cpu_s}


def _pace(ways: Sequence[Way]) -> float:
    return sum(way.images for way in ways) / sum(way.seconds for way in ways)


def table(service: Sequence[Way], alone: Sequence[Way], standing: dict[str, float], found: Hops) -> Table:
    """Everything that was found."""
    paces = Table("way", "turns, images/s", "images/s", "screening CPU, ms an image", title=consumption.machine())
    for name, ways in (("whole service", service), ("bare detector", alone)):
        turns = ", ".join(f"{way.per_s:.2f}" for way in ways)
        paces.add_row(name, turns, f"{_pace(ways):.2f}", f"{_ms_by_program(ways)[SCREENING]:.0f}")
    network = 1000 * sum(way.network_s for way in service) / sum(way.images for way in service)
    paces.add_row("  of it the network's thread", "", "", f"{network:.0f}")
    costs = Table("the service's own CPU", "ms a case", "of a core while idle")
    for name, spent in own_ms(service, alone).items():
        label = {SCREENING: "screening, less the bare detector"}.get(name, name)
        label = f"{name} (service)" if name in SERVICES else label
        costs.add_row(label, f"{spent:.1f}", f"{standing[name]:.1%}")
    waits = Table("hop", "p50 ms", "slowest ms")
    for name, times in (("accepted → started", found.started), ("settled → webhook", found.told)):
        waits.add_row(name, f"{statistics.median(times):.1f}", f"{max(times):.1f}")
    outer = Table.grid()
    for part in (paces, costs, waits):
        outer.add_row(part)
    return outer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--images", type=int, default=96, help="of one turn")
    parser.add_argument("--turns", type=int, default=2, help="of either way")
    parser.add_argument("--idle", type=int, default=24, help="images sent one by one")
    parser.add_argument("--threads", type=int, default=1, help="the network's, of either way")
    options = parser.parse_args()
    from benchmarks import small

    sent = files(options.images)
    detector = bare(options.threads)
    service, alone = [], []
    with (
        Ear() as ear,
        stage(environment(ear, small.FOLDER, options.threads)) as place,
        pipeline(place, ear, options.threads, ExplainMode.ALWAYS, sent[0]) as line,
    ):
        for turn in range(options.turns):
            alone.append(detector(sent))
            service.append(line.saturated(sent))
            say(f"turn {turn + 1}: {service[-1].per_s:.2f} images/s, bare detector {alone[-1].per_s:.2f}")
        standing = line.standing(5)
        interval_s = 1 / (IDLE_LOAD * _pace(alone))
        found = line.idle(sent[: options.idle], interval_s)
    Console().print(table(service, alone, standing, found))
    print(json.dumps(summary(service, alone, found)))  # noqa: T201  (the line that programs read)


if __name__ == "__main__":
    main()
