"""The dashboard's own files: style, script, font. Each address names the content, so a browser may keep it for good."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from flask import Blueprint, Response, request, send_from_directory, url_for

from api.auth import public

pages = Blueprint("assets", __name__)

FOLDER = Path(__file__).parent / "static"


@pages.get("/dashboard/static/<path:name>")
@public
def asset(name: str) -> Response:
    """One file. Kept by the browser only under the address that its present content has."""
    response = send_from_directory(FOLDER, name)
    named = response.status_code == 200 and request.args.get("v") == _fingerprint(name)
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if named else "no-cache"
    return response


def address(name: str) -> str:
    """Where a file is, for templates: `{{ asset("shell.css") }}`."""
    return url_for("assets.asset", name=name, v=_fingerprint(name))


@cache
def _fingerprint(name: str) -> str:
    return hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()[:16]
