"""Gunicorn's configuration for the api: `gunicorn --config python:infra.gunicorn api.wsgi:app`."""

from __future__ import annotations

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
