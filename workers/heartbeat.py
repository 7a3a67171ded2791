"""Keeps the leases of the cases a living worker has in flight; when the process dies, so does its heart."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moderation.leases import Lease

log = logging.getLogger(__name__)

# A lease survives two beats that are lost.
BEATS_PER_LEASE = 3


class Heartbeat:
    """Calls `renew` with every lease held, each `interval_s` seconds, from a thread of its own."""

    def __init__(self, renew: Callable[[list[Lease]], None], interval_s: float) -> None:
        self._renew = renew
        self._interval_s = interval_s
        self._held: set[Lease] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    @contextmanager
    def keeping(self, lease: Lease) -> Iterator[None]:
        """Keep this lease for the block."""
        with self._lock:
            self._held.add(lease)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(lease)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopping.wait(self._interval_s):
            with self._lock:
                held = list(self._held)
            if held:
                self._renew_or_warn(held)

    def _renew_or_warn(self, held: list[Lease]) -> None:
        """A missed beat is survivable: the fence decides who writes."""
        try:
            self._renew(held)
        except Exception:
            # Whatever it is: without a heart, everything this worker has in flight would be taken from it.
            log.warning("could not renew %d leases", len(held), exc_info=True)
