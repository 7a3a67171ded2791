"""When which fault happens: drawn from a seed, each at least twice, several kinds at once.

Three lanes run beside each other, so that faults meet: kills, pauses with the full store, and endpoints' moods. It
knows nothing of how a fault is done.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.chaos.faults import KILLED, PAUSED, Ground
from benchmarks.chaos.receivers import Mood

One = TypeVar("One")
ROUNDS = 2
# Kills beyond the two rounds, where there is time: one every so many seconds.
KILL_EVERY_S = 9.0
QUOTA, ENDPOINT_GONE = "quota full", Mood.GONE.value
MOODS = (Mood.HANGS.value, Mood.FAILS.value, Mood.SLOW.value, ENDPOINT_GONE)


@dataclass(frozen=True)
class Strike:
    """A fault, and when it begins, in seconds from the start."""

    at_s: float
    fault: str
    what: str


def timetable(seed: int, seconds: float) -> dict[str, list[Strike]]:
    """The lanes of a storm: first in turn, then at random."""
    lot = random.Random(seed)
    kills = [*KILLED, *_shuffled(lot, KILLED)]
    kills += [lot.choice(KILLED) for _ in range(int(seconds / KILL_EVERY_S) - len(kills))]
    halts = [("fill_quota", QUOTA), *(("pause", program) for program in PAUSED)]
    moods = [("be_gone" if mood == ENDPOINT_GONE else "spoil_mood", mood) for mood in MOODS]
    return {
        "kills": _spread(lot, [("kill", program) for program in kills], seconds),
        "halts": _spread(lot, _shuffled(lot, halts) + _shuffled(lot, halts), seconds),
        "moods": _spread(lot, _shuffled(lot, moods) + _shuffled(lot, moods), seconds),
    }


def _shuffled(lot: random.Random, those: Sequence[One]) -> list[One]:
    return lot.sample(list(those), len(those))


def _spread(lot: random.Random, faults: Sequence[tuple[str, str]], seconds: float) -> list[Strike]:
    """Evenly over the time, but not quite."""
    step = seconds / len(faults)
    return [Strike(step * (number + lot.random() * 0.6), *fault) for number, fault in enumerate(faults)]


class Storm:
    """A timetable being carried out, a thread for each lane."""

    def __init__(self, lanes: dict[str, list[Strike]], ground: Ground) -> None:
        self._ground = ground
        self._started = time.monotonic()
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(lane,), name=name) for name, lane in lanes.items()]

    def start(self) -> None:
        """Begin now."""
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()

    def wait(self, meanwhile: Callable[[], None]) -> None:
        """Return when the last fault is over."""
        while any(thread.is_alive() for thread in self._threads):
            meanwhile()
            time.sleep(0.25)

    def _run(self, lane: Sequence[Strike]) -> None:
        """A strike that is late, for the one before took long, comes at once."""
        for strike in lane:
            time.sleep(max(0.0, self._started + strike.at_s - time.monotonic()))
            try:
                getattr(self._ground, strike.fault)(strike.what)
            except Exception as error:  # noqa: BLE001  (of the harness: the other faults go on, and the run fails)
                self.errors.append(f"{strike.fault} {strike.what}: {type(error).__name__}: {error}")
