"""Cases: every transition, fences, sequences, and the commit that events and deliveries share with the state."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self
from uuid import UUID

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from moderation import cases, descriptions, dispatch, leases, screening, tenants
from moderation.cases import LEGAL
from moderation.db import transaction
from moderation.errors import IllegalTransition, LostLease, NotFound
from moderation.leases import Lease
from moderation.settings import settings
from moderation.tables import Case, Delivery, Event, Explanation, Tenant, Verdict
from moderation.vocabulary import (
    CaseStatus,
    DecidedBy,
    EventType,
    FailureReason,
    Label,
    ReviewReason,
)
from tests import factories
from tests.factories import make_case, make_image, make_tenant, take_case
from tests.measuring import value

S = CaseStatus
PAST = timedelta(seconds=-1)


def case_in(tenant: Tenant, status: CaseStatus, **fields: Any) -> Case:
    with transaction() as session:
        return make_case(session, tenant, status, **fields)


def reread(case_id: UUID) -> Case:
    with transaction() as session:
        case = session.get_one(Case, case_id)
        _ = case.submission
        return case


def snapshot() -> dict[str, int]:
    """How many rows there are of everything a worker might write, and the sum of what may change in cases."""
    sums = "sum(sequence) + sum(attempts) + sum(fence)"
    with transaction() as session:
        counts = {row.__tablename__: session.scalar(select(func.count()).select_from(row)) or 0 for row in WRITTEN}
        return {**counts, "cases": session.scalar(text(f"SELECT {sums} FROM cases")) or 0}


WRITTEN: tuple[type[Any], ...] = (Verdict, Explanation, Event, Delivery)


# --- Transitions ---

# Each status's way in; those a worker's lease leads to are tried without one, at their innermost step.
MOVES: dict[CaseStatus, Callable[[Session, Case], object]] = {
    S.FETCHING: lambda session, case: cases._move(case, S.FETCHING),
    S.QUEUED: lambda session, case: cases._move(case, S.QUEUED),
    S.SCREENING: lambda session, case: cases._move(case, S.SCREENING),
    S.DECIDED: lambda session, case: cases.decide(session, case, Label.REAL, DecidedBy.MODERATOR),
    S.IN_REVIEW: lambda session, case: cases.send_to_review(session, case, ReviewReason.UNCERTAIN),
    S.FAILED: lambda session, case: cases.fail(session, case, FailureReason.INTERNAL, "It broke."),
}


@pytest.mark.parametrize(("start", "end"), list(itertools.product(S, S)))
def test_only_legal_transitions_happen(tenant: Tenant, start: CaseStatus, end: CaseStatus) -> None:
    case = case_in(tenant, start)
    before = snapshot()
    if end in LEGAL[start]:
        with transaction() as session:
            MOVES[end](session, session.get_one(Case, case.id))
        assert reread(case.id).status is end
        return
    with pytest.raises(IllegalTransition, match=f"is {start.value} and cannot become {end.value}"), transaction() as s:
        MOVES[end](s, s.get_one(Case, case.id))
    assert reread(case.id).status is start
    assert snapshot() == before


def test_the_table_of_transitions_knows_every_status_and_reaches_each() -> None:
    assert set(LEGAL) == set(S)
    reachable = set().union(*LEGAL.values())
    assert reachable == set(S)
    assert LEGAL[S.DECIDED] == {S.IN_REVIEW}, "a decision is only ever reopened for a person"


@pytest.mark.parametrize("status", [S.DECIDED, S.IN_REVIEW, S.FAILED, S.SCREENING])
def test_a_case_that_does_not_wait_cannot_be_taken(tenant: Tenant, status: CaseStatus) -> None:
    case = case_in(tenant, status)
    for statuses in (dispatch.SCREENING, dispatch.FETCHING):
        with transaction() as session:
            assert cases.take(session, case.id, statuses=statuses, lease=factories.LEASE) is None


def test_fetching_and_screening_workers_take_nothing_of_each_other(tenant: Tenant) -> None:
    fetching, queued = case_in(tenant, S.FETCHING), case_in(tenant, S.QUEUED)
    with transaction() as session:
        assert cases.take(session, fetching.id, statuses=dispatch.SCREENING, lease=factories.LEASE) is None
        assert cases.take(session, queued.id, statuses=dispatch.FETCHING, lease=factories.LEASE) is None


def test_a_case_is_not_taken_before_its_time(tenant: Tenant) -> None:
    case = case_in(tenant, S.QUEUED)
    with transaction() as session:
        cases.postpone(session, take_case(session, case), timedelta(minutes=5), counts=True)
    with transaction() as session:
        assert cases.take(session, case.id, statuses=dispatch.SCREENING, lease=factories.LEASE) is None


class _HoursBehind(datetime):
    """The clock of a machine that nobody has set right."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) - timedelta(hours=3)


def test_a_machine_whose_clock_is_wrong_makes_no_case_due_before_its_time(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_in(tenant, S.QUEUED)
    monkeypatch.setattr(cases, "datetime", _HoursBehind)
    with transaction() as session:
        cases.postpone(session, take_case(session, case), timedelta(minutes=5), counts=True)
    with transaction() as session:
        assert cases.take(session, case.id, statuses=dispatch.SCREENING, lease=factories.LEASE) is None


@pytest.mark.parametrize(("counts", "attempts"), [(True, 1), (False, 0)])
def test_postponing_counts_the_attempt_only_where_the_case_is_to_blame(
    tenant: Tenant, counts: bool, attempts: int
) -> None:
    for status in (S.FETCHING, S.QUEUED):
        case = case_in(tenant, status)
        with transaction() as session:
            cases.postpone(session, take_case(session, case), timedelta(0), counts=counts)
        now = reread(case.id)
        assert (now.status, now.attempts, now.lease_until, now.offered_until) == (status, attempts, None, None)


def test_a_fetched_case_counts_its_attempts_anew(tenant: Tenant) -> None:
    case = case_in(tenant, S.FETCHING)
    with transaction() as session:
        lease = take_case(session, case)
        cases.fetched(session, lease, make_image(session, tenant))
    now = reread(case.id)
    assert (now.status, now.attempts, now.lease_until) == (S.QUEUED, 0, None)


def test_a_failed_case_goes_back_where_it_can_be_worked_on(tenant: Tenant) -> None:
    with_image = case_in(tenant, S.FAILED)
    link = case_in(tenant, S.FETCHING)
    with transaction() as session:
        take_case(session, link)
        cases.fail(session, session.get_one(Case, link.id), FailureReason.LINK_STATUS, "404")
    for case, status in ((with_image, S.QUEUED), (link, S.FETCHING)):
        with transaction() as session:
            cases.retry(session, tenant.id, case.id, actor="cli")
        now = reread(case.id)
        assert (now.status, now.attempts, now.failure_reason, now.failure_detail, now.settled_at) == (
            *(status, 0, None, None, None),
        )
        with transaction() as session:
            take_case(session, session.get_one(Case, case.id))


def test_an_appeal_reopens_a_decided_case_and_keeps_the_message(tenant: Tenant) -> None:
    case = case_in(tenant, S.DECIDED)
    with transaction() as session:
        cases.appeal(session, tenant.id, case.id, actor="api_key:x", message="It is my own photo.")
    now = reread(case.id)
    assert (now.status, now.review_reason) == (S.IN_REVIEW, ReviewReason.APPEAL)
    with transaction() as session:
        assert factories.events_of(session, case.id)[-2:] == ["case.appealed", "case.in_review"]
        appealed = session.scalars(select(Event).where(Event.type == EventType.CASE_APPEALED)).one()
        assert appealed.after == {"status": "in_review", "attempt": 1, "message": "It is my own photo."}
        assert appealed.before == {"status": "decided"}
    with pytest.raises(IllegalTransition), transaction() as session:
        cases.appeal(session, tenant.id, case.id, actor="api_key:x", message=None)


# --- Fences ---

LATE_WRITES: dict[str, Callable[[Session, Lease], object]] = {
    "fetched": lambda s, lease: cases.fetched(s, lease, s.get_one(Case, lease.case_id).image),  # type: ignore[arg-type]
    "postpone": lambda s, lease: cases.postpone(s, lease, timedelta(0), counts=False),
    "held": cases.held,
}


@pytest.mark.parametrize("write", LATE_WRITES)
def test_a_late_worker_writes_nothing(tenant: Tenant, write: str) -> None:
    case = case_in(tenant, S.QUEUED)
    with transaction() as session:
        late = take_case(session, case, lease=PAST)
    with transaction() as session:
        newer = take_case(session, session.get_one(Case, case.id))
    assert (newer.fence, newer.attempt) == (late.fence + 1, 2)
    before = snapshot()
    with pytest.raises(LostLease), transaction() as session:
        LATE_WRITES[write](session, late)
    assert snapshot() == before


def test_a_late_screening_worker_writes_neither_verdict_nor_decision_nor_failure(tenant: Tenant) -> None:
    with transaction() as session:
        version = factories.make_version(session)
        case = make_case(session, tenant)
    expired = settings().model_copy(update={"case_lease_s": 1e-6})
    late = screening.begin(case.id, version.id, expired)
    newer = screening.begin(case.id, version.id, settings())
    assert late is not None and newer is not None
    before = snapshot()
    for write in (
        lambda: screening.finish(late, factories.make_reading(), version.id),
        lambda: screening.give_up(late, FailureReason.INTERNAL, "late"),
        lambda: screening.postpone(late, timedelta(0), counts=True),
    ):
        with pytest.raises(LostLease):
            write()
    assert snapshot() == before
    screening.finish(newer, factories.make_reading(0.02), version.id)
    assert reread(case.id).label is Label.REAL


def test_a_worker_whose_lease_ran_out_may_still_write_while_nobody_took_over(tenant: Tenant) -> None:
    case = case_in(tenant, S.QUEUED)
    with transaction() as session:
        lease = take_case(session, case, lease=PAST)
    with transaction() as session:
        assert cases.held(session, lease).id == case.id


@pytest.mark.parametrize("status", [S.FAILED, S.QUEUED])
def test_an_old_lease_is_worth_nothing_after_a_retry(tenant: Tenant, status: CaseStatus) -> None:
    case = case_in(tenant, S.QUEUED)
    with transaction() as session:
        lease = take_case(session, case)
    with transaction() as session:
        cases.fail(session, cases.held(session, lease), FailureReason.INTERNAL, "It broke.")
    if status is S.QUEUED:
        with transaction() as session:
            cases.retry(session, tenant.id, case.id, actor="cli")
    with pytest.raises(LostLease), transaction() as session:
        cases.held(session, lease)


def test_renewing_keeps_the_newest_lease_and_no_other(tenant: Tenant) -> None:
    kept, lost, done = (case_in(tenant, S.QUEUED) for _ in range(3))
    with transaction() as session:
        held = [take_case(session, case, lease=PAST) for case in (kept, lost, done)]
    with transaction() as session:
        take_case(session, session.get_one(Case, lost.id), lease=PAST)
        cases.fail(session, session.get_one(Case, done.id), FailureReason.INTERNAL, "It broke.")
    with transaction() as session:
        leases.renew(session, Case.id, held, timedelta(minutes=1))
    now = datetime.now(UTC)
    kept_until, lost_until = reread(kept.id).lease_until, reread(lost.id).lease_until
    assert kept_until is not None and kept_until > now + timedelta(seconds=30)
    assert lost_until is not None and lost_until < now
    assert reread(done.id).lease_until is None


def test_of_threads_that_take_the_same_case_exactly_one_wins(tenant: Tenant) -> None:
    rounds, rivals = 30, 4
    with transaction() as session:
        ids = [make_case(session, tenant).id for _ in range(rounds)]
    barrier = threading.Barrier(rivals, timeout=60)

    def rival(_: int) -> list[Lease | None]:
        won = []
        for case_id in ids:
            barrier.wait()
            with transaction() as session:
                won.append(cases.take(session, case_id, statuses=dispatch.SCREENING, lease=factories.LEASE))
        return won

    with ThreadPoolExecutor(rivals) as pool:
        takes = list(pool.map(rival, range(rivals)))
    for at_once in zip(*takes, strict=True):
        assert [lease.fence for lease in at_once if lease is not None] == [1]
    assert {reread(case_id).attempts for case_id in ids} == {1}


# --- Attempts ---


def test_a_case_that_loses_its_worker_on_every_attempt_fails_and_says_so(tenant: Tenant) -> None:
    with transaction() as session:
        version = factories.make_version(session)
        factories.make_endpoint(session, tenant, event_types=["verdict.failed"])
        case = make_case(session, tenant, external_id="post-7")
    crashing = settings().model_copy(update={"case_lease_s": 1e-6})
    for attempt in range(1, crashing.case_attempts + 1):
        assert screening.must_run_alone(case.id) is (attempt > 1)
        job = screening.begin(case.id, version.id, crashing)
        assert job is not None and job.lease.attempt == attempt
    assert screening.begin(case.id, version.id, crashing) is None
    now = reread(case.id)
    assert (now.status, now.failure_reason) == (S.FAILED, FailureReason.WORKER_LOST)
    assert "3 attempts" in (now.failure_detail or "")
    with transaction() as session:
        event = session.scalars(select(Event).join(Delivery).where(Event.case_id == case.id)).one()
    assert event.type is EventType.VERDICT_FAILED and event.data is not None
    assert event.data["failure"]["reason"] == "worker_lost"
    assert event.data["external_id"] == "post-7"
    assert screening.begin(case.id, version.id, settings()) is None, "a failed case stays where it is"


# --- Events and deliveries ---


def test_sequences_have_no_gaps_and_every_event_says_before_and_after(tenant: Tenant) -> None:
    with transaction() as session:
        version = factories.make_version(session)
        case = make_case(session, tenant, S.FETCHING)
    with transaction() as session:
        cases.postpone(session, take_case(session, case), timedelta(0), counts=True)
    with transaction() as session:
        lease = take_case(session, session.get_one(Case, case.id))
        cases.fetched(session, lease, make_image(session, tenant))
    job = screening.begin(case.id, version.id, settings())
    assert job is not None
    screening.finish(job, factories.make_reading(), version.id)
    with transaction() as session:
        cases.appeal(session, tenant.id, case.id, actor="api_key:x", message=None)
    with transaction() as session:
        events = session.scalars(select(Event).where(Event.case_id == case.id).order_by(Event.sequence)).all()
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.type.value for event in events] == [
        *("submission.accepted", "case.taken", "case.released", "case.taken", "case.fetched", "case.taken"),
        *("verdict.completed", "decision.created", "case.appealed", "case.in_review"),
    ]
    assert reread(case.id).sequence == len(events)
    for earlier, later in itertools.pairwise(events):
        assert earlier.after is not None and later.before is not None
        assert later.before["status"] == earlier.after["status"] or later.type is EventType.CASE_TAKEN


def test_sequences_stay_whole_when_threads_write_at_once(tenant: Tenant) -> None:
    case = case_in(tenant, S.DECIDED)

    def appeal_or_decide(number: int) -> int:
        try:
            with transaction() as session:
                if number % 2:
                    cases.appeal(session, tenant.id, case.id, actor="test", message=None)
                else:
                    reopened = cases.case_of(session, tenant.id, case.id, lock=True)
                    cases.decide(session, reopened, Label.REAL, DecidedBy.MODERATOR)
        except IllegalTransition:
            return 0
        return 1

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(appeal_or_decide, range(60))) > 0
    with transaction() as session:
        numbers = session.scalars(select(Event.sequence).where(Event.case_id == case.id).order_by(Event.sequence)).all()
    assert list(numbers) == list(range(1, len(numbers) + 1))
    assert reread(case.id).sequence == len(numbers)


def decided(by: str, label: Label) -> float:
    return value("telltale_decisions_total", by=by, label=label.value)


def test_what_is_decided_is_counted_once_it_stands(tenant: Tenant) -> None:
    before = decided("policy", Label.FAKE), value("telltale_abstained_total")
    with pytest.raises(ZeroDivisionError), transaction() as session:
        make_case(session, tenant, S.DECIDED)
        raise ZeroDivisionError
    assert decided("policy", Label.FAKE) == before[0]
    with transaction() as session:
        make_case(session, tenant, S.DECIDED)
        make_case(session, tenant, S.IN_REVIEW)
        assert decided("policy", Label.FAKE) == before[0]
    assert (decided("policy", Label.FAKE), value("telltale_abstained_total")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize(
    ("reason", "by", "counts"),
    [
        (ReviewReason.UNCERTAIN, "review", True),
        (ReviewReason.UNPARSABLE, "review", True),
        (ReviewReason.APPEAL, "appeal", True),
        (ReviewReason.AUDIT, "audit", False),  # it is upheld, and so nothing is decided
    ],
)
def test_what_people_decide_is_counted_by_the_occasion(
    tenant: Tenant, reason: ReviewReason, by: str, counts: bool
) -> None:
    case_id = case_in(tenant, S.IN_REVIEW).id
    before = decided(by, Label.FAKE)
    with transaction() as session:
        case = session.get_one(Case, case_id)
        case.review_reason, case.label = reason, Label.FAKE
        cases.rule(session, case, Label.FAKE, actor="test", review_id=case_id)
    assert decided(by, Label.FAKE) == before + counts


def test_a_case_its_event_and_its_deliveries_are_one_commit(tenant: Tenant) -> None:
    with transaction() as session:
        for _ in range(2):
            factories.make_endpoint(session, tenant)
    before = snapshot()

    class Crash(Exception):
        pass

    with pytest.raises(Crash), transaction() as session:
        make_case(session, tenant)
        assert session.scalar(select(func.count()).select_from(Delivery)) == 2
        raise Crash
    assert snapshot() == before
    with transaction() as session:
        make_case(session, tenant)
    after = snapshot()
    assert (after["events"], after["deliveries"]) == (before["events"] + 1, before["deliveries"] + 2)


def test_a_nul_in_the_models_words_costs_only_itself(tenant: Tenant) -> None:
    """A byte-level tokenizer can write one, and Postgres cannot hold it."""
    with transaction() as session:
        version = factories.make_version(session)
        case = make_case(session, tenant)
    job = screening.begin(case.id, version.id, settings())
    assert job is not None
    screening.finish(job, factories.make_reading(explanation="Seams\x00 and \ud800 steps."), version.id)
    with transaction() as session:
        assert session.scalars(select(Explanation.text)).one() == "Seams\ufffd and ? steps."


# --- Reading ---


def test_another_tenants_case_is_no_case(tenant: Tenant) -> None:
    case = case_in(tenant, S.DECIDED)
    with transaction() as session:
        other = make_tenant(session)
    for look in (
        lambda s: cases.case_of(s, other.id, case.id),
        lambda s: cases.case_of(s, other.id, case.id, lock=True),
        lambda s: cases.appeal(s, other.id, case.id, actor="x", message=None),
        lambda s: cases.retry(s, other.id, case.id, actor="x"),
    ):
        with pytest.raises(NotFound) as refused, transaction() as session:
            look(session)
        assert str(refused.value) == f"There is no case {case.id}."
    with transaction() as session:
        assert cases.listed(session, other.id) == []
        assert cases.listed(session, other.id, before=case.id) == []


def test_lists_are_newest_first_filtered_and_paged_without_gaps(tenant: Tenant) -> None:
    with transaction() as session:
        made = [make_case(session, tenant, S.DECIDED if n % 3 else S.QUEUED, external_id=f"x{n}") for n in range(10)]
    newest_first = [case.id for case in reversed(made)]
    with transaction() as session:
        pages, before = [], None
        while page := cases.listed(session, tenant.id, before=before, limit=3):
            pages.append([case.id for case in page])
            before = page[-1].id
        assert list(itertools.chain.from_iterable(pages)) == newest_first
        assert [len(page) for page in pages] == [3, 3, 3, 1]
        assert len(cases.listed(session, tenant.id, status=S.QUEUED)) == 4
        assert len(cases.listed(session, tenant.id, label=Label.FAKE)) == 6
        assert [case.id for case in cases.listed(session, tenant.id, external_id="x4")] == [made[4].id]


def test_one_submission_has_one_case(tenant: Tenant) -> None:
    case = case_in(tenant, S.QUEUED)
    with pytest.raises(IntegrityError), transaction() as session:
        again = reread(case.id).submission
        session.add(
            Case(tenant_id=tenant.id, submission_id=again.id, status=S.QUEUED, priority=1, image_id=case.image_id)
        )


def test_the_policy_that_was_begun_with_is_the_one_that_decides(tenant: Tenant) -> None:
    from moderation.policy import Thresholds

    with transaction() as session:
        version = factories.make_version(session)
        case = make_case(session, tenant)
    job = screening.begin(case.id, version.id, settings())
    assert job is not None
    with transaction() as session:
        tenants.set_policy(session, tenant.id, Thresholds(fake_from=0.99, real_up_to=0.01))
    screening.finish(job, factories.make_reading(0.9), version.id)
    with transaction() as session:
        shown = descriptions.describe(session.get_one(Case, case.id))
    assert shown["decision"] == {"label": "fake", "by": "policy", "policy_version": 1}
