"""Erasing an image, and forgetting what was said of it: by the platform, by models, by moderators, by events.

Erasing (`erase`) is for somebody who asks; it reaches all of it at once, in one commit, and leaves a tombstone: the
image's row, with its sha256, and cases with their labels. Bytes go from the store right after, and with the next
housekeeping at the latest (moderation/originals.py). What is too old to be kept goes by the same functions
(moderation/retention.py). Events are append only but for this: they may say less than they did, once their case is
marked as forgotten, and a trigger sees to it that they say nothing else.
It does not know what training runs have of an image: moderation/retraining/tombstones.py does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Text, Uuid, bindparam, delete, func, or_, select, text, update
from sqlalchemy.orm import Session

from moderation import cases, events, idempotency, originals
from moderation.db import FRESH, transaction
from moderation.errors import Conflict, NotFound
from moderation.storage import Storage
from moderation.tables import (
    Case,
    Delivery,
    DeliveryAttempt,
    Event,
    Explanation,
    ExplanationRequest,
    IdempotencyKey,
    Image,
    ReceivedWebhook,
    Rejudging,
    Review,
    ReviewedSentence,
    Submission,
    Upload,
    Verdict,
)
from moderation.vocabulary import CaseStatus, EventType, FailureReason

WAITING = (CaseStatus.QUEUED, CaseStatus.SCREENING)
# What events say in somebody's own words, beside `data`: appeals, reports, and why an explanation failed.
WORDS = ["message", "detail"]
# What `data` says in place of what was said. The trigger lets pass what is null or empty now, and nothing that is new.
_FORGOTTEN = """
jsonb_set(jsonb_set(jsonb_set(
    data::jsonb || '{"external_id": null, "metadata": {}, "image": null}', '{verdict,explanation}', 'null', false),
    '{appeal,message}', 'null', false), '{failure,detail}', 'null', false)::json
"""
_EVENTS = text(
    f"""
    UPDATE events SET data = CASE WHEN data IS NOT NULL THEN {_FORGOTTEN} END,
                      before = before - :words, after = after - :words, request_id = NULL
    WHERE case_id = ANY(:ids)
    """
).bindparams(bindparam("words", WORDS, ARRAY(Text)), bindparam("ids", type_=ARRAY(Uuid)))
_VERDICTS_OF_EVENTS = text(
    """
    UPDATE events SET data = (data::jsonb || '{"verdict": null}')::json,
                      before = before - :words, after = after - :words
    WHERE case_id = ANY(:ids) AND (data IS NOT NULL OR before ?| :words OR after ?| :words)
    """
).bindparams(bindparam("words", WORDS, ARRAY(Text)), bindparam("ids", type_=ARRAY(Uuid)))
# An answer is stored with its case; a key's day begins a little before that.
_ANSWERS_KEPT = idempotency.KEPT_FOR + timedelta(hours=1)


def erase(session: Session, tenant_id: UUID, image_id: UUID, *, actor: str, request_id: str | None) -> Image:
    """Erase an image and forget what was said of it. Erasing twice is harmless.

    Cases of it that still waited end as failed. Raises NotFound; Conflict where one was reported as illegal: those are
    under legal hold.
    """
    _lock_cases(session, tenant_id, image_id)
    image = session.scalar(select(Image).where(Image.id == image_id, Image.tenant_id == tenant_id).with_for_update())
    if image is None:
        raise NotFound(f"There is no image {image_id}.")
    if image.forgotten_at is not None:
        return image
    of_it = _lock_cases(session, tenant_id, image_id)  # anew: one may have come before the image was locked
    _refuse_held(of_it, image_id)
    for case in of_it:
        if case.status in WAITING:
            cases.fail(session, case, FailureReason.IMAGE_ERASED, "The image was erased before it was judged.")
    if image.erased_at is None:
        originals.drop(session, image)
    events.record(
        session,
        EventType.IMAGE_ERASED,
        tenant_id=tenant_id,
        actor=actor,
        after={"image": str(image_id), "erased": True},
        request_id=request_id,
    )
    _forget_all(session, image, of_it)
    return image


def _lock_cases(session: Session, tenant_id: UUID, image_id: UUID) -> Sequence[Case]:
    """Cases before their image: so do workers that end one."""
    query = select(Case).where(Case.tenant_id == tenant_id, Case.image_id == image_id).order_by(Case.id)
    return session.scalars(query.with_for_update(of=Case), execution_options=FRESH).all()


def _refuse_held(of_it: Collection[Case], image_id: UUID) -> None:
    if any(case.restricted for case in of_it):
        raise Conflict(
            f"Image {image_id} is under legal hold: a case of it was reported as illegal. It can be erased when a lead "
            "has lifted the report, or goes by itself after the days that the platform keeps restricted cases "
            "(PUT /v1/retention)."
        )


def _forget_all(session: Session, image: Image, of_it: Sequence[Case]) -> None:
    """What was said of an erased image, and with it."""
    session.flush()
    ids = [case.id for case in of_it]
    image.expired_at = None
    image.forgotten_at = datetime.now(UTC)
    forget_words(session, [image.id], ids)
    forget_submissions(session, ids)
    session.execute(update(Upload).where(Upload.image_id == image.id).values(expires_at=func.now()))


def finish_older(limit: int = 100) -> int:
    """Forget what was said of images that an older Telltale erased, and return of how many. Safe to run again."""
    owed = Image.erased_at.is_not(None), Image.expired_at.is_(None), Image.forgotten_at.is_(None)
    with transaction() as session:
        found = session.execute(select(Image.id, Image.tenant_id).where(*owed).limit(limit)).all()
    for image_id, tenant_id in found:
        with transaction() as session:
            of_it = _lock_cases(session, tenant_id, image_id)
            image = session.scalar(select(Image).where(Image.id == image_id, *owed).with_for_update())
            if image is not None:
                _forget_all(session, image, of_it)
    return len(found)


def purge_now(storage: Storage, image: Image) -> None:
    """Delete the bytes of an image that was just erased; the rest is housekeeping's. Raises StorageUnavailable."""
    if image.purged_at is None:
        originals.delete_bytes(storage, [image])


def forget_submissions(session: Session, case_ids: Collection[UUID]) -> None:
    """What the platform sent with these cases' images, wherever it is repeated: answers, events, what endpoints said.

    The caller has locked the cases. Deliveries that wait go out without it.
    """
    ids = list(case_ids)
    said = {"external_id": None, "image_url": None, "s3_bucket": None, "s3_object": None, "request_id": ""}
    sent = select(Case.submission_id).where(Case.id.in_(ids))
    _forget_answers(session, ids)
    session.execute(
        update(Case)
        .where(Case.id.in_(ids))
        .values(forgotten_at=func.now(), category=None, appeal_message=None, failure_detail=None)
    )
    session.execute(update(Submission).where(Submission.id.in_(sent)).values(details={}, **said))
    told = select(Delivery.id).join(Event, Event.id == Delivery.event_id).where(Event.case_id.in_(ids))
    answered = update(DeliveryAttempt).where(DeliveryAttempt.delivery_id.in_(told))
    session.execute(answered.values(response_excerpt=None).execution_options(synchronize_session=False))
    session.execute(_EVENTS, {"ids": ids})


def forget_words(session: Session, image_ids: Collection[UUID], case_ids: Collection[UUID]) -> None:
    """What models and moderators wrote of these images, which are those of these cases; labels and grades stay."""
    verdicts = select(Verdict.id).where(Verdict.image_id.in_(image_ids))
    session.execute(delete(ExplanationRequest).where(ExplanationRequest.verdict_id.in_(verdicts)))
    session.execute(delete(Explanation).where(Explanation.verdict_id.in_(verdicts)))
    session.execute(delete(Rejudging).where(Rejudging.case_id.in_(case_ids)))
    session.execute(update(Review).where(Review.case_id.in_(case_ids)).values(note=None, message=None))
    given = select(Review.id).where(Review.case_id.in_(case_ids))
    # Empty and not None: a sentence that was graded stays one.
    said = {name: func.substr(getattr(ReviewedSentence, name), 1, 0) for name in ("said", "written")}
    emptied = update(ReviewedSentence).where(ReviewedSentence.review_id.in_(given)).values(**said)
    session.execute(emptied.execution_options(synchronize_session=False))


def forget_verdicts(session: Session, image_ids: Collection[UUID], case_ids: Collection[UUID]) -> None:
    """The verdicts of these images, which are those of these cases, with all words; the decisions stay."""
    ids = list(case_ids)
    forget_words(session, image_ids, ids)
    gone = {"verdict_id": None, "score": None, "verdict_forgotten_at": func.now()}
    session.execute(update(Case).where(Case.id.in_(ids)).values(appeal_message=None, **gone))
    session.execute(update(Review).where(Review.case_id.in_(ids)).values(verdict_id=None))
    session.execute(delete(Verdict).where(Verdict.image_id.in_(image_ids)))
    session.execute(_VERDICTS_OF_EVENTS, {"ids": ids})


def _forget_answers(session: Session, case_ids: list[UUID]) -> None:
    """What requests and webhooks that opened these cases were answered, and would be answered again."""
    rows = session.execute(select(Case, Submission).join(Case.submission).where(Case.id.in_(case_ids))).all()
    young = datetime.now(UTC) - _ANSWERS_KEPT
    keyed = {str(case.id) for case, _ in rows if case.created_at > young}
    if keyed:
        whose = IdempotencyKey.tenant_id.in_({case.tenant_id for case, _ in rows})
        given = select(IdempotencyKey).where(whose, _names_one(IdempotencyKey.answer, keyed))
        for key in session.scalars(given.with_for_update()):
            key.answer = _without(key.answer or {}, keyed)
    # A webhook's answer was written in the commit that opened its cases, and so at their time.
    for case, sent in rows:
        if sent.source_id is not None:
            its = ReceivedWebhook.source_id == sent.source_id, ReceivedWebhook.received_at == sent.created_at
            for webhook in session.scalars(select(ReceivedWebhook).where(*its).with_for_update()):
                webhook.answer = _without(webhook.answer, {str(case.id)})
    session.flush()


def _names_one(answer: Any, names: Collection[str]) -> Any:
    return or_(*(func.strpos(answer.cast(Text), name) > 0 for name in names))


def _without(answer: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The answer with these cases as the api shows them now."""
    less: dict[str, Any] = {"external_id": None, "metadata": {}, "image": None, "verdict": None}
    return {
        **answer,
        "cases": [
            {**case, **{name: value for name, value in less.items() if name in case}} if case["id"] in names else case
            for case in answer["cases"]
        ],
    }
