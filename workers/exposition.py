"""Serves what this process counts, where `metrics_port` is set: relay, beat, and each worker on a port of its own.

From a thread that does nothing else, so that a scrape waits for no work and no work for a scrape.
"""

from __future__ import annotations

from prometheus_client import start_http_server

from moderation.errors import ConfigurationError
from moderation.settings import settings


def serve() -> None:
    """Serve /metrics from now on. Raises ConfigurationError where the port cannot be had."""
    rules = settings()
    if rules.metrics_port is None:
        return
    port, host = rules.metrics_port, rules.metrics_host
    try:
        start_http_server(*((port, host) if host else (port,)))
    except OSError as error:
        raise ConfigurationError(f"Metrics cannot be served on port {port}: {error}") from error
