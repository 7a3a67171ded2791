"""How long each platform's data is kept, and the passes in which what is too old goes.

Days are counted from when a case was settled last, so that nothing goes while it waits, is reviewed, or an appeal is
open. Three kinds of data have a time each (`Kept`); None keeps them. A restricted case (illegal content) is under legal
hold: its own days take the place of all three, and without them it is kept until a lead lifts the report, for it may be
evidence that a law asks to preserve. An image, or its verdict, that cases share goes with the last of them.

Housekeeping looks at every case once a day, in small batches that remember where they were, and writes one event for
each pass. Bytes go from the store after the rows say so, as with erasure. It does not know what is forgotten:
moderation/erasure.py does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, delete, func, null, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from moderation import db, erasure, events, originals
from moderation.db import transaction
from moderation.errors import InvalidRequest
from moderation.tables import Case, Image, RetentionPass, Tenant
from moderation.vocabulary import OPERATOR, CaseStatus, EventType, Kept

BATCH = 500
AT_MOST_S = 10.0  # of one turn of housekeeping
EVERY = timedelta(days=1)
HOUSEKEEPING = "housekeeping"
# Below a day a nightly run would never see an image, and answers to repeated requests are kept so long; deliveries are
# tried for three days, and repeat what was sent, which restricted cases forget with all the rest.
LEAST_DAYS = {"images": 1, "verdicts": 1, "events": 7, "restricted": 7, "appeals": 1}
MOST_DAYS = 36_500
# Any constant: whoever sweeps holds this advisory lock.
SWEEP_LOCK = 4_207_331


@dataclass(frozen=True)
class Periods:
    """Days for which a platform's data is kept after its case was settled; None: for ever.

    `appeals`: for how long a decision may be appealed (moderation/appeals.py refuses what comes later). Whoever answers
    an appeal needs the image, so neither images nor verdicts may be kept for less; where it is None, neither may end.
    """

    images: int | None = None
    verdicts: int | None = None
    events: int | None = None
    restricted: int | None = None
    appeals: int | None = None

    def days(self, kept: Kept) -> int | None:
        """Of what is not restricted."""
        days: int | None = getattr(self, kept.value)
        return days

    def shortest(self, kept: Kept) -> int | None:
        """The first day on which anything of this kind may go; None where nothing ever does."""
        return min((days for days in (self.days(kept), self.restricted) if days is not None), default=None)


COLUMNS = {
    "images": "keep_images_days",
    "verdicts": "keep_verdicts_days",
    "events": "keep_events_days",
    "restricted": "keep_restricted_days",
    "appeals": "appeal_days",
}


def periods_of(tenant: Tenant) -> Periods:
    """How long this platform's data is kept."""
    return Periods(**{name: getattr(tenant, column) for name, column in COLUMNS.items()})


def set_periods(session: Session, tenant_id: UUID, periods: Periods, *, actor: str = OPERATOR) -> dict[str, Any]:
    """Keep a platform's data for so long from now on, and begin anew to look for what is older; returns what differs.

    Raises InvalidRequest, with a pointer, for days that cannot be.
    """
    check(periods)
    tenant = session.get_one(Tenant, tenant_id, with_for_update=True)
    was, now = asdict(periods_of(tenant)), asdict(periods)
    after = {name: days for name, days in now.items() if days != was[name]}
    for name, days in after.items():
        setattr(tenant, COLUMNS[name], days)
    if after:
        session.execute(delete(RetentionPass).where(RetentionPass.tenant_id == tenant_id))
        events.record(
            session,
            EventType.TENANT_CHANGED,
            tenant_id=tenant_id,
            actor=actor,
            before={"retention": {name: was[name] for name in after}},
            after={"retention": after},
        )
    return after


def check(periods: Periods) -> None:
    """Raises InvalidRequest for days out of range, and for images or verdicts that would go before an appeal can."""
    for name, days in asdict(periods).items():
        least = LEAST_DAYS[name]
        if days is not None and not least <= days <= MOST_DAYS:
            raise InvalidRequest(f"{name} is {least} to {MOST_DAYS} days, or nothing at all.", pointer=f"/{name}")
    for name in ("images", "verdicts"):
        days = getattr(periods, name)
        if days is not None and (periods.appeals is None or days < periods.appeals):
            until, longer = ("ever", "ever") if periods.appeals is None else (f"{periods.appeals} days", "longer")
            raise InvalidRequest(
                f"{name} would be kept for {days} days, and decisions can be appealed for {until}: nobody could look "
                f"into a late appeal. Set appeals to at most {days} days, or keep {name} for {longer}.",
                pointer=f"/{name}",
            )


def sweep(at_most_s: float = AT_MOST_S) -> dict[Kept, int]:
    """Go on with every pass that is due, for so many seconds; returns of how many cases something went, by kind.

    Safe to run again, and beside itself: then one of the two does nothing.
    """
    deadline = time.monotonic() + at_most_s
    gone = dict.fromkeys(Kept, 0)
    with db.turn(SWEEP_LOCK) as mine:
        for tenant_id in _tenants_with_periods() if mine else ():
            for kept in Kept:
                while time.monotonic() < deadline and (count := _batch(tenant_id, kept)) is not None:
                    gone[kept] += count
    return gone


def _tenants_with_periods() -> Sequence[UUID]:
    some = or_(*(getattr(Tenant, column).is_not(None) for name, column in COLUMNS.items() if name != "appeals"))
    with transaction() as session:
        return session.scalars(select(Tenant.id).where(some).order_by(Tenant.id)).all()


def _batch(tenant_id: UUID, kept: Kept) -> int | None:
    """One batch of a pass, in one commit: of how many cases something went; None where no pass is due."""
    with transaction() as session:
        periods = periods_of(session.get_one(Tenant, tenant_id))
        shortest = periods.shortest(kept)
        swept = _pass(session, tenant_id, kept) if shortest is not None else None
        if swept is None or shortest is None:
            return None
        old = _old(session, swept, shortest)
        due = _lock(session, [row.id for row in old], _is_due(periods, kept))
        gone = SWEEPERS[kept](session, due, periods)
        swept.gone += gone
        swept.held += _held(old, due, periods.days(kept))
        swept.after_id = old[-1].id if old else swept.after_id
        if len(old) < BATCH:
            _end(session, swept, periods)
        return gone


def _held(old: Sequence[Any], due: Sequence[Case], days: int | None) -> int:
    """How many came in before their kind's time, and stay for another reason."""
    going = {each.id for each in due}
    limit = None if days is None else datetime.now(UTC) - timedelta(days=days)
    return sum(limit is not None and row.created_at < limit and row.id not in going for row in old)


def _pass(session: Session, tenant_id: UUID, kept: Kept) -> RetentionPass | None:
    """The pass that is under way, or a new one, or None: the last one ended within the day."""
    swept = session.get(RetentionPass, (tenant_id, kept), with_for_update=True)
    if swept is None:
        swept = RetentionPass(tenant_id=tenant_id, kept=kept, gone=0, held=0)
        session.add(swept)
    elif swept.ended_at is not None:
        if swept.ended_at > datetime.now(UTC) - EVERY:
            return None
        swept.after_id, swept.gone, swept.held, swept.ended_at = None, 0, 0, None
        swept.started_at = datetime.now(UTC)
    return swept


def _end(session: Session, swept: RetentionPass, periods: Periods) -> None:
    swept.ended_at = datetime.now(UTC)
    if swept.gone:
        days = {"days": periods.days(swept.kept), "restricted_days": periods.restricted}
        events.record(
            session,
            EventType.RETENTION_SWEPT,
            tenant_id=swept.tenant_id,
            actor=HOUSEKEEPING,
            after={"kept": swept.kept.value, "cases": swept.gone, "held": swept.held, **days},
        )


def _old(session: Session, swept: RetentionPass, days: int) -> Sequence[Any]:
    """The next cases of a pass that came in long enough ago, and of which something of this kind is left; by age."""
    query = select(Case.id, Case.created_at).where(Case.tenant_id == swept.tenant_id, Case.settled_at.is_not(None))
    query = query.where(Case.created_at < func.now() - timedelta(days=days), _LEFT[swept.kept])
    if swept.after_id is not None:
        # Both bounds: the first one is what the index understands.
        since = select(Case.created_at).where(Case.id == swept.after_id).scalar_subquery()
        query = query.where(Case.created_at >= since, tuple_(Case.created_at, Case.id) > tuple_(since, swept.after_id))
    return session.execute(query.order_by(Case.created_at, Case.id).limit(BATCH)).all()


_LEFT: dict[Kept, ColumnElement[bool]] = {
    Kept.IMAGES: select(Image.id).where(Image.id == Case.image_id, Image.erased_at.is_(None)).exists(),
    Kept.VERDICTS: and_(Case.image_id.is_not(None), Case.verdict_forgotten_at.is_(None)),
    Kept.EVENTS: Case.forgotten_at.is_(None),
}


def _is_due(periods: Periods, kept: Kept, of: Any = Case) -> ColumnElement[bool]:
    """Whether a case has been settled for so long that what it has of this kind goes."""
    days, restricted = periods.days(kept), periods.restricted
    own = null() if days is None else func.now() - timedelta(days=days)
    held = null() if restricted is None else func.now() - timedelta(days=restricted)
    over = case((of.restricted, held), else_=own)
    settled = of.status.in_((CaseStatus.DECIDED, CaseStatus.FAILED))
    return and_(settled, func.coalesce(of.settled_at < over, False))


def _lock(session: Session, ids: Sequence[UUID], due: ColumnElement[bool]) -> Sequence[Case]:
    """Those of these cases that are due, until the commit; without those that somebody is at work on right now."""
    query = select(Case).where(Case.id.in_(ids), due).order_by(Case.id)
    return session.scalars(query.with_for_update(of=Case, skip_locked=True)).all()


def _locked_images(session: Session, due: Sequence[Case], *wanted: ColumnElement[bool]) -> Sequence[Image]:
    query = select(Image).where(Image.id.in_({each.image_id for each in due}), *wanted).order_by(Image.id)
    return session.scalars(query.with_for_update(skip_locked=True)).all()


def _all_due(session: Session, images: Sequence[Image], periods: Periods, kept: Kept) -> set[UUID]:
    """Of these images, which are locked so that no case can come to them, those whose every case is due.

    All cases of them are locked first: one may be appealed at this moment. An image of which somebody is at work on a
    case stays for now: they may want the image next, so nobody here waits for them.
    """
    ids, other = {image.id for image in images}, aliased(Case)
    free = select(Case.id).where(Case.image_id.in_(ids)).order_by(Case.id).with_for_update(skip_locked=True)
    locked = session.scalars(free).all()
    stays = or_(other.id.not_in(locked), ~_is_due(periods, kept, other))
    return ids - set(session.scalars(select(other.image_id).where(other.image_id.in_(ids), stays)))


def _sweep_images(session: Session, due: Sequence[Case], periods: Periods) -> int:
    images = _locked_images(session, due, Image.erased_at.is_(None))
    over = _all_due(session, images, periods, Kept.IMAGES)
    for image in images:
        if image.id in over:
            originals.drop(session, image)
            image.expired_at = image.erased_at
    return len([each for each in due if each.image_id in over])


def _sweep_verdicts(session: Session, due: Sequence[Case], periods: Periods) -> int:
    over = _all_due(session, _locked_images(session, due), periods, Kept.VERDICTS)
    found = session.scalars(select(Case.id).where(Case.image_id.in_(over))).all()
    erasure.forget_verdicts(session, over, found)
    return len(found)


def _sweep_events(session: Session, due: Sequence[Case], periods: Periods) -> int:
    erasure.forget_submissions(session, [each.id for each in due])
    return len(due)


SWEEPERS: dict[Kept, Callable[[Session, Sequence[Case], Periods], int]] = {
    Kept.IMAGES: _sweep_images,
    Kept.VERDICTS: _sweep_verdicts,
    Kept.EVENTS: _sweep_events,
}
