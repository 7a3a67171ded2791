"""A small HTTP server on loopback, in a thread of this process. It knows nothing of what it serves."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from infra.services import LOOPBACK


class Server:
    """Serves with `handler` between `with` and its end, at `url`."""

    def __init__(self, handler: Any) -> None:
        self._http = ThreadingHTTPServer((LOOPBACK, 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def host(self) -> str:
        """`host:port`, as an allow list names it."""
        return f"{LOOPBACK}:{self._http.server_port}"

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def answer(handler: BaseHTTPRequestHandler, status: int) -> None:
    """Answer a request with a status and no body."""
    handler.send_response(status)
    handler.send_header("content-length", "0")
    handler.end_headers()
