"""Who has a case before them, and what they answered."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from moderation.tables.accounts import Tenant, User
from moderation.tables.cases import Case
from moderation.tables.row import Identified, Row
from moderation.tables.verdicts import Verdict
from moderation.vocabulary import Answer, ClaimEnd, Grade, ReviewReason


class Claim(Identified, Row):
    """A person's lease on a case in review, kept after its end. One at a time is live, expired or not."""

    __tablename__ = "claims"
    __table_args__ = (
        Index("uq_claims_live", "case_id", unique=True, postgresql_where="ended_at IS NULL"),
        Index("ix_claims_of_user", "user_id", "case_id"),
    )

    case_id: Mapped[UUID] = mapped_column(ForeignKey(Case.id), index=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id))
    fence: Mapped[int]
    claimed_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    lease_until: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    end: Mapped[ClaimEnd | None]

    user: Mapped[User] = relationship()


class Review(Identified, Row):
    """One moderator's answer. `blind`: they had not seen the verdict. It stands once `settled_at` is set.

    `reason` is why the case was in review, and always written; its default is there for an api of before it was,
    which runs on until it is replaced. `message` is for who appealed; `disturbing` is how the image was to look at.
    """

    __tablename__ = "reviews"
    __table_args__ = (
        Index(
            "uq_reviews_pending", "case_id", unique=True, postgresql_where="settled_at IS NULL AND undone_at IS NULL"
        ),
        Index("ix_reviews_of_user", "user_id", "created_at"),
        Index("ix_reviews_settled", "tenant_id", "settled_at", postgresql_where="settled_at IS NOT NULL"),
        Index("ix_reviews_verdict_id", "verdict_id", postgresql_where="verdict_id IS NOT NULL"),
    )

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id), index=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey(Case.id), index=True)
    claim_id: Mapped[UUID] = mapped_column(ForeignKey(Claim.id))
    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id))
    verdict_id: Mapped[UUID | None] = mapped_column(ForeignKey(Verdict.id))
    reason: Mapped[ReviewReason] = mapped_column(server_default=text("'uncertain'"))
    answer: Mapped[Answer]
    artifacts: Mapped[list[str]]
    note: Mapped[str | None]
    message: Mapped[str | None]
    blind: Mapped[bool]
    disturbing: Mapped[bool] = mapped_column(server_default=text("false"))
    due_at: Mapped[datetime]
    settled_at: Mapped[datetime | None]
    undone_at: Mapped[datetime | None]

    user: Mapped[User] = relationship()
    claim: Mapped[Claim] = relationship()
    sentences: Mapped[list[ReviewedSentence]] = relationship(order_by="ReviewedSentence.position")


class ReviewedSentence(Row):
    """What a review says of one sentence: `said` by the model and graded, `written` by the moderator, or both."""

    __tablename__ = "reviewed_sentences"
    __table_args__ = (
        CheckConstraint("(said IS NULL) = (grade IS NULL)", "graded_where_said"),
        CheckConstraint("said IS NOT NULL OR written IS NOT NULL", "says_something"),
    )

    review_id: Mapped[UUID] = mapped_column(ForeignKey(Review.id, ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    said: Mapped[str | None]
    grade: Mapped[Grade | None]
    written: Mapped[str | None]
