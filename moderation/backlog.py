"""How many cases wait in the review queue, and since when the oldest: exact, and without counting them one by one.

Triggers (migration 0005) note each case that comes or goes in `queue_changes`, which is only ever added to, so that no
commit waits for another. `summarise` writes down, once a minute, what there is of each kind in `queue_summaries`, and
drops the changes it has seen. A count is then a sum over the kinds, the changes since, and the few cases that are on
hold now; all of it is read in one statement, and so from one moment. Late summaries make counts slower, never wrong.

It knows nothing of people: whoever asks says which tenants' cases, and where those that are for leads count too.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from moderation.tables import ANSWERABLE, SCORE_HIDDEN
from moderation.vocabulary import ReviewReason

# Any constant: whoever summarises holds this advisory lock.
SUMMARY_LOCK = 4_207_313
# Among so many kinds with the oldest cases the oldest one is looked for first. Where the next kind begins is the bound:
# what was there before it is of these kinds, so that of what has changed only what is as old has to be looked at.
FEW = 50
# How many categories of a tenant are told apart in its queue, and what the cases of all others are counted as.
MAX_CATEGORIES, OTHER = 100, "other"

_KIND = "tenant_id, for_leads, priority, review_reason, category, model_version_id"
# What a case in the queue counts as; the triggers say the same.
_COUNTED = f"""
    SELECT id, tenant_id, restricted OR escalated_at IS NOT NULL AS for_leads, priority, review_reason, category,
           model_version_id, CASE WHEN {SCORE_HIDDEN} THEN NULL ELSE score END AS score, settled_at, held_until
    FROM cases
"""


@dataclass(frozen=True)
class Totals:
    """How many cases there are, and since when the oldest has been in review."""

    count: int
    oldest: datetime | None


@dataclass(frozen=True)
class Slice:
    """Which cases of the queue are counted: those of `tenants`, and of `led_tenants` those for leads too.

    Scores are p_fake, 0 to 1, both ends included; a range leaves out cases whose score is hidden. Nor is counted what
    is on hold.
    """

    tenants: Collection[UUID]
    led_tenants: Collection[UUID]
    reason: ReviewReason | None = None
    category: str | None = None
    model_version_id: UUID | None = None
    priority: int | None = None
    score_from: float | None = None
    score_to: float | None = None
    older_than: timedelta | None = None

    @property
    def has_scores(self) -> bool:
        """Whether only some scores are asked for."""
        return self.score_from is not None or self.score_to is not None


def totals(session: Session, slice_: Slice) -> Totals:
    """Exactly what there is at this moment."""
    conditions, values = _kinds(slice_)
    kinds = " AND ".join(conditions)
    low = 0.0 if slice_.score_from is None else slice_.score_from
    high = 1.0 if slice_.score_to is None else slice_.score_to
    values |= {"low": low, "under": math.nextafter(low, -1), "high": high, "age": slice_.older_than, "few": FEW}
    parts = {
        "kinds": kinds,
        "scores": _IN_RANGE if slice_.has_scores else "true",
        "aged": "settled_at < now() - :age" if slice_.older_than else "true",
        "counted": _counted(slice_).format(kinds=kinds),
        "early": "settled_at <= coalesce((SELECT oldest FROM bound), 'infinity')",
    }
    first = _FIRST_SCORED if slice_.has_scores else _FIRST
    eldest = _OF_ELDEST.format(same_kind=_SAME_KIND, first=first, kinds=kinds)
    count, oldest, bound = session.execute(text(_TOTALS.format(**parts, there=eldest)), values).one()
    if count and bound is not None and (oldest is None or oldest > bound):
        # None of the kinds with the oldest cases has one that fits: look at every case of every kind.
        parts["early"], everything = "true", _OF_ALL.format(kinds=kinds, scores=parts["scores"])
        count, oldest, _ = session.execute(text(_TOTALS.format(**parts, there=everything)), values).one()
    return Totals(int(count), oldest if count else None)


def summarise(session: Session) -> int:
    """Write the summaries of the tenants whose queue has changed. Returns how many changes were taken up.

    Harmless to repeat, and at once: the second finds the first at work and leaves it to it.
    """
    if not session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": SUMMARY_LOCK}):
        return 0
    # One statement: what is dropped of the changes, and what is read of the cases, is of one moment.
    return int(session.scalar(text(_SUMMARISE)) or 0)


def waiting_for_leads(session: Session, tenants: Collection[UUID]) -> int:
    """How many cases of these tenants are for leads only."""
    return totals(session, Slice(tenants, tenants)).count - totals(session, Slice(tenants, ())).count


def categories(session: Session, tenants: Collection[UUID], led_tenants: Collection[UUID]) -> list[str]:
    """The MAX_CATEGORIES most frequent of the cases there are, by name; of cases for leads only where one leads."""
    conditions, values = _seen(tenants, led_tenants)
    seen = " AND ".join([*conditions, "category IS NOT NULL"])
    query = text(
        f"SELECT category FROM (SELECT category, count AS amount FROM queue_summaries WHERE {seen} "
        f"UNION ALL SELECT category, amount FROM queue_changes WHERE {seen}) AS there "
        "GROUP BY category HAVING sum(amount) > 0 ORDER BY sum(amount) DESC, category LIMIT :most"
    )
    return sorted(session.scalars(query, values | {"most": MAX_CATEGORIES}))


def admitted(session: Session, tenant_id: UUID, category: str) -> str:
    """The category under which a case comes into the queue: OTHER where it would be one more than MAX_CATEGORIES.

    So there are few kinds, even where a platform gives each image a category of its own. Nobody waits for anybody:
    cases that come in at the same moment may exceed the bound by as many as they are.
    """
    values = {"tenant": tenant_id}
    summarised = set(session.scalars(text(_CATEGORIES.format("queue_summaries")), values))
    if category in summarised:
        return category
    if len(summarised) < MAX_CATEGORIES:
        known = summarised | set(session.scalars(text(_CATEGORIES.format("queue_changes")), values))
        if category in known or len(known) < MAX_CATEGORIES:
            return category
    return OTHER


def _kinds(slice_: Slice) -> tuple[list[str], dict[str, Any]]:
    """The conditions on a kind, and what is bound in them."""
    conditions, values = _seen(slice_.tenants, slice_.led_tenants)
    asked = {
        "review_reason": slice_.reason.value if slice_.reason else None,
        "category": slice_.category,
        "model_version_id": slice_.model_version_id,
        "priority": slice_.priority,
    }
    for column, value in asked.items():
        if value is not None:
            conditions.append(f"{column} = :{column}")
            values[column] = value
    return conditions, values


def _seen(tenants: Collection[UUID], led_tenants: Collection[UUID]) -> tuple[list[str], dict[str, Any]]:
    """Of these tenants, and for leads where one leads: asked of thousands of kinds, so no more than is needed."""
    led = set(led_tenants) & set(tenants)
    conditions = ["tenant_id = ANY(:tenants)"]
    values: dict[str, Any] = {"tenants": list(tenants)}
    if not led:
        conditions.append("NOT for_leads")
    elif len(led) < len(set(tenants)):
        conditions.append("(NOT for_leads OR tenant_id = ANY(:led))")
        values["led"] = list(led)
    return conditions, values


def _counted(slice_: Slice) -> str:
    """How many of the kinds fit. `width_bucket` is how many of a sorted array are not above a value."""
    older = "width_bucket(now() - :age - interval '1 microsecond', since)"
    if slice_.older_than and slice_.has_scores:
        # The first ones, and not a slice, which would be a copy of each array.
        first = f"SELECT unnest(scores) AS score LIMIT {older}"
        return f"SELECT count(*) FROM queue_summaries, LATERAL ({first}) AS scored WHERE {{kinds}} AND {_IN_RANGE}"
    of_one = "count"
    if slice_.older_than:
        of_one = older
    elif slice_.has_scores:
        of_one = "width_bucket(:high, ranked) - width_bucket(:under, ranked)"
    return f"SELECT coalesce(sum({of_one}), 0) FROM queue_summaries WHERE {{kinds}}"


_CATEGORIES = "SELECT DISTINCT category FROM {} WHERE tenant_id = :tenant AND category IS NOT NULL"
_IN_RANGE = "score BETWEEN :low AND :high"
# The oldest of one kind, of which `gone` are not there any more.
_FIRST = "SELECT unnest(since[1:1 + gone]) AS settled_at"
# In the list of columns, so that no more of the arrays is gone through than it takes to find them.
_FIRST_SCORED = f"""
    SELECT settled_at FROM (SELECT unnest(since) AS settled_at, unnest(scores) AS score) AS one
    WHERE {_IN_RANGE} LIMIT 1 + gone
"""
_SAME_KIND = """
    eldest.tenant_id = left_.tenant_id AND eldest.for_leads = left_.for_leads AND eldest.priority = left_.priority
    AND coalesce(eldest.review_reason, '') = coalesce(left_.review_reason, '')
    AND coalesce(eldest.category, '') = coalesce(left_.category, '')
    AND coalesce(eldest.model_version_id, uuid_nil) = coalesce(left_.model_version_id, uuid_nil)
""".replace("uuid_nil", "'00000000-0000-0000-0000-000000000000'::uuid")
_OF_ELDEST = """
    SELECT settled_at FROM (
        SELECT since, scores, coalesce(gone, 0) AS gone
        FROM (SELECT * FROM queue_summaries WHERE {kinds} ORDER BY oldest LIMIT :few) AS eldest
        LEFT JOIN left_ ON {same_kind}
    ) AS kept, LATERAL ({first}) AS first
"""
_OF_ALL = """
    SELECT settled_at
    FROM (SELECT unnest(since) AS settled_at, unnest(scores) AS score FROM queue_summaries WHERE {kinds}) AS every_one
    WHERE {scores}
"""
_TOTALS = f"""
WITH bound AS MATERIALIZED (
    SELECT oldest FROM queue_summaries WHERE {{kinds}} ORDER BY oldest OFFSET :few LIMIT 1
), changed AS MATERIALIZED (
    SELECT {_KIND}, settled_at, amount FROM queue_changes WHERE {{kinds}} AND {{scores}}
    UNION ALL
    SELECT {_KIND}, settled_at, -1 FROM ({_COUNTED} WHERE {ANSWERABLE} AND held_until > now()) AS held
    WHERE {{kinds}} AND {{scores}}
), early AS (
    SELECT * FROM changed WHERE {{early}}
), left_ AS (
    SELECT {_KIND}, count(*) AS gone FROM early WHERE amount < 0 GROUP BY {_KIND}
), there AS (
    SELECT settled_at, 1 AS amount FROM ({{there}}) AS summarised
    UNION ALL
    SELECT settled_at, amount FROM early
), oldest AS (
    SELECT min(settled_at) AS settled_at
    FROM (SELECT settled_at FROM there GROUP BY settled_at HAVING sum(amount) > 0) AS present
)
SELECT ({{counted}}) + (SELECT coalesce(sum(amount), 0) FROM changed WHERE {{aged}}),
       (SELECT settled_at FROM oldest),
       (SELECT oldest FROM bound)
"""
_SUMMARISE = f"""
WITH seen AS (
    DELETE FROM queue_changes RETURNING tenant_id
), touched AS (
    SELECT DISTINCT tenant_id FROM seen
), former AS (
    DELETE FROM queue_summaries WHERE tenant_id IN (SELECT tenant_id FROM touched)
), written AS (
    INSERT INTO queue_summaries ({_KIND}, count, oldest, since, scores, ranked)
    SELECT {_KIND}, count(*), min(settled_at), array_agg(settled_at ORDER BY settled_at, id),
           array_agg(score ORDER BY settled_at, id),
           coalesce(array_agg(score ORDER BY score) FILTER (WHERE score IS NOT NULL), '{{}}')
    FROM ({_COUNTED} WHERE {ANSWERABLE} AND tenant_id IN (SELECT tenant_id FROM touched)) AS queue
    GROUP BY {_KIND}
)
SELECT count(*) FROM seen
"""
