"""`make bench-intake`: durable accepts a second, against the floor measured in the same run.

Images of many sizes are sent as files over connections that stay open, each with bytes of its own, and answered 202
once their bytes are in the store and their rows committed. The floor (benchmarks/floor.py) puts the same bytes and
commits the same rows, at the same concurrency and on the same services, with nothing in between. The two take turns,
so that noise falls on both; no worker runs meanwhile. Afterwards every 202 must have its case, its event, its delivery
and its bytes. The last line is JSON: accepts and floor a second, their ratio, and the 99th percentile of an accept in
milliseconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from benchmarks import consumption, floor
from benchmarks.floor import Floor
from benchmarks.pictures import pictures
from benchmarks.stage import Customer, Stage, new_customer, stage
from benchmarks.wire import Line
from infra.services import LOOPBACK
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Delivery, Event, Image

SIDE = 336  # pictures are 1.2 to 2.4 times as large
KINDS = 32  # of picture; each that is sent has a comment of its own
NUMBER_BYTES = 12
COMMENT = b"\xff\xfe" + (2 + NUMBER_BYTES).to_bytes(2, "big")
BOUNDARY = "telltale-benchmark"
NOWHERE = "https://platform.example/webhooks"


@dataclass(frozen=True)
class File:
    """A JPEG in two halves: a comment goes between them, so that no two that are sent are the same."""

    start: bytes
    end: bytes

    def numbered(self, number: int) -> tuple[bytes, bytes, bytes]:
        """The parts of one that was never sent before."""
        return self.start, COMMENT + f"{number:0{NUMBER_BYTES}d}".encode(), self.end

    @property
    def size(self) -> int:
        return len(self.start) + len(COMMENT) + NUMBER_BYTES + len(self.end)


@dataclass
class Turn:
    """What one turn did: accepts, in how many seconds, each in how many milliseconds, and who used how much CPU."""

    seconds: float
    milliseconds: list[float]
    cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        return len(self.milliseconds) / self.seconds


@dataclass
class Measured:
    """The turns of both, in the order in which they were taken."""

    service: list[Turn] = field(default_factory=list)
    floor: list[Turn] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, float]:
        """What the last line says."""
        accepts, below = pace(self.service), pace(self.floor)
        return {
            "accepts_per_s": round(accepts, 1),
            "floor_per_s": round(below, 1),
            "ratio": round(accepts / below, 3),
            "p99_ms": round(percentile([ms for turn in self.service for ms in turn.milliseconds], 99), 1),
        }


def pace(turns: Sequence[Turn]) -> float:
    """Accepts a second over all turns."""
    return sum(len(turn.milliseconds) for turn in turns) / sum(turn.seconds for turn in turns)


def percentile(times: Sequence[float], share: int) -> float:
    """The `share`th percentile."""
    return statistics.quantiles(times, n=100, method="inclusive")[share - 1]


def files(count: int = KINDS) -> list[File]:
    """The pictures that are sent, always the same."""
    return [File(p.jpeg[:2], p.jpeg[2:]) for p in pictures(count, 3, SIDE)]


class Sender:
    """One thread's open connection to the api."""

    def __init__(self, port: int, customer: Customer, key: bool) -> None:
        self._line = Line(LOOPBACK, port)
        self._head = (
            f"POST /v1/submissions HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\nAuthorization: Bearer {customer.token}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        )
        self._key = key
        self._part = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{BOUNDARY}--\r\n".encode()

    def send(self, file: File, number: int) -> UUID:
        """Submit one image; its case's id. Raises AssertionError for any answer but 202."""
        size = len(self._part) + file.size + len(self._tail)
        key = f"Idempotency-Key: benchmark-{number}\r\n" if self._key else ""
        head = f"{self._head}{key}Content-Length: {size}\r\n\r\n".encode()
        status, body = self._line.exchange(head, self._part, *file.numbered(number), self._tail)
        if status != 202:
            raise AssertionError(f"the api answered {status}: {body[:300]!r}")
        return UUID(json.loads(body)["id"])

    def close(self) -> None:
        """Hang up."""
        self._line.close()


class Numbers:
    """Numbers that are given out once, to any thread."""

    def __init__(self) -> None:
        self._next = random.SystemRandom().randrange(10**8)
        self._lock = threading.Lock()

    def take(self) -> int:
        with self._lock:
            self._next += 1
            return self._next


def together(acts: Sequence[Callable[[], None]], seconds: float) -> Turn:
    """Each of `acts` in a thread of its own, again and again, for so long and at least once; raises what any raised."""
    end = time.perf_counter() + seconds
    times: list[list[float]] = [[] for _ in acts]
    errors: list[BaseException] = []

    def repeat(act: Callable[[], None], mine: list[float]) -> None:
        try:
            start, done = time.perf_counter(), False
            while not done:
                act()
                begun, start = start, time.perf_counter()
                mine.append(1000 * (start - begun))
                done = start >= end or bool(errors)
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is raised again below)
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=pair) for pair in zip(acts, times, strict=True)]
    began, spent = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    turn = Turn(time.perf_counter() - began, [ms for mine in times for ms in mine])
    turn.cpu_s["client"] = time.process_time() - spent
    return turn


class Intake:
    """A stage, a customer and what is sent; measures one turn of either."""

    def __init__(self, stage: Stage, sent: Sequence[File], concurrency: int, *, key: bool = False) -> None:
        self._stage = stage
        self._sent = sent
        self._concurrency = concurrency
        self._numbers = Numbers()
        self.customer = new_customer(f"intake {self._numbers.take()}", NOWHERE)
        self._other = new_customer(f"floor {self._numbers.take()}", NOWHERE)
        self._key = key
        self.accepted: list[UUID] = []

    def service(self, seconds: float) -> Turn:
        """Accepts through the api."""
        senders = [Sender(self._stage.port, self.customer, self._key) for _ in range(self._concurrency)]

        def act(sender: Sender) -> Callable[[], None]:
            def send() -> None:
                number = self._numbers.take()
                self.accepted.append(sender.send(self._sent[number % len(self._sent)], number))

            return send

        try:
            return self._counted(lambda: together([act(sender) for sender in senders], seconds))
        finally:
            for sender in senders:
                sender.close()

    def wake(self) -> None:
        """One image after the other over as many connections: what starts with the first request has started then."""
        for _ in range(self._concurrency):
            sender, number = Sender(self._stage.port, self.customer, self._key), self._numbers.take()
            self.accepted.append(sender.send(self._sent[number % len(self._sent)], number))
            sender.close()

    def floor(self, seconds: float) -> Turn:
        """The same bytes and rows with nothing in between."""
        example, storage = floor.example_of(self.accepted[0]), Storage(settings())
        floors = [Floor(self._other, example, storage) for _ in range(self._concurrency)]

        def act(one: Floor) -> Callable[[], None]:
            def accept() -> None:
                number = self._numbers.take()
                one.accept(b"".join(self._sent[number % len(self._sent)].numbered(number)))

            return accept

        try:
            return self._counted(lambda: together([act(one) for one in floors], seconds))
        finally:
            for one in floors:
                one.close()

    def _counted(self, run: Callable[[], Turn]) -> Turn:
        pids = self._stage.pids
        before = consumption.cpu_by_program(pids)
        turn = run()
        after = consumption.cpu_by_program(pids)
        turn.cpu_s |= {name: after[name] - before[name] for name in before}
        return turn

    def check(self) -> None:
        """Raise AssertionError where an accept is not what 202 promises: its rows committed, its bytes stored."""
        wanted = set(self.accepted)
        with transaction() as session:
            mine = Case.tenant_id == self.customer.tenant_id
            found = set(session.scalars(select(Case.id).where(mine)))
            told = session.scalar(select(func.count()).select_from(Delivery).join(Event).join(Case).where(mine))
            some = session.scalars(select(Image).join(Case).where(mine).order_by(func.random()).limit(20)).all()
        if found != wanted or told != len(wanted):
            raise AssertionError(f"{len(wanted)} were accepted, {len(found)} cases and {told} deliveries are there")
        store = Storage(settings())
        for image in some:
            data = store.get(image.s3_key, max_bytes=image.bytes)
            if hashlib.sha256(data).hexdigest() != image.sha256:
                raise AssertionError(f"the bytes of image {image.id} are not those that were sent")


def measure(intake: Intake, turns: int, seconds: float) -> Measured:
    """Warm both up, then take turns."""
    intake.wake()
    intake.service(seconds / 4)
    intake.floor(seconds / 4)
    measured = Measured()
    for number in range(turns):
        measured.service.append(intake.service(seconds))
        measured.floor.append(intake.floor(seconds))
        say(f"turn {number + 1}: {measured.service[-1].per_s:.0f} accepts/s, floor {measured.floor[-1].per_s:.0f}/s")
    intake.check()
    return measured


def say(words: str) -> None:
    """On stderr."""
    print(words, file=sys.stderr)  # noqa: T201


def table(measured: Measured) -> Table:
    """Both ways, and what an accept costs of whose CPU."""
    made = Table("way", "turns", "accepts/s", "p50 ms", "p99 ms", "client, of one core", title=consumption.machine())
    costs = Table("CPU ms an accept", "service", "floor")
    for name, turns in (("service", measured.service), ("floor", measured.floor)):
        times = [ms for turn in turns for ms in turn.milliseconds]
        share = sum(turn.cpu_s["client"] for turn in turns) / sum(turn.seconds for turn in turns)
        paces = ", ".join(f"{turn.per_s:.0f}" for turn in turns)
        made.add_row(
            name,
            paces,
            f"{pace(turns):.1f}",
            f"{percentile(times, 50):.1f}",
            f"{percentile(times, 99):.1f}",
            f"{share:.0%}",
        )
    for program in measured.service[0].cpu_s:
        costs.add_row(program, *(f"{_cost(turns, program):.2f}" for turns in (measured.service, measured.floor)))
    outer = Table.grid()
    outer.add_row(made)
    outer.add_row(costs)
    return outer


def _cost(turns: Sequence[Turn], program: str) -> float:
    return 1000 * sum(turn.cpu_s[program] for turn in turns) / sum(len(turn.milliseconds) for turn in turns)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intake", description=__doc__)
    parser.add_argument("--seconds", type=float, default=12, help="of one turn")
    parser.add_argument("--turns", type=int, default=4, help="of either way")
    parser.add_argument("--concurrency", type=int, default=16, help="connections at once, of either way")
    parser.add_argument("--key", action="store_true", help="send an Idempotency-Key with each")
    options = parser.parse_args()
    sent = files(min(KINDS, 2 * options.concurrency))
    with stage({}) as place:
        intake = Intake(place, sent, options.concurrency, key=options.key)
        measured = measure(intake, options.turns, options.seconds)
    Console().print(table(measured))
    print(json.dumps(measured.summary))  # noqa: T201  (the line that programs read)


if __name__ == "__main__":
    main()
