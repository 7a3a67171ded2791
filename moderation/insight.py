"""What the insight pages show: counts by day, waiting, times, and what people's answers say of the decisions.

Everything is bound to tenants and a span of whole days (UTC), and read by one grouped query each; the indexes it reads
are those of migration 0006. Days are those a case arrived on, but for answers and the backlog, which have their own.
What counts say of shares is worked out in moderation/estimates.py.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from sqlalchemy.orm import Session, aliased

from moderation.estimates import Agreement, Observation, Share, agreement, share
from moderation.tables import (
    ANSWERABLE,
    ENTERED_REVIEW,
    LEFT_REVIEW,
    Case,
    Event,
    ModelVersion,
    Review,
    Verdict,
)
from moderation.vocabulary import AUDITED, Answer, CaseStatus, DecidedBy, Label, ReviewReason

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


@dataclass(frozen=True)
class Audits:
    """What people who looked at a random sample of automatic decisions say of all of them.

    `unclear`: audited, and nobody could tell; `waiting`: sampled, and not answered yet. Neither is in the shares.
    """

    errors: Share
    precision: dict[Label, Share]
    recall: dict[Label, Share]
    unclear: int
    waiting: int


@dataclass(frozen=True)
class WithModel:
    """How often reviewers say what the model said, where they had not seen that, and where they had."""

    blind: Share
    seeing: Share
    unclear: int


@dataclass(frozen=True)
class Reviewers:
    """First and second opinions against each other, and answers against verdicts: all, by category, by version."""

    opinions: Agreement
    pairs: dict[tuple[str, str], int]
    with_model: WithModel
    by_category: dict[str, WithModel]
    by_version: dict[str, WithModel]


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
    query = _answers(selection, select(*facts))
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


def _answers(selection: Selection, query: Select[Any]) -> Select[Any]:
    """Answers that took effect in the span, with their cases."""
    return query.join_from(Review, Case, Case.id == Review.case_id).where(
        Review.tenant_id.in_(selection.tenant_ids),
        selection.within(Review.settled_at),
        literal_column("reviews.settled_at IS NOT NULL"),
        selection.cases(),
    )


def audits(session: Session, selection: Selection) -> Audits:
    """What audits say of the automatic decisions about the cases that arrived in the span."""
    counted = _audited(session, selection)
    clear = {key: count for key, count in counted.items() if key[1] in (Answer.REAL, Answer.FAKE)}

    def seen(hit: Any, among: Any) -> list[Observation]:
        return [Observation(hit(*key), 1 / key[2], count) for key, count in clear.items() if among(*key)]

    return Audits(
        errors=share(seen(lambda said, answer, _: said != answer, lambda *_: True)),
        precision={
            label: share(seen(lambda said, answer, _: answer == label, lambda said, *_: said == label))  # noqa: B023
            for label in Label
        },
        recall={
            label: share(seen(lambda said, *_: said == label, lambda _, answer, __: answer == label))  # noqa: B023
            for label in Label
        },
        unclear=sum(count for (_, answer, _), count in counted.items() if answer == Answer.CANNOT_TELL),
        waiting=sum(count for (_, answer, _), count in counted.items() if answer is None),
    )


def _audited(session: Session, selection: Selection) -> dict[tuple[str, str | None, float], int]:
    """How often the policy decided this and people answered that, by the probability of the audit.

    The last answer to the audit, or to an appeal: left out, an audit would be lost just where somebody sees an error.
    """
    last = (
        select(Review.answer)
        .where(Review.case_id == Case.id, Review.reason.in_(AUDITED), Review.settled_at.is_not(None))
        .order_by(Review.settled_at.desc())
        .limit(1)
        .scalar_subquery()
        .correlate(Case)
    )
    query = select(Case.policy_label, last, Case.audit_probability, func.count()).where(
        selection.cases(),
        selection.within(Case.created_at),
        literal_column("cases.audit_probability IS NOT NULL"),
        Case.policy_label.is_not(None),
    )
    rows = session.execute(query.group_by(Case.policy_label, literal_column("2"), Case.audit_probability))
    return {(label.value, answer.value if answer else None, p): count for label, answer, p, count in rows}


def reviewers(session: Session, selection: Selection) -> Reviewers:
    """How far answers of the span agree with each other and with the verdicts they are about."""
    pairs = _opinions(session, selection)
    rows = _against_verdicts(session, selection)
    return Reviewers(
        opinions=agreement(pairs),
        pairs=pairs,
        with_model=_with_model(rows),
        by_category=_by(rows, lambda row: row.category or "no category"),
        by_version=_by(rows, lambda row: row.version),
    )


def _opinions(session: Session, selection: Selection) -> dict[tuple[str, str], int]:
    """How often each pair of a first and a second opinion was given, by two people who did not know of each other.

    A second opinion is with the last first one before it. Who decides between two, with both in view, is no third.
    """
    before, other = aliased(Review), aliased(Review)
    first = (
        select(before.answer)
        .where(
            before.case_id == Review.case_id,
            before.user_id != Review.user_id,
            before.reason.in_(FIRST),
            before.settled_at < Review.settled_at,
        )
        .order_by(before.settled_at.desc())
        .limit(1)
        .scalar_subquery()
        .correlate(Review)
    )
    earlier = (
        select(other.id)
        .where(
            other.case_id == Review.case_id,
            other.reason == ReviewReason.SECOND_OPINION,
            other.settled_at < Review.settled_at,
        )
        .correlate(Review)
    )
    query = _answers(selection, select(first, Review.answer, func.count()))
    query = query.where(Review.reason == ReviewReason.SECOND_OPINION, ~earlier.exists())
    query = query.group_by(literal_column("1"), Review.answer)
    return {(said.value, then.value): count for said, then, count in session.execute(query) if said is not None}


@dataclass(frozen=True)
class _Compared:
    blind: bool
    category: str | None
    version: str
    said: Label
    answer: Answer
    count: int


def _against_verdicts(session: Session, selection: Selection) -> list[_Compared]:
    facts: tuple[Any, ...] = (Review.blind, Case.category, ModelVersion.name, Verdict.label, Review.answer)
    query = _answers(selection, select(*facts, func.count()))
    query = query.join(Verdict, Verdict.id == Review.verdict_id)
    query = query.join(ModelVersion, ModelVersion.id == Verdict.model_version_id).group_by(*facts)
    return [_Compared(*row) for row in session.execute(query)]


def _by(rows: Iterable[_Compared], key: Any) -> dict[str, WithModel]:
    """By whatever `key` says of a row, those with the most answers first."""
    grouped: dict[str, list[_Compared]] = defaultdict(list)
    for row in rows:
        grouped[key(row)].append(row)
    ordered = sorted(grouped.items(), key=lambda item: (-sum(row.count for row in item[1]), item[0]))
    return {name: _with_model(group) for name, group in ordered}


def _with_model(rows: Sequence[_Compared]) -> WithModel:
    clear = [row for row in rows if row.answer is not Answer.CANNOT_TELL]

    def agreed(blind: bool) -> Share:
        return share(
            Observation(row.said.value == row.answer.value, count=row.count) for row in clear if row.blind is blind
        )

    return WithModel(agreed(True), agreed(False), sum(row.count for row in rows) - sum(row.count for row in clear))
