"""The platform's webhook receiver: verifies every delivery with the official `standardwebhooks` package, and counts.

It is the other side: it shares no code with the sender, and knows a case only by its id in what it was sent.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from infra.demo.server import Server, answer

PATH = "/webhooks"


class Receiver:
    """What arrived: verified event types by case id, each event once however often it was sent."""

    def __init__(self) -> None:
        self.server = Server(self._handler())
        self.refused = 0
        self._webhook: Webhook | None = None
        self._events: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where webhooks are to be sent."""
        return self.server.url + PATH

    def trust(self, secret: str) -> None:
        """Verify with this secret from now on; before, everything is refused."""
        self._webhook = Webhook(secret)

    def verified(self, case_id: str | None) -> list[str]:
        """The types of the verified events about a case, in the order of arrival."""
        with self._lock:
            return list(self._events.get(case_id or "", {}).values())

    def take(self, headers: dict[str, str], body: bytes) -> bool:
        """Verify a delivery and remember it; False where it does not verify."""
        try:
            if self._webhook is None:
                raise WebhookVerificationError("no secret yet")
            event: Any = self._webhook.verify(body, headers)
        except (WebhookVerificationError, ValueError):
            with self._lock:
                self.refused += 1
            return False
        with self._lock:
            case_id = str((event.get("data") or {}).get("id"))
            self._events.setdefault(case_id, {})[headers["webhook-id"]] = event["type"]
        return True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                verified = self.path == PATH and receiver.take(headers, body)
                answer(self, 204 if verified else 401)

            def log_message(self, *args: object) -> None:
                """Say nothing: the table will."""

        return Handler
