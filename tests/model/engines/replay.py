"""A loopback HTTP server that answers as a real vLLM server did, to exactly the requests that were recorded."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from infra.demo.server import Server
from infra.services import LOOPBACK
from tests.model.engines.album import without_images

RECORDED = Path(__file__).with_name("recorded")

# Status and JSON of an answer; None hangs up without one.
Said = tuple[int, Any] | None
Respond = Callable[[str, str, bytes], Said]


@contextmanager
def serving(respond: Respond) -> Iterator[str]:
    """A server at the address it yields; `respond` is given method, path and body, in many threads at once."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections, as vLLM's server does

        def do_GET(self) -> None:
            self._reply(b"")

        def do_POST(self) -> None:
            self._reply(self.rfile.read(int(self.headers["content-length"])))

        def _reply(self, body: bytes) -> None:
            said = respond(self.command, self.path, body)
            if said is None:
                self.close_connection = True
                return
            status, content = said
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Tests print nothing."""

    with Server(Handler) as server:
        yield server.url


@contextmanager
def nobody() -> Iterator[str]:
    """An address where nobody listens, and nobody can begin to."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        yield f"http://{LOOPBACK}:{taken.getsockname()[1]}"


def recorded() -> dict[tuple[str, str, str], tuple[int, Any]]:
    """Every recorded answer by method, path and the request's JSON."""
    exchanges = [each for file in sorted(RECORDED.glob("*.json")) for each in json.loads(file.read_text())]
    return {
        (each["method"], each["path"], _text(each["request"])): (each["status"], each["response"]) for each in exchanges
    }


@dataclass
class Replay:
    """Answers as recorded. `change` may answer a path otherwise: given the true answer, it returns the one to give."""

    change: dict[str, Callable[[Any], Said]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    _answers: dict[tuple[str, str, str], tuple[int, Any]] = field(default_factory=recorded)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, method: str, path: str, body: bytes) -> Said:
        """See `Respond`; a request that was not recorded is refused with its text."""
        request = without_images(json.loads(body)) if body else ""
        with self._lock:
            self.asked.append(path)
            known = self._answers.get((method, path, request))
            if known is None:
                return 500, {"error": {"message": f"Not recorded: {method} {path} {request}"}}
            return self.change[path](known[1]) if path in self.change else known


def _text(request: Any) -> str:
    return "" if request is None else json.dumps(request, ensure_ascii=False)
