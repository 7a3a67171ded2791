"""Erasure reaches what was said of an image wherever it is said, and events say less in no other way."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.exc import DBAPIError

from moderation import backlog, cases, descriptions, erasure, events, idempotency, screening, sources
from moderation.db import transaction
from moderation.errors import Conflict, LostLease
from moderation.settings import settings
from moderation.tables import (
    Case,
    Delivery,
    DeliveryAttempt,
    Event,
    IdempotencyKey,
    Image,
    ReceivedWebhook,
    Review,
    Source,
    Submission,
    Tenant,
    Verdict,
)
from moderation.vocabulary import CaseStatus, EventType, FailureReason, Grade
from tests import factories
from tests.factories import make_case, make_endpoint, make_reading
from tests.learning import make_review
from tests.platforms import make_source
from tests.reviewing import make_person, make_review_case

# A name that no chance writes into the letters of a sealed secret.
TELLING = {"external_id": "post-jo-ann-7", "details": {"subject": "jo-ann", "category": "portrait of jo-ann"}}


def erase(tenant: Tenant, case: Case) -> Image:
    assert case.image_id is not None
    with transaction() as session:
        return erasure.erase(session, tenant.id, case.image_id, actor="api_key:x", request_id="r1")


def told(tenant: Tenant) -> Case:
    """A case that much was said of, an endpoint that was told of it, and answers that repeat it."""
    with transaction() as session:
        make_endpoint(session, tenant)
        case = make_review_case(session, tenant, text="Jo-Ann has six fingers.", request_id="jo-ann-1", **TELLING)
        review = make_review(session, case, make_person(session, tenant), sentences=[])
        review.note, review.message = "I know jo-ann.", "Sorry, jo-ann."
        session.execute(
            text(
                "INSERT INTO reviewed_sentences VALUES (:id, 0, 'Jo-Ann has six fingers.', 'right', 'jo-ann has five')"
            ),
            {"id": review.id},
        )
        cases.appeal(session, tenant.id, case.id, actor="api_key:x", message="jo-ann is real")
        delivery = session.scalars(select(Delivery).limit(1)).one()
        session.add(
            DeliveryAttempt(
                delivery_id=delivery.id, attempt=1, response_status=500, response_excerpt="jo-ann?", elapsed_ms=3
            )
        )
    claim = idempotency.begin(tenant.id, "k", "print")
    assert isinstance(claim, idempotency.Claim)
    with transaction() as session:
        idempotency.complete(session, claim, {"cases": [descriptions.describe(session.get_one(Case, case.id))]})
    return case


def everything(engine: Engine) -> str:
    """Every row of every table as text, once housekeeping has counted the queue."""
    with transaction() as session:
        backlog.summarise(session)
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    with engine.connect() as connection:
        return "\n".join(
            str(row)
            for table in connection.scalars(text(tables))
            for row in connection.scalars(text(f'SELECT t::text FROM "{table}" AS t'))
        )


def test_nothing_that_was_said_of_it_stays_in_any_table(db: Engine, tenant: Tenant) -> None:
    case = told(tenant)
    with transaction() as session:  # people and keys are the platform's own
        session.execute(update(Tenant).values(name="pixelgram"))
    assert everything(db).lower().count("jo-ann") > 10
    erase(tenant, case)
    assert "jo-ann" not in everything(db).lower()


def test_the_case_keeps_its_decision_and_is_shown_without_the_rest(tenant: Tenant) -> None:
    case = told(tenant)
    erase(tenant, case)
    with transaction() as session:
        shown = descriptions.describe(session.get_one(Case, case.id))
    assert (shown["external_id"], shown["metadata"], shown["image"]["erased"]) == (None, {}, True)
    assert shown["decision"]["label"] == "fake"
    assert (shown["verdict"]["label"], shown["verdict"]["explanation"]) == ("real", None) or shown["verdict"]["p_fake"]
    with transaction() as session:
        review = session.scalars(select(Review)).one()
        assert [(s.said, s.grade, s.written) for s in review.sentences] == [("", Grade.RIGHT, "")]


def test_deliveries_that_wait_go_out_without_it_and_keep_their_shape(tenant: Tenant) -> None:
    case = told(tenant)
    erase(tenant, case)
    with transaction() as session:
        its = [each.event for each in session.scalars(select(Delivery)) if each.event.case_id is not None]
        bodies = [json.loads(events.payload(event)) for event in its]
    assert {body["type"] for body in bodies} >= {"submission.accepted", "verdict.completed", "decision.created"}
    for body in bodies:
        data = body["data"]
        assert (data["id"], data["external_id"], data["metadata"], data["image"]) == (str(case.id), None, {}, None)
    decided = next(body["data"] for body in bodies if body["type"] == "decision.created")
    assert decided["decision"]["label"] == "fake" and decided["verdict"]["explanation"] is None


def test_a_repeated_request_is_answered_without_it(tenant: Tenant) -> None:
    case = told(tenant)
    erase(tenant, case)
    answer = idempotency.begin(tenant.id, "k", "print")
    assert isinstance(answer, dict)
    (shown,) = answer["cases"]
    assert (shown["id"], shown["external_id"], shown["metadata"], shown["image"]) == (str(case.id), None, {}, None)


def test_another_answer_of_the_day_stays_as_it_is(tenant: Tenant) -> None:
    case = told(tenant)
    with transaction() as session:
        other = make_case(session, tenant, external_id="post-8")
        key = IdempotencyKey(
            tenant_id=tenant.id, key="other", fingerprint="p", answer={"cases": [descriptions.describe(other)]}
        )
        key.lease_until = key.expires_at = func.now()
        session.add(key)
    erase(tenant, case)
    with transaction() as session:
        assert session.get_one(IdempotencyKey, (tenant.id, "other")).answer["cases"][0]["external_id"] == "post-8"  # type: ignore[index]


def test_what_a_webhook_was_answered_forgets_the_id_it_came_with(tenant: Tenant) -> None:
    with transaction() as session:
        source = sources.create(session, make_source(tenant))
        case = make_case(session, tenant, source_id=source.id, **TELLING)
        shown: dict[str, Any] = {"id": str(case.id), "url": "…", "status": "queued", "external_id": "post-jo-ann-7"}
        session.add(ReceivedWebhook(source_id=source.id, webhook_id="m1", answer={"cases": [shown]}))
    erase(tenant, case)
    with transaction() as session:
        answer = session.get_one(ReceivedWebhook, (source.id, "m1")).answer
        assert session.scalars(select(Source.id)).one() == source.id
    assert answer == {"cases": [{**shown, "external_id": None}]}


def test_it_forgets_where_the_image_came_from(tenant: Tenant) -> None:
    with transaction() as session:
        image = factories.make_image(session, tenant)
        by_link = make_case(session, tenant, image=image, image_url="https://example.com/secret.png")
        by_key = make_case(session, tenant, image=image, s3_bucket="theirs", s3_object="people/jo-ann.jpg")
    erase(tenant, by_link)
    with transaction() as session:
        for case in (by_link, by_key):
            sent = session.get_one(Submission, case.submission_id)
            assert (sent.image_url, sent.s3_bucket, sent.s3_object) == (None, None, None)


def test_a_case_that_waited_fails_and_a_verdict_that_comes_late_is_not_written(tenant: Tenant) -> None:
    with transaction() as session:
        version = factories.make_version(session)
        case = make_case(session, tenant)
    job = screening.begin(case.id, version.id, settings())
    assert job is not None
    erase(tenant, case)
    with pytest.raises(LostLease):
        screening.finish(job, make_reading(explanation="Jo-Ann's hand melts."), version.id)
    with transaction() as session:
        now = session.get_one(Case, case.id)
        assert (now.status, now.failure_reason) == (CaseStatus.FAILED, FailureReason.IMAGE_ERASED)
        assert session.scalar(select(func.count()).select_from(Verdict)) == 0
    assert screening.begin(case.id, version.id, settings()) is None


def test_an_image_under_legal_hold_cannot_be_erased(tenant: Tenant) -> None:
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.IN_REVIEW)
        case.restricted = True
    with pytest.raises(Conflict, match="legal hold"):
        erase(tenant, case)
    with transaction() as session:
        session.get_one(Case, case.id).restricted = False
    assert erase(tenant, case).erased_at is not None


def test_what_an_older_telltale_left_of_erased_images_goes_too(db: Engine, tenant: Tenant) -> None:
    case = told(tenant)
    with transaction() as session:
        session.execute(update(Image).values(erased_at=datetime.now(UTC)))
    assert erasure.finish_older() == 1
    assert "jo-ann" not in everything(db).lower()
    assert erasure.finish_older() == 0
    assert erase(tenant, case).forgotten_at is not None


# --- Events say less, and nothing else ---

OF_CASE = "WHERE case_id IS NOT NULL"


@pytest.fixture
def forgotten(tenant: Tenant) -> Case:
    case = told(tenant)
    with transaction() as session:
        session.execute(update(Case).values(forgotten_at=func.now()))
    return case


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE events SET actor = 'somebody else' {OF_CASE}",
        f"UPDATE events SET type = 'case.retried' {OF_CASE}",
        f"UPDATE events SET case_id = NULL {OF_CASE}",
        f"UPDATE events SET created_at = now() {OF_CASE}",
        f"UPDATE events SET sequence = sequence + 100 {OF_CASE}",
        f"UPDATE events SET request_id = 'another' {OF_CASE}",
        f"""UPDATE events SET after = after || '{{"status": "decided"}}' {OF_CASE}""",
        f"""UPDATE events SET after = after || '{{"new": 1}}' {OF_CASE}""",
        f"""UPDATE events SET before = '{{"status": "failed"}}' {OF_CASE}""",
        f"""UPDATE events SET data = '{{"id": "another"}}' {OF_CASE} AND data IS NOT NULL""",
        f"""UPDATE events SET data = '[]' {OF_CASE} AND data IS NOT NULL""",
        "UPDATE events SET after = NULL WHERE case_id IS NULL",
        f"DELETE FROM events {OF_CASE}",
        "TRUNCATE events CASCADE",
    ],
)
def test_a_forgotten_cases_events_cannot_be_changed_but_by_taking_words_away(forgotten: Case, change: str) -> None:
    with pytest.raises(DBAPIError, match="the table events is append only"), transaction() as session:
        session.execute(text(change))


def test_words_can_be_taken_away_once_the_case_is_forgotten_and_not_before(forgotten: Case) -> None:
    less = text(f"UPDATE events SET data = NULL, before = NULL, after = after - 'attempt', request_id = NULL {OF_CASE}")
    with transaction() as session:
        session.execute(update(Case).values(forgotten_at=None))
    with pytest.raises(DBAPIError, match="append only"), transaction() as session:
        session.execute(less)
    with transaction() as session:
        session.execute(update(Case).values(forgotten_at=func.now()))
        session.execute(less)
    with transaction() as session:
        its = session.scalars(select(Event).where(Event.case_id.is_not(None))).all()
        assert {event.data is None and event.request_id is None for event in its} == {True}
        assert EventType.DECISION_CREATED in {event.type for event in its}
