"""How right decisions are, as far as people's answers tell: audits, second opinions, and answers against verdicts.

Each is read by one grouped query of a selection's cases or answers (moderation/insight.py); what counts say of shares
is worked out in moderation/estimates.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session, aliased

from moderation.estimates import Agreement, Observation, Share, agreement, share
from moderation.insight import FIRST, Selection, answers
from moderation.tables import Case, ModelVersion, Review, Verdict
from moderation.vocabulary import AUDITED, Answer, Label, ReviewReason


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
    query = answers(selection, select(first, Review.answer, func.count()))
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
    query = answers(selection, select(*facts, func.count()))
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
