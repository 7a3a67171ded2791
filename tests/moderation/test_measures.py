"""What stands in Postgres in numbers: what waits for whom and since when; and nothing that waits for nobody."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, text, update

from moderation import cases, measures
from moderation.db import transaction
from moderation.measures import Backlog, Line, Measures, Queue
from moderation.tables import Case, Delivery, Endpoint, TrainingRun
from moderation.vocabulary import CaseStatus, ReviewReason, RunStatus
from tests.factories import make_case, make_endpoint, make_tenant, make_version, take_case
from tests.reviewing import make_review_case

AN_HOUR = 3600.0
AGO = timedelta(hours=1)


def taken() -> Measures:
    with transaction() as session:
        return measures.taken(session)


def lengths(lines: Mapping[Any, Line]) -> dict[str, int]:
    return {name.value: line.length for name, line in lines.items()}


def test_an_empty_service_has_nothing_to_say(db: Engine) -> None:
    found = taken()
    assert found.waiting == {queue: Line(0, None) for queue in Queue}
    assert found.reviews == {kind: Line(0, None) for kind in Backlog}
    assert (found.failed_cases, found.disabled_endpoints) == (0, 0)
    assert (found.champion, found.run, found.run_ended) == (None, None, None)


def test_cases_wait_until_a_worker_has_them(db: Engine) -> None:
    with transaction() as session:
        tenant = make_tenant(session)
        old, under_way = make_case(session, tenant), make_case(session, tenant)
        for status in (CaseStatus.QUEUED, CaseStatus.FETCHING, CaseStatus.DECIDED, CaseStatus.FAILED):
            make_case(session, tenant, status)
        take_case(session, under_way)
        session.execute(update(Case).where(Case.id == old.id).values(queued_at=func.now() - AGO))
    found = taken()
    assert lengths(found.waiting) == {"screening": 2, "fetching": 1, "delivery": 0, "reviews": 0}
    assert found.waiting[Queue.SCREENING].oldest_s == pytest.approx(AN_HOUR, abs=30)
    assert found.waiting[Queue.FETCHING].oldest_s == pytest.approx(0, abs=30)
    assert found.failed_cases == 1


def test_deliveries_wait_from_when_they_are_due(db: Engine) -> None:
    with transaction() as session:
        own, paused, disabled = (make_tenant(session) for _ in range(3))
        for tenant in (own, paused, disabled):
            make_endpoint(session, tenant)
            for _ in range(3):
                make_case(session, tenant)
        ids = session.scalars(text("SELECT d.id FROM deliveries d JOIN endpoints e ON e.id = endpoint_id "
                                   "WHERE tenant_id = :own ORDER BY d.id"), {"own": own.id}).all()  # fmt: skip
        due, later, taken_ = ids
        session.execute(update(Delivery).where(Delivery.id == due).values(next_attempt_at=func.now() - AGO))
        session.execute(update(Delivery).where(Delivery.id == later).values(next_attempt_at=func.now() + AGO))
        session.execute(update(Delivery).where(Delivery.id == taken_).values(lease_until=func.now() + AGO))
        session.execute(update(Endpoint).where(Endpoint.tenant_id == paused.id).values(paused_until=func.now() + AGO))
        session.execute(update(Endpoint).where(Endpoint.tenant_id == disabled.id).values(disabled_at=func.now()))
    found = taken()
    assert found.waiting[Queue.DELIVERY].length == 1
    assert found.waiting[Queue.DELIVERY].oldest_s == pytest.approx(AN_HOUR, abs=30)
    assert found.disabled_endpoints == 1


def test_people_are_asked_by_kind(db: Engine) -> None:
    with transaction() as session:
        tenant = make_tenant(session)
        first, _, held = (make_review_case(session, tenant) for _ in range(3))
        session.execute(update(Case).where(Case.id == first.id).values(settled_at=func.now() - AGO))
        session.execute(update(Case).where(Case.id == held.id).values(held_until=func.now() + AGO))
        for reason in (ReviewReason.AUDIT, ReviewReason.SECOND_OPINION):
            cases.reopen(session, make_case(session, tenant, CaseStatus.DECIDED), reason)
        appealed = make_case(session, tenant, CaseStatus.DECIDED)
        cases.appeal(session, tenant.id, appealed.id, actor="test", message=None)
    found = taken()
    assert lengths(found.reviews) == {"in_review": 3, "appeal": 1, "audit_sample": 1}
    assert found.reviews[Backlog.IN_REVIEW].oldest_s == pytest.approx(AN_HOUR, abs=30)
    assert found.waiting[Queue.REVIEWS] == Line(5, found.reviews[Backlog.IN_REVIEW].oldest_s)


def test_the_champion_and_the_newest_run(db: Engine) -> None:
    with transaction() as session:
        version = make_version(session)
        ended = datetime.now(UTC) - timedelta(days=1)
        session.add(TrainingRun(status=RunStatus.FAILED, asked_by="test", ended_at=ended))
        session.flush()
        session.add(TrainingRun(status=RunStatus.ASKED, asked_by="test"))
    found = taken()
    assert found.champion == (version.name, "demo")
    assert (found.run, found.run_ended) == (RunStatus.ASKED, ended)
