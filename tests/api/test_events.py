"""What is sent to endpoints is what the OpenAPI document says of it: every type, every member."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.events import EVENTS, EventShown
from moderation import appeals, cases, endpoints, events, model_versions
from moderation.db import new_id, transaction
from moderation.settings import settings
from moderation.tables import Event, Tenant
from moderation.vocabulary import OUTBOUND, CaseStatus, FailureReason, Label
from tests.api.test_reference import document  # noqa: F401
from tests.factories import make_case, make_tenant, make_version


def test_every_event_that_is_sent_is_described_and_no_other(document: dict[str, Any]) -> None:  # noqa: F811
    assert set(EVENTS) == OUTBOUND
    assert set(document["webhooks"]) == {type_.value for type_ in OUTBOUND}


@pytest.mark.usefixtures("db")
def test_what_is_sent_is_as_described() -> None:
    with transaction() as session:
        tenant = make_tenant(session)
        _everything_happens(session, tenant)
        told = session.scalars(select(Event).where(Event.type.in_(OUTBOUND))).all()
        assert {event.type for event in told} == OUTBOUND
        for event in told:
            sent = json.loads(events.payload(event))
            assert sent["type"] == event.type.value and set(sent) == set(EventShown.model_fields)
            EventShown.model_validate_json(json.dumps(sent))
            EVENTS[event.type].data.model_validate_json(json.dumps(sent["data"]))


def _everything_happens(session: Session, tenant: Tenant) -> None:
    """One of each event: a failed case, a case in review, an appeal that overturns, endpoints, a promotion."""
    make_case(session, tenant, CaseStatus.IN_REVIEW, external_id="post-1", details={"uploader": "u-17"})
    waiting = make_case(session, tenant, CaseStatus.SCREENING)
    cases.fail(session, waiting, FailureReason.INTERNAL, "…")
    decided = make_case(session, tenant, CaseStatus.DECIDED)
    appeals.file(session, tenant.id, decided.id, actor="platform", message=None)
    other = Label.REAL if decided.label is Label.FAKE else Label.FAKE
    cases.rule(session, decided, other, actor="somebody", review_id=new_id(), message="Look at the hands.")
    endpoint = endpoints.create(session, tenant.id, "https://93.184.215.14/hooks", [], settings())
    endpoints.ping(session, endpoint)
    endpoints.disable(session, endpoint, "It answered 410.")
    model_versions.promote(session, make_version(session, champion=False).id, actor="operator")
