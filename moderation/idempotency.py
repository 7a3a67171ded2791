"""Idempotency-Key (IETF draft-07): the same request again gets the first one's answer, for 24 hours.

A key is claimed while its request runs; a process that dies leaves a claim that lapses, and the sender may try again.
Whoever claims it then is the only one who may still answer, or free it, however late the first one comes back. The
answer is written in the same commit as what it speaks of. Times are the database's. This module does not know what is
being asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation.db import transaction
from moderation.errors import Conflict, IdempotencyMismatch, InvalidRequest, RequestInProgress
from moderation.tables import IdempotencyKey

KEPT_FOR = timedelta(hours=24)
LEASE = timedelta(seconds=60)
MAX_KEY_LENGTH = 255
IN_PROGRESS = "The first request with this Idempotency-Key is still running; try again shortly."


@dataclass(frozen=True)
class Claim:
    """One request's hold on a key. No other claim of the key ends at the same moment, so that is its fence."""

    tenant_id: UUID
    key: str
    lease_until: datetime


def begin(tenant_id: UUID, key: str, fingerprint: str) -> Claim | dict[str, Any]:
    """Claim a key for this request; the stored answer where the request was answered before.

    Raises IdempotencyMismatch for a different request under the same key, RequestInProgress while the first still
    runs, InvalidRequest for a key that is empty or too long.
    """
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise InvalidRequest(f"An Idempotency-Key has 1 to {MAX_KEY_LENGTH} characters; a UUID serves well.")
    with transaction() as session:
        # Of a claim that a power cut takes back nothing was answered yet: nobody waits for the disk here.
        session.execute(text("SET LOCAL synchronous_commit = off"))
        lease_until = _claimed(session, tenant_id, key, fingerprint)
        if lease_until is not None:
            return Claim(tenant_id, key, lease_until)
        return _known(session, tenant_id, key, fingerprint)


def _claimed(session: Session, tenant_id: UUID, key: str, fingerprint: str) -> datetime | None:
    now = func.now()
    row = {"fingerprint": fingerprint, "lease_until": now + LEASE, "answer": None, "expires_at": now + KEPT_FOR}
    statement = insert(IdempotencyKey).values(tenant_id=tenant_id, key=key, **row)
    statement = statement.on_conflict_do_update(
        index_elements=[IdempotencyKey.tenant_id, IdempotencyKey.key],
        set_=row,
        where=IdempotencyKey.expires_at <= now,
    )
    return session.scalar(statement.returning(IdempotencyKey.lease_until))


def _known(session: Session, tenant_id: UUID, key: str, fingerprint: str) -> Claim | dict[str, Any]:
    row = session.get(IdempotencyKey, (tenant_id, key), with_for_update=True)
    if row is None:  # freed by the first request in this very moment
        raise RequestInProgress(IN_PROGRESS)
    if row.fingerprint != fingerprint:
        raise IdempotencyMismatch(
            "This Idempotency-Key was used with a different request. Use a new key for a new request."
        )
    if row.answer is not None:
        return row.answer
    # Not now(), when this transaction began: the row's lock may have been waited for.
    now = session.scalar(select(func.clock_timestamp()))
    assert now is not None
    if row.lease_until > now:
        raise RequestInProgress(IN_PROGRESS)
    row.lease_until = now + LEASE
    return Claim(tenant_id, key, row.lease_until)


def complete(session: Session, claim: Claim, answer: dict[str, Any]) -> None:
    """Store the answer; in the transaction that makes it true.

    Raises Conflict where the claim lapsed meanwhile and the same request, sent again, has the key now: then what this
    transaction did must not stand beside what that one does.
    """
    row = session.get(IdempotencyKey, (claim.tenant_id, claim.key), with_for_update=True)
    if row is None or row.answer is not None or row.lease_until != claim.lease_until:
        raise Conflict("This request took so long that its Idempotency-Key went to a later one; send it again.")
    row.answer = answer


def abandon(claim: Claim) -> None:
    """Free the key of a request that failed, so that the sender can mend it and try again; unless it has gone on."""
    with transaction() as session:
        session.execute(
            delete(IdempotencyKey).where(
                IdempotencyKey.tenant_id == claim.tenant_id,
                IdempotencyKey.key == claim.key,
                IdempotencyKey.lease_until == claim.lease_until,
                IdempotencyKey.answer.is_(None),
            )
        )


def forget_expired(session: Session) -> int:
    """Delete what is older than 24 hours; returns how many."""
    expired = delete(IdempotencyKey).where(IdempotencyKey.expires_at <= func.now())
    return len(session.scalars(expired.returning(IdempotencyKey.key)).all())
