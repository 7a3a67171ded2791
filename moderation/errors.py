"""The one error tree: what is wrong and what to do. No HTTP status lives here (see api/problems.py)."""

from __future__ import annotations


class TelltaleError(Exception):
    """Base of every error the service raises on purpose.

    `pointer` is a JSON Pointer to the offending part of the request, where there is one.
    """

    def __init__(self, message: str, *, pointer: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer


class ConfigurationError(TelltaleError):
    """The deployment is not set up right; the operator must act."""


class Unreadable(ConfigurationError):
    """A stored secret cannot be decrypted, for want of its key."""


class InvalidRequest(TelltaleError):
    """The request says something that cannot be."""


class Unauthenticated(TelltaleError):
    """No valid credentials: unknown, revoked, expired or wrongly signed."""


class Forbidden(TelltaleError):
    """Known, but not allowed to."""


class NotFound(TelltaleError):
    """No such thing, or not this tenant's: the two are never told apart."""


class Conflict(TelltaleError):
    """The thing is in a state that does not allow it; try again later or not at all."""


class IllegalTransition(Conflict):
    """A case cannot go from where it is to where it was sent."""


class LostLease(Conflict):
    """The fence has moved on: someone else holds this row now; nothing may be written."""


class IdempotencyMismatch(InvalidRequest):
    """The same Idempotency-Key came with a different request."""


class RequestInProgress(Conflict):
    """The first request with this Idempotency-Key is still running."""


class TooBusy(TelltaleError):
    """Back-pressure: come back after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServiceBusy(TooBusy):
    """Back-pressure that is nobody's own doing: the whole service has as much before it as it takes."""


class TooManyAttempts(TooBusy):
    """Passwords were tried too often for this account, or from this address."""


class BadImage(TelltaleError):
    """The bytes cannot be judged."""


class ImageTooLarge(BadImage):
    """Over the limit in bytes or pixels."""


class UnsupportedType(BadImage):
    """Not one of the image formats read here, judged by content and not by name."""


class Undecodable(BadImage):
    """An image format, but broken, empty or truncated."""


class StorageUnavailable(TelltaleError):
    """The object store did not answer."""


class StorageFull(StorageUnavailable):
    """The object store takes no more, for want of space or by its quota; what it holds can be read."""


class DamagedCheckpoint(TelltaleError):
    """What the object store holds of a model version is not what was stored."""


class DamagedBackup(TelltaleError):
    """What a destination holds of a backup is not what was backed up, or not all of it."""


class OutboundError(TelltaleError):
    """A URL that somebody gave could not be reached."""


class AddressRefused(OutboundError):
    """The URL, or what it redirects to, is not a public http(s) address."""


class Unreachable(OutboundError):
    """DNS, connection, TLS or time-out."""


class BadStatus(OutboundError):
    """The other side answered with an error status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class ResponseTooLarge(OutboundError):
    """The body went on past the limit."""


class SignatureInvalid(Unauthenticated):
    """A webhook whose signature, id or timestamp does not hold."""
