"""The client against the real api over HTTP, and against a stub whose answers a test says one by one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine
from werkzeug.serving import make_server

from api.app import create_app
from infra.client import Client, wire
from moderation.db import transaction
from moderation.settings import settings
from tests.factories import make_key, make_tenant


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    """A running api."""
    server = make_server("127.0.0.1", 0, create_app(settings()), threaded=True)
    with _serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


@dataclass(frozen=True)
class Platform:
    """A tenant, its key, and its client."""

    tenant_id: UUID
    key: str
    client: Client


@pytest.fixture
def platform(url: str, db: Engine, bucket: str) -> Iterator[Platform]:
    """A platform whose key may do everything."""
    with transaction() as session:
        tenant = make_tenant(session)
        key = make_key(session, tenant)
    with Client(url, key) as client:
        yield Platform(tenant.id, key, client)


@dataclass
class Moody:
    """A stub of the api that answers as it was told, one answer a request, and remembers what was asked."""

    url: str = ""
    answers: list[tuple[int, dict[str, str], Any] | None] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def says(self, status: int, body: Any = None, **headers: str) -> Moody:
        """Answer the next request like this; a header's name with underscores."""
        self.answers.append((status, {name.replace("_", "-"): value for name, value in headers.items()}, body or {}))
        return self

    def hangs_up(self) -> Moody:
        """Close the next request's connection without an answer."""
        self.answers.append(None)
        return self

    @property
    def keys(self) -> list[str | None]:
        """The Idempotency-Key of each request."""
        return [headers.get("idempotency-key") for _, _, headers in self.asked]


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moody]:
    """A stub of the api, and a client that does not pause."""
    monkeypatch.setattr(wire, "BACKOFF_S", 0)
    mood = Moody()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            mood.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            answer = mood.answers.pop(0)
            if answer is None:
                self.close_connection = True
                return
            status, headers, body = answer
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mood.url = f"http://127.0.0.1:{server.server_port}"
    with _serving(server):
        yield mood


@contextmanager
def _serving(server: Any) -> Iterator[None]:
    """A server in a thread, for as long as the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
