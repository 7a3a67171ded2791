"""The champion's verdict on cases that another version judged, beside the one they have.

Asked for by a person for the cases in review, and by screening for a case that was in flight when its version was
retired. What the policy went by, and what "the model says" on the case's page, stays the case's own verdict. A row is
wanted work: the relay offers it behind new cases, a screening worker takes it, and it goes once the verdict is there.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, selectinload

from moderation import cases, errands, events, leases, model_versions, screening
from moderation.cases import WORKER
from moderation.db import FRESH, insistent, transaction
from moderation.errors import Conflict, LostLease
from moderation.leases import Lease
from moderation.screening import Job, Reading
from moderation.settings import Settings
from moderation.tables import Case, Image, ModelVersion, Rejudging, Verdict
from moderation.vocabulary import CaseStatus, EventType, FailureReason

# For a worker that serves the champion, where this one does not (yet).
OTHER_VERSION_RETRY_AFTER = timedelta(seconds=5)


def ask(session: Session, *, actor: str, tenant_id: UUID | None = None) -> int:
    """Ask for the champion's verdict on every case in review that has none of it; how many were asked for now.

    Asking again asks for what is new since, and for what had failed. Raises Conflict where no version is champion.
    """
    champion = model_versions.champion(session)
    if champion is None:
        raise Conflict("No model version is champion: promote one first.")
    known = exists().where(Verdict.image_id == Case.image_id, Verdict.model_version_id == champion.id)
    wanted = (
        select(Case.id, text(":asked_by").bindparams(asked_by=actor))
        .join(Image, Case.image_id == Image.id)
        .where(Case.status == CaseStatus.IN_REVIEW, Case.verdict_id.is_not(None), Image.erased_at.is_(None), ~known)
    )
    if tenant_id is not None:
        wanted = wanted.where(Case.tenant_id == tenant_id)
    asked = insert(Rejudging).from_select(["case_id", "asked_by"], wanted)
    again = {"failed_at": None, "failure_detail": None, "attempts": 0, "next_attempt_at": func.now()}
    added = session.scalars(
        asked.on_conflict_do_update(
            index_elements=[Rejudging.case_id], set_=again, where=Rejudging.failed_at.is_not(None)
        ).returning(Rejudging.case_id)
    ).all()
    if added:
        after = {"version": champion.name, "cases": len(added)}
        events.record(session, EventType.REJUDGING_ASKED, tenant_id=tenant_id, actor=actor, after=after)
    return len(added)


def verdicts_of(session: Session, case: Case) -> list[Verdict]:
    """What every version said of the case's image, with version and explanation, in the order they said it.

    The case's own is the one with `case.verdict_id`; the others changed nothing about it.
    """
    query = (
        select(Verdict)
        .where(Verdict.image_id == case.image_id)
        .order_by(Verdict.created_at, Verdict.id)
        .options(selectinload(Verdict.model_version), selectinload(Verdict.explanation))
    )
    return list(session.scalars(query))


def must_run_alone(case_id: UUID) -> bool:
    """As in screening: whether an earlier attempt was lost, so that it may be what kills workers."""
    with transaction() as session:
        return bool(session.scalar(select(Rejudging.attempts > 0).where(Rejudging.case_id == case_id)))


def begin(case_id: UUID, model_version_id: UUID, settings: Settings) -> Job | None:
    """Lease the row for a worker that serves this version; None where there is nothing to do, or not for this one."""
    with transaction() as session:
        case = _locked(session, case_id)
        span = timedelta(seconds=settings.case_lease_s)
        row = errands.take(session, Rejudging, Rejudging.case_id, case_id, span)
        if case is None or row is None:
            return None
        champion = model_versions.champion_id(session)
        if case.image is None or case.image.erased_at is not None:
            session.delete(row)
            return None
        if champion is not None and _settled(session, case, row, champion):
            return None
        if champion != model_version_id:
            errands.give_back(row, OTHER_VERSION_RETRY_AFTER, counts=False)
            return None
        if row.attempts > settings.case_attempts:
            errands.fail(row, f"The worker was lost on each of {settings.case_attempts} attempts.")
            return None
        lease = Lease(case.id, row.fence, row.attempts)
        return screening.job_of(session, lease, model_version_id)


@insistent
def finish(job: Job, reading: Reading, model_version_id: UUID) -> None:
    """Write what this version said; the row goes where that is the champion. Raises LostLease."""
    with transaction() as session:
        case, row = _held(session, job.lease)
        version = session.get_one(ModelVersion, model_version_id)
        screening.keep_verdict(session, job.image_id, version, reading)
        champion = model_versions.champion_id(session)
        if champion is None or not _settled(session, case, row, champion):
            errands.give_back(row, timedelta(0), counts=False)


@insistent
def give_up(job: Job, reason: FailureReason, detail: str) -> None:
    """The verdict cannot be had; an image that was erased needs none. Raises LostLease."""
    with transaction() as session:
        _, row = _held(session, job.lease)
        if reason is FailureReason.IMAGE_ERASED:
            session.delete(row)
        else:
            errands.fail(row, detail)


@insistent
def postpone(job: Job, delay: timedelta, *, counts: bool) -> None:
    """Try again later; `counts` says whether the attempt does. Raises LostLease."""
    with transaction() as session:
        _, row = _held(session, job.lease)
        errands.give_back(row, delay, counts=counts)


def renew(held: list[Lease], settings: Settings) -> None:
    """A living worker keeps its rows."""
    with transaction() as session:
        leases.renew(session, Rejudging.case_id, held, timedelta(seconds=settings.case_lease_s))


def _locked(session: Session, case_id: UUID) -> Case | None:
    """The case first, then the row: so does screening, which asks for rows under a case's lock."""
    query = select(Case).where(Case.id == case_id).with_for_update(of=Case)
    return session.scalar(query, execution_options=FRESH)


def _held(session: Session, lease: Lease) -> tuple[Case, Rejudging]:
    case = _locked(session, lease.case_id)
    query = select(Rejudging).where(Rejudging.case_id == lease.case_id).with_for_update()
    row = session.scalar(query, execution_options=FRESH)
    if case is None or row is None or not errands.is_held(row, lease):
        raise LostLease(f"Judging case {lease.case_id} again has been taken over by another worker.")
    return case, row


def _settled(session: Session, case: Case, row: Rejudging, champion: UUID) -> bool:
    """Whether the champion's verdict is there; then the row goes, and the case's history says so."""
    query = select(Verdict).where(Verdict.image_id == case.image_id, Verdict.model_version_id == champion)
    verdict = session.scalar(query)
    if verdict is None:
        return False
    session.delete(row)
    if verdict.id != case.verdict_id:
        own = case.verdict.model_version.name if case.verdict else None
        said = {"version": verdict.model_version.name, "label": verdict.label.value, "p_fake": round(verdict.p_fake, 6)}
        cases.note(session, case, EventType.CASE_REJUDGED, actor=WORKER, was={"version": own}, now=said)
    return True
