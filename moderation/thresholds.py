"""What any pair of thresholds would have done to a tenant's cases, and putting a new pair in force.

Counts are of all cases of the last days that the present champion judged. Precision is of what people answered: cases
between the thresholds come to them anyway, automatic decisions only through audits, so that without audits nothing is
known of the automatic zones. Appeals are left out, but of what an audit was drawn for: who appeals has chosen to, the
lot has not. What counts say of shares is worked out in moderation/estimates.py.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Float, Select, and_, cast, func, literal, literal_column, or_, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from moderation import events, tenants
from moderation.errors import Conflict, NotFound
from moderation.estimates import Observation, Share, share
from moderation.policy import Thresholds
from moderation.tables import Case, Event, Policy, Review, Tenant, User, Verdict
from moderation.vocabulary import AUDITED, Answer, EventType, Label, ReviewReason

SPAN = timedelta(days=90)
STEPS = 100
# Of the plot of scores.
BARS = 20
EARLIER = 50
_UNDECIDED = (ReviewReason.UNCERTAIN, ReviewReason.UNPARSABLE, ReviewReason.SECOND_OPINION)


@dataclass(frozen=True)
class Line:
    """One threshold on one side: how many cases it would decide, and how many of those decisions would be right.

    `unseen`: some of these cases were decided automatically, and no audit has looked at any of those.
    """

    threshold: float
    cases: int
    precision: Share
    unseen: bool


@dataclass(frozen=True)
class Seen:
    """What people answered: cases between the thresholds (`blind` of them before they saw the verdict), audits."""

    reviews: int
    blind: int
    audits: int


@dataclass(frozen=True)
class Outlook:
    """Everything that is known of a tenant's possible thresholds, over `days` days that had `cases` cases.

    `reals` and `fakes` have a line for each threshold, ascending: what it would decide as real, p_fake ≤ threshold, and
    as fake, p_fake ≥ threshold. `unreadable` cases go to review whatever the thresholds are. `bars`: reviewed reals and
    fakes by score, in BARS equal parts of 0 to 1.
    """

    days: float
    cases: int
    unreadable: int
    reals: list[Line]
    fakes: list[Line]
    bars: dict[Label, list[int]]
    seen: Seen


@dataclass(frozen=True)
class Version:
    """One version of a policy, and who made it; None for those made before that was kept."""

    policy: Policy
    by: str | None


@dataclass(frozen=True)
class _Cell:
    """Cases, or answers, alike in all that matters here: `above` grid values are ≤ the score, `below` are ≥ it."""

    above: int
    below: int
    decided: Label | None
    count: int
    probability: float | None = None
    answer: Answer | None = None
    blind: bool = False


def grid(*also: float) -> list[float]:
    """The thresholds that can be chosen: hundredths, and those in force, whatever they are."""
    return sorted({*(step / STEPS for step in range(STEPS + 1)), *also})


def outlook(
    session: Session, tenant_id: UUID, champion_id: UUID | None, now: datetime, tried: Sequence[float] = ()
) -> Outlook:
    """What is known of the tenant's cases that this model version judged in the last SPAN.

    There is a line for each threshold of the grid, for those in force, and for any that are `tried`, from 0 to 1.
    """
    rules = tenants.policy_of(session, tenant_id)
    values = grid(rules.real_up_to, rules.fake_from, *tried)
    population, unreadable, first = _population(session, tenant_id, champion_id, rules, values, now - SPAN)
    answers = _answers(session, tenant_id, champion_id, rules, values, now - SPAN)
    weighted = _weighted(answers, population)
    return Outlook(
        days=max(1.0, (now - first).total_seconds() / 86400) if first else 0.0,
        cases=sum(cell.count for cell in population) + unreadable,
        unreadable=unreadable,
        reals=[
            _line(Label.REAL, value, place, population, weighted, len(values)) for place, value in enumerate(values)
        ],
        fakes=[
            _line(Label.FAKE, value, place, population, weighted, len(values)) for place, value in enumerate(values)
        ],
        bars=_bars(answers, values),
        seen=_seen(answers),
    )


def _judged(tenant_id: UUID, champion_id: UUID | None, since: datetime) -> ColumnElement[bool]:
    return and_(
        Case.tenant_id == tenant_id,
        Case.created_at >= since,
        literal_column("cases.settled_at IS NOT NULL"),
        Case.model_version_id == champion_id,
    )


def _places(values: Sequence[float]) -> tuple[ColumnElement[int], ColumnElement[int]]:
    """How many of the values are ≤ a case's score, and how many are ≥ it: to the bit, as the policy compares."""
    rising = cast(literal(list(values), ARRAY(Float)), ARRAY(Float))
    falling = cast(literal([-value for value in reversed(values)], ARRAY(Float)), ARRAY(Float))
    return func.width_bucket(Case.score, rising), func.width_bucket(-Case.score, falling)


def _population(
    session: Session, tenant_id: UUID, champion_id: UUID | None, rules: Policy, values: Sequence[float], since: datetime
) -> tuple[list[_Cell], int, datetime | None]:
    """All that was judged, by score; how many could not be read; and when the first of them arrived."""
    above, below = _places(values)
    judged = _judged(tenant_id, champion_id, since)
    first = func.min(Case.created_at)
    decided = (
        select(above, below, Case.policy_label, literal(True), func.count(), first)
        .where(judged, Case.policy_label.is_not(None))
        .group_by(literal_column("1"), literal_column("2"), Case.policy_label)
    )
    readable = and_(Verdict.pair_mass >= rules.min_pair_mass, Case.score.is_not(None))
    reviewed = (
        select(above, below, Case.policy_label, readable, func.count(), first)
        .join(Verdict, Verdict.id == Case.verdict_id)
        .where(judged, Case.policy_label.is_(None))
        .group_by(literal_column("1"), literal_column("2"), Case.policy_label, literal_column("4"))
    )
    rows = [*session.execute(decided), *session.execute(reviewed)]
    cells = [_Cell(up, down, label, count) for up, down, label, could, count, _ in rows if could]
    unreadable = sum(count for *_, could, count, _ in rows if not could)
    return cells, unreadable, min((row[-1] for row in rows), default=None)


def _answers(
    session: Session, tenant_id: UUID, champion_id: UUID | None, rules: Policy, values: Sequence[float], since: datetime
) -> list[_Cell]:
    """The last clear answer to each case, by score: audits of what was decided, and reviews of what was not."""
    audited = and_(Review.reason.in_(AUDITED), Case.audit_probability.is_not(None))
    undecided = and_(Review.reason.in_(_UNDECIDED), Case.policy_label.is_(None))
    above, below = _places(values)
    # The case and its verdict are joined in here, once: a second join on what this finds is planned for one row where
    # statistics are old, and then takes a tenant's cases times its reviews.
    last = (
        select(above, below, Case.policy_label, Case.audit_probability, Review.answer, Review.blind)
        .ext(distinct_on(Review.case_id))
        .join(Case, Case.id == Review.case_id)
        .join(Verdict, Verdict.id == Case.verdict_id)
        .where(
            Review.tenant_id == tenant_id,
            Review.settled_at >= since,
            literal_column("reviews.settled_at IS NOT NULL"),
            Review.answer != Answer.CANNOT_TELL,
            _judged(tenant_id, champion_id, since),
            or_(audited, undecided),
            Verdict.pair_mass >= rules.min_pair_mass,
            Case.score.is_not(None),
        )
        .order_by(Review.case_id, Review.settled_at.desc())
        .subquery()
    )
    query: Select[Any] = select(*last.c, func.count()).group_by(*last.c)
    return [
        _Cell(up, down, label, count, probability, answer, blind)
        for up, down, label, probability, answer, blind, count in session.execute(query)
    ]


def _weighted(answers: Iterable[_Cell], population: Iterable[_Cell]) -> list[tuple[_Cell, float]]:
    """Each answer with how many cases it stands for.

    1 / the probability of its audit (1 where no lot was drawn), then so that the answers of each stratum (decided real,
    decided fake, not decided) add up to all its cases: post-stratification. Audits that began late, and reviews that
    still wait, would tip the balance between the strata otherwise.
    """
    there: Counter[Label | None] = Counter()
    for cell in population:
        there[cell.decided] += cell.count
    stood: dict[Label | None, float] = defaultdict(float)
    answers = list(answers)
    for cell in answers:
        stood[cell.decided] += cell.count / (cell.probability or 1)
    return [(cell, there[cell.decided] / stood[cell.decided] / (cell.probability or 1)) for cell in answers]


def _line(
    label: Label, value: float, place: int, population: list[_Cell], answers: list[tuple[_Cell, float]], size: int
) -> Line:
    def inside(cell: _Cell) -> bool:
        return cell.above > place if label is Label.FAKE else cell.below >= size - place

    decides = [cell for cell in population if inside(cell)]
    known = [(cell, weight) for cell, weight in answers if inside(cell)]
    right = share(Observation(cell.answer == label.value, weight, cell.count) for cell, weight in known)
    automatic = any(cell.decided for cell in decides)
    unseen = automatic and not any(cell.decided for cell, _ in known)
    return Line(value, sum(cell.count for cell in decides), right, unseen)


def _bars(answers: Iterable[_Cell], values: Sequence[float]) -> dict[Label, list[int]]:
    bars = {label: [0] * BARS for label in Label}
    edges = [number / BARS for number in range(1, BARS)]
    for cell in answers:
        assert cell.answer is not None
        bars[Label(cell.answer.value)][bisect_right(edges, values[cell.above - 1])] += cell.count
    return bars


def _seen(answers: list[_Cell]) -> Seen:
    def count(cells: Iterable[_Cell]) -> int:
        return sum(cell.count for cell in cells)

    undecided = [cell for cell in answers if cell.decided is None]
    return Seen(
        reviews=count(undecided),
        blind=count(cell for cell in undecided if cell.blind),
        audits=count(cell for cell in answers if cell.decided is not None),
    )


def change(session: Session, tenant_id: UUID, thresholds: Thresholds, *, actor: str, instead_of: int) -> Policy:
    """Put a new version in force; what is in force already stays as it is.

    `instead_of` is the version that whoever asks has seen in force: raises Conflict where it is another one by now,
    InvalidRequest for thresholds that cannot be.
    """
    # One after the other: of two at once, the second sees what the first did.
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update()).one()
    before = tenants.policy_of(session, tenant_id)
    if before.version != instead_of:
        raise Conflict(
            f"Version {before.version} was put in force meanwhile; you were looking at version {instead_of}. "
            "Load the page again and look at what changed."
        )
    if thresholds_of(before) == thresholds:
        return before
    policy = tenants.set_policy(session, tenant_id, thresholds)
    events.record(
        session,
        EventType.POLICY_CHANGED,
        tenant_id=tenant_id,
        actor=actor,
        before=_said(before),
        after=_said(policy),
    )
    return policy


def thresholds_of(policy: Policy) -> Thresholds:
    """What a version says."""
    return Thresholds(policy.fake_from, policy.real_up_to, policy.min_pair_mass, policy.explain)


def _said(policy: Policy) -> dict[str, Any]:
    return {
        "version": policy.version,
        "real_up_to": policy.real_up_to,
        "fake_from": policy.fake_from,
        "min_pair_mass": policy.min_pair_mass,
        "explain": policy.explain.value,
    }


def version_of(session: Session, tenant_id: UUID, version: int) -> Policy:
    """One of the tenant's versions. Raises NotFound."""
    found = session.scalar(select(Policy).where(Policy.tenant_id == tenant_id, Policy.version == version))
    if found is None:
        raise NotFound(f"There is no version {version} of this policy.")
    return found


def versions(session: Session, tenant_id: UUID) -> list[Version]:
    """The newest EARLIER versions, newest first, with who made them."""
    query = select(Policy).where(Policy.tenant_id == tenant_id).order_by(Policy.version.desc()).limit(EARLIER)
    actors = _actors(session, tenant_id)
    return [Version(policy, actors.get(policy.version)) for policy in session.scalars(query)]


def _actors(session: Session, tenant_id: UUID) -> dict[int, str]:
    """Who made which version: an address, or the word the audit trail has."""
    changed = select(Event.actor, Event.after).where(
        Event.tenant_id == tenant_id, literal_column("(type = 'policy.changed')")
    )
    made = {int(after["version"]): actor for actor, after in session.execute(changed) if after}
    ids = {UUID(actor.removeprefix("user:")) for actor in made.values() if actor.startswith("user:")}
    names = {f"user:{user.id}": user.email for user in session.scalars(select(User).where(User.id.in_(ids)))}
    return {version: names.get(actor, actor) for version, actor in made.items()}
