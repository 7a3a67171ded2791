"""Explanations on demand: why a model said what it said, where the policy had skipped the words.

Somebody asks (`ask`), the relay finds the request in state, a screening worker takes it (`begin`) and writes the words
(`finish`), says why there are none (`give_up`) or tries again later (`postpone`). A request goes when its words are
there, so the first explanation of a verdict stands; one that failed stays, and says why, until somebody asks again.
This module does not know how words are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation import cases, errands, leases
from moderation.cases import WORKER
from moderation.db import FRESH, insistent, storable, transaction
from moderation.errors import Conflict, LostLease
from moderation.leases import Lease
from moderation.settings import Settings
from moderation.tables import Case, Explanation, ExplanationRequest, Verdict
from moderation.vocabulary import EventType, Label


class State(StrEnum):
    """How far the words of a verdict are."""

    NONE = "none"  # nobody has asked
    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"  # asking again starts anew


@dataclass(frozen=True)
class Progress:
    """How far they are; `text` once they are ready, `detail` where they failed."""

    state: State
    text: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Job:
    """A leased request and what its worker needs. `lease.case_id` is the verdict's id: leases are only compared."""

    lease: Lease
    case_id: UUID
    label: Label
    s3_key: str
    image_bytes: int

    @property
    def verdict_id(self) -> UUID:
        return self.lease.case_id


@dataclass(frozen=True)
class Words:
    """An explanation, and which model version made it."""

    text: str
    model_version_id: UUID


def progress(verdict: Verdict | None) -> Progress:
    """How far the words of a verdict are; of no verdict there are none."""
    if verdict is None:
        return Progress(State.NONE)
    if verdict.explanation is not None:
        return Progress(State.READY, text=verdict.explanation.text)
    asked = verdict.explanation_request
    if asked is None:
        return Progress(State.NONE)
    return Progress(State.FAILED, detail=asked.failure_detail) if asked.failed_at else Progress(State.WAITING)


def ask(session: Session, tenant_id: UUID, case_id: UUID, *, actor: str) -> Progress:
    """Have a case's verdict explained; asking while it is under way, or has been, changes nothing.

    Raises NotFound; Conflict where there is nothing to explain, or no image to explain it by.
    """
    case = cases.case_of(session, tenant_id, case_id, lock=True)
    verdict = case.verdict
    if verdict is None:
        raise Conflict("There is no verdict to explain: the case has not been judged.")
    if progress(verdict).state in (State.READY, State.WAITING):
        return progress(verdict)
    if case.image is None or case.image.erased_at is not None:
        raise Conflict("The image was erased: there is nothing left to explain the verdict by.")
    anew = {"case_id": case.id, "asked_by": actor, "attempts": 0, "failed_at": None, "failure_detail": None}
    asked = insert(ExplanationRequest).values(verdict_id=verdict.id, **anew)
    # A case with the same image may have been first: then theirs is the request.
    mine = asked.on_conflict_do_update(
        index_elements=["verdict_id"],
        set_={**anew, "next_attempt_at": func.now()},
        where=ExplanationRequest.failed_at.is_not(None),
    ).returning(ExplanationRequest.verdict_id)
    if session.scalar(mine) is not None:
        now = {"verdict": str(verdict.id)}
        cases.note(session, case, EventType.EXPLANATION_REQUESTED, actor=actor, was={}, now=now)
    return Progress(State.WAITING)


def must_run_alone(verdict_id: UUID) -> bool:
    """Whether an earlier attempt was lost, so that this image may be what kills workers."""
    query = select(ExplanationRequest.attempts > 0).where(ExplanationRequest.verdict_id == verdict_id)
    with transaction() as session:
        return bool(session.scalar(query))


def begin(verdict_id: UUID, settings: Settings) -> Job | None:
    """Lease a request for this worker; None where there is nothing left to do.

    A request whose words came by another way, whose image was erased, or that lost its worker on every attempt, ends
    here.
    """
    with transaction() as session:
        span = timedelta(seconds=settings.case_lease_s)
        taken = errands.take(session, ExplanationRequest, ExplanationRequest.verdict_id, verdict_id, span)
        if taken is None:
            return None
        lease = Lease(verdict_id, taken.fence, taken.attempts)
        verdict = session.get_one(Verdict, verdict_id)
        case = session.get_one(Case, taken.case_id)
        explained, image = verdict.explanation is not None, case.image
    assert image is not None, "what was judged had an image"
    job = Job(lease, case.id, verdict.label, image.s3_key, image.bytes)
    # In transactions of their own: these lock the case first.
    if explained:
        finish(job, None)
    elif image.erased_at is not None:
        give_up(job, "The image was erased before its verdict was explained.")
    elif lease.attempt > settings.case_attempts:
        give_up(job, f"The worker was lost on each of {settings.case_attempts} attempts.")
    else:
        return job
    return None


@insistent
def finish(job: Job, words: Words | None) -> None:
    """End the request with these words; they are not written where there are some by now, or None are needed.

    Raises LostLease; then nothing is written.
    """
    with transaction() as session:
        case, request = _held(session, job)
        if words is not None:
            session.execute(
                insert(Explanation)
                .values(verdict_id=job.verdict_id, model_version_id=words.model_version_id, text=storable(words.text))
                .on_conflict_do_nothing()
            )
        session.delete(request)
        now = {"verdict": str(job.verdict_id)}
        cases.note(session, case, EventType.EXPLANATION_COMPLETED, actor=WORKER, was={}, now=now)


@insistent
def give_up(job: Job, detail: str) -> None:
    """There will be no words; says why. Raises LostLease."""
    with transaction() as session:
        case, request = _held(session, job)
        errands.fail(request, detail)
        now = {"verdict": str(job.verdict_id), "detail": request.failure_detail}
        cases.note(session, case, EventType.EXPLANATION_FAILED, actor=WORKER, was={}, now=now)


@insistent
def postpone(job: Job, delay: timedelta, *, counts: bool) -> None:
    """Try again later; `counts` says whether the attempt does. Raises LostLease."""
    with transaction() as session:
        _, request = _held(session, job)
        errands.give_back(request, delay, counts=counts)


def _held(session: Session, job: Job) -> tuple[Case, ExplanationRequest]:
    """The case and the request under a lease, locked in the order in which `ask` locks them. Raises LostLease."""
    case = session.scalars(select(Case).where(Case.id == job.case_id).with_for_update(of=Case)).one()
    query = select(ExplanationRequest).where(ExplanationRequest.verdict_id == job.verdict_id).with_for_update()
    request = session.scalar(query, execution_options=FRESH)
    if request is None or not errands.is_held(request, job.lease):
        raise LostLease(f"The explanation of verdict {job.verdict_id} has been taken over.")
    return case, request


def renew(held: list[Lease], settings: Settings) -> None:
    """A living worker keeps its requests."""
    with transaction() as session:
        leases.renew(session, ExplanationRequest.verdict_id, held, timedelta(seconds=settings.case_lease_s))
