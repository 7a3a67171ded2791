"""Requests counted, timed and written down, under the rule of their route: addresses and queries are nobody's business.

It is the first to see a request and the last to see its answer, whatever becomes of it in between.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus

from flask import Flask, Response, g, request
from prometheus_client import Counter, Histogram

from moderation import logs
from moderation.metrics import HTTP_REQUEST_SECONDS, HTTP_REQUESTS

log = logging.getLogger(__name__)

# Whatever is no route of ours, and no method: anybody can make up as many as they like.
UNKNOWN = "unknown"
PROBES = "/health/"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def install(app: Flask) -> None:
    """Watch this application's requests. To be called before anything else is done with them."""
    app.before_request(_begin)
    # Flask calls these in reverse: the first that is registered comes last.
    app.after_request(_write_down)
    app.after_request(_count)


@contextmanager
def waiting() -> Iterator[None]:
    """For what is done because the sender asked to wait (`?wait=`): how fast we are is timed without it."""
    began = time.perf_counter()
    try:
        yield
    finally:
        g.waited += time.perf_counter() - began


def _begin() -> None:
    g.began = time.perf_counter()
    g.waited = 0.0


def _count(response: Response) -> Response:
    method = request.method if request.method in METHODS else UNKNOWN
    route = request.url_rule.rule if request.url_rule else UNKNOWN
    counter, seconds = _series(method, route, response.status_code)
    counter.inc()
    seconds.observe(time.perf_counter() - g.began - g.waited)
    return response


@cache
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """Looked up once: a lookup costs as much as the counting."""
    return HTTP_REQUESTS.labels(method, route, str(status)), HTTP_REQUEST_SECONDS.labels(method, route)


def _write_down(response: Response) -> Response:
    """One line a request. Probes come every few seconds: their successes are for DEBUG."""
    route = request.url_rule.rule if request.url_rule else UNKNOWN
    level = logging.DEBUG if route.startswith(PROBES) and response.status_code == HTTPStatus.OK else logging.INFO
    if log.isEnabledFor(level):
        said = logs.Fields(
            method=request.method if request.method in METHODS else UNKNOWN,
            route=route,
            status=response.status_code,
            bytes=response.content_length,
            duration_ms=round((time.perf_counter() - g.began) * 1000, 1),
            case_id=(request.view_args or {}).get("case_id"),
        )
        log.log(level, "%s %s %d", said["method"], route, response.status_code, extra=said)
    return response
