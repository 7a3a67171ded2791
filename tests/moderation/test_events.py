"""Events: who is told of one, and who is not."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from moderation import cases, endpoints
from moderation.db import transaction
from moderation.tables import Delivery, Endpoint, Event, Tenant
from moderation.vocabulary import CaseStatus, EventType
from tests import factories
from tests.factories import make_case, make_endpoint, make_tenant


def test_events_that_stay_inside_are_delivered_to_nobody(tenant: Tenant, endpoint: Endpoint) -> None:
    with transaction() as session:
        case = make_case(session, tenant)
        cases.postpone(session, factories.take_case(session, case), timedelta(0), counts=True)
        assert len(factories.events_of(session, case.id)) == 3
        assert len(session.scalars(select(Delivery)).all()) == 1


def test_an_event_never_goes_to_another_tenant_nor_to_who_did_not_ask(tenant: Tenant) -> None:
    with transaction() as session:
        other = make_tenant(session)
        all_of_them = make_endpoint(session, tenant)
        failures = make_endpoint(session, tenant, event_types=["verdict.failed"])
        disabled = make_endpoint(session, tenant)
        endpoints.disable(session, disabled, "for the test")
        make_endpoint(session, other)
        case = make_case(session, tenant, CaseStatus.FAILED)
        told = session.execute(
            select(Event.type, Delivery.endpoint_id)
            .join(Event)
            .where(Event.case_id == case.id)
            .order_by(Event.sequence)
        ).all()
    assert set(told) == {
        (EventType.SUBMISSION_ACCEPTED, all_of_them.id),
        (EventType.VERDICT_FAILED, all_of_them.id),
        (EventType.VERDICT_FAILED, failures.id),
    }
