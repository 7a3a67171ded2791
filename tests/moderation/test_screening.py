"""Screening as the database sees it: what a worker may write, once, and what is settled without judging again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, select, update

from moderation import cases, screening, tenants
from moderation.db import transaction
from moderation.errors import LostLease
from moderation.policy import Thresholds
from moderation.screening import Job
from moderation.settings import settings
from moderation.tables import Case, Delivery, Event, Explanation, ImageHash, ModelVersion, Tenant, Verdict
from moderation.vocabulary import CaseStatus, DecidedBy, ExplainMode, FailureReason, Label, ReviewReason
from tests import factories
from tests.factories import make_case, make_image, make_reading, make_tenant


@pytest.fixture
def version(db: Engine) -> ModelVersion:
    with transaction() as session:
        return factories.make_version(session)


def begun(case: Case, version: ModelVersion) -> Job:
    job = screening.begin(case.id, version.id, settings())
    assert job is not None
    return job


def new_case(tenant: Tenant, **fields: object) -> Case:
    with transaction() as session:
        return make_case(session, tenant, **fields)  # type: ignore[arg-type]


def reread(case: Case) -> Case:
    with transaction() as session:
        now = session.get_one(Case, case.id)
        _ = now.verdict and now.verdict.explanation
        return now


def counted() -> dict[str, int]:
    with transaction() as session:
        rows = (Verdict, Explanation, Event, Delivery)
        return {row.__tablename__: session.scalar(select(func.count()).select_from(row)) or 0 for row in rows}


# --- The way through ---


@pytest.mark.parametrize(
    ("p_fake", "pair_mass", "status", "label", "reason"),
    [
        (0.97, 0.99, CaseStatus.DECIDED, Label.FAKE, None),
        (0.02, 0.99, CaseStatus.DECIDED, Label.REAL, None),
        (0.5, 0.99, CaseStatus.IN_REVIEW, None, ReviewReason.UNCERTAIN),
        (0.97, 0.4, CaseStatus.IN_REVIEW, None, ReviewReason.UNPARSABLE),
    ],
)
def test_a_reading_becomes_a_verdict_and_then_policy_decides_or_a_person_must(
    tenant: Tenant,
    version: ModelVersion,
    p_fake: float,
    pair_mass: float,
    status: CaseStatus,
    label: Label | None,
    reason: ReviewReason | None,
) -> None:
    case = new_case(tenant)
    reading = make_reading(p_fake, pair_mass=pair_mass)
    screening.finish(begun(case, version), reading, version.id)
    now = reread(case)
    assert (now.status, now.label, now.review_reason) == (status, label, reason)
    assert now.decided_by is (DecidedBy.POLICY if label else None)
    assert now.settled_at is not None and now.lease_until is None
    assert now.verdict is not None and now.verdict.explanation is not None
    said = now.verdict
    assert (said.label, said.p_fake, said.logit) == (reading.label, p_fake, reading.logit)
    assert (said.pair_mass, said.engine, said.dtype) == (pair_mass, "transformers", "float32")
    assert (said.model_version_id, said.explanation.text) == (version.id, "Seams.")


def test_a_job_knows_what_its_worker_needs(tenant: Tenant, version: ModelVersion) -> None:
    with transaction() as session:
        tenants.set_policy(session, tenant.id, Thresholds(0.9, 0.2, 0.6, ExplainMode.FLAGGED))
        image = make_image(session, tenant, b"twelve bytes")
    case = new_case(tenant, image=image)
    job = begun(case, version)
    assert (job.s3_key, job.image_bytes, job.request_id) == (image.s3_key, 12, "req_test")
    assert job.thresholds == Thresholds(0.9, 0.2, 0.6, ExplainMode.FLAGGED)
    assert (job.lease.case_id, job.lease.fence, job.lease.attempt) == (case.id, 1, 1)


def test_finishing_twice_changes_nothing_the_second_time(tenant: Tenant, version: ModelVersion) -> None:
    with transaction() as session:
        factories.make_endpoint(session, tenant)
    case = new_case(tenant)
    job = begun(case, version)
    screening.finish(job, make_reading(0.97), version.id)
    before, rows = reread(case), counted()
    for again in (
        lambda: screening.finish(job, make_reading(0.02, explanation="Other."), version.id),
        lambda: screening.give_up(job, FailureReason.UNDECODABLE, "x"),
        lambda: screening.postpone(job, timedelta(0), counts=True),
    ):
        with pytest.raises(LostLease):
            again()
    now = reread(case)
    assert counted() == rows
    assert (now.label, now.sequence, now.settled_at) == (before.label, before.sequence, before.settled_at)
    assert screening.begin(case.id, version.id, settings()) is None


def test_of_threads_that_finish_the_same_job_one_writes(tenant: Tenant, version: ModelVersion) -> None:
    rivals = 4
    for _ in range(8):
        job = begun(new_case(tenant), version)
        barrier = threading.Barrier(rivals, timeout=60)

        def finish(p_fake: float, job: Job = job, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                screening.finish(job, make_reading(p_fake), version.id)
            except LostLease:
                return False
            return True

        with ThreadPoolExecutor(rivals) as pool:
            assert sum(pool.map(finish, (0.97, 0.02, 0.5, 0.97))) == 1
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Verdict)) == 8


def test_giving_up_names_the_reason(tenant: Tenant, version: ModelVersion) -> None:
    case = new_case(tenant)
    screening.give_up(begun(case, version), FailureReason.UNDECODABLE, "The PNG image is cut off.")
    now = reread(case)
    assert (now.status, now.failure_reason, now.failure_detail) == (
        *(CaseStatus.FAILED, FailureReason.UNDECODABLE, "The PNG image is cut off."),
    )


# --- Images judged before ---


def test_an_image_that_was_judged_by_this_version_is_settled_without_judging(
    tenant: Tenant, version: ModelVersion
) -> None:
    with transaction() as session:
        image = make_image(session, tenant, exhibited=True)
    first, second = new_case(tenant, image=image), new_case(tenant, image=image)
    screening.finish(begun(first, version), make_reading(0.97), version.id)
    assert screening.begin(second.id, version.id, settings()) is None
    now = reread(second)
    assert (now.status, now.label, now.verdict_id) == (CaseStatus.DECIDED, Label.FAKE, reread(first).verdict_id)
    with transaction() as session:
        assert factories.events_of(session, second.id) == [
            *("submission.accepted", "case.taken", "verdict.completed", "decision.created"),
        ]


@pytest.mark.parametrize("lacks", ["rendition_key", "provenance", "hash"])
def test_an_image_of_which_moderators_would_see_less_goes_to_a_worker_once_more(
    tenant: Tenant, version: ModelVersion, lacks: str
) -> None:
    with transaction() as session:
        image = make_image(session, tenant, exhibited=True)
        if lacks == "hash":
            session.delete(session.get_one(ImageHash, image.id))
        else:
            setattr(image, lacks, None)
    first, second = new_case(tenant, image=image), new_case(tenant, image=image)
    screening.finish(begun(first, version), make_reading(0.97), version.id)
    job = begun(second, version)
    assert not job.exhibited
    screening.finish(job, make_reading(0.2), version.id)
    assert reread(second).verdict_id == reread(first).verdict_id, "the first verdict stands"


def test_a_newer_policy_judges_the_old_score_anew(tenant: Tenant, version: ModelVersion) -> None:
    with transaction() as session:
        image = make_image(session, tenant, exhibited=True)
    first, second = new_case(tenant, image=image), new_case(tenant, image=image)
    screening.finish(begun(first, version), make_reading(0.9), version.id)
    with transaction() as session:
        tenants.set_policy(session, tenant.id, Thresholds(fake_from=0.95, real_up_to=0.05))
    assert screening.begin(second.id, version.id, settings()) is None
    assert (reread(first).label, reread(second).status) == (Label.FAKE, CaseStatus.IN_REVIEW)


def test_another_version_judges_for_itself(tenant: Tenant, version: ModelVersion) -> None:
    with transaction() as session:
        image = make_image(session, tenant)
        newer = factories.make_version(session)
    first, second = new_case(tenant, image=image), new_case(tenant, image=image)
    screening.finish(begun(first, version), make_reading(0.97), version.id)
    screening.finish(begun(second, newer), make_reading(0.02), newer.id)
    assert (reread(first).label, reread(second).label) == (Label.FAKE, Label.REAL)


def test_another_tenants_same_bytes_are_judged_for_themselves(tenant: Tenant, version: ModelVersion) -> None:
    with transaction() as session:
        other = make_tenant(session)
        mine, theirs = make_image(session, tenant, b"same"), make_image(session, other, b"same")
    screening.finish(begun(new_case(tenant, image=mine), version), make_reading(0.97), version.id)
    begun(new_case(other, image=theirs), version)


def test_a_verdict_without_the_words_that_are_wanted_now_is_judged_again_and_gets_them(
    tenant: Tenant, version: ModelVersion
) -> None:
    with transaction() as session:
        tenants.set_policy(session, tenant.id, Thresholds(explain=ExplainMode.REVIEW))
        image = make_image(session, tenant)
    first, second = new_case(tenant, image=image), new_case(tenant, image=image)
    screening.finish(begun(first, version), make_reading(0.97, explanation=None), version.id)
    with transaction() as session:
        tenants.set_policy(session, tenant.id, Thresholds(explain=ExplainMode.ALWAYS))
    screening.finish(begun(second, version), make_reading(0.96, explanation="Seams."), version.id)
    now = reread(second)
    assert now.verdict is not None and now.verdict.explanation is not None
    assert (now.verdict.p_fake, now.verdict.explanation.text) == (0.97, "Seams."), "the first score stands"


def test_two_cases_of_one_image_at_once_share_the_verdict_that_came_first(
    tenant: Tenant, version: ModelVersion
) -> None:
    with transaction() as session:
        image = make_image(session, tenant)
    jobs = [begun(new_case(tenant, image=image), version) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda job: screening.finish(job, make_reading(0.97), version.id), jobs))
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Verdict)) == 1
        assert session.scalar(select(func.count()).select_from(Explanation)) == 1
        assert set(session.scalars(select(Case.label))) == {Label.FAKE}


# --- Who needs words, who runs alone ---


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (ExplainMode.ALWAYS, [True, True, True, True]),
        (ExplainMode.FLAGGED, [True, False, True, True]),
        (ExplainMode.REVIEW, [False, False, True, True]),
    ],
)
def test_a_reading_asks_for_words_as_the_policy_says(mode: ExplainMode, wanted: list[bool]) -> None:
    rules = Thresholds(explain=mode)
    readings = [make_reading(0.97), make_reading(0.02), make_reading(0.5), make_reading(0.02, pair_mass=0.1)]
    assert [reading.wants_explanation(rules) for reading in readings] == wanted


def test_a_case_runs_alone_after_a_lost_attempt_and_not_after_one_it_is_not_to_blame_for(
    tenant: Tenant, version: ModelVersion
) -> None:
    case = new_case(tenant)
    assert not screening.must_run_alone(case.id)
    screening.postpone(begun(case, version), timedelta(0), counts=False)
    assert not screening.must_run_alone(case.id)
    screening.postpone(begun(case, version), timedelta(0), counts=True)
    assert screening.must_run_alone(case.id)
    with transaction() as session:
        cases.fail(session, session.get_one(Case, case.id), FailureReason.INTERNAL, "x")
        cases.retry(session, tenant.id, case.id, actor="cli")
    assert not screening.must_run_alone(case.id), "a person who retries gives it a new start"


def test_outages_of_the_store_never_use_up_the_attempts(tenant: Tenant, version: ModelVersion) -> None:
    case = new_case(tenant)
    for _ in range(settings().case_attempts * 2):
        screening.postpone(begun(case, version), timedelta(0), counts=False)
    assert begun(case, version).lease.attempt == 1


def test_a_living_worker_keeps_its_case_and_a_dead_one_loses_it(tenant: Tenant, version: ModelVersion) -> None:
    living, dead = new_case(tenant), new_case(tenant)
    job, lost = begun(living, version), begun(dead, version)
    with transaction() as session:
        session.execute(update(Case).values(lease_until=func.now() - timedelta(seconds=1)))
    screening.renew([job.lease], settings())
    assert screening.begin(living.id, version.id, settings()) is None
    assert begun(dead, version).lease.fence == lost.lease.fence + 1
    screening.renew([], settings())
