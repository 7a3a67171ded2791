"""Reads the links that cases came with; nothing here loads the model."""

from __future__ import annotations

from functools import cache
from uuid import UUID

from moderation import fetching
from moderation.sandbox import Sandbox
from moderation.settings import settings
from moderation.storage import Storage
from workers.celery_app import FETCH, app


@cache
def _store() -> Storage:
    return Storage(settings())


@cache
def _sandbox() -> Sandbox:
    return Sandbox(settings().decode_processes, settings().decode_memory_bytes, settings().decode_timeout_s)


@app.task(name=FETCH)
def fetch(case_id: str) -> None:
    """Read one case's link."""
    fetching.fetch(UUID(case_id), store=_store(), sandbox=_sandbox(), settings=settings())
