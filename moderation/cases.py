"""A case from its submission to its end: the only writer of `cases.status`.

    fetching → queued → screening → decided | in_review → decided;  anything that cannot be judged → failed

Every change checks where the case is and, for a worker, that it still holds the newest fence; every change writes an
event and, with it, the deliveries of whoever must be told, in the caller's transaction. What a time is compared with in
the database is the database's own. It knows neither how an image is judged nor where its bytes are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, func, select, text
from sqlalchemy.orm import Session, joinedload

from moderation import backlog, descriptions, events, metrics
from moderation.db import FRESH, afterwards, new_id, storable
from moderation.errors import IllegalTransition, LostLease, NotFound
from moderation.events import Rows
from moderation.leases import Lease
from moderation.tables import WAITING, Case, Image, Policy, Submission, Tenant, Verdict, written
from moderation.vocabulary import (
    OUTBOUND,
    QUIET,
    CaseStatus,
    DecidedBy,
    EventType,
    FailureReason,
    Label,
    Priority,
    ReviewReason,
)

LEGAL: Mapping[CaseStatus, frozenset[CaseStatus]] = {
    CaseStatus.FETCHING: frozenset({CaseStatus.FETCHING, CaseStatus.QUEUED, CaseStatus.FAILED}),
    CaseStatus.QUEUED: frozenset({CaseStatus.SCREENING, CaseStatus.FAILED}),
    CaseStatus.SCREENING: frozenset(
        {CaseStatus.SCREENING, CaseStatus.QUEUED, CaseStatus.DECIDED, CaseStatus.IN_REVIEW, CaseStatus.FAILED}
    ),
    CaseStatus.DECIDED: frozenset({CaseStatus.IN_REVIEW}),
    CaseStatus.IN_REVIEW: frozenset({CaseStatus.DECIDED}),
    CaseStatus.FAILED: frozenset({CaseStatus.FETCHING, CaseStatus.QUEUED}),
}
MAX_FAILURE_DETAIL = 500  # characters
MAX_CATEGORY = 100  # characters
WORKER = "worker"
SAMPLING = "sampling"

# A case and its submission, in the columns that are not left to the database.
_OPENED = """submission AS (
    INSERT INTO submissions
        (id, tenant_id, source_id, external_id, metadata, image_url, s3_bucket, s3_object, request_id)
    VALUES (:submission, :tenant, :source, :external_id, :metadata, :image_url, :s3_bucket, :s3_object, :request)
), opened AS (
    INSERT INTO cases (id, created_at, tenant_id, submission_id, image_id, status, priority, category, sequence)
    VALUES (:case, :created_at, :tenant, :submission, :image, :status, :priority, :category, :sequence)
)"""
_OPENED_TYPES = {"metadata": Submission.details.type}


def open_case(
    session: Session,
    submission: Submission,
    image: Image | None,
    priority: Priority,
    *,
    actor: str,
    along: Rows | None = None,
) -> Case:
    """Begin a case: queued where the image is here, fetching where only a link is. Writes `submission.accepted`.

    One statement writes the submission, which must be new, the case, the event and its deliveries, and before them the
    rows of `along`: this is what whoever sends an image waits for. `created_at` is the sender's side of the story, by
    this machine's clock.
    """
    case = Case(
        id=new_id(),
        created_at=datetime.now(UTC),
        tenant_id=submission.tenant_id,
        submission_id=submission.id,
        submission=submission,
        image_id=image.id if image else None,
        image=image,
        status=CaseStatus.FETCHING if image is None else CaseStatus.QUEUED,
        priority=priority.rank,
        category=_category(submission),
        sequence=1,  # of the event below: a row that is changed in its first moment is written twice
        attempts=0,
        **dict.fromkeys(_UNSETTLED),
    )
    rows = along + _opening(case) if along else _opening(case)
    _write_event(session, case, EventType.SUBMISSION_ACCEPTED, actor=actor, before=None, along=rows)
    written(session, submission)
    written(session, case)
    return case


# What a description reads that no case has at first: said here, or each would be looked up.
_UNSETTLED = ("verdict", "policy", "label", "decided_by", "review_reason", "failure_reason", "settled_at")


def _opening(case: Case) -> Rows:
    submission = case.submission
    return Rows(
        _OPENED,
        {
            "submission": submission.id,
            "tenant": case.tenant_id,
            "source": submission.source_id,
            "external_id": submission.external_id,
            "metadata": submission.details,
            "image_url": submission.image_url,
            "s3_bucket": submission.s3_bucket,
            "s3_object": submission.s3_object,
            "request": submission.request_id,
            "case": case.id,
            "created_at": case.created_at,
            "image": case.image_id,
            "status": case.status.value,
            "priority": case.priority,
            "category": case.category,
            "sequence": case.sequence,
        },
        _OPENED_TYPES,
    )


def _category(submission: Submission) -> str | None:
    """What the platform says the image shows, where its metadata has a `category`."""
    said = submission.details.get("category")
    return said[:MAX_CATEGORY] if isinstance(said, str) and said else None


# `again`: whether one is taken that was taken before.
_TAKE = text(
    f"""
    WITH taken AS (
        UPDATE cases SET
            lease_until = now() + :lease, offered_until = NULL, fence = fence + 1, attempts = attempts + 1,
            sequence = sequence + 1, status = CASE status WHEN 'fetching' THEN status ELSE 'screening' END
        WHERE id = :case AND {WAITING} AND status = ANY(:statuses) AND next_attempt_at <= now()
          AND (lease_until IS NULL OR lease_until <= now()) AND (:again OR attempts = 0)
        RETURNING tenant_id, id AS case_id, sequence, fence, attempts,
                  jsonb_build_object('status', old.status) AS before,
                  jsonb_build_object('status', new.status, 'attempt', attempts) AS after,
                  (SELECT request_id FROM submissions WHERE submissions.id = submission_id) AS request_id
    ), {events.of_each("taken")}
    SELECT fence, attempts FROM taken
    """
)


def take(
    session: Session | Connection,
    case_id: UUID,
    *,
    statuses: tuple[CaseStatus, ...],
    lease: timedelta,
    again: bool = True,
) -> Lease | None:
    """Lease a case that waits, or whose worker's lease ran out; None where its status no longer fits.

    A case being screened goes to `screening`; a case being fetched stays `fetching` while its link is read. `again`:
    also one that was taken before. A case that the session has read already is not read anew. One statement.
    """
    values = {"case": case_id, "statuses": [status.value for status in statuses], "lease": lease, "again": again}
    event = {"event_type": EventType.CASE_TAKEN.value, "event_actor": WORKER}
    taken = session.execute(_TAKE, {**values, **event}).one_or_none()
    if taken is None:
        return None
    return Lease(case_id, taken.fence, taken.attempts)


# With what every event of it says.
_HELD = (
    select(Case)
    .where(Case.id == bindparam("case"))
    .with_for_update(of=Case)
    .options(joinedload(Case.submission, innerjoin=True), joinedload(Case.image))
)


def held(session: Session, lease: Lease) -> Case:
    """The case under a lease, locked. Raises LostLease where somebody else has taken it since."""
    case = session.scalar(_HELD, {"case": lease.case_id}, execution_options=FRESH)
    if case is None or case.fence != lease.fence or case.lease_until is None:
        raise LostLease(f"Case {lease.case_id} has been taken over; fence {lease.fence} is no longer the newest.")
    return case


def fetched(session: Session, lease: Lease, image: Image) -> Case:
    """The link was read: the case is queued with its image, its attempts counted anew."""
    case = held(session, lease)
    before = _move(case, CaseStatus.QUEUED)
    case.image_id = image.id
    case.image = image
    case.attempts = 0
    case.queued_at = func.now()
    _record(session, case, EventType.CASE_FETCHED, actor=WORKER, before=before)
    return case


def postpone(session: Session, lease: Lease, delay: timedelta, *, counts: bool) -> Case:
    """Give the case back, to be tried again after `delay`.

    `counts`: whether the attempt counts towards the last one. It does not where the case is not to blame.
    """
    case = held(session, lease)
    waiting = CaseStatus.FETCHING if case.status is CaseStatus.FETCHING else CaseStatus.QUEUED
    before = _move(case, waiting)
    case.next_attempt_at = func.now() + delay
    if not counts:
        case.attempts -= 1
    _record(session, case, EventType.CASE_RELEASED, actor=WORKER, before=before)
    return case


def record_verdict(session: Session, case: Case, verdict: Verdict, policy: Policy) -> None:
    """Attach what the model said, and say so."""
    case.verdict = verdict
    case.policy = policy
    _keep_what_it_says(case, verdict)
    # What comes of it follows at once, and the case's row is written once for both.
    _record(session, case, EventType.VERDICT_COMPLETED, actor=WORKER, before=case.status, flush=False)


def _keep_what_it_says(case: Case, verdict: Verdict) -> None:
    """The queue and the counts read it from the case."""
    case.score = None if math.isnan(verdict.p_fake) else verdict.p_fake
    case.model_version_id = verdict.model_version_id


def decide(session: Session, case: Case, label: Label, by: DecidedBy) -> None:
    """End the case with a label."""
    before = _move(case, CaseStatus.DECIDED)
    case.label = case.policy_label = label
    case.decided_by = by
    case.settled_at = datetime.now(UTC)
    _record(session, case, EventType.DECISION_CREATED, actor=by.value, before=before)
    _count(session, by.value, label)


# Why people look at what was decided already; any other reason is a first review.
_AGAIN = QUIET | {ReviewReason.APPEAL}


def _count(session: Session, by: str, label: Label) -> None:
    afterwards(session, metrics.DECISIONS.labels(by, label.value).inc)


def audit(session: Session, case: Case) -> None:
    """Draw whether a person looks at what the policy has just decided; the tenant's share is kept as probability."""
    share = session.get_one(Tenant, case.tenant_id).audit_share
    if random.random() < share:
        case.audit_probability = share
        reopen(session, case, ReviewReason.AUDIT)


def reopen(session: Session, case: Case, reason: ReviewReason) -> None:
    """Take a decided case back to the moderators without a word to the platform: its decision stands meanwhile.

    `settled_at` stays the decision's. `reason` is one of QUIET.
    """
    before = _move(case, CaseStatus.IN_REVIEW)
    _open_review(session, case, reason)
    sampled = _Change(now={"reason": reason.value})
    _record(session, case, EventType.CASE_SAMPLED, actor=SAMPLING, before=before, change=sampled)


def rule(
    session: Session, case: Case, label: Label, *, actor: str, review_id: UUID, message: str | None = None
) -> None:
    """End the case as a person answered; tell of a decision, of one that is overturned, and of an appeal's outcome.

    Of a case that was quietly looked at again and found right, nobody is told. `message` is for who appealed.
    """
    earlier, reason = case.label, case.review_reason
    overturned = earlier not in (None, label)
    if reason in QUIET and not overturned:
        uphold(session, case, actor=actor, review_id=review_id)
        return
    before = _move(case, CaseStatus.DECIDED)
    case.label = label
    case.decided_by = DecidedBy.MODERATOR
    case.settled_at = datetime.now(UTC)
    _count(session, reason.value if reason and reason in _AGAIN else "review", label)
    told = _Change(
        was={"label": earlier.value if earlier else None}, now={"label": label.value, "review": str(review_id)}
    )
    if overturned or not (reason is ReviewReason.APPEAL and earlier):
        type_ = EventType.DECISION_REVERSED if overturned else EventType.DECISION_CREATED
        _record(session, case, type_, actor=actor, before=before, change=told)
        before = case.status
    if reason is ReviewReason.APPEAL:
        outcome = {"appeal": {"outcome": "overturned" if overturned else "upheld", "message": message}}
        _record(session, case, EventType.APPEAL_DECIDED, actor=actor, before=before, change=told, data=outcome)


def uphold(session: Session, case: Case, *, actor: str, review_id: UUID) -> None:
    """A decision that was quietly looked at again stands, and so does who made it and when."""
    before = _move(case, CaseStatus.DECIDED)
    said = _Change(now={"review": str(review_id)})
    _record(session, case, EventType.REVIEW_UPHELD, actor=actor, before=before, change=said)


def note(
    session: Session, case: Case, type_: EventType, *, actor: str, was: dict[str, Any], now: dict[str, Any]
) -> None:
    """Write down what somebody did with a case that stays where it is; `was` and `now` are what it changed."""
    _record(session, case, type_, actor=actor, before=case.status, change=_Change(was, now))


def send_to_review(session: Session, case: Case, reason: ReviewReason) -> None:
    """Hand the case to the moderators."""
    before = _move(case, CaseStatus.IN_REVIEW)
    case.settled_at = datetime.now(UTC)
    _open_review(session, case, reason)
    _record(session, case, EventType.CASE_IN_REVIEW, actor=DecidedBy.POLICY.value, before=before)
    afterwards(session, metrics.ABSTAINED.inc)


def fail(session: Session, case: Case, reason: FailureReason, detail: str) -> None:
    """End the case without a verdict; a person can retry it."""
    before = _move(case, CaseStatus.FAILED)
    case.failure_reason = reason
    case.failure_detail = storable(detail[:MAX_FAILURE_DETAIL])
    case.settled_at = datetime.now(UTC)
    _record(session, case, EventType.VERDICT_FAILED, actor=WORKER, before=before)


def retry(session: Session, tenant_id: UUID, case_id: UUID, *, actor: str) -> Case:
    """Put a failed case back where it can be worked on. Raises NotFound, IllegalTransition."""
    case = case_of(session, tenant_id, case_id, lock=True)
    before = _move(case, CaseStatus.FETCHING if case.image_id is None else CaseStatus.QUEUED)
    case.failure_reason = case.failure_detail = case.settled_at = None
    case.attempts = 0
    case.next_attempt_at = case.queued_at = func.now()
    _record(session, case, EventType.CASE_RETRIED, actor=actor, before=before)
    return case


def appeal(session: Session, tenant_id: UUID, case_id: UUID, *, actor: str, message: str | None) -> Case:
    """Reopen a decided case for a person, also where it is quietly looked at again already.

    Raises NotFound, IllegalTransition. Whoever is at work on it must be seen to: use moderation/appeals.py.
    """
    case = case_of(session, tenant_id, case_id, lock=True)
    before = case.status if is_sampled(case) else _move(case, CaseStatus.IN_REVIEW)
    case.settled_at = datetime.now(UTC)
    case.appeal_message = storable(message) if message is not None else None
    _open_review(session, case, ReviewReason.APPEAL)
    said = _Change(now={"message": message} if message is not None else {})
    _record(session, case, EventType.CASE_APPEALED, actor=actor, before=before, change=said)
    _record(session, case, EventType.CASE_IN_REVIEW, actor=actor, before=case.status)
    return case


def is_sampled(case: Case) -> bool:
    """Whether it is decided, as the platform knows, and looked at again nevertheless."""
    return case.status is CaseStatus.IN_REVIEW and case.review_reason in QUIET


def _open_review(session: Session, case: Case, reason: ReviewReason) -> None:
    """As if nobody had had it before. Whether it is answered blind is drawn once for each case; an audit always is."""
    if case.category is not None:
        with session.no_autoflush:  # the case itself is not in the queue yet
            case.category = backlog.admitted(session, case.tenant_id, case.category)
    case.review_reason = reason
    case.held_until = case.escalated_at = case.assigned_to = None
    if case.verdict is not None and case.model_version_id is None:  # decided before these were kept with the case
        _keep_what_it_says(case, case.verdict)
    if case.blind is None:
        share = 1.0 if reason is ReviewReason.AUDIT else session.get_one(Tenant, case.tenant_id).blind_share
        case.blind_probability = share
        case.blind = random.random() < share


def case_of(session: Session, tenant_id: UUID, case_id: UUID, *, lock: bool = False) -> Case:
    """One of the tenant's cases. Raises NotFound, also for another tenant's."""
    query = select(Case).where(Case.id == case_id, Case.tenant_id == tenant_id)
    if lock:
        query = query.with_for_update(of=Case).execution_options(**FRESH)
    case = session.scalar(query)
    if case is None:
        raise NotFound(f"There is no case {case_id}.")
    return case


def listed(
    session: Session,
    tenant_id: UUID,
    *,
    before: UUID | None = None,
    limit: int = 50,
    status: CaseStatus | None = None,
    label: Label | None = None,
    external_id: str | None = None,
) -> list[Case]:
    """The tenant's cases, newest first, from just before the case `before` on (keyset paging)."""
    newest = select(Case).where(Case.tenant_id == tenant_id).order_by(Case.id.desc()).limit(limit)
    query = newest.options(*descriptions.DESCRIBED)
    if before is not None:
        query = query.where(Case.id < before)
    if status is not None:
        query = query.where(Case.status == status)
    if label is not None:
        query = query.where(Case.label == label)
    if external_id is not None:
        query = query.join(Submission).where(Submission.external_id == external_id)
    return list(session.scalars(query))


def _move(case: Case, to: CaseStatus) -> CaseStatus:
    """Change the status, end any lease that does not go on, and return where the case was."""
    before = case.status
    if to not in LEGAL[before]:
        raise IllegalTransition(f"Case {case.id} is {before.value} and cannot become {to.value}.")
    case.status = to
    if to is not CaseStatus.SCREENING:
        case.lease_until = case.offered_until = None
    case.answer_due = None
    return before


@dataclass(frozen=True)
class _Change:
    """What an event says beside the status."""

    was: Mapping[str, Any] = field(default_factory=dict)
    now: Mapping[str, Any] = field(default_factory=dict)


def _record(
    session: Session,
    case: Case,
    type_: EventType,
    *,
    actor: str,
    before: CaseStatus | None,
    change: _Change = _Change(),
    data: Mapping[str, Any] | None = None,
    flush: bool = True,
) -> None:
    """`data` is added to what endpoints are sent."""
    case.sequence += 1
    _write_event(session, case, type_, actor=actor, before=before, change=change, data=data, flush=flush)


def _write_event(
    session: Session,
    case: Case,
    type_: EventType,
    *,
    actor: str,
    before: CaseStatus | None,
    change: _Change = _Change(),
    data: Mapping[str, Any] | None = None,
    along: Rows | None = None,
    flush: bool = True,
) -> None:
    """The event of the case's newest sequence, and `along` the rows of one statement with it."""
    events.record(
        session,
        type_,
        tenant_id=case.tenant_id,
        actor=actor,
        case_id=case.id,
        sequence=case.sequence,
        before={"status": before.value, **change.was} if before else None,
        after={"status": case.status.value, "attempt": case.attempts, **change.now},
        data=descriptions.in_event(case, data or {}) if type_ in OUTBOUND else None,
        request_id=case.submission.request_id,
        along=along,
        flush=flush,
    )
