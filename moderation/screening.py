"""A case's way through screening, seen from the database: what to judge, and what to write afterwards.

The worker calls `begin`, judges outside any transaction, and calls `finish`, `give_up` or `release`. This module does
not know how an image is judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation import cases, exhibits, model_versions, policy, tenants
from moderation.cases import Lease
from moderation.db import glance, insistent, storable, transaction
from moderation.dispatch import SCREENING
from moderation.policy import Thresholds
from moderation.settings import Settings
from moderation.tables import Case, Explanation, Image, Policy, Rejudging, Verdict
from moderation.vocabulary import DecidedBy, FailureReason, Label


@dataclass(frozen=True)
class Job:
    """A leased case and what its worker needs to know."""

    lease: Lease
    request_id: str
    image_id: UUID
    s3_key: str
    exhibited: bool
    image_bytes: int
    thresholds: Thresholds
    policy_id: UUID


@dataclass(frozen=True)
class Reading:
    """What one model version says of an image. `logit` = z_fake − z_real before calibration; `p_fake` after it."""

    label: Label
    p_fake: float
    logit: float
    pair_mass: float
    engine: str
    dtype: str
    explanation: str | None

    def wants_explanation(self, thresholds: Thresholds) -> bool:
        """Whether the policy asks for words along with this score."""
        outcome = policy.judge(self.p_fake, self.pair_mass, thresholds)
        return policy.wants_explanation(outcome, thresholds.explain)


def must_run_alone(case_id: UUID) -> bool:
    """Whether an earlier attempt at this case was lost, so that it may be what kills workers.

    Asked before `begin`: a case that waits its turn holds no lease, so it loses no attempt to another's crash.
    """
    with glance() as session:
        return bool(session.scalar(select(Case.attempts > 0).where(Case.id == case_id)))


def begin(case_id: UUID, model_version_id: UUID, settings: Settings) -> Job | None:
    """Lease a case for this worker; None where there is nothing left to do.

    A case whose image this model version has judged before is settled here at once; one that lost its worker on every
    attempt, or whose image was erased, fails here.
    """
    with transaction() as session:
        lease = cases.take(session, case_id, statuses=SCREENING, lease=timedelta(seconds=settings.case_lease_s))
        if lease is None:
            return None
        case = session.get_one(Case, case_id)
        rules = tenants.policy_of(session, case.tenant_id)
        if _settled_at_once(session, case, lease, rules, model_version_id, settings):
            return None
        image = case.image
        assert image is not None
        return job_of(session, case, image, lease, rules)


def job_of(session: Session, case: Case, image: Image, lease: Lease, rules: Policy) -> Job:
    """What a worker is told of a case it has leased."""
    return Job(
        lease,
        case.submission.request_id,
        image.id,
        image.s3_key,
        exhibits.are_complete(session, image),
        image.bytes,
        _thresholds(rules),
        rules.id,
    )


def _settled_at_once(
    session: Session, case: Case, lease: Lease, rules: Policy, model_version_id: UUID, settings: Settings
) -> bool:
    if lease.attempt > settings.case_attempts:
        attempts = settings.case_attempts
        cases.fail(session, case, FailureReason.WORKER_LOST, f"The worker was lost on each of {attempts} attempts.")
        return True
    if case.image is None or case.image.erased_at is not None:
        cases.fail(session, case, FailureReason.IMAGE_ERASED, "The image was erased before it was judged.")
        return True
    known = _verdict(session, case.image.id, model_version_id)
    if known is None or (known.explanation is None and _reading(known).wants_explanation(_thresholds(rules))):
        return False
    if not exhibits.are_complete(session, case.image):
        return False  # judged before all of it was made: a worker takes it up once more, and the first verdict stands
    _settle(session, case, known, rules)
    return True


@insistent
def finish(job: Job, reading: Reading, model_version_id: UUID) -> None:
    """Write the verdict and let the policy decide. Raises LostLease; then nothing was written."""
    with transaction(wake=True) as session:
        case = cases.held(session, job.lease)
        assert case.image_id is not None
        verdict = keep_verdict(session, case.image_id, model_version_id, reading)
        _settle(session, case, verdict, session.get_one(Policy, job.policy_id))


@insistent
def give_up(job: Job, reason: FailureReason, detail: str) -> None:
    """The image cannot be judged. Raises LostLease."""
    with transaction(wake=True) as session:
        cases.fail(session, cases.held(session, job.lease), reason, detail)


@insistent
def postpone(job: Job, delay: timedelta, *, counts: bool) -> None:
    """Try the case again later; `counts` says whether the attempt does. Raises LostLease."""
    with transaction() as session:
        cases.postpone(session, job.lease, delay, counts=counts)


def renew(leases: list[Lease], settings: Settings) -> None:
    """A living worker keeps its cases."""
    with transaction() as session:
        cases.renew(session, leases, timedelta(seconds=settings.case_lease_s))


def _settle(session: Session, case: Case, verdict: Verdict, rules: Policy) -> None:
    cases.record_verdict(session, case, verdict, rules)
    outcome = policy.judge(verdict.p_fake, verdict.pair_mass, _thresholds(rules))
    if outcome.label is not None:
        cases.decide(session, case, outcome.label, DecidedBy.POLICY)
        cases.audit(session, case)
    elif outcome.review is not None:
        cases.send_to_review(session, case, outcome.review)
    _ask_champion(session, case, verdict)


def _ask_champion(session: Session, case: Case, verdict: Verdict) -> None:
    """A case that was in flight when its version was retired gets the champion's verdict too, beside this one."""
    champion = model_versions.champion_id(session)
    if champion not in (None, verdict.model_version_id):
        wanted = insert(Rejudging).values(case_id=case.id, asked_by=cases.WORKER)
        session.execute(wanted.on_conflict_do_nothing())


def keep_verdict(session: Session, image_id: UUID, model_version_id: UUID, reading: Reading) -> Verdict:
    """The image's one verdict by this model version: the first one written stands."""
    session.execute(
        insert(Verdict)
        .values(
            image_id=image_id,
            model_version_id=model_version_id,
            label=reading.label,
            p_fake=reading.p_fake,
            logit=reading.logit,
            pair_mass=reading.pair_mass,
            engine=reading.engine,
            dtype=reading.dtype,
        )
        .on_conflict_do_nothing()
    )
    verdict = _verdict(session, image_id, model_version_id)
    assert verdict is not None
    if reading.explanation is not None:
        session.execute(
            insert(Explanation)
            .values(verdict_id=verdict.id, model_version_id=model_version_id, text=storable(reading.explanation))
            .on_conflict_do_nothing()
        )
        session.refresh(verdict, ["explanation"])
    return verdict


def _verdict(session: Session, image_id: UUID, model_version_id: UUID) -> Verdict | None:
    return session.scalar(
        select(Verdict).where(Verdict.image_id == image_id, Verdict.model_version_id == model_version_id)
    )


def _reading(verdict: Verdict) -> Reading:
    return Reading(verdict.label, verdict.p_fake, verdict.logit, verdict.pair_mass, verdict.engine, verdict.dtype, None)


def _thresholds(rules: Policy) -> Thresholds:
    return Thresholds(rules.fake_from, rules.real_up_to, rules.min_pair_mass, rules.explain)
