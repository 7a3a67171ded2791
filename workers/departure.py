"""Leaving in time: a worker that is told to stop finishes what it has in hand, or gives it back and ends.

Celery's warm shutdown waits for every task, however long it takes; whoever stops the process does not, and kills it:
an attempt would be lost, and the case wait for its lease. So what is still in hand after Celery's soft-shutdown time is
given back, without an attempt, and taken up by the next worker at once. It knows nothing of what that is.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from celery.signals import worker_shutting_down

from moderation.errors import LostLease
from workers.celery_app import SOFT_SHUTDOWN_S

log = logging.getLogger(__name__)

GiveBack = Callable[[], object]


class Departure:
    """One process's. Safe to use from many threads; `end` is called with the exit status when time is up."""

    def __init__(self, patience_s: float = SOFT_SHUTDOWN_S, end: Callable[[int], object] = os._exit) -> None:
        self._patience_s = patience_s
        self._end = end
        self._in_hand: dict[int, GiveBack] = {}
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, give_back: GiveBack) -> Iterator[None]:
        """Have `give_back` called if the process must end before the block does."""
        key = id(give_back)
        with self._lock:
            self._in_hand[key] = give_back
        try:
            yield
        finally:
            with self._lock:
                del self._in_hand[key]

    def begin(self) -> None:
        """Leave when the patience is over; a process that has ended by then has left nothing."""
        timer = threading.Timer(self._patience_s, self.leave)
        timer.daemon = True
        timer.start()

    def leave(self) -> None:
        """Give back all that is in hand, also what a thread that had just taken it has in hand by then, and end."""
        log.warning("still at work after %.0f s: giving back what is in hand, and ending", self._patience_s)
        given: list[GiveBack] = []
        while in_hand := self._in_hand_beside(given):
            for give_back in in_hand:
                self._give_back(give_back)
            given += in_hand
        self._end(0)

    def _in_hand_beside(self, given: Sequence[GiveBack]) -> list[GiveBack]:
        with self._lock:
            return [give_back for give_back in self._in_hand.values() if give_back not in given]

    def _give_back(self, give_back: GiveBack) -> None:
        """What was finished meanwhile is nobody's any more; what cannot be given back lapses with its lease."""
        try:
            give_back()
        except LostLease:
            return
        except Exception:
            log.warning("something could not be given back", exc_info=True)


departure = Departure()


@worker_shutting_down.connect
def _told_to_stop(**_: object) -> None:
    departure.begin()
