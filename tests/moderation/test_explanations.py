"""Explanations on demand, seen from the database: asked, taken under a lease, written once, failed in words."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select, update

from moderation import dispatch, erasure, explanations, originals
from moderation.db import transaction
from moderation.errors import Conflict, LostLease, NotFound
from moderation.explanations import Job, State, Words
from moderation.settings import settings
from moderation.tables import Case, Explanation, ExplanationRequest, Verdict
from moderation.vocabulary import CaseStatus
from tests.factories import champion_or_new, events_of, make_case, make_tenant

LEASE = timedelta(seconds=30)


@pytest.fixture
def case(db: Engine) -> Case:
    """A decided case whose verdict nobody explained."""
    with transaction() as session:
        return make_case(session, make_tenant(session), CaseStatus.DECIDED)


def verdict_of(case: Case) -> UUID:
    assert case.verdict_id is not None
    return case.verdict_id


def ask(case: Case) -> State:
    with transaction() as session:
        return explanations.ask(session, case.tenant_id, case.id, actor="test").state


def begun(case: Case) -> Job:
    job = explanations.begin(verdict_of(case), settings())
    assert job is not None
    return job


def words(text: str) -> Words:
    with transaction() as session:
        return Words(text, champion_or_new(session).id)


def progress(case: Case) -> explanations.Progress:
    with transaction() as session:
        return explanations.progress(session.get_one(Verdict, verdict_of(case)))


def asked_events(case: Case) -> list[str]:
    with transaction() as session:
        return [type_ for type_ in events_of(session, case.id) if type_.startswith("explanation.")]


def offered() -> list[UUID]:
    with transaction() as session:
        return dispatch.offer_explanations(session, window=10, lease=LEASE)


def lapse(case: Case) -> None:
    """The worker, or the broker, has lost it long ago."""
    past = func.now() - timedelta(minutes=1)
    with transaction() as session:
        session.execute(update(ExplanationRequest).values(lease_until=past, offered_until=past, next_attempt_at=past))


def test_what_was_asked_is_offered_taken_and_written(case: Case) -> None:
    assert progress(case).state is State.NONE
    assert ask(case) is State.WAITING
    assert offered() == [verdict_of(case)]
    assert offered() == [], "what is offered is not offered again"
    explanations.finish(begun(case), words("This is a fake image. Seams."))
    assert progress(case) == explanations.Progress(State.READY, text="This is a fake image. Seams.")
    assert asked_events(case) == ["explanation.requested", "explanation.completed"]
    assert explanations.begin(verdict_of(case), settings()) is None, "running it twice is harmless"
    assert ask(case) is State.READY
    assert offered() == []


def test_asking_twice_asks_once(case: Case) -> None:
    assert [ask(case), ask(case)] == [State.WAITING, State.WAITING]
    assert asked_events(case) == ["explanation.requested"]


def test_of_two_cases_with_one_verdict_one_is_asked_for(case: Case) -> None:
    with transaction() as session:
        twin = make_case(session, make_tenant(session))
        twin.tenant_id, twin.image_id, twin.verdict_id = case.tenant_id, case.image_id, case.verdict_id
    assert [ask(case), ask(twin)] == [State.WAITING, State.WAITING]
    explanations.finish(begun(case), words("Seams."))
    assert ask(twin) is State.READY
    assert asked_events(twin) == []


def test_two_workers_at_once_take_it_once(case: Case) -> None:
    ask(case)
    begun(case)
    assert explanations.begin(verdict_of(case), settings()) is None


def test_a_worker_that_died_loses_it_and_its_late_words_are_not_written(case: Case) -> None:
    ask(case)
    dead = begun(case)
    lapse(case)
    assert offered() == [verdict_of(case)]
    assert explanations.must_run_alone(verdict_of(case))
    alive = begun(case)
    with pytest.raises(LostLease):
        explanations.finish(dead, words("late"))
    explanations.finish(alive, words("in time"))
    with pytest.raises(LostLease):
        explanations.give_up(dead, "late")
    assert progress(case).text == "in time"


def test_a_living_worker_keeps_it(case: Case) -> None:
    ask(case)
    job = begun(case)
    lapse(case)
    explanations.renew([job.lease], settings())
    assert explanations.begin(verdict_of(case), settings()) is None


def test_after_three_lost_workers_it_fails_and_can_be_asked_again(case: Case) -> None:
    ask(case)
    for _ in range(settings().case_attempts):
        begun(case)
        lapse(case)
    assert explanations.begin(verdict_of(case), settings()) is None
    assert progress(case) == explanations.Progress(State.FAILED, detail="The worker was lost on each of 3 attempts.")
    assert offered() == []
    assert ask(case) is State.WAITING
    assert begun(case).lease.attempt == 1
    assert asked_events(case) == ["explanation.requested", "explanation.failed", "explanation.requested"]


@pytest.mark.parametrize(("counts", "attempt"), [(True, 2), (False, 1)])
def test_what_is_postponed_is_offered_when_its_time_has_come(case: Case, counts: bool, attempt: int) -> None:
    ask(case)
    explanations.postpone(begun(case), timedelta(minutes=5), counts=counts)
    assert offered() == []
    lapse(case)
    assert offered() == [verdict_of(case)]
    assert begun(case).lease.attempt == attempt


def test_words_that_came_by_another_way_end_the_request_and_stand(case: Case) -> None:
    ask(case)
    with transaction() as session:
        version = champion_or_new(session)
        session.add(Explanation(verdict_id=verdict_of(case), model_version_id=version.id, text="first"))
    assert explanations.begin(verdict_of(case), settings()) is None
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(ExplanationRequest)) == 0
    assert progress(case).text == "first"


def test_the_first_words_stand(case: Case) -> None:
    ask(case)
    job = begun(case)
    with transaction() as session:
        version = champion_or_new(session)
        session.add(Explanation(verdict_id=verdict_of(case), model_version_id=version.id, text="first"))
    explanations.finish(job, words("second"))
    assert progress(case).text == "first"


def test_words_that_come_after_the_image_was_erased_are_not_written(case: Case) -> None:
    ask(case)
    job = begun(case)
    assert case.image_id is not None
    with transaction() as session:
        erasure.erase(session, case.tenant_id, case.image_id, actor="test", request_id=None)
    with pytest.raises(LostLease):
        explanations.finish(job, words("Anna's left hand"))
    assert progress(case).state is State.NONE
    assert explanations.begin(verdict_of(case), settings()) is None
    with pytest.raises(Conflict, match="erased"):
        ask(case)


def test_an_image_whose_time_ended_meanwhile_is_said_and_one_before_is_refused(case: Case) -> None:
    ask(case)
    with transaction() as session:
        image = session.get_one(Case, case.id).image
        assert image is not None
        originals.drop(session, image)
    assert explanations.begin(verdict_of(case), settings()) is None
    assert progress(case).detail == "The image was erased before its verdict was explained."
    with pytest.raises(Conflict, match="erased"):
        ask(case)


def test_a_case_without_a_verdict_has_nothing_to_explain(db: Engine) -> None:
    with transaction() as session:
        waiting = make_case(session, make_tenant(session))
    with pytest.raises(Conflict, match="has not been judged"):
        ask(waiting)
    with transaction() as session:
        assert explanations.progress(None).state is State.NONE
        with pytest.raises(NotFound):
            explanations.ask(session, make_tenant(session).id, waiting.id, actor="test")


def test_offers_the_broker_did_not_take_are_made_again(case: Case) -> None:
    ask(case)
    assert offered() == [verdict_of(case)]
    with transaction() as session:
        dispatch.withdraw(session, "explanation_requests", [verdict_of(case)])
    assert offered() == [verdict_of(case)]
