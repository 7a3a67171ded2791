"""Who may run beside whom in one worker process: many ordinary cases together, or one suspect alone.

It knows nothing of cases: holders are either shared or alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """A shared/exclusive lock. Whoever must be alone goes first: while one waits, nobody new is let in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False
        self._suspects_waiting = 0

    @contextmanager
    def enter(self, *, alone: bool) -> Iterator[None]:
        """Wait for one's turn, hold it for the block, and let the next ones in."""
        self._acquire_alone() if alone else self._acquire_shared()
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone = False
                self._changed.notify_all()

    def _acquire_shared(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._suspects_waiting)
            self._inside += 1

    def _acquire_alone(self) -> None:
        with self._changed:
            self._suspects_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._inside)
            finally:
                self._suspects_waiting -= 1
            self._inside += 1
            self._alone = True
