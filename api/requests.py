"""What a request is here: an id of its own, and a JSON body that is read strictly and within limits.

It knows nothing of what is asked for.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import flask
from flask import Response, g, request
from flask.json.provider import DefaultJSONProvider

from moderation import logs
from moderation.db import new_id
from moderation.errors import InvalidRequest

REQUEST_ID_HEADER = "X-Request-Id"
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
# A batch of 100 links with their metadata.
MAX_JSON_BYTES = 2 * 1024 * 1024


class StrictJson(DefaultJSONProvider):
    """JSON as RFC 8259 has it: no NaN, no numbers beyond what a float holds, no bottomless nesting."""

    sort_keys = False

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """Raises ValueError for whatever is not JSON."""
        try:
            return json.loads(s, parse_constant=_refuse_constant, parse_float=_finite, **kwargs)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number


class Request(flask.Request):
    """A request whose broken JSON is an error with a message, and whose missing body is an empty object.

    But for PUT: nothing sent is not what everything is to be replaced with.
    """

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """Raises InvalidRequest for what is not JSON, and werkzeug's 415 for another content type."""
        if not self.mimetype and not self.get_data(cache=True):
            if self.method == "PUT":
                raise InvalidRequest("There is no body: send as JSON what is to be in force from now on.")
            return {}
        return super().get_json(force=force, silent=False, cache=cache)

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        """Called by werkzeug; without an error it means that the content type is not JSON."""
        if e is None:
            return super().on_json_loading_failed(e)
        raise InvalidRequest(f"The body is not JSON: {e}.") from e


def adopt_request_id() -> None:
    """Give this request the sender's id, where it is a sane one, or a new one; its lines in the log have it too."""
    sent = request.headers.get(REQUEST_ID_HEADER, "")
    g.request_id = sent if _SANE_ID.fullmatch(sent) else str(new_id())
    logs.begin(request_id=g.request_id)


def add_headers(response: Response) -> Response:
    """On every answer: its request id; and under /v1 that nobody in between may keep it."""
    response.headers[REQUEST_ID_HEADER] = g.get("request_id", "")
    response.headers["X-Content-Type-Options"] = "nosniff"
    if request.path.startswith("/v1/"):
        response.headers["Cache-Control"] = "no-store"
    return response


def request_id() -> str:
    """This request's id."""
    return str(g.request_id)


def strict_json(text: str, pointer: str) -> Any:
    """The JSON in a form's field. Raises InvalidRequest that points at the field."""
    try:
        return flask.json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{pointer.removeprefix('/')} is not JSON: {error}.", pointer=pointer) from error
