"""Drift on numbers that are known: none of the same mix, some of another one, and silence where there is too little."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from moderation import drift
from moderation.db import new_id, transaction
from moderation.drift import Drift
from moderation.estimates import stability
from moderation.tables import PanelMeasurement, Tenant, TrainingExample
from moderation.vocabulary import CaseStatus, PanelSet, Split
from tests.factories import make_case, make_tenant, make_version

# How many images of the holdout had which score, and how many of these arrived lately.
HOLDOUT = {0.05: 200, 0.55: 100, 0.95: 100}
# Many cases of one are written from it: nothing but score, category, version and time matters here.
COPIES = """
INSERT INTO cases (id, tenant_id, submission_id, status, priority, sequence, score, category, model_version_id,
                   settled_at, created_at)
SELECT uuidv7(), tenant_id, uuidv7(), status, priority, 1, :score, :category, model_version_id, settled_at, :at
FROM cases, generate_series(1, :count) WHERE id = :case
"""


def plain_index(then: list[float], now: list[float]) -> float:
    """As the textbook has it, of shares none of which is 0."""
    return sum((q - p) * math.log(q / p) for p, q in zip(then, now, strict=True))


def test_the_index_is_the_textbooks() -> None:
    then, now = {"a": 50_000, "b": 30_000, "c": 20_000}, {"a": 30_000, "b": 30_000, "c": 40_000}
    assert stability(then, now, "abc") == pytest.approx(plain_index([0.5, 0.3, 0.2], [0.3, 0.3, 0.4]), rel=1e-3)
    assert stability(then, then, "abc") == 0
    gone = stability(then, {"a": 50_000, "b": 50_000}, "abc")
    assert gone is not None and 1 < gone < 10, "a class that is gone makes it large, not infinite"


def test_too_few_say_nothing() -> None:
    enough = {"a": 90, "b": 90}
    assert stability(enough, enough, range(10)) is None, "nobody is in these classes"
    tenths = dict.fromkeys(range(10), 18)
    assert stability(tenths, tenths, range(10)) == 0
    assert stability(tenths, {**tenths, 0: 17}, range(10)) is None
    assert stability({}, tenths, range(10)) is None


def arrive(session: Session, tenant: Tenant, scores: Mapping[float, int], *, hours: float, category: str) -> None:
    """So many cases of each score, so long ago."""
    case = make_case(session, tenant, CaseStatus.DECIDED)
    # Out of the way of what is counted.
    session.execute(text("UPDATE cases SET created_at = now() - interval '9 days' WHERE id = :id"), {"id": case.id})
    session.execute(text("SET LOCAL session_replication_role = replica"))  # no submission behind any of them
    at = datetime.now(UTC) - timedelta(hours=hours)
    for score, count in scores.items():
        values = {"score": score, "category": category, "at": at, "count": count, "case": case.id}
        session.execute(text(COPIES), values)


def measure(session: Session, tenant: Tenant, version_id: UUID, categories: Mapping[str, int]) -> None:
    """The holdout as the panel measured it, with scores as in HOLDOUT; images of `categories` in turn. Of no run."""
    scores = [score for score, count in HOLDOUT.items() for _ in range(count)]
    names = [name for name, count in categories.items() for _ in range(count)]
    made = {name: make_case(session, tenant, CaseStatus.DECIDED, details={"category": name}) for name in categories}
    rows = [[f"{number:064x}", "group", score > 0.5, 0.0, score] for number, score in enumerate(scores)]
    # One case each, as a rule; here one stands for many, under a run of its own.
    examples = [
        {"case": made[name].id, "image": made[name].image_id, "sha256": row[0]}
        for row, name in zip(rows, names, strict=True)
    ]
    written = text(
        "INSERT INTO training_examples (run_id, case_id, tenant_id, image_id, sha256, cluster, split) "
        "SELECT uuidv7(), (e ->> 'case')::uuid, :tenant, (e ->> 'image')::uuid, e ->> 'sha256', 'c', :split "
        "FROM jsonb_array_elements(CAST(:examples AS jsonb)) AS e"
    )
    values = {"tenant": tenant.id, "split": Split.HOLDOUT, "examples": json.dumps(examples, default=str)}
    session.execute(written, values)
    measured = {"run_id": new_id(), "model_version_id": version_id, "measured": PanelSet.HOLDOUT}
    session.execute(text("DELETE FROM panel_measurements"))
    session.add(PanelMeasurement(**measured, images=len(rows), margin=0.02, drifted=False, scores=rows))


def found() -> Drift | None:
    with transaction() as session:
        return drift.of_champion(session)


def test_what_arrives_against_the_holdout(db: Engine) -> None:
    with transaction() as session:
        champion = make_version(session)
        tenant, other = make_tenant(session), make_tenant(session)
    assert found() is None, "it has not been measured"
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        measure(session, tenant, champion.id, {"news": 200, "art": 200})
        session.execute(text("UPDATE cases SET created_at = now() - interval '9 days'"))
    assert found() == Drift(champion.name, None, None), "nothing has arrived"
    with transaction() as session:
        arrive(session, tenant, {0.05: 100, 0.55: 50, 0.95: 50}, hours=1, category="news")
        arrive(session, other, {0.05: 100, 0.55: 50, 0.95: 50}, hours=23, category="art")
        arrive(session, tenant, {0.35: 500}, hours=25, category="news")
    assert found() == Drift(champion.name, pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
    with transaction() as session:
        arrive(session, tenant, {0.95: 400}, hours=0.1, category="never seen")
    shifted = found()
    assert shifted is not None and shifted.scores is not None and shifted.categories is not None
    expected = plain_index([0.5, 0.25, 0.25], [0.25, 0.125, 0.625])
    # Seven tenths that nobody is in hold half an observation each.
    assert shifted.scores == pytest.approx(expected, rel=0.05)
    assert shifted.categories > 1


def test_of_another_version_or_without_categories_nothing_is_said(db: Engine) -> None:
    with transaction() as session:
        first = make_version(session)
        tenant = make_tenant(session)
        session.execute(text("SET LOCAL session_replication_role = replica"))
        measure(session, tenant, first.id, {"news": 400})
        arrive(session, tenant, HOLDOUT, hours=1, category="news")
        session.execute(text("UPDATE cases SET category = NULL"))
    said = found()
    assert said is not None and said.scores is not None and said.categories is None
    with transaction() as session:
        make_version(session, "its successor")
    assert found() is None
    with transaction() as session:
        assert session.query(TrainingExample).count() == 400
