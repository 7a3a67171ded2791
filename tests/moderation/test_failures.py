"""Failed cases: found by reason and time, and tried again, of one tenant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from moderation import cases, failures
from moderation.db import transaction
from moderation.failures import Filter
from moderation.tables import Case, Event, Tenant
from moderation.vocabulary import CaseStatus, EventType, FailureReason
from tests.factories import make_case, make_tenant, take_case
from tests.reading import copy, reading_few

ACTOR = "user:lea"


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        return make_tenant(session, "Pixelgram")


def failed(session: Session, tenant: Tenant, reason: FailureReason, at: datetime | None = None) -> UUID:
    case = make_case(session, tenant)
    take_case(session, case)
    cases.fail(session, case, reason, "so it was")
    case.settled_at = at or case.settled_at
    session.flush()
    return case.id


def status_of(case_id: UUID) -> CaseStatus:
    with transaction() as session:
        return session.get_one(Case, case_id).status


def test_they_are_found_by_reason_and_time_and_counted(tenant: Tenant) -> None:
    now = datetime.now(UTC)
    with transaction() as session:
        old = failed(session, tenant, FailureReason.INTERNAL, now - timedelta(days=3))
        new = failed(session, tenant, FailureReason.INTERNAL)
        link = failed(session, tenant, FailureReason.LINK_STATUS)
        failed(session, make_tenant(session), FailureReason.INTERNAL)
        make_case(session, tenant, CaseStatus.DECIDED)

        def ids(filter_: Filter, **paging: UUID) -> list[UUID]:
            return [case.id for case in failures.page(session, tenant.id, filter_, limit=10, **paging)]

        assert ids(Filter()) == [link, new, old]
        assert ids(Filter(), before=link) == [new, old]
        assert ids(Filter(reason=FailureReason.INTERNAL)) == [new, old]
        assert ids(Filter(since=now - timedelta(days=1))) == [link, new]
        assert ids(Filter(until=now - timedelta(days=1))) == [old]
        counts = failures.counts(session, tenant.id, Filter())
        assert list(counts.items()) == [(FailureReason.INTERNAL, 2), (FailureReason.LINK_STATUS, 1)]


def test_all_of_a_filter_are_tried_again_each_with_its_event(tenant: Tenant) -> None:
    with transaction() as session:
        ids = [failed(session, tenant, FailureReason.INTERNAL) for _ in range(3)]
        other = failed(session, tenant, FailureReason.LINK_STATUS)
        strangers = failed(session, make_tenant(session), FailureReason.INTERNAL)
    with transaction() as session:
        assert failures.retry_all(session, tenant.id, Filter(reason=FailureReason.INTERNAL), actor=ACTOR) == 3
    assert {status_of(id_) for id_ in ids} == {CaseStatus.QUEUED}
    assert {status_of(other), status_of(strangers)} == {CaseStatus.FAILED}
    with transaction() as session:
        retried = session.scalars(select(Event).where(Event.type == EventType.CASE_RETRIED)).all()
    assert {event.case_id for event in retried} == set(ids) and {event.actor for event in retried} == {ACTOR}


def test_no_more_than_the_bound_and_the_newest_first(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MAX_RETRIED", 2)
    with transaction() as session:
        ids = [failed(session, tenant, FailureReason.INTERNAL) for _ in range(3)]
    with transaction() as session:
        assert failures.retry_all(session, tenant.id, Filter(), actor=ACTOR) == 2
    assert [status_of(id_) for id_ in ids] == [CaseStatus.FAILED, CaseStatus.QUEUED, CaseStatus.QUEUED]


def test_one_that_somebody_else_is_retrying_is_theirs(tenant: Tenant) -> None:
    with transaction() as session:
        mine, theirs = (failed(session, tenant, FailureReason.INTERNAL) for _ in range(2))
    with transaction() as elsewhere:
        cases.retry(elsewhere, tenant.id, theirs, actor="user:bert")
        with transaction() as session:
            assert failures.retry_all(session, tenant.id, Filter(), actor=ACTOR) == 1
    assert status_of(mine) is status_of(theirs) is CaseStatus.QUEUED


def test_of_many_cases_only_the_failed_ones_are_read(tenant: Tenant) -> None:
    with transaction() as session:
        ids = [failed(session, tenant, FailureReason.INTERNAL) for _ in range(3)]
        copy(session, "cases", make_case(session, tenant, CaseStatus.DECIDED).id, "submission_id")
        with reading_few(session, "cases"):
            assert failures.counts(session, tenant.id, Filter()) == {FailureReason.INTERNAL: 3}
        with reading_few(session, "cases"):
            assert [case.id for case in failures.page(session, tenant.id, Filter(), limit=2)] == ids[:0:-1]
