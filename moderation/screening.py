"""A case's way through screening, seen from the database: what to judge, and what to write afterwards.

The worker calls `begin`, judges outside any transaction, and calls `finish`, `give_up` or `release`. This module does
not know how an image is judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from moderation import cases, exhibits, leases, model_versions, policy, tenants
from moderation.db import autonomous, insistent, new_id, storable, transaction
from moderation.dispatch import SCREENING
from moderation.leases import Lease
from moderation.policy import Thresholds
from moderation.settings import Settings
from moderation.tables import WAITING, Case, Explanation, ModelVersion, Policy, Rejudging, Tenant, Verdict, written
from moderation.vocabulary import DecidedBy, ExplainMode, FailureReason, Label, ModelStage


@dataclass(frozen=True)
class Job:
    """A leased case and what its worker needs to know."""

    lease: Lease
    request_id: str
    tenant_id: UUID
    image_id: UUID
    media_type: str
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
    """Whether an earlier attempt at a case that could be begun now was lost, so that it may be what kills workers."""
    with autonomous() as connection:
        return bool(connection.scalar(_LOST, {"case": case_id}))


_LOST = text(
    f"""
    SELECT attempts > 0 FROM cases
    WHERE id = :case AND {WAITING} AND next_attempt_at <= now() AND (lease_until IS NULL OR lease_until <= now())
    """
)


def begin(case_id: UUID, model_version_id: UUID, settings: Settings, *, again: bool = True) -> Job | None:
    """Lease a case for this worker; None where there is nothing left to do.

    A case whose image this model version has judged before is settled here at once; one that lost its worker on every
    attempt, or whose image was erased, fails here. `again`: also one that was begun before. Who may not run it beside
    others says no, and then asks `must_run_alone`: a case that waits its turn holds no lease, so that it loses no
    attempt to another's crash.
    """
    span = timedelta(seconds=settings.case_lease_s)
    with autonomous() as connection:
        lease = cases.take(connection, case_id, statuses=SCREENING, lease=span, again=again)
        if lease is None:
            return None
        found = _facts(connection, case_id, model_version_id)
    if found is None or found.judged or lease.attempt > settings.case_attempts:
        with transaction() as session:
            case = cases.held(session, lease)
            rules = tenants.policy_of(session, case.tenant_id)
            if _settled_at_once(session, case, lease, rules, model_version_id, settings):
                return None
    assert found is not None, "without an image it was settled at once"
    return _job(lease, found)


def job_of(session: Session, lease: Lease, model_version_id: UUID) -> Job:
    """What a worker is told of a case it has leased, whose image is there."""
    found = _facts(session, lease.case_id, model_version_id)
    assert found is not None
    return _job(lease, found)


# All of it in one look, by the tenant's newest policy. No row: the image is none, or was erased.
_FACTS = text(
    f"""
    SELECT s.request_id, i.tenant_id, i.id AS image_id, i.media_type, i.s3_key, i.bytes,
           {exhibits.COMPLETE} AS exhibited, p.id AS policy_id, p.fake_from, p.real_up_to, p.min_pair_mass, p.explain,
           EXISTS (SELECT FROM verdicts v WHERE v.image_id = i.id AND v.model_version_id = :version) AS judged
    FROM cases c
    JOIN submissions s ON s.id = c.submission_id
    JOIN images i ON i.id = c.image_id AND i.erased_at IS NULL
    CROSS JOIN LATERAL (SELECT * FROM policies WHERE tenant_id = c.tenant_id ORDER BY version DESC LIMIT 1) p
    WHERE c.id = :case
    """
)


def _facts(session: Session | Connection, case_id: UUID, model_version_id: UUID) -> Row[Any] | None:
    return session.execute(_FACTS, {"case": case_id, "version": model_version_id}).one_or_none()


def _job(lease: Lease, found: Row[Any]) -> Job:
    return Job(
        lease,
        request_id=found.request_id,
        tenant_id=found.tenant_id,
        image_id=found.image_id,
        media_type=found.media_type,
        s3_key=found.s3_key,
        exhibited=found.exhibited,
        image_bytes=found.bytes,
        thresholds=Thresholds(found.fake_from, found.real_up_to, found.min_pair_mass, ExplainMode(found.explain)),
        policy_id=found.policy_id,
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
        by = session.execute(_JUDGED_BY, {"policy": job.policy_id, "version": model_version_id}).one()
        verdict = keep_verdict(session, job.image_id, by.ModelVersion, reading)
        _settle(session, case, verdict, by.Policy)


# At once, with the tenant, whose shares are drawn by.
_JUDGED_BY = (
    select(Policy, ModelVersion, Tenant)
    .join(Tenant, Tenant.id == Policy.tenant_id)
    .join(ModelVersion, ModelVersion.id == bindparam("version"))
    .where(Policy.id == bindparam("policy"))
)


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


def renew(held: list[Lease], settings: Settings) -> None:
    """A living worker keeps its cases."""
    with transaction() as session:
        leases.renew(session, Case.id, held, timedelta(seconds=settings.case_lease_s))


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
    if verdict.model_version.stage is ModelStage.CHAMPION:
        return
    if model_versions.champion_id(session) is not None:
        wanted = insert(Rejudging).values(case_id=case.id, asked_by=cases.WORKER)
        session.execute(wanted.on_conflict_do_nothing())


_KEEP_VERDICT = text(
    """
    WITH kept AS (
        INSERT INTO verdicts (id, image_id, model_version_id, label, p_fake, logit, pair_mass, engine, dtype)
        VALUES (:id, :image, :version, :label, :p_fake, :logit, :pair_mass, :engine, :dtype)
        ON CONFLICT DO NOTHING
        RETURNING id
    ), explained AS (
        INSERT INTO explanations (id, verdict_id, model_version_id, text)
        SELECT :explanation, id, :version, :words FROM kept WHERE CAST(:words AS text) IS NOT NULL
    )
    SELECT count(*) FROM kept
    """
)


def keep_verdict(session: Session, image_id: UUID, version: ModelVersion, reading: Reading) -> Verdict:
    """The image's one verdict by this model version: the first one written stands, and so do its words."""
    words = storable(reading.explanation) if reading.explanation is not None else None
    said = {name: getattr(reading, name) for name in ("p_fake", "logit", "pair_mass", "engine", "dtype")}
    verdict = Verdict(id=new_id(), image_id=image_id, model_version_id=version.id, label=reading.label, **said)
    explanation = Explanation(id=new_id(), verdict_id=verdict.id, model_version_id=version.id, text=words)
    values = {"id": verdict.id, "image": image_id, "version": version.id, "label": reading.label.value, **said}
    if not session.scalar(_KEEP_VERDICT, {**values, "explanation": explanation.id, "words": words}):
        return _first_verdict(session, image_id, version.id, words)
    written(session, verdict)
    if words is not None:
        written(session, explanation)
    set_committed_value(verdict, "explanation", explanation if words is not None else None)
    set_committed_value(verdict, "model_version", version)
    return verdict


def _first_verdict(session: Session, image_id: UUID, version_id: UUID, words: str | None) -> Verdict:
    """The one that was there, with these words where it has none."""
    verdict = _verdict(session, image_id, version_id)
    assert verdict is not None
    if words is not None:
        row = {"verdict_id": verdict.id, "model_version_id": version_id, "text": words}
        session.execute(insert(Explanation).values(**row).on_conflict_do_nothing())
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
