"""What can go wrong in a call, as exceptions: the service refused, could not be reached, or took too long.

A refusal carries the members of the service's RFC 9457 problem. It does not know which call it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .shapes import Case


class ClientError(Exception):
    """Base of everything this client raises on purpose."""


class Unreachable(ClientError):
    """No answer came: name, connection, TLS or time-out, after the last attempt.

    What was sent may have been accepted; with the same idempotency key it may be sent again.
    """


class NotSettled(ClientError):
    """The time to wait is over. The case goes on; `case` is how it was seen last."""

    def __init__(self, case: Case, timeout_s: float) -> None:
        super().__init__(f"Case {case['id']} is still {case['status']} after {timeout_s:g} s; it is kept and goes on.")
        self.case = case


class BadSignature(ClientError):
    """This webhook does not come from Telltale, or was changed or held up on its way: answer 401."""


class Refused(ClientError):
    """The service answered with an error; compare `kind`, show `detail`, name `request_id` when you ask about it."""

    def __init__(self, said: str, status: int, problem: Mapping[str, Any], retry_after_s: float | None) -> None:
        super().__init__(said)
        self.status = status
        self.retry_after_s = retry_after_s
        self.type: str = problem.get("type", "about:blank")
        self.title: str = problem.get("title", "")
        self.detail: str = problem.get("detail", "")
        self.pointer: str | None = problem.get("pointer")
        self.request_id: str | None = problem.get("request_id")
        self.errors: Sequence[Mapping[str, str]] = problem.get("errors", ())

    @property
    def kind(self) -> str:
        """The last word of `type`, such as `too-busy`; docs/api.md has them all."""
        return self.type.rpartition(":")[2]


class InvalidRequest(Refused):
    """400: something in the request cannot be; `pointer` says which part."""


class Unauthenticated(Refused):
    """401: the key is unknown or was revoked."""


class Forbidden(Refused):
    """403: the key lacks the scope."""


class NotFound(Refused):
    """404: there is no such thing, or it is somebody else's."""


class Conflict(Refused):
    """409: not possible in the state that the thing is in."""


class TooLarge(Refused):
    """413: too many bytes, or too many pixels."""


class UnsupportedType(Refused):
    """415: not an image, or not of a kind that is judged."""


class Unprocessable(Refused):
    """422: the image cannot be decoded, or the idempotency key was used for another request."""


class TooBusy(Refused):
    """429: too much is waiting, and still was at the last attempt; nothing was accepted."""


class ServiceFault(Refused):
    """500 and its like: the service's own fault."""


class Unavailable(ServiceFault):
    """503: its database or object store is away or full, and still was at the last attempt; nothing was accepted."""


_KINDS: Mapping[int, type[Refused]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedType,
    422: Unprocessable,
    429: TooBusy,
    503: Unavailable,
}


def of(request: str, status: int, problem: Mapping[str, Any], retry_after: str | None) -> Refused:
    """The exception for an answer; `request` names the call in the message, such as "GET https://…"."""
    kind = _KINDS.get(status, ServiceFault if status >= 500 else Refused)
    said = f"{request} was answered with {status}: {_sentence(problem)}"
    # Seconds are all that Telltale sends; a proxy's date tells nothing that is worth parsing.
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    return kind(said, status, problem, seconds)


def _sentence(problem: Mapping[str, Any]) -> str:
    text = str(problem.get("detail") or problem.get("title") or "no reason given")
    return f"{text} (at {problem['pointer']})" if problem.get("pointer") else text
