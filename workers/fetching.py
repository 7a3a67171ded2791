"""Reads the links that cases came with; nothing here loads the model."""

from __future__ import annotations

import threading
from functools import cache
from uuid import UUID

from celery.signals import worker_shutdown

from moderation import fetching
from moderation.sandbox import Sandbox
from moderation.settings import settings
from moderation.storage import Storage
from workers.celery_app import FETCH, app

_making = threading.Lock()


@cache
def _made() -> tuple[Storage, Sandbox]:
    rules = settings()
    return Storage(rules), Sandbox(rules.decode_processes, rules.decode_memory_bytes, rules.decode_timeout_s)


def _tools() -> tuple[Storage, Sandbox]:
    """One store and one sandbox for the whole process, whose first tasks begin in many threads at once."""
    with _making:
        return _made()


@worker_shutdown.connect
def _stop(**_: object) -> None:
    """End the sandbox's processes, which this one would otherwise wait for."""
    with _making:
        if _made.cache_info().currsize:
            _made()[1].close()


@app.task(name=FETCH)
def fetch(case_id: str) -> None:
    """Read one case's link."""
    store, sandbox = _tools()
    fetching.fetch(UUID(case_id), store=store, sandbox=sandbox, settings=settings())
