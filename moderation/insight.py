"""What the insight pages count: what became of cases by day, how many wait, and how long decisions took.

Everything is bound to tenants and a span of whole days (UTC), and read by one grouped query each; the indexes it reads
are those of migration 0006. Days are those a case arrived on, but for answers and the backlog, which have their own.
How right the decisions were is moderation/accuracy.py's.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    Select,
    SQLColumnExpression,
    and_,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
)
from sqlalchemy.orm import Session

from moderation.tables import ANSWERABLE, ENTERED_REVIEW, LEFT_REVIEW, Case, Event, Review
from moderation.vocabulary import Answer, CaseStatus, DecidedBy, Label, ReviewReason

MAX_CATEGORIES = 100
# Literally as in the indexes of migration 0006, or Postgres does not see that it may use them.
SETTLED = "settled_at IS NOT NULL"
# How long cases have been waiting, in hours up to which a line of the table goes.
WAITS = ((1, "under 1 hour"), (4, "1 to 4 hours"), (24, "4 hours to 1 day"), (72, "1 to 3 days"), (168, "3 to 7 days"))
LONGEST_WAIT = "over 7 days"
# Times are counted in buckets of e^(1/BUCKETS); nothing is shorter than SHORTEST_S seconds.
BUCKETS, SHORTEST_S = 100, 0.001
# Nobody had decided before: the answers that time to decision is about.
FIRST = (ReviewReason.UNCERTAIN, ReviewReason.UNPARSABLE)


@dataclass(frozen=True)
class Selection:
    """Which cases: of these tenants, from the first day to the last, perhaps of one category and model version."""

    tenant_ids: tuple[UUID, ...]
    first: date
    last: date
    category: str | None = None
    model_version_id: UUID | None = None

    @property
    def days(self) -> list[date]:
        """Every day, in order."""
        return [self.first + timedelta(days=number) for number in range((self.last - self.first).days + 1)]

    def within(self, moment: SQLColumnExpression[Any]) -> ColumnElement[bool]:
        """Whether a moment lies in it."""
        since = datetime.combine(self.first, time(), UTC)
        until = datetime.combine(self.last + timedelta(days=1), time(), UTC)
        return and_(moment >= since, moment < until)

    def cases(self) -> ColumnElement[bool]:
        """Whether a case is of the category and version, whenever it arrived."""
        wanted: list[ColumnElement[bool]] = [Case.tenant_id.in_(self.tenant_ids)]
        if self.category is not None:
            wanted.append(Case.category == self.category)
        if self.model_version_id is not None:
            wanted.append(Case.model_version_id == self.model_version_id)
        return and_(*wanted)

    @property
    def is_narrowed(self) -> bool:
        return self.category is not None or self.model_version_id is not None


class Outcome(StrEnum):
    """What has become of a case. What is decided and looked at again is decided until that is overturned."""

    POLICY_REAL = "real by policy"
    POLICY_FAKE = "fake by policy"
    MODERATOR_REAL = "real by moderator"
    MODERATOR_FAKE = "fake by moderator"
    IN_REVIEW = "in review"
    FAILED = "failed"
    UNDER_WAY = "under way"


@dataclass(frozen=True)
class Backlog:
    """`depths`: cases in review at the end of each day, or now for today. `waits`: how many wait how long, now."""

    depths: dict[date, int]
    waits: dict[str, int]
    oldest: datetime | None


@dataclass(frozen=True)
class Times:
    """Seconds from a case's arrival to its decision: half of `n` took at most `p50`, 19 of 20 at most `p95`.

    To half a hundredth: they are counted in buckets (`_bucket`).
    """

    n: int
    p50: float
    p95: float


@dataclass(frozen=True)
class Speed:
    """Times to decision, of the whole span and by day; None where nothing was decided."""

    whole: Times | None
    by_day: dict[date, Times]


@dataclass(frozen=True)
class Arrivals:
    """What has become of the cases that arrived on each day, and how long the policy took to decide.

    In `automatic`, what was looked at again since is left out.
    """

    by_day: dict[date, Counter[Outcome]]
    automatic: Speed


def _day(moment: Any) -> ColumnElement[datetime]:
    # Literally, or what is selected would not be what is grouped by.
    return func.date_trunc(literal_column("'day'"), func.timezone(literal_column("'UTC'"), moment))


def categories(session: Session, selection: Selection) -> list[str]:
    """The categories there are among the selected tenants' cases, by name; the first MAX_CATEGORIES."""
    query = (
        select(Case.category)
        .distinct()
        .where(
            Case.tenant_id.in_(selection.tenant_ids),
            Case.category.is_not(None),
            selection.within(Case.created_at),
            literal_column(SETTLED),
        )
    )
    return [name for name in session.scalars(query.order_by(Case.category).limit(MAX_CATEGORIES)) if name]


def arrivals(session: Session, selection: Selection) -> Arrivals:
    """What has become of the cases that arrived on each day, and how fast the policy decided them.

    Both from one look at them, since they are many. A day without cases is there too.
    """
    by_day: dict[date, Counter[Outcome]] = {day: Counter() for day in selection.days}
    times: dict[date, Counter[int]] = defaultdict(Counter)
    for day, status, by, label, bucket, count in _arrived(session, selection):
        by_day[day.date()][_outcome(status, by, label)] += count
        if bucket is not None:
            times[day.date()][bucket] += count
    return Arrivals(by_day, _speed(times))


def _arrived(session: Session, selection: Selection) -> Iterator[Any]:
    """How many cases arrived on which day and ended how, with the bucket of their time where the policy alone did it.

    Two parts, each read from an index of its own.
    """
    alone = and_(
        Case.decided_by == DecidedBy.POLICY, Case.status == CaseStatus.DECIDED, Case.audit_probability.is_(None)
    )
    bucket = case((alone, _bucket(func.date_part("epoch", Case.settled_at - Case.created_at))))
    for settled, time_ in (
        (literal_column("cases.settled_at IS NOT NULL"), bucket),
        (Case.settled_at.is_(None), null()),
    ):
        facts: tuple[Any, ...] = (_day(Case.created_at), Case.status, Case.decided_by, Case.label, time_)
        query = select(*facts, func.count()).where(selection.cases(), selection.within(Case.created_at), settled)
        yield from session.execute(query.group_by(*(literal_column(str(place + 1)) for place in range(len(facts)))))


def _outcome(status: CaseStatus, by: DecidedBy | None, label: Label | None) -> Outcome:
    if by is not None and label is not None:
        return Outcome(f"{label.value} by {by.value}")
    if status is CaseStatus.IN_REVIEW:
        return Outcome.IN_REVIEW
    return Outcome.FAILED if status is CaseStatus.FAILED else Outcome.UNDER_WAY


def judged(session: Session, selection: Selection) -> dict[UUID, int]:
    """How many cases that arrived in the span each model version judged."""
    query = select(Case.model_version_id, func.count()).where(
        selection.cases(),
        selection.within(Case.created_at),
        literal_column("cases.settled_at IS NOT NULL"),
        Case.model_version_id.is_not(None),
    )
    rows = session.execute(query.group_by(Case.model_version_id))
    return {version_id: count for version_id, count in rows if version_id is not None}


def backlog(session: Session, selection: Selection, now: datetime) -> Backlog:
    """How many cases waited for people at the end of each day, back from how many wait now.

    Of cases that went to review, and that left it, the audit trail has an event each.
    """
    waits, oldest = _waiting(session, selection, now)
    depth = sum(waits.values()) + _just_answered(session, selection)
    change = Counter(_flow(session, selection, ENTERED_REVIEW))
    change.subtract(_flow(session, selection, LEFT_REVIEW))
    depths = {}
    for day in reversed([selection.first + timedelta(days=n) for n in range((now.date() - selection.first).days + 1)]):
        if day <= selection.last:
            depths[day] = depth
        depth -= change[day]
    return Backlog(dict(reversed(depths.items())), waits, oldest)


def _waiting(session: Session, selection: Selection, now: datetime) -> tuple[dict[str, int], datetime | None]:
    hours = func.extract("epoch", now - Case.settled_at) / 3600
    line = case(*[(hours < limit, words) for limit, words in WAITS], else_=LONGEST_WAIT)
    query = select(line, func.count(), func.min(Case.settled_at)).where(selection.cases(), literal_column(ANSWERABLE))
    rows = session.execute(query.group_by(line)).all()
    found = {words: count for words, count, _ in rows}
    lines = [words for _, words in WAITS] + [LONGEST_WAIT]
    return {words: found.get(words, 0) for words in lines}, min((since for *_, since in rows), default=None)


def _just_answered(session: Session, selection: Selection) -> int:
    """Answers that have not taken effect."""
    query = select(func.count()).select_from(Case).where(selection.cases(), Case.answer_due.is_not(None))
    return session.scalar(query) or 0


def _flow(session: Session, selection: Selection, which: str) -> dict[date, int]:
    """How many cases went to review, or left it, on each day since the first one."""
    since = datetime.combine(selection.first, time(), UTC)
    query = select(_day(Event.created_at), func.count()).where(
        Event.tenant_id.in_(selection.tenant_ids), Event.created_at >= since, literal_column(f"({which})")
    )
    if selection.is_narrowed:
        query = query.join(Case, Case.id == Event.case_id).where(selection.cases())
    return {day.date(): count for day, count in session.execute(query.group_by(_day(Event.created_at)))}


def review_speed(session: Session, selection: Selection) -> Speed:
    """Time to decision where a person decided first, by the day of the decision."""
    seconds = func.date_part("epoch", Review.settled_at - Case.created_at)
    facts: tuple[Any, ...] = (_day(Review.settled_at), _bucket(seconds), func.count())
    query = answers(selection, select(*facts))
    query = query.where(Review.reason.in_(FIRST), Review.answer != Answer.CANNOT_TELL)
    times: dict[date, Counter[int]] = defaultdict(Counter)
    for day, bucket, count in session.execute(query.group_by(literal_column("1"), literal_column("2"))):
        times[day.date()][bucket] += count
    return _speed(times)


def _bucket(seconds: ColumnElement[Any]) -> ColumnElement[int]:
    """Times that are alike to about a hundredth, so that Postgres counts them and need not sort a million."""
    return cast(func.round(func.ln(func.greatest(seconds, cast(SHORTEST_S, Float))) * BUCKETS), Integer)


def _speed(by_day: Mapping[date, Counter[int]]) -> Speed:
    whole: Counter[int] = Counter()
    for counts in by_day.values():
        whole.update(counts)
    return Speed(_times(whole) if whole else None, {day: _times(counts) for day, counts in by_day.items()})


def _times(counts: Counter[int]) -> Times:
    n = counts.total()
    return Times(n, *(math.exp(_percentile(counts, math.ceil(share * n)) / BUCKETS) for share in (0.5, 0.95)))


def _percentile(counts: Counter[int], rank: int) -> int:
    """The bucket of the `rank`-th smallest."""
    for bucket, count in sorted(counts.items()):
        rank -= count
        if rank <= 0:
            return bucket
    raise ValueError("there are not so many")


def answers(selection: Selection, query: Select[Any]) -> Select[Any]:
    """Answers that took effect in the span, with their cases."""
    return query.join_from(Review, Case, Case.id == Review.case_id).where(
        Review.tenant_id.in_(selection.tenant_ids),
        selection.within(Review.settled_at),
        literal_column("reviews.settled_at IS NOT NULL"),
        selection.cases(),
    )
