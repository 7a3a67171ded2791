"""The task that puts answers into effect, found by the relay and run like any other."""

from __future__ import annotations

from sqlalchemy import Engine

from moderation import claims, reviews
from moderation.db import transaction
from moderation.reviews import Reply
from moderation.settings import settings
from moderation.tables import Case
from moderation.vocabulary import Answer, CaseStatus
from tests.factories import make_tenant
from tests.reviewing import make_person, make_review_case, ten_seconds_later
from tests.workers.test_relay import turn
from workers.celery_app import SETTLE, app
from workers.relay import Relay
from workers.reviews import settle


def test_an_answer_travels_from_its_row_to_the_decision(db: Engine, redis_url: str) -> None:
    with transaction() as session:
        tenant = make_tenant(session)
        anna, case = make_person(session, tenant), make_review_case(session, tenant)
        fence = claims.claim(session, anna, case.id).fence
        reviews.answer(session, anna, case.id, fence, Reply(Answer.FAKE))
    relay = Relay(settings())
    assert turn(relay) == 0
    ten_seconds_later(case.id)
    assert turn(relay) == 1
    with app.connection_or_acquire() as connection:
        message = connection.default_channel.basic_get("reviews", no_ack=True)
        assert message.headers["task"] == SETTLE
    settle(str(case.id))
    with transaction() as session:
        assert session.get_one(Case, case.id).status is CaseStatus.DECIDED
