"""Descriptions: a case in JSON and in full, and cut to what an event has room for."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from moderation import cases, descriptions, events, screening
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import Case, Event, Tenant
from moderation.vocabulary import CaseStatus, EventType, FailureReason, Priority
from tests import factories
from tests.factories import make_case, make_image, take_case


def test_a_case_is_described_in_json_and_in_full(tenant: Tenant) -> None:
    with transaction() as session:
        version = factories.make_version(session, "demo-1")
        image = make_image(session, tenant, frames=12)
        case = make_case(session, tenant, image=image, priority=Priority.URGENT, external_id="a", details={"k": [1]})
    job = screening.begin(case.id, version.id, settings())
    assert job is not None
    screening.finish(job, factories.make_reading(0.5), version.id)
    with transaction() as session:
        shown = json.loads(json.dumps(descriptions.describe(session.get_one(Case, case.id))))
    assert (shown["status"], shown["priority"], shown["review_reason"]) == ("in_review", "urgent", "uncertain")
    assert (shown["external_id"], shown["metadata"], shown["decision"]) == ("a", {"k": [1]}, None)
    assert shown["image"]["judged_frame"] == "first of several"
    assert shown["verdict"]["model"] == {
        "version": "demo-1",
        "kind": "demo",
        "prompt": "<image>Does the image looks real/fake?",
        "calibration": "none",
        "engine": "transformers",
        "dtype": "float32",
    }
    assert shown["verdict"]["explanation"] == "Seams."


HEAVY = {
    "four-byte characters": "\U0001f9ff",
    "characters that JSON writes as six": "\x01",
    "quotes": '"',
}


@pytest.mark.parametrize("character", HEAVY.values(), ids=HEAVY.keys())
def test_the_largest_case_still_makes_an_event_under_20_kb(tenant: Tenant, character: str) -> None:
    """The largest metadata that is let in, the longest id, a very long explanation: worst script for each."""
    metadata = {"note": character * 10_000}
    while len(json.dumps(metadata, ensure_ascii=False).encode()) > settings().max_metadata_bytes:
        metadata["note"] = metadata["note"][:-1]
    with transaction() as session:
        version = factories.make_version(session)
        case = make_case(session, tenant, details=metadata, external_id=character * 255)
    job = screening.begin(case.id, version.id, settings())
    assert job is not None
    screening.finish(job, factories.make_reading(explanation=character * 50_000), version.id)
    with transaction() as session:
        told = session.scalars(select(Event).where(Event.case_id == case.id, Event.data.is_not(None))).all()
        assert len(told) == 3
        for event in told:
            assert 8000 < len(events.payload(event)) < 20_000
    with transaction() as session:
        whole = descriptions.describe(session.get_one(Case, case.id))
        assert whole["verdict"]["explanation"] == character * 50_000, "only the event's copy is cut"


def test_a_failure_with_endless_detail_still_makes_an_event_under_20_kb(tenant: Tenant) -> None:
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.QUEUED, details={"note": "\U0001f9ff" * 2000})
        take_case(session, session.get_one(Case, case.id))
        cases.fail(session, session.get_one(Case, case.id), FailureReason.INTERNAL, "\x00\U0001f9ff" * 10_000)
    with transaction() as session:
        event = session.scalars(select(Event).where(Event.type == EventType.VERDICT_FAILED)).one()
        assert len(events.payload(event)) < 20_000
