"""A small application for a server that is tried: says how many bytes it was sent; of `/deaf` it reads none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """WSGI."""
    read = 0 if environ["PATH_INFO"] == "/deaf" else len(environ["wsgi.input"].read())
    body = str(read).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
