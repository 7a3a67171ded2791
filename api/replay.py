"""`Idempotency-Key`: the same request again gets the first one's answer, marked as a replay.

What a key is and how long it is kept is moderation/idempotency.py's; this is its HTTP side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from sqlalchemy.orm import Session

from api.auth import caller
from api.bodies import Asked, Text
from moderation import descriptions, idempotency
from moderation.idempotency import Claim
from moderation.submissions import OnCommit
from moderation.tables import Case

REPLAYED_HEADER = "Idempotent-Replayed"
# Opens cases; what it is given, if anything, it runs in the transaction that makes them.
Act = Callable[[OnCommit | None], Sequence[Case]]


class IdempotencyHeader(Asked):
    """The header of requests that open cases."""

    key: Text | None = Field(
        default=None,
        alias="Idempotency-Key",
        min_length=1,
        max_length=idempotency.MAX_KEY_LENGTH,
        description="a UUID serves well; the same key and request within 24 h get the same answer",
    )


@dataclass(frozen=True)
class Accepted:
    """The cases as they were when they were accepted, and whether that was an earlier request."""

    cases: list[dict[str, Any]]
    replayed: bool

    @property
    def headers(self) -> dict[str, str]:
        return {REPLAYED_HEADER: "true"} if self.replayed else {}


def accept_once(key: str | None, fingerprint: Callable[[], str], act: Act) -> Accepted:
    """Open cases through `act`, unless this request did so before under its Idempotency-Key `key`.

    `fingerprint` says which request it is, where there is a key. If `act` raises, the key is free again.
    Raises IdempotencyMismatch, RequestInProgress, InvalidRequest, and whatever `act` raises.
    """
    if key is None:
        return Accepted(_shown(act(None)), replayed=False)
    begun = idempotency.begin(caller().tenant_id, key, fingerprint())
    if not isinstance(begun, Claim):
        return Accepted(begun["cases"], replayed=True)

    def keep(session: Session, opened: Sequence[Case]) -> None:
        idempotency.complete(session, begun, {"cases": _shown(opened)})

    try:
        return Accepted(_shown(act(keep)), replayed=False)
    except BaseException:
        idempotency.abandon(begun)
        raise


def _shown(opened: Sequence[Case]) -> list[dict[str, Any]]:
    return [descriptions.describe(case) for case in opened]
