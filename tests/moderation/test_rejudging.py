"""The champion's verdict beside the one a case has: asked for, offered behind new cases, written once."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, select, text

from moderation import dispatch, model_versions, rejudging, screening
from moderation.db import transaction
from moderation.errors import Conflict, LostLease
from moderation.leases import Lease
from moderation.settings import settings
from moderation.tables import Case, Event, Image, ModelVersion, Rejudging, Tenant, Verdict
from moderation.vocabulary import CaseStatus, EventType, FailureReason, Label
from tests.factories import events_of, make_case, make_reading, make_tenant, make_verdict, make_version, take_case

LEASE = timedelta(seconds=15)


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    """A tenant; v1 is champion."""
    with transaction() as session:
        make_version(session, "v1")
        return make_tenant(session, "one")


def new_champion(name: str = "v2") -> UUID:
    with transaction() as session:
        return make_version(session, name).id


def opened(tenant: Tenant, status: CaseStatus = CaseStatus.IN_REVIEW) -> UUID:
    with transaction() as session:
        return make_case(session, tenant, status).id


def ask(tenant: Tenant | None = None) -> int:
    with transaction() as session:
        return rejudging.ask(session, actor="operator", tenant_id=tenant.id if tenant else None)


def waiting() -> list[UUID]:
    with transaction() as session:
        return list(session.scalars(select(Rejudging.case_id).where(Rejudging.failed_at.is_(None))))


def row(case_id: UUID) -> Rejudging:
    with transaction() as session:
        return session.get_one(Rejudging, case_id)


def begin(case_id: UUID, version_id: UUID) -> screening.Job:
    job = rejudging.begin(case_id, version_id, settings())
    assert job is not None
    return job


def said_of(case_id: UUID) -> list[tuple[str, Label]]:
    with transaction() as session:
        case = session.get_one(Case, case_id)
        return [(one.model_version.name, one.label) for one in rejudging.verdicts_of(session, case)]


def test_cases_in_review_are_asked_for_and_no_others(tenant: Tenant) -> None:
    with transaction() as session:
        other = make_tenant(session, "other")
    in_review = [opened(tenant), opened(tenant)]
    for status in (CaseStatus.DECIDED, CaseStatus.QUEUED, CaseStatus.FAILED, CaseStatus.FETCHING):
        opened(tenant, status)
    theirs = opened(other)
    assert ask() == 0, "the champion judged them"
    new_champion()
    assert ask(tenant) == 2
    assert set(waiting()) == set(in_review)
    assert ask() == 1
    assert set(waiting()) == {*in_review, theirs}
    assert ask() == 0
    with transaction() as session:
        query = select(Event).where(Event.type == EventType.REJUDGING_ASKED).order_by(Event.id)
        asked = [(event.tenant_id, event.after) for event in session.scalars(query)]
    assert asked == [(tenant.id, {"version": "v2", "cases": 2}), (None, {"version": "v2", "cases": 1})]


def test_without_a_champion_it_says_so(db: Engine) -> None:
    with pytest.raises(Conflict, match="No model version is champion"):
        ask()


def test_the_new_verdict_is_beside_the_old_and_the_case_stays_as_it_was(tenant: Tenant) -> None:
    case_id = opened(tenant)
    champion = new_champion()
    ask()
    with transaction() as session:
        before = session.get_one(Case, case_id)
    job = begin(case_id, champion)
    rejudging.finish(job, make_reading(0.97), champion)
    assert waiting() == []
    assert said_of(case_id) == [("v1", Label.FAKE), ("v2", Label.FAKE)]
    with transaction() as session:
        after = session.get_one(Case, case_id)
        kept = ("status", "verdict_id", "score", "review_reason", "settled_at", "lease_until", "fence", "policy_id")
        assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
        event = session.scalars(select(Event).where(Event.case_id == case_id).order_by(Event.sequence.desc())).first()
        assert event is not None and event.type is EventType.CASE_REJUDGED
        assert event.before == {"status": "in_review", "version": "v1"}
        assert event.after is not None
        assert (event.after["version"], event.after["label"], event.after["p_fake"]) == ("v2", "fake", 0.97)
        assert event.data is None, "nobody outside is told"


def test_judging_twice_changes_nothing_the_second_time(tenant: Tenant) -> None:
    case_id, champion = opened(tenant), new_champion()
    ask()
    job = begin(case_id, champion)
    assert rejudging.begin(case_id, champion, settings()) is None, "somebody is at it"
    rejudging.finish(job, make_reading(0.9), champion)
    with pytest.raises(LostLease):
        rejudging.finish(job, make_reading(0.1), champion)
    assert rejudging.begin(case_id, champion, settings()) is None
    assert len(said_of(case_id)) == 2
    with transaction() as session:
        assert events_of(session, case_id).count("case.rejudged") == 1


def test_a_verdict_that_is_there_already_needs_no_network(tenant: Tenant) -> None:
    """Another case of the same image was judged by the champion since."""
    case_id, champion = opened(tenant), new_champion()
    ask()
    with transaction() as session:
        make_verdict(session, session.get_one(Case, case_id), session.get_one(ModelVersion, champion), 0.2)
    assert rejudging.begin(case_id, champion, settings()) is None
    assert waiting() == []
    with transaction() as session:
        assert events_of(session, case_id)[-1] == "case.rejudged"


def test_a_worker_of_another_version_leaves_it_to_others(tenant: Tenant) -> None:
    case_id = opened(tenant)
    with transaction() as session:
        old = model_versions.champion_id(session)
    new_champion()
    ask()
    assert old is not None
    assert rejudging.begin(case_id, old, settings()) is None
    assert (row(case_id).attempts, row(case_id).lease_until) == (0, None)


def test_a_rollback_meanwhile_leaves_nothing_to_do(tenant: Tenant) -> None:
    case_id, second = opened(tenant), new_champion()
    ask()
    with transaction() as session:
        first = model_versions.rollback(session, actor="test").id
    assert rejudging.begin(case_id, second, settings()) is None
    assert waiting() == []
    assert rejudging.begin(case_id, first, settings()) is None


def test_a_promotion_meanwhile_has_the_newest_judge_too(tenant: Tenant) -> None:
    case_id, second = opened(tenant), new_champion("v2")
    ask()
    job = begin(case_id, second)
    third = new_champion("v3")
    rejudging.finish(job, make_reading(), second)
    assert waiting() == [case_id]
    rejudging.finish(begin(case_id, third), make_reading(0.1), third)
    assert [name for name, _ in said_of(case_id)] == ["v1", "v2", "v3"]
    assert waiting() == []


def test_a_lost_worker_is_survived_until_the_last_attempt(tenant: Tenant) -> None:
    case_id, champion = opened(tenant), new_champion()
    ask()
    for attempt in range(1, settings().case_attempts + 1):
        assert rejudging.must_run_alone(case_id) is (attempt > 1)
        job = begin(case_id, champion)
        assert job.lease.attempt == attempt
        with transaction() as session:
            session.execute(text("UPDATE rejudgings SET lease_until = now() - interval '1 second'"))
    assert rejudging.begin(case_id, champion, settings()) is None
    failed = row(case_id)
    assert failed.failed_at is not None
    assert failed.failure_detail == "The worker was lost on each of 3 attempts."
    assert ask() == 1, "a person may ask again"
    assert row(case_id).attempts == 0


def test_what_cannot_be_judged_says_why_and_what_is_erased_goes(tenant: Tenant) -> None:
    broken, erased, gone = (opened(tenant) for _ in range(3))
    champion = new_champion()
    ask()
    rejudging.give_up(begin(broken, champion), FailureReason.UNDECODABLE, "It is broken.")
    assert row(broken).failure_detail == "It is broken."
    rejudging.give_up(begin(erased, champion), FailureReason.IMAGE_ERASED, "It was erased.")
    with transaction() as session:
        image_id = session.get_one(Case, gone).image_id
        assert image_id is not None
        images_row = session.get_one(Image, image_id)
        images_row.erased_at = images_row.created_at
    assert rejudging.begin(gone, champion, settings()) is None
    assert waiting() == []


def test_what_waits_for_the_store_does_not_count(tenant: Tenant) -> None:
    case_id, champion = opened(tenant), new_champion()
    ask()
    rejudging.postpone(begin(case_id, champion), timedelta(seconds=60), counts=False)
    assert row(case_id).attempts == 0
    assert rejudging.begin(case_id, champion, settings()) is None, "not yet"


def test_a_living_worker_keeps_its_rows_and_no_case_s(tenant: Tenant) -> None:
    case_id, champion = opened(tenant), new_champion()
    ask()
    job = begin(case_id, champion)
    before = row(case_id).lease_until
    rejudging.renew([job.lease, Lease(case_id, 99, 1)], settings())
    after = row(case_id).lease_until
    assert before is not None and after is not None and after > before
    with transaction() as session:
        assert session.get_one(Case, case_id).lease_until is None


class TestInFlight:
    """A case whose version is retired while it is being judged."""

    def judged(self, tenant: Tenant, p_fake: float) -> UUID:
        case_id = opened(tenant, CaseStatus.QUEUED)
        with transaction() as session:
            old = model_versions.champion_id(session)
        assert old is not None
        job = screening.begin(case_id, old, settings())
        assert job is not None
        new_champion()
        screening.finish(job, make_reading(p_fake), old)
        return case_id

    @pytest.mark.parametrize("p_fake", [0.97, 0.5])
    def test_it_keeps_the_verdict_it_got_and_gets_the_champions_beside_it(self, tenant: Tenant, p_fake: float) -> None:
        case_id = self.judged(tenant, p_fake)
        assert waiting() == [case_id]
        assert [name for name, _ in said_of(case_id)] == ["v1"]
        with transaction() as session:
            champion = model_versions.champion_id(session)
        assert champion is not None
        rejudging.finish(begin(case_id, champion), make_reading(0.1), champion)
        assert said_of(case_id)[1] == ("v2", Label.REAL)

    def test_one_judged_by_the_champion_needs_no_more(self, tenant: Tenant) -> None:
        case_id = opened(tenant, CaseStatus.QUEUED)
        champion = new_champion()
        job = screening.begin(case_id, champion, settings())
        assert job is not None
        screening.finish(job, make_reading(), champion)
        assert waiting() == []


class TestOffers:
    def offer(self) -> list[UUID]:
        with transaction() as session:
            return dispatch.offer_rejudgings(session, lease=LEASE)

    def test_a_few_at_a_time_and_each_once(self, tenant: Tenant) -> None:
        asked = [opened(tenant) for _ in range(dispatch.REJUDGING_WINDOW + 3)]
        champion = new_champion()
        ask()
        first = self.offer()
        assert len(first) == dispatch.REJUDGING_WINDOW
        assert self.offer() == []
        rejudging.finish(begin(first[0], champion), make_reading(), champion)
        assert set(self.offer()) <= set(asked) - set(first)

    def test_new_cases_go_first(self, tenant: Tenant) -> None:
        opened(tenant)
        new_champion()
        ask()
        waits = opened(tenant, CaseStatus.QUEUED)
        assert self.offer() == []
        with transaction() as session:
            take_case(session, session.get_one(Case, waits))
        assert len(self.offer()) == 1, "a worker has it"

    def test_a_link_that_is_being_fetched_holds_nothing_up(self, tenant: Tenant) -> None:
        opened(tenant)
        new_champion()
        ask()
        opened(tenant, CaseStatus.FETCHING)
        assert len(self.offer()) == 1

    def test_an_offer_that_was_not_taken_is_made_again(self, tenant: Tenant) -> None:
        opened(tenant)
        new_champion()
        ask()
        offered = self.offer()
        with transaction() as session:
            dispatch.withdraw(session, "rejudgings", offered)
        assert self.offer() == offered
        with transaction() as session:
            session.execute(text("UPDATE rejudgings SET offered_until = now() - interval '1 second'"))
        assert self.offer() == offered

    def test_what_failed_is_not_offered(self, tenant: Tenant) -> None:
        case_id, champion = opened(tenant), new_champion()
        ask()
        rejudging.give_up(begin(case_id, champion), FailureReason.INTERNAL, "A bug.")
        assert self.offer() == []


def test_a_case_has_all_verdicts_of_its_image_in_their_order(tenant: Tenant) -> None:
    case_id = opened(tenant)
    champion = new_champion()
    ask()
    rejudging.finish(begin(case_id, champion), make_reading(0.9, explanation="Seams."), champion)
    with transaction() as session:
        case = session.get_one(Case, case_id)
        found = rejudging.verdicts_of(session, case)
        assert case.verdict_id == found[0].id
        assert [one.explanation.text if one.explanation else None for one in found] == [None, "Seams."]
        assert session.scalar(select(Verdict.id).where(Verdict.image_id != case.image_id)) is None
