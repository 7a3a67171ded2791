"""The review queue: which cases wait for a person, in which order, and how many there are.

By priority, then the least certain score, then age. Each tenant's part is read from one index
(`ix_cases_review_queue`) and the parts are merged, so that a page costs the same however long the queue is. Everything
is bound to the tenants of the person who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Float,
    Integer,
    Uuid,
    and_,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.orm import Session

from moderation import backlog, opinions
from moderation.accounts import Person
from moderation.backlog import Slice, Totals
from moderation.errors import NotFound
from moderation.tables import (
    ANSWERABLE,
    CERTAINTY,
    HIDDEN_SCORES,
    SCORE_HIDDEN,
    Case,
    Claim,
    Image,
    Membership,
    ModelVersion,
    Submission,
    Tenant,
    User,
)
from moderation.vocabulary import CaseStatus, ClaimEnd, Label, ReviewReason, Role

PAGE = 50
FOUND = 50
# So many that it is better to find them all than to read the queue until enough of them have come.
FEW = 2000
# How long a skipped case is not offered again to who skipped it.
SKIPPED_FOR = timedelta(hours=1)

# Literally as in the index, or Postgres does not see that it may use it.
_ANSWERABLE: ColumnElement[bool] = literal_column(f"({ANSWERABLE})")
_URGENCY: ColumnElement[int] = literal_column("(-cases.priority)", Integer)
_CERTAINTY: ColumnElement[float] = literal_column(f"({CERTAINTY})", Float)
_SCORE_SEEN: ColumnElement[bool] = literal_column(f"({SCORE_HIDDEN}) IS NOT TRUE")
_LIVE = (Claim.ended_at.is_(None), Claim.lease_until > func.clock_timestamp())
_ORDER: tuple[Any, ...] = (_URGENCY, _CERTAINTY, Case.settled_at, Case.id)
_LEADS = [role for role in Role if role.covers(Role.LEAD)]


@dataclass(frozen=True)
class Filter:
    """Which cases of the queue; scores are p_fake, 0 to 1. `older_than` is how long they have been in review.

    A range of scores leaves out the cases whose score is hidden: to find them by it would be to see it.
    """

    tenant_id: UUID | None = None
    reason: ReviewReason | None = None
    category: str | None = None
    model_version_id: UUID | None = None
    priority: int | None = None
    score_from: float | None = None
    score_to: float | None = None
    older_than: timedelta | None = None
    mine: bool = False
    held: bool = False


@dataclass(frozen=True)
class Place:
    """Where a page of the queue ended: at this case, as it was then. Nothing in it tells the case's score."""

    case_id: UUID
    priority: int
    since: datetime


@dataclass(frozen=True)
class Entry:
    """What a list shows of a case, and who is at work on it: a row of `_SHOWN`, and no whole case.

    `score` is None where there is none, or where it is `hidden`.
    """

    id: UUID
    tenant_id: UUID
    image_id: UUID | None
    external_id: str | None
    status: CaseStatus
    priority: int
    review_reason: ReviewReason | None
    category: str | None
    label: Label | None
    score: float | None
    blind: bool | None
    restricted: bool
    escalated_at: datetime | None
    held_until: datetime | None
    assigned_to: UUID | None
    appeal_message: str | None
    settled_at: datetime | None
    created_at: datetime
    claimed_by: str | None
    hidden: bool = False

    @property
    def place(self) -> Place:
        """Where it is in the order, so that the next page begins after it."""
        assert self.settled_at is not None
        return Place(self.id, self.priority, self.settled_at)


@dataclass(frozen=True)
class Choices:
    """What there is to filter by: categories by name, and names of model versions."""

    categories: Sequence[str]
    versions: dict[UUID, str]


def page(
    session: Session,
    person: Person,
    filter_: Filter,
    *,
    after: Place | None = None,
    limit: int = PAGE,
    rare: int | None = None,
) -> list[Entry]:
    """The person's queue from just after a place on (keyset paging).

    `rare`: how many cases fit the filter, where that is known. Few are found and sorted; of many, the first are read in
    their order. Raises NotFound for what is no place of theirs.
    """
    conditions = _conditions(session, person, filter_)
    if after is not None:
        place = tuple_(-after.priority, _certainty_of(session, person, after.case_id), after.since, after.case_id)
        conditions.append(tuple_(*_ORDER) > place)
    tenants = _tenants(person, filter_)
    few = filter_.mine or filter_.held or (rare is not None and rare <= FEW)
    ids = _first_of_few(session, tenants, conditions, limit) if few else _first(session, tenants, conditions, limit)
    return _entries(session, ids)


def _certainty_of(session: Session, person: Person, case_id: UUID) -> float:
    query = select(_CERTAINTY).where(Case.id == case_id, Case.tenant_id.in_(person.tenant_ids))
    certainty = session.scalar(query.where(_open_to(person, escalated=False)))
    if certainty is None:
        raise NotFound("The case that the last page ended with is not here any more: begin with the first page.")
    return certainty


def totals(session: Session, person: Person, filter_: Filter) -> Totals:
    """Of all that the pages show."""
    tenants = _tenants(person, filter_)
    if not filter_.mine and not filter_.held:
        return backlog.totals(session, _slice(person, filter_, tenants))
    # Few, and each with an index of its own.
    query = select(func.count(), func.min(Case.settled_at)).select_from(Case)
    count, oldest = session.execute(
        query.where(Case.tenant_id.in_(tenants), *_conditions(session, person, filter_))
    ).one()
    return Totals(count, oldest)


def _slice(person: Person, filter_: Filter, tenants: Sequence[UUID]) -> Slice:
    return Slice(
        tenants=tenants,
        led_tenants=person.tenant_ids_as(Role.LEAD),
        reason=filter_.reason,
        category=filter_.category,
        model_version_id=filter_.model_version_id,
        priority=filter_.priority,
        score_from=filter_.score_from,
        score_to=filter_.score_to,
        older_than=filter_.older_than,
    )


def stranded(session: Session, person: Person) -> int:
    """How many cases wait for a lead of tenants that have none, where this person can do nothing about it."""
    led = select(Membership.tenant_id).join(User, User.id == Membership.user_id).where(User.disabled_at.is_(None))
    led = led.where(Membership.role.in_(_LEADS))
    others = person.tenant_ids - person.tenant_ids_as(Role.LEAD)
    leaderless = (
        session.scalars(select(Tenant.id).where(Tenant.id.in_(others), Tenant.id.not_in(led))).all() if others else []
    )
    return backlog.waiting_for_leads(session, leaderless) if leaderless else 0


def choices(session: Session, person: Person) -> Choices:
    """What the cases of this person's queue can be filtered by."""
    versions = session.execute(select(ModelVersion.id, ModelVersion.name).order_by(ModelVersion.id.desc()))
    categories = backlog.categories(session, person.tenant_ids, person.tenant_ids_as(Role.LEAD))
    return Choices(categories, {row.id: row.name for row in versions})


def colleagues(session: Session, person: Person) -> Sequence[User]:
    """Everybody who works for a platform that this person leads, by address."""
    working = select(Membership.user_id).where(Membership.tenant_id.in_(person.tenant_ids_as(Role.LEAD)))
    query = select(User).where(User.id.in_(working), User.disabled_at.is_(None)).order_by(User.email)
    return session.scalars(query).all()


def candidates(session: Session, person: Person, filter_: Filter, *, limit: int) -> list[UUID]:
    """The cases this person should look at next, in order: first those assigned to them, then whatever is free.

    Neither what somebody else is at work on, nor what they answered or skipped a short while ago. What is assigned to
    somebody who cannot work on it any more is free.
    """
    tenants = _tenants(person, filter_)
    free = [*_conditions(session, person, filter_), ~_claimed(), ~_had_enough(person)]
    free.append(~opinions.anothers(person.user_id))
    assigned = select(Case.id).where(Case.tenant_id.in_(tenants), Case.assigned_to == person.user_id, *free)
    first = list(session.scalars(assigned.order_by(*_ORDER).limit(limit)))
    return first or _first(session, tenants, [*free, or_(Case.assigned_to.is_(None), ~_assignee_works())], limit)


def is_anothers(session: Session, person: Person, case: Case) -> bool:
    """Whether the case is assigned to somebody else, who can work on it."""
    if case.assigned_to in (None, person.user_id):
        return False
    return bool(session.scalar(select(_assignee_works()).where(Case.id == case.id)))


def _assignee_works() -> ColumnElement[bool]:
    """Whoever the case is assigned to has an account that is not disabled, and the role that the case needs."""
    for_all = and_(Case.restricted.is_(False), Case.escalated_at.is_(None))
    able = select(Membership.user_id).join(User, User.id == Membership.user_id).where(User.disabled_at.is_(None))
    able = able.where(Membership.user_id == Case.assigned_to, Membership.tenant_id == Case.tenant_id)
    return able.where(or_(for_all, Membership.role.in_(_LEADS))).correlate(Case).exists()


def found(session: Session, person: Person, term: str) -> list[Entry]:
    """The newest of the person's cases, in whatever status, with this external id, image sha256 or id."""
    tenants = list(person.tenant_ids)
    by_name = select(Submission.id).where(Submission.tenant_id.in_(tenants), Submission.external_id == term)
    by_image = select(Image.id).where(Image.tenant_id.in_(tenants), Image.sha256 == term.lower())
    # One after the other: asked for all at once, Postgres would read the cases one by one.
    names = session.scalars(by_name.order_by(Submission.id.desc()).limit(FOUND)).all()
    images = session.scalars(by_image.limit(FOUND)).all()
    which = or_(Case.submission_id.in_(names), Case.image_id.in_(images), Case.id == _as_id(term))
    query = select(Case.id).where(Case.tenant_id.in_(tenants), which, _open_to(person, escalated=False))
    return _entries(session, list(session.scalars(query.order_by(Case.id.desc()).limit(FOUND))))


def _as_id(term: str) -> UUID | None:
    try:
        return UUID(term)
    except ValueError:
        return None


def _tenants(person: Person, filter_: Filter) -> list[UUID]:
    """Raises NotFound for a tenant that is none of the person's."""
    if filter_.tenant_id is None:
        return list(person.tenant_ids)
    if filter_.tenant_id not in person.tenant_ids:
        raise NotFound("There is nothing here, or nothing of a platform that you work for.")
    return [filter_.tenant_id]


def _conditions(session: Session, person: Person, filter_: Filter) -> list[ColumnElement[bool]]:
    is_held = Case.held_until > func.now()
    wanted: list[ColumnElement[bool]] = [_ANSWERABLE, _open_to(person, escalated=True)]
    wanted.append(is_held if filter_.held else or_(Case.held_until.is_(None), Case.held_until <= func.now()))
    for column, value in (
        (Case.review_reason, filter_.reason),
        (Case.category, filter_.category),
        (Case.model_version_id, filter_.model_version_id),
        (Case.priority, filter_.priority),
    ):
        if value is not None:
            wanted.append(column == value)
    if filter_.older_than is not None:
        wanted.append(Case.settled_at < func.now() - filter_.older_than)
    if filter_.score_from is not None or filter_.score_to is not None:
        low, high = filter_.score_from, filter_.score_to
        low, high = 0.0 if low is None else low, 1.0 if high is None else high
        # The first follows from the second, and lets Postgres begin where those scores are.
        wanted += [max(low - 0.5, 0.5 - high, 0) <= _CERTAINTY, Case.score.between(low, high), _SCORE_SEEN]
    if filter_.mine:
        # As one value: they may be hundreds, and a statement of so many is long in the making.
        wanted.append(Case.id == func.any(cast(_ids_of(session, person), ARRAY(Uuid))))
    return wanted


def _open_to(person: Person, *, escalated: bool) -> ColumnElement[bool]:
    """Restricted cases are for leads alone; those handed to them (`escalated`) others do not work on either."""
    free: ColumnElement[bool] = Case.restricted.is_(False)
    if escalated:
        free = and_(free, Case.escalated_at.is_(None))
    return or_(free, Case.tenant_id.in_(person.tenant_ids_as(Role.LEAD)))


def _ids_of(session: Session, person: Person) -> list[UUID]:
    """The cases this person is at work on, and those assigned to them."""
    assigned = session.scalars(select(Case.id).where(_ANSWERABLE, Case.assigned_to == person.user_id))
    claimed = session.scalars(select(Claim.case_id).where(Claim.user_id == person.user_id, *_LIVE))
    return [*assigned, *claimed]


def _claimed() -> ColumnElement[bool]:
    return exists().where(Claim.case_id == Case.id, *_LIVE)


def _had_enough(person: Person) -> ColumnElement[bool]:
    return exists().where(
        Claim.case_id == Case.id,
        Claim.user_id == person.user_id,
        Claim.end.in_([ClaimEnd.SKIPPED, ClaimEnd.ANSWERED]),
        Claim.ended_at > func.now() - SKIPPED_FOR,
    )


def _first(
    session: Session, tenants: Sequence[UUID], conditions: Sequence[ColumnElement[bool]], limit: int
) -> list[UUID]:
    """The first ids in the order: those of each tenant from its part of the index, then the first of them all."""
    tenant = func.unnest(cast(list(tenants), ARRAY(Uuid))).table_valued("id", name="tenant").render_derived()
    # Said and not bound: a plan for any number of rows would read them all.
    few: ColumnElement[int] = literal_column(str(limit))
    columns = [column.label(f"k{number}") for number, column in enumerate(_ORDER)]
    own = select(*columns).where(Case.tenant_id == tenant.c.id, *conditions).order_by(*_ORDER).limit(few)
    merged = own.lateral("own")
    query = select(merged.c.k3).select_from(tenant.join(merged, true()))
    return list(session.scalars(query.order_by(*merged.c).limit(few)))


def _first_of_few(
    session: Session, tenants: Sequence[UUID], conditions: Sequence[ColumnElement[bool]], limit: int
) -> list[UUID]:
    """The same where few cases fit: all of them, by whatever finds them, and then the first."""
    columns = [column.label(f"k{number}") for number, column in enumerate(_ORDER)]
    # The offset keeps Postgres from reading the whole queue in its order to spare itself the sorting.
    found = select(*columns).where(Case.tenant_id.in_(tenants), *conditions).offset(0).subquery()
    return list(session.scalars(select(found.c.k3).order_by(*found.c).limit(limit)))


def _entries(session: Session, ids: Sequence[UUID]) -> list[Entry]:
    rows = {row.id: row for row in session.execute(_ENTRIES, {"ids": ids})}
    return [_seen(Entry(**rows[id_]._mapping)) for id_ in ids]


def _seen(entry: Entry) -> Entry:
    kept_back = bool(entry.blind) or entry.review_reason in HIDDEN_SCORES
    hidden = kept_back and entry.status is CaseStatus.IN_REVIEW
    return replace(entry, score=None, hidden=True) if hidden else entry


# Columns, and not objects: those take longer to make than all the rest of a page.
_SHOWN = (
    *(Case.id, Case.tenant_id, Case.image_id, Submission.external_id, Case.status, Case.priority, Case.review_reason),
    *(Case.category, Case.label, Case.score, Case.blind, Case.restricted, Case.escalated_at, Case.held_until),
    *(Case.assigned_to, Case.appeal_message, Case.settled_at, Case.created_at, User.email.label("claimed_by")),
)
_ENTRIES = (
    select(*_SHOWN)
    .join(Submission, Submission.id == Case.submission_id)
    .outerjoin(Claim, and_(Claim.case_id == Case.id, *_LIVE))
    .outerjoin(User, User.id == Claim.user_id)
    .where(Case.id == func.any(bindparam("ids", type_=ARRAY(Uuid))))
)
