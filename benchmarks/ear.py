"""A platform's webhook receiver that only listens: which event of which case came when.

It answers 204 at once and verifies nothing; whether deliveries verify is for the tests and the demo to show.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Self
from uuid import UUID

from infra.demo.server import Server, answer
from moderation.vocabulary import EventType

# One of these is the last word on a case that was judged.
LAST_WORDS = frozenset({EventType.DECISION_CREATED, EventType.CASE_IN_REVIEW})
PATH = "/webhooks"


class Ear:
    """Listens at `url` between `with` and its end."""

    def __init__(self) -> None:
        self.server = Server(self._handler())
        self._settled: dict[UUID, datetime] = {}
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.__exit__(*exception)

    @property
    def url(self) -> str:
        """Where webhooks are to be sent."""
        return self.server.url + PATH

    @property
    def settled(self) -> dict[UUID, datetime]:
        """When the last word on each case came."""
        with self._changed:
            return dict(self._settled)

    def wait_for(self, cases: Collection[UUID], timeout_s: float) -> float:
        """The time on the performance counter at which the last word on the last of them had come.

        Raises TimeoutError.
        """
        wanted = set(cases)
        with self._changed:
            if not self._changed.wait_for(lambda: wanted <= self._settled.keys(), timeout_s):
                silent = len(wanted - self._settled.keys())
                raise TimeoutError(f"Of {silent} of {len(wanted)} cases nothing was heard within {timeout_s:.0f} s.")
            return time.perf_counter()

    def wait_until_heard(self, count: int, timeout_s: float) -> None:
        """Return once the last word on so many cases has come, whichever they are. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._settled) >= count, timeout_s):
                heard = len(self._settled)
                raise TimeoutError(f"Of {heard} and not of {count} cases was anything heard within {timeout_s:.0f} s.")

    def hear(self, body: bytes) -> None:
        """Take down one event."""
        now, event = datetime.now(UTC), json.loads(body)
        if event["type"] not in LAST_WORDS:
            return
        with self._changed:
            self._settled.setdefault(UUID(event["data"]["id"]), now)
            self._changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                ear.hear(self.rfile.read(int(self.headers.get("content-length", 0))))
                answer(self, 204)

            def log_message(self, *args: object) -> None:
                """Say nothing: the table will."""

        return Handler
