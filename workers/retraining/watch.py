"""A run's lease, kept while its worker lives; and whether there is a reason to stop. It knows no stage."""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from moderation.db import transaction
from moderation.errors import LostLease
from moderation.retraining import runs
from moderation.retraining.runs import Lease

log = logging.getLogger(__name__)

BEATS_PER_LEASE = 3


class Cancelled(Exception):
    """Somebody has asked for the run to end."""


class Stopping(Exception):
    """This worker is to end; the run is not."""


class Watch:
    """Keeps a run's lease from a thread of its own, and knows whether there is a reason to stop.

    A lease that could not be renewed for its whole length may be somebody else's by now, so it counts as lost.
    """

    def __init__(self, lease: Lease, length_s: float, stopping: threading.Event) -> None:
        self._lease, self._length_s, self._stopping = lease, length_s, stopping
        self._lost = self._cancelled = False
        self._renewed = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        """Raises LostLease, Cancelled or Stopping."""
        if self._lost or time.monotonic() - self._renewed > self._length_s:
            raise LostLease(f"The lease on run {self._lease.run_id} is lost.")
        if self._cancelled:
            raise Cancelled
        if self._stopping.is_set():
            raise Stopping

    def _beat(self) -> None:
        while not self._over.wait(self._length_s / BEATS_PER_LEASE):
            asked = time.monotonic()
            try:
                with transaction() as session:
                    self._cancelled |= runs.renew(session, self._lease, timedelta(seconds=self._length_s))
                self._renewed = asked
            except LostLease:
                self._lost = True
                return
            except (DBAPIError, PoolTimeout) as error:
                log.warning("could not renew the lease on run %s: %s", self._lease.run_id, error)
