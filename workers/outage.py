"""Whether something that all of a worker's work needs is away, such as the object store; then one at a time tries.

Without it, everything that waits would be taken and given back over and over, each time with two rows of audit trail,
and links be read from other people's servers for nothing. It does not know what is away, nor what is tried.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

# Between two tries: the first, then twice as long each time, up to the last.
FIRST_S, LONGEST_S = 1.0, 60.0
# How long a task waits for its turn. Shorter than a worker has to stop; what was not tried is offered again.
PATIENCE_S = 5.0


class Outage:
    """One process's view of it. Safe to use from many threads."""

    def __init__(self, first_s: float = FIRST_S, longest_s: float = LONGEST_S, patience_s: float = PATIENCE_S) -> None:
        self._first_s, self._longest_s, self._patience_s = first_s, longest_s, patience_s
        self._changed = threading.Condition()
        self._pause_s: float | None = None  # None: nothing is away
        self._not_before = 0.0
        self._trying = False

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Whether to go ahead: at once where nothing is away; else when it is time to try, and nobody else does."""
        go, is_try = self._wait()
        try:
            yield go
        finally:
            if is_try:
                with self._changed:
                    self._trying = False
                    self._changed.notify_all()

    def met(self, error: Exception) -> None:
        """It is away. Those that were under way when it went count once."""
        with self._changed:
            if self._pause_s is not None and not self._trying:
                return
            self._pause_s = min(2 * self._pause_s, self._longest_s) if self._pause_s is not None else self._first_s
            self._not_before = time.monotonic() + self._pause_s
            log.warning("%s Trying again, with one at a time, in %.0f s.", error, self._pause_s)

    def over(self) -> None:
        """It is there."""
        if self._pause_s is None:
            return
        with self._changed:
            self._pause_s = None
            self._changed.notify_all()
            log.info("what was away is back")

    def _wait(self) -> tuple[bool, bool]:
        """Whether to go ahead, and whether that is a try."""
        deadline = time.monotonic() + self._patience_s
        with self._changed:
            while self._pause_s is not None:
                now = time.monotonic()
                if now >= self._not_before and not self._trying:
                    self._trying = True
                    return True, True
                if now >= deadline:
                    return False, False
                self._changed.wait(min(deadline, max(self._not_before, now + 0.05)) - now)
        return True, False
