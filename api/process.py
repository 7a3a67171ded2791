"""What one api process holds for as long as it lives: settings, the object store, sandboxes, seats for long polls.

Made by the application factory; views reach it through `current()`. Nothing here is opened before it is needed, so
that it may be made before a fork.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app

from moderation.sandbox import Sandbox
from moderation.settings import Settings
from moderation.storage import Storage

EXTENSION = "telltale"


@dataclass(frozen=True)
class ApiProcess:
    """One process's parts, shared by its threads.

    What is sent is looked at in `sandbox`; pictures are made in `studio`, so that no submission waits for one. `seats`
    are for long polls, `places` for requests that send images (api/places.py).
    """

    settings: Settings
    storage: Storage
    sandbox: Sandbox
    studio: Sandbox
    seats: threading.BoundedSemaphore
    places: threading.BoundedSemaphore

    @classmethod
    def of(cls, settings: Settings) -> ApiProcess:
        """The parts as the settings say."""
        limits = (settings.decode_memory_bytes, settings.decode_timeout_s)
        return cls(
            settings=settings,
            storage=Storage(settings),
            sandbox=Sandbox(settings.decode_processes, *limits),
            studio=Sandbox(1, *limits),
            seats=threading.BoundedSemaphore(max(1, settings.api_threads // 4)),
            places=threading.BoundedSemaphore(max(1, settings.api_threads * 3 // 4)),
        )

    @contextmanager
    def seat(self) -> Iterator[bool]:
        """Whether there is a seat to wait in: a quarter of the threads may, so that waiting never starves work."""
        taken = self.seats.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self.seats.release()


def install(app: Flask, process: ApiProcess) -> None:
    """Make the process's parts reachable from the application's views."""
    app.extensions[EXTENSION] = process


def current() -> ApiProcess:
    """The parts of the process that serves this request."""
    return cast(ApiProcess, current_app.extensions[EXTENSION])
