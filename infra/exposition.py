"""Serves what the api's worker processes count, as one: gunicorn's master listens, whichever worker is free answers.

Each worker writes its numbers to files of one folder, made anew at each start, from which all of them are read. So any
worker may die, and its successor takes over; the master, which forks, has no thread. `prometheus_client` must not be
imported before the folder is known to the environment, and so not in the master at all.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from moderation.errors import ConfigurationError

# The library looks for its folder here: https://prometheus.github.io/client_python/multiprocess/
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# Whoever asks and does not read keeps a thread for so long.
CLIENT_TIMEOUT_S = 10


class Exposition:
    """One server's. Made in the master; `serve` is called in each worker, and `end` in the master again."""

    def __init__(self, host: str | None, port: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="telltale-metrics-")
        self._address = (host or "", port)
        self._listener: socket.socket | None = None

    def listen(self) -> None:
        """Raises ConfigurationError where the port cannot be had."""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        try:
            self._listener = socket.create_server(self._address, family=family)
        except OSError as error:
            self.end()
            raise ConfigurationError(f"Metrics cannot be served on port {self._address[1]}: {error}") from error
        # All workers see a connection come; those that are late find none.
        self._listener.setblocking(False)

    def serve(self) -> None:
        """Answer from now on, in a thread of this process."""
        from prometheus_client import CollectorRegistry, make_wsgi_app
        from prometheus_client.multiprocess import MultiProcessCollector

        assert self._listener is not None
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self.folder)  # type: ignore[no-untyped-call]
        server = _Server(self._listener)
        server.set_app(make_wsgi_app(registry))
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def end(self) -> None:
        """Forget what was counted."""
        shutil.rmtree(self.folder, ignore_errors=True)


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's word
        """A scrape is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """On a socket that listens already."""

    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()
