"""What reviewing asks of the person who does it: hours, hard images, and how long they have gone without a break.

A person is at work from claiming a case until they are done with it or have not been heard of for a lease; claims
that overlap count once. *Hard* are images that were reported as illegal or that this person marked as disturbing. The
numbers are for that person alone: every function takes who asks, and tells of nobody else.

The break: the Health and Safety Executive's guidance on display screen equipment (L26, on regulation 4) finds 5 to 10
minutes after 50 to 60 minutes at the screen better than 15 minutes every two hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from moderation.accounts import Person

DAY = timedelta(days=1)
WEEK = timedelta(days=7)
BREAK = timedelta(minutes=5)
LONG_STRETCH = timedelta(minutes=60)
LONGEST_SHIFT = timedelta(hours=12)  # what lies further back is no part of a stretch

# Ids of claims begin with the time, so that recent ones are found in the primary key, however many there are.
_TIMES = """
    SELECT claimed_at AS started, greatest(claimed_at, least(coalesce(ended_at, now()), lease_until)) AS ended
    FROM claims WHERE id >= :first AND user_id = :user AND claimed_at > now() - :span
"""
_WORKED = text(
    f"""
    SELECT coalesce(sum(upper(part) - lower(part)), interval '0')
    FROM (SELECT unnest(range_agg(tstzrange(started, ended))) AS part FROM ({_TIMES}) times) parts
    """
)
# Spans of work with each break's length added to their end: those that touch are one stretch, and it goes on if now is
# still in it.
_STRETCH = text(
    f"""
    SELECT now() - lower(part)
    FROM (SELECT unnest(range_agg(tstzrange(started, ended + :break))) AS part FROM ({_TIMES}) times) parts
    WHERE part @> now()
    """
)
_HARD = text(
    """
    SELECT count(DISTINCT claims.case_id) FROM claims JOIN cases ON cases.id = claims.case_id
    WHERE claims.id >= :first AND claims.user_id = :user AND claimed_at > now() - :span
      AND (cases.restricted OR EXISTS (
          SELECT FROM reviews WHERE reviews.claim_id = claims.id AND reviews.disturbing AND reviews.undone_at IS NULL
      ))
    """
)


@dataclass(frozen=True)
class Work:
    """What a person did in a span of time."""

    worked: timedelta
    hard_images: int


def work(session: Session, person: Person, span: timedelta) -> Work:
    """Of the last `span` until now."""
    asked = _asked(person, span)
    return Work(session.execute(_WORKED, asked).scalar_one(), session.execute(_HARD, asked).scalar_one())


def stretch(session: Session, person: Person) -> timedelta:
    """For how long they have worked without a break."""
    asked = {**_asked(person, LONGEST_SHIFT), "break": BREAK}
    return session.execute(_STRETCH, asked).scalar() or timedelta(0)


def _asked(person: Person, span: timedelta) -> dict[str, object]:
    # A minute earlier: the clock of whoever made an id is not the database's.
    earliest = int((datetime.now(UTC) - span - timedelta(minutes=1)).timestamp() * 1000)
    return {"user": person.user_id, "span": span, "first": UUID(int=earliest << 80)}
