"""Reads the links that cases came with; nothing here loads the model."""

from __future__ import annotations

import threading
from functools import cache, partial
from uuid import UUID

from celery.signals import worker_shutdown

from moderation import fetching, screening
from moderation.errors import StorageUnavailable
from moderation.fetching import Errand
from moderation.sandbox import Sandbox
from moderation.settings import Settings, settings
from moderation.storage import Storage
from workers.celery_app import FETCH, app
from workers.departure import departure
from workers.heartbeat import BEATS_PER_LEASE, Heartbeat
from workers.outage import Outage


class Fetcher:
    """What one process needs to read links: the store, a sandbox for decoding, and a heart.

    Many tasks wait for few decoding processes, for longer than any lease: the heart keeps them meanwhile.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Storage(settings)
        self._outage = Outage()
        self._sandbox = Sandbox(settings.decode_processes, settings.decode_memory_bytes, settings.decode_timeout_s)
        self._heart = Heartbeat(partial(screening.renew, settings=settings), settings.case_lease_s / BEATS_PER_LEASE)

    def close(self) -> None:
        """End the sandbox's processes, which this one would otherwise wait for, and the heart."""
        self._sandbox.close()
        self._heart.stop()

    def fetch(self, case_id: UUID) -> None:
        """Read one case's link. Running it twice is harmless."""
        with self._outage.turn() as go:
            errand = fetching.begin(case_id, self._settings) if go else None
            if errand is None:
                return
            with self._heart.keeping(errand.lease), departure.holding(partial(fetching.give_back, errand)):
                self._read(errand)

    def _read(self, errand: Errand) -> None:
        try:
            answered = fetching.read(errand, store=self._store, sandbox=self._sandbox, settings=self._settings)
        except StorageUnavailable as error:
            self._outage.met(error)
        else:
            if answered:
                self._outage.over()


_making = threading.Lock()


@cache
def _made() -> Fetcher:
    return Fetcher(settings())


def _fetcher() -> Fetcher:
    """One for the whole process, whose first tasks begin in many threads at once."""
    with _making:
        return _made()


@worker_shutdown.connect
def _stop(**_: object) -> None:
    with _making:
        if _made.cache_info().currsize:
            _made().close()


@app.task(name=FETCH)
def fetch(case_id: str) -> None:
    """Read one case's link."""
    _fetcher().fetch(UUID(case_id))
