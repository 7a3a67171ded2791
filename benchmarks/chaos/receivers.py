"""The platforms' webhook receivers, which verify, remember and, when they are told to, misbehave.

Every endpoint is a path of one server. What was answered with 2xx counts as received, and nothing else; it is also
written to a file, a line of JSON each. It shares no code with the sender.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from infra.demo.server import Server, answer

# Longer than the sender waits for an answer; and a slow answer, which it does wait for.
HANG_S, SLOW_S = 6.0, (1.0, 2.5)
FAILURES = (500, 503, 429)


class Mood(StrEnum):
    """How an endpoint answers."""

    WELL = "well"
    HANGS = "hangs"
    FAILS = "fails"
    SLOW = "answers slowly"
    GONE = "answers 410"


@dataclass(frozen=True)
class Received:
    """One verified webhook that was answered with 2xx. `body` is the sha256 of what was signed."""

    endpoint: str
    webhook_id: str
    type: str
    case_id: str | None
    sequence: int | None
    tenant: str | None
    body: str
    at: float


class Receivers:
    """All endpoints of all platforms, on one server."""

    def __init__(self, log: Path, seed: int) -> None:
        self.server = Server(self._handler())
        self.received: list[Received] = []
        self.refused: list[str] = []
        self.misbehaved: dict[Mood, int] = dict.fromkeys(Mood, 0)
        self._log = log
        self._random = random.Random(seed)
        self._webhooks: dict[str, Webhook] = {}
        self._moods: dict[str, Mood] = {}
        self._lock = threading.Lock()

    def url(self, endpoint: str) -> str:
        """Where this endpoint's webhooks are to be sent."""
        return f"{self.server.url}/{endpoint}"

    def trust(self, endpoint: str, secret: str) -> None:
        """Verify with this secret from now on; until then the endpoint answers 503, as one that is being set up."""
        self._webhooks[endpoint] = Webhook(secret)

    def trusts(self, endpoint: str) -> bool:
        """Whether its secret is known."""
        return endpoint in self._webhooks

    def set_mood(self, endpoint: str, mood: Mood) -> None:
        """Behave like this from now on."""
        self._moods[endpoint] = mood

    def all_well(self) -> None:
        """Every endpoint that is not gone answers again as it should."""
        for endpoint, mood in self._moods.items():
            if mood is not Mood.GONE:
                self._moods[endpoint] = Mood.WELL

    def of(self, endpoint: str) -> Iterator[Received]:
        """What an endpoint has received, as it came, repetitions too."""
        with self._lock:
            return iter([one for one in self.received if one.endpoint == endpoint])

    def status(self, endpoint: str, headers: dict[str, str], body: bytes) -> int | None:
        """What to answer, having waited where the mood is for it; None: nothing at all."""
        mood = self._moods.get(endpoint, Mood.WELL)
        self.misbehaved[mood] += 1
        if mood is Mood.HANGS:
            time.sleep(HANG_S)
            return None
        if mood is Mood.FAILS or endpoint not in self._webhooks:
            return self._random.choice(FAILURES)
        if mood is Mood.GONE:
            return 410
        if mood is Mood.SLOW:
            time.sleep(self._random.uniform(*SLOW_S))
        return 204 if self._take(endpoint, headers, body) else 401

    def _take(self, endpoint: str, headers: dict[str, str], body: bytes) -> bool:
        try:
            event: Any = self._webhooks[endpoint].verify(body, headers)
        except (WebhookVerificationError, ValueError) as error:
            with self._lock:
                self.refused.append(f"{endpoint}: {headers.get('webhook-id')}: {error}")
            return False
        data = event.get("data") or {}
        digest, tenant = hashlib.sha256(body).hexdigest(), (data.get("metadata") or {}).get("tenant")
        case = (data.get("id"), data.get("sequence"), tenant)
        with self._lock:
            self._write(Received(endpoint, headers["webhook-id"], event["type"], *case, digest, time.time()))
        return True

    def _write(self, received: Received) -> None:
        self.received.append(received)
        with self._log.open("a") as file:
            file.write(json.dumps(asdict(received)) + "\n")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receivers = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receivers.status(self.path.strip("/"), headers, body)
                if status is None:
                    self.close_connection = True
                    return
                try:
                    answer(self, status)
                except (BrokenPipeError, ConnectionResetError):
                    # Whoever sent it was killed, or waits no longer, and will send it again.
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                """Say nothing: the reckoning will."""

        return Handler
