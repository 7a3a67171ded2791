"""`make chaos`: nine kinds of kills, pauses, a full store and bad receivers, under a steady stream of submissions.

`--seed` draws the faults and the stream, `--minutes` is how long the faults go on; start, recovery and reckoning take
about three more. Nothing leaves loopback. Everything is kept in `.telltale/chaos` until the next run. The last line is
JSON; exits with 1 where anything was lost, decided twice, not told of, or left behind.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from benchmarks.chaos import reckoning, report
from benchmarks.chaos.faults import KILLED, Ground
from benchmarks.chaos.platforms import GONE, MOODY, STEADY, add_endpoint, new_platform
from benchmarks.chaos.receivers import Receivers
from benchmarks.chaos.reckoning import Ledger, Violation
from benchmarks.chaos.storm import MOODS, QUOTA, ROUNDS, Storm, timetable
from benchmarks.chaos.stream import Links, Stream
from infra.commands.up import ends_on_signals
from infra.local import Outside, Stack
from moderation.settings import settings
from moderation.storage import Storage

FOLDER = Path(".telltale/chaos")
PLATFORMS = ("anna", "berta")
# Leases of seconds, so that minutes hold what hours would; everything else is as `telltale up` has it.
SHORT = {
    "TELLTALE_MODEL": "demo",
    "TELLTALE_CASE_LEASE_S": "6",
    "TELLTALE_OFFER_LEASE_S": "3",
    "TELLTALE_DELIVERY_TIMEOUT_S": "3",
    "TELLTALE_GPU_TIMEOUT_S": "60",
    "TELLTALE_RETRAIN_HOUR": "never",
    "OMP_NUM_THREADS": "1",
}


@click.command()
@click.option("--minutes", type=click.FloatRange(1, 5), default=4, show_default=True, help="How long the faults go on.")
@click.option("--seed", type=int, default=None, help="Draws the faults and the stream; by default another each time.")
def main(minutes: float, seed: int | None) -> None:
    """Break everything, repeatedly, under load; then account for every submission."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    seed = random.randrange(10_000) if seed is None else seed
    console = Console(highlight=False)
    with ends_on_signals():
        good = run(seed, 60 * minutes, console)
    raise SystemExit(0 if good else 1)


def run(seed: int, seconds: float, console: Console) -> bool:
    """One run; whether nothing was violated."""
    clock = Clock(console)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    clock.tell(f"seed {seed}: starting the embedded stack in {FOLDER}")
    receivers, links = Receivers(FOLDER / "received.jsonl", seed), Links()
    hosts = json.dumps([receivers.server.host, links.server.host])
    with receivers.server, links.server, running({**SHORT, "TELLTALE_ALLOWED_HOSTS": hosts}) as stack:
        clock.tell("ready")
        return Chaos(stack, receivers, links, seed, clock).play(seconds)


class Clock:
    """Since when a run goes on, and what it says as it does."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def tell(self, what: str) -> None:
        """Print what happens now."""
        self.console.print(f"[dim]{self.seconds:5.0f} s[/dim]  {what}")


@contextmanager
def running(environment: dict[str, str]) -> Iterator[Stack]:
    """A stack of its own, as `telltale up` starts it, whatever services the environment names."""
    with Stack(FOLDER, environment=environment, outside=Outside.nothing()) as stack:
        stack.use()
        yield stack


class Chaos:
    """One run on a stack that is up."""

    def __init__(self, stack: Stack, receivers: Receivers, links: Links, seed: int, clock: Clock) -> None:
        self._stack, self._receivers, self._seed, self._clock = stack, receivers, seed, clock
        self._platforms = [new_platform(name) for name in PLATFORMS]
        self._endpoints = {
            (platform.name, kind): add_endpoint(platform, stack.url, receivers, kind)
            for platform in self._platforms
            for kind in (STEADY, MOODY)
        }
        moody = [name for (_, kind), name in self._endpoints.items() if kind == MOODY]
        gone = [add_endpoint(self._platforms[0], stack.url, receivers, GONE)]
        lot = random.Random(seed)
        self._stream = Stream(stack.url, self._platforms, links, seed)
        self._ground = Ground(stack, receivers, self._platforms, settings(), moody, gone, lot, clock.tell)

    def play(self, seconds: float) -> bool:
        """The storm, the quiet, the reckoning; whether nothing was violated."""
        self._ground.put_ballast()
        storm = Storm(timetable(self._seed, seconds), self._ground)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[state]}"))
        with Progress(*columns, console=self._clock.console, transient=True) as progress:
            self._rage(storm, seconds, progress)
            left = self._calm(progress)
        return self._reckon(storm, left)

    def _rage(self, storm: Storm, seconds: float, progress: Progress) -> None:
        task, began = progress.add_task("storm", total=seconds, state=""), time.monotonic()
        self._stream.start()
        storm.start()
        storm.wait(lambda: progress.update(task, completed=time.monotonic() - began, state=self._state()))
        progress.remove_task(task)
        self._clock.tell(f"the storm is over: {self._state()}")

    def _calm(self, progress: Progress) -> dict[str, int]:
        """Make everything well and wait until nothing is under way; what still is when patience ends."""
        task, began = progress.add_task("quiet", total=reckoning.QUIET_PATIENCE_S, state=""), time.monotonic()

        def show(left: dict[str, int]) -> None:
            progress.update(task, completed=time.monotonic() - began, state=_listed(left))

        self._stream.stop()
        self._ground.heal()
        left = reckoning.wait_for_quiet(settings(), lambda: self._stream.under_way > 0, show)
        self._clock.tell(f"not quiet: {_listed(left)}" if left else f"quiet {time.monotonic() - began:.0f} s later")
        return left

    def _state(self) -> str:
        sent, accepted = len(self._stream.shipments), len(self._stream.accepted)
        return f"{sent} sent, {accepted} accepted, {len(self._receivers.received)} webhooks received"

    def _reckon(self, storm: Storm, left: dict[str, int]) -> bool:
        storage, ledger = Storage(settings()), Ledger(self._platforms)
        steady = {name: [self._endpoints[name, STEADY], self._endpoints[name, MOODY]] for name in PLATFORMS}
        violations = reckoning.reckon(self._stream.shipments, ledger, self._receivers, steady, storage)
        violations += [Violation("left behind", f"{count} {name}") for name, count in left.items()]
        violations += [Violation("harness", error) for error in [*storm.errors, *self._too_few()]]
        swept, left_over = reckoning.sweep(ledger, storage)
        violations += left_over
        console = self._clock.console
        console.print(report.faults(self._ground))
        console.print(report.outcome(self._rows(ledger, {violation.kind for violation in violations}, swept)))
        report.show_violations(violations, self._stack.supervisor.logs, console)
        more = {"seed": self._seed, "seconds": round(self._clock.seconds)}
        click.echo(report.last_line(len(self._stream.accepted), violations, self._ground, more))
        return not violations

    def _too_few(self) -> Iterator[str]:
        for name in (*KILLED, *MOODS, QUOTA):
            count = self._ground.kills[name] + self._ground.others[name]
            if count < ROUNDS:
                yield f"{name} happened {count} times, and not {ROUNDS}"

    def _rows(self, ledger: Ledger, kinds: set[str], swept: int) -> dict[str, tuple[Any, bool]]:
        shipments, received = self._stream.shipments, self._receivers.received
        sends = sum(one.sends for one in shipments)
        unique = len({(one.endpoint, one.webhook_id) for one in received})
        told = {"event missing", "two ids", "two bodies", "bad signature", "leaked"}
        settled = {"lost", "accepted twice", "refused"}
        return {
            "submissions accepted, each with its one settled case": (len(self._stream.accepted), not kinds & settled),
            "times one was sent again, and requests left without an answer": (
                f"{sends - len(shipments)}, {self._stream.unanswered}",
                True,
            ),
            "cases settled once, by one verdict": (len(ledger.cases), "decided twice" not in kinds),
            "webhooks received, and received again": (f"{unique}, {len(received) - unique}", not kinds & told),
            "images as they were sent": (len(ledger.images), not kinds & {"image lost", "image damaged"}),
            "objects swept that no row spoke of": (swept, "orphan" not in kinds),
            "kinds of work left waiting, leased or due": (
                0 if "left behind" not in kinds else "some",
                "left behind" not in kinds,
            ),
            "workers killed in the middle of their work": (self._ground.at_work, True),
        }


def _listed(left: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in left.items())


if __name__ == "__main__":
    main()
