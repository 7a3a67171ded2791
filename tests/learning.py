"""Reviewed cases for the tests of retraining: answers that took effect, written as rows, and pictures behind them.

`moderation/reviews.py` takes ten seconds and a claim for each; what it leaves behind is the same.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime

from PIL import Image as Pixels
from sqlalchemy import func
from sqlalchemy.orm import Session

from moderation import cases
from moderation.accounts import Person
from moderation.retraining.labels import Wording
from moderation.reviews import Sentence
from moderation.storage import Storage
from moderation.tables import Case, Claim, Image, ImageHash, Review, ReviewedSentence, Tenant
from moderation.vocabulary import Answer, CaseStatus, ClaimEnd, Label, ReviewReason
from tests.factories import make_case, make_image, make_tenant

WORDING = Wording("<image>Does the image looks real/fake?", "This is a real image.", "This is a fake image.")


def make_consenting(session: Session, name: str | None = None) -> Tenant:
    """A tenant that allows training."""
    tenant = make_tenant(session, name)
    tenant.allow_training = True
    session.flush()
    return tenant


def make_review(
    session: Session,
    case: Case,
    person: Person,
    answer: Answer = Answer.FAKE,
    *,
    sentences: Sequence[Sentence] = (),
    artifacts: Sequence[str] = (),
    reason: ReviewReason | None = None,
    settled_at: datetime | None = None,
    decides: bool = True,
) -> Review:
    """An answer that has taken effect; it `decides` the case unless told otherwise, or it says nothing."""
    claim = Claim(
        case_id=case.id,
        user_id=person.user_id,
        fence=1,
        lease_until=func.now(),
        ended_at=func.now(),
        end=ClaimEnd.ANSWERED,
    )
    session.add(claim)
    session.flush()
    review = Review(
        tenant_id=case.tenant_id,
        case_id=case.id,
        claim_id=claim.id,
        user_id=person.user_id,
        verdict_id=case.verdict_id,
        reason=reason or case.review_reason,
        answer=answer,
        artifacts=list(artifacts),
        blind=bool(case.blind),
        due_at=func.clock_timestamp(),
        settled_at=settled_at or func.clock_timestamp(),
        sentences=[
            ReviewedSentence(position=place, said=each.said, grade=each.grade, written=each.written)
            for place, each in enumerate(sentences)
        ],
    )
    session.add(review)
    session.flush()
    if decides and answer is not Answer.CANNOT_TELL:
        cases.rule(session, case, Label(answer.value), actor=person.actor, review_id=review.id)
    session.flush()
    return review


def make_reviewed(
    session: Session, tenant: Tenant, person: Person, answer: Answer = Answer.FAKE, *, image: Image | None = None
) -> Case:
    """A case that one person has answered."""
    case = make_case(session, tenant, CaseStatus.IN_REVIEW, image=image)
    make_review(session, case, person, answer)
    return case


def make_hash(session: Session, image: Image, pdq: bytes, quality: int = 100) -> None:
    """The image's PDQ hash, as screening leaves it."""
    session.add(ImageHash(image_id=image.id, tenant_id=image.tenant_id, pdq=pdq, quality=quality, bands=[]))
    session.flush()


def make_picture(session: Session, store: Storage, tenant: Tenant, colour: tuple[int, int, int]) -> Image:
    """An image of one colour, its bytes in the store; another one for every colour."""
    buffer = io.BytesIO()
    Pixels.new("RGB", (40, 40), colour).save(buffer, "PNG")
    image = make_image(session, tenant, buffer.getvalue())
    image.width = image.height = 40
    store.put(image.s3_key, buffer.getvalue(), image.media_type)
    return image


def allow(session: Session, tenant: Tenant, allowed: bool) -> None:
    """The tenant changes its mind about training."""
    session.get_one(Tenant, tenant.id).allow_training = allowed
