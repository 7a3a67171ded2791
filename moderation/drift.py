"""How far what arrives has moved away from what the champion was measured on: in its scores, and in categories.

Of both the population stability index (moderation/estimates.py) of the last 24 hours against the champion's holdout,
the images that the standing panel measured it on last. What is reviewed is not what is sent, so the two differ from
the first day on: it is the rise that tells. It says nothing of whether the champion has become worse; the panel does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from moderation.estimates import stability
from moderation.tables import Case, ModelVersion, PanelMeasurement, TrainingExample
from moderation.vocabulary import ModelStage, PanelSet, Split

LATELY = timedelta(hours=24)
# Scores are told apart by tenths, as in the histogram of metrics.
TENTHS = 10
# Where the panel keeps an image's sha256 and score (tables.PanelMeasurement).
SHA256, P_FAKE = 0, 4
# Whatever the holdout has none of.
OTHER = "other"

# Each tenant's part of the index that insight reads, and of no case the row.
_LATELY = text(
    f"""
    SELECT tenth, category, sum(amount)
    FROM tenants CROSS JOIN LATERAL (
        SELECT least(floor(score * {TENTHS}), {TENTHS - 1})::int AS tenth, category, count(*) AS amount
        FROM cases
        WHERE cases.tenant_id = tenants.id AND created_at > now() - :lately AND settled_at IS NOT NULL
          AND model_version_id = :version
        GROUP BY 1, 2
    ) AS own
    GROUP BY 1, 2
    """
)


@dataclass(frozen=True)
class Drift:
    """Of one model version; an index is None where there is too little to tell, then or now."""

    model_version: str
    scores: float | None
    categories: float | None


def of_champion(session: Session) -> Drift | None:
    """None where no version is champion, or it has not been measured on its holdout."""
    champion = session.execute(
        select(ModelVersion.id, ModelVersion.name).where(ModelVersion.stage == ModelStage.CHAMPION)
    ).one_or_none()
    if champion is None:
        return None
    holdout = _holdout(session, champion.id)
    if not holdout:
        return None
    tenths, categories = _lately(session, champion.id)
    return Drift(
        champion.name,
        stability(Counter(_tenth(p_fake) for p_fake in holdout.values()), tenths, range(TENTHS)),
        _of_categories(_categories(session, list(holdout)), categories),
    )


def _holdout(session: Session, version_id: UUID) -> dict[str, float]:
    """The score of each of its images, by sha256."""
    query = select(PanelMeasurement.scores).where(
        PanelMeasurement.model_version_id == version_id,
        PanelMeasurement.measured == PanelSet.HOLDOUT,
        PanelMeasurement.scores.is_not(None),
    )
    rows = session.scalar(query.order_by(PanelMeasurement.id.desc()).limit(1))
    return {row[SHA256]: row[P_FAKE] for row in rows or ()}


def _tenth(p_fake: float) -> int:
    return min(int(p_fake * TENTHS), TENTHS - 1)


def _categories(session: Session, sha256s: list[str]) -> Counter[str | None]:
    """What platforms said of those of these images that are in the holdout still."""
    of_each = (
        select(func.min(Case.category).label("category"))
        .join(TrainingExample, TrainingExample.case_id == Case.id)
        .where(TrainingExample.sha256.in_(sha256s), TrainingExample.split == Split.HOLDOUT)
        .group_by(TrainingExample.sha256)
        .subquery()
    )
    rows = session.execute(select(of_each.c.category, func.count()).group_by(of_each.c.category))
    return Counter({row[0]: row[1] for row in rows})


def _lately(session: Session, version_id: UUID) -> tuple[Counter[int], Counter[str | None]]:
    """How many cases that arrived lately had a score of each tenth, and how many were of each category."""
    tenths: Counter[int] = Counter()
    categories: Counter[str | None] = Counter()
    for tenth, category, amount in session.execute(_LATELY, {"lately": LATELY, "version": version_id}):
        categories[category] += int(amount)
        if tenth is not None:
            tenths[tenth] += int(amount)
    return tenths, categories


def _of_categories(then: Mapping[str | None, int], now: Mapping[str | None, int]) -> float | None:
    """None, too, where no platform said what its images show."""
    if not any(then):
        return None
    known: Counter[Hashable] = Counter()
    for category, count in now.items():
        known[category if category in then else OTHER] += count
    return stability(then, known, {*then, OTHER})
