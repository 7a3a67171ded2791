"""Gunicorn's configuration for the api: `gunicorn --config python:infra.gunicorn api.wsgi:app`."""

from __future__ import annotations

from typing import Any

from infra.exposition import VARIABLE, Exposition
from moderation import logs
from moderation.settings import settings

worker_class = "gthread"
workers = 2
threads = settings().api_threads
# A worker that has not come back to its loop for this long is replaced; one request may take this long.
timeout = 60
# What a request may still take after SIGTERM; less than the supervisor, or an orchestrator, waits.
graceful_timeout = 8
keepalive = 5
# No socket beside the one it serves on.
control_socket_disable = True
# Its own lines as all others; a line for each request is written by api/traffic.py.
logconfig_dict = logs.configuration("api", settings())

exposition = Exposition(settings().metrics_host, settings().metrics_port) if settings().metrics_port else None
# The workers' environment.
raw_env = [f"{VARIABLE}={exposition.folder}"] if exposition else []


def on_starting(server: Any) -> None:
    """Before the first worker is made. Raises ConfigurationError where the port for metrics cannot be had."""
    if exposition:
        exposition.listen()


def post_worker_init(worker: Any) -> None:
    """In each worker, once the application is loaded."""
    if exposition:
        exposition.serve()


def on_exit(server: Any) -> None:
    """When the last worker has ended."""
    if exposition:
        exposition.end()
