"""Every error answer: RFC 9457 problem details, or a page. The only place that knows which error is which HTTP status.

A handler turns what the domain, the framework or the database raised into one shape. What was not raised on purpose is
a 500 that says nothing but the request id, under which the log has the rest.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from flask import Flask, Response, current_app, g, request
from gunicorn.http.errors import ParseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, NotAcceptable

from moderation import errors
from moderation.sandbox import SandboxClosed

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
# `type` is a name, not an address: clients compare it, docs/api.md explains it.
TYPE_PREFIX = "urn:telltale:problem:"
UNAVAILABLE_RETRY_AFTER_S = 5
# Somebody must make room first.
FULL_RETRY_AFTER_S = 60
RUNNING_RETRY_AFTER_S = 1

# An error not listed here has its base class's line.
STATUSES: Mapping[type[errors.TelltaleError], tuple[int, str]] = {
    errors.InvalidRequest: (400, "The request is not valid"),
    errors.IdempotencyMismatch: (422, "Idempotency-Key used with another request"),
    errors.Unauthenticated: (401, "Not authenticated"),
    errors.SignatureInvalid: (401, "The webhook's signature does not hold"),
    errors.Forbidden: (403, "Not allowed"),
    errors.NotFound: (404, "Not found"),
    errors.Conflict: (409, "Not possible in this state"),
    errors.RequestInProgress: (409, "The first request is still running"),
    errors.TooBusy: (429, "Too much is waiting"),
    errors.ServiceBusy: (429, "The service is busy"),
    errors.TooManyAttempts: (429, "Too many attempts"),
    errors.ImageTooLarge: (413, "The image is too large"),
    errors.UnsupportedType: (415, "Not a supported type"),
    errors.Undecodable: (422, "The image cannot be decoded"),
    errors.BadImage: (422, "The image cannot be judged"),
    errors.AddressRefused: (400, "The address is refused"),
    errors.StorageUnavailable: (503, "Not available just now"),
    errors.StorageFull: (503, "No space left"),
    SandboxClosed: (503, "Not available just now"),
}
HTTP_ADVICE: Mapping[int, str] = {
    404: "There is nothing at this address; GET /openapi.json lists all there is.",
    405: "This address does not take that method; the Allow header names those it takes.",
    406: "Answers are JSON: accept application/json.",
    415: "Send the body as JSON, with Content-Type: application/json.",
}
# The same to people, who did not write the request.
PAGE_ADVICE: Mapping[int, str] = {
    400: "The request could not be read. Go back, reload the page and try again.",
    404: "There is nothing at this address. It may have been mistyped, or what was here is gone.",
    405: "This address cannot be opened like that. Go back and use the page's own buttons.",
    413: "That is more than this form takes. Send less.",
    415: "The form was sent in a way that cannot be read here. Reload the page and try again.",
}
# How problems look below a path: by default, JSON.
PAGES = "telltale_problem_pages"
Body = Mapping[str, Any]
DISK_FULL = "53100"  # https://www.postgresql.org/docs/current/errcodes-appendix.html


class Problem(BaseModel):
    """What every error looks like (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": f"{TYPE_PREFIX}invalid-request",
                "title": "The request is not valid",
                "status": 400,
                "detail": "There is no field 'imageurl' here; leave it out or correct its name.",
                "pointer": "/imageurl",
                "request_id": "0199c0de-6b1c-7c3a-9d43-2f6f2f1f4a55",
            }
        }
    )

    type: str = Field(description="stable name of the kind of problem")
    title: str = Field(description="the kind of problem, in words")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what is wrong with this request, and what to do")
    pointer: str | None = Field(default=None, description="JSON Pointer to the part at fault (/name for a parameter)")
    request_id: str = Field(description="name it when you ask about this request; also in X-Request-Id")
    errors: list[dict[str, str]] | None = Field(default=None, description="all faults, where there are several")
    checks: dict[str, str] | None = Field(default=None, description="of /health/ready: each part's state")


class NotReady(Exception):
    """Some part that this process needs does not answer; `checks` says which."""

    def __init__(self, checks: dict[str, str]) -> None:
        super().__init__("not ready")
        self.checks = checks


def problem(
    status: int,
    kind: str,
    title: str,
    detail: str,
    *,
    pointer: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """One problem as a response; members that are None are left out."""
    body = {
        "type": TYPE_PREFIX + kind,
        "title": title,
        "status": status,
        "detail": detail,
        "pointer": pointer,
        "request_id": g.get("request_id", "unknown"),
        **members,
    }
    present = {name: value for name, value in body.items() if value is not None}
    page = _page()
    response = page(present) if page else Response(current_app.json.dumps(present), mimetype=MEDIA_TYPE)
    response.status_code = status
    response.headers.update(headers or {})
    return response


def shown_below(app: Flask, prefix: str, page: Callable[[Body], Response]) -> None:
    """Have the problems of every path that begins with `prefix` rendered by `page`, from the members of a Problem."""
    app.extensions.setdefault(PAGES, {})[prefix] = page


def _page() -> Callable[[Body], Response] | None:
    pages: Mapping[str, Callable[[Body], Response]] = current_app.extensions.get(PAGES, {})
    return next((page for prefix, page in pages.items() if request.path.startswith(prefix)), None)


def beside(error: errors.TelltaleError, page: str) -> Response:
    """A page that shows this error itself, such as a form with what was typed, under the error's own status."""
    kind = _kind(error)
    if kind is None:
        raise error
    status, _ = STATUSES[kind]
    response = Response(page, status, mimetype="text/html")
    response.headers.update(_headers(error, status))
    return response


def _hang_up(response: Response) -> Response:
    """The rest of the body is still on its way, or cannot be understood: this connection is of no further use."""
    response.headers["Connection"] = "close"
    return response


def declared(*statuses: int) -> dict[str, dict[str, Any]]:
    """The problem responses of a route, for its OpenAPI description. Those that any route can have are added."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        str(status): {"description": DESCRIPTIONS[status], "content": content}
        for status in sorted({*statuses, 400, 406, 500, 503})
    }


DESCRIPTIONS: Mapping[int, str] = {
    400: "The request is malformed or says something that cannot be; `pointer` names the part.",
    401: "No valid API key, or a signature that does not hold.",
    403: "The key lacks the scope.",
    404: "No such thing, or not yours: the two are not told apart.",
    406: "Only JSON can be answered.",
    409: "The thing is in a state that does not allow it, or the first request with this Idempotency-Key still runs.",
    413: "Too large, in bytes or in pixels.",
    415: "Not a supported type, judged by content.",
    422: "The image cannot be decoded, or the Idempotency-Key came with another request before.",
    429: "Too much is waiting, of yours or of all, or too many send at once; `Retry-After` says when to come back.",
    500: "Our fault; nothing more is known to you than the request id.",
    503: "The database or the object store does not answer, or is full; nothing was accepted. See `Retry-After`.",
}


def refuse_unacceptable() -> None:
    """Answer 406 to who cannot read JSON, before anything is done."""
    wanted = request.accept_mimetypes
    if wanted and not wanted.best_match(["application/json", MEDIA_TYPE]):
        raise NotAcceptable


def raise_again(error: ValidationError) -> NoReturn:
    """Let a failed validation of the request reach its handler here."""
    raise error


def install(app: Flask) -> None:
    """Make every error of this application a problem."""
    app.register_error_handler(errors.TelltaleError, of)
    app.register_error_handler(ValidationError, _from_validation)
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(NotReady, _not_ready)
    # Gunicorn's, raised while a view reads the body.
    app.register_error_handler(ParseException, _broken_chunks)
    app.register_error_handler(DataError, _unstorable)
    for kind in (OperationalError, InterfaceError):
        app.register_error_handler(kind, _database_away)
    app.register_error_handler(PoolTimeout, _database_busy)
    app.register_error_handler(DBAPIError, _database_error)
    app.register_error_handler(Exception, _unexpected)


def of(error: errors.TelltaleError) -> Response:
    """What the domain refused, as a problem."""
    kind = _kind(error)
    if kind is None:
        return _unexpected(error)
    status, title = STATUSES[kind]
    if status == 503:
        log.warning("%s: %s", type(error).__name__, error.message)
    return problem(
        status, _kebab(kind.__name__), title, error.message, pointer=error.pointer, headers=_headers(error, status)
    )


def _kind(error: errors.TelltaleError) -> type[errors.TelltaleError] | None:
    return next((kind for kind in type(error).__mro__ if kind in STATUSES), None)


def _headers(error: errors.TelltaleError, status: int) -> dict[str, str]:
    if isinstance(error, errors.TooBusy):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, errors.RequestInProgress):
        return {"Retry-After": str(RUNNING_RETRY_AFTER_S)}
    if status == 503:
        full = isinstance(error, errors.StorageFull)
        return {"Retry-After": str(FULL_RETRY_AFTER_S if full else UNAVAILABLE_RETRY_AFTER_S)}
    if isinstance(error, errors.SignatureInvalid):
        return {"WWW-Authenticate": "Webhook-Signature"}
    # People sign in on a page.
    return {"WWW-Authenticate": "Bearer"} if status == 401 and not _page() else {}


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def _from_validation(error: ValidationError) -> Response:
    faults = [
        {"detail": _fault(fault), "pointer": pointer_of(fault["loc"])} for fault in error.errors(include_url=False)
    ]
    status, title = STATUSES[errors.InvalidRequest]
    return problem(
        status,
        "invalid-request",
        title,
        faults[0]["detail"],
        pointer=faults[0]["pointer"],
        errors=faults if len(faults) > 1 else None,
    )


def _fault(fault: Mapping[str, Any]) -> str:
    where = "/".join(str(part) for part in fault["loc"]) or "The body"
    if fault["type"] == "extra_forbidden":
        return f"There is no field {where!r} here; leave it out or correct its name."
    if fault["type"] == "missing":
        return f"The field {where!r} is missing."
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}."


def pointer_of(location: Sequence[str | int]) -> str:
    """A place in a document as JSON Pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _from_http(error: HTTPException) -> Response | HTTPException:
    status = error.code or 500
    if status < 400:
        return error
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    advice = PAGE_ADVICE if _page() else HTTP_ADVICE
    detail = advice.get(status) or error.description or error.name
    if status == 413:
        return _hang_up(problem(status, "request-entity-too-large", error.name, _too_large()))
    return problem(status, _kebab(type(error).__name__), error.name, detail, headers=headers)


def _too_large() -> str:
    if _page():
        return PAGE_ADVICE[413]
    limit = request.max_content_length
    return (
        f"The request's body may have {limit} bytes and has more. Send less; "
        "a large image goes through POST /v1/uploads."
    )


def _broken_chunks(error: Exception) -> Response:
    status, title = STATUSES[errors.InvalidRequest]
    detail = "The body's chunks are not as its Transfer-Encoding says; send it whole, with a Content-Length."
    return _hang_up(problem(status, "invalid-request", title, detail))


def _not_ready(error: NotReady) -> Response:
    lacking = ", ".join(name for name, state in error.checks.items() if state != "ok")
    return problem(
        503,
        "not-ready",
        "Not ready",
        f"Not ready: {lacking}.",
        headers={"Retry-After": str(UNAVAILABLE_RETRY_AFTER_S)},
        checks=error.checks,
    )


def _unstorable(error: DataError) -> Response:
    log.warning("The database refused a value", exc_info=error)
    status, title = STATUSES[errors.InvalidRequest]
    return problem(status, "invalid-request", title, "A value cannot be stored: look for a NUL or an extreme number.")


def _database_error(error: DBAPIError) -> Response:
    return _database_away(error) if error.connection_invalidated else _unexpected(error)


def _database_busy(error: Exception) -> Response:
    """Every connection of this process's pool is in use, and was for as long as one waits (moderation/db.py)."""
    log.error("No connection to the database came free: %s", error)
    return problem(
        503,
        "database-busy",
        "Not available just now",
        "Too much is asked of the database at once. Nothing was accepted; send the request again.",
        headers={"Retry-After": str(UNAVAILABLE_RETRY_AFTER_S)},
    )


def _database_away(error: Exception) -> Response:
    if getattr(getattr(error, "orig", None), "sqlstate", None) == DISK_FULL:
        return _database_full(error)
    log.error("The database does not answer: %s", error)
    return problem(
        503,
        "database-unavailable",
        "Not available just now",
        "The database does not answer. Nothing was accepted; send the request again.",
        headers={"Retry-After": str(UNAVAILABLE_RETRY_AFTER_S)},
    )


def _database_full(error: Exception) -> Response:
    log.critical("The database has no space left: %s", error)
    return problem(
        503,
        "database-full",
        "No space left",
        "The database has no space left. Nothing was accepted; send the request again.",
        headers={"Retry-After": str(FULL_RETRY_AFTER_S)},
    )


def _unexpected(error: Exception) -> Response:
    log.error("Unexpected error", exc_info=error)
    return problem(
        500, "internal", "Internal error", "Something went wrong on our side; we have it in the log under request_id."
    )
