"""What is decided, and by which policy."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from moderation.tables.accounts import Tenant, User
from moderation.tables.images import Image
from moderation.tables.intake import Submission
from moderation.tables.row import Asked, Identified, Row
from moderation.tables.verdicts import ModelVersion, Verdict
from moderation.vocabulary import CaseStatus, DecidedBy, ExplainMode, FailureReason, Label, ReviewReason

WAITING = "status IN ('fetching', 'queued', 'screening')"
ANSWERABLE = "status = 'in_review' AND answer_due IS NULL"
FAILED = "status = 'failed'"
# A moderator is not to know the score of these before they have answered: of what is blind, appealed or audited.
HIDDEN_SCORES = frozenset({ReviewReason.APPEAL, ReviewReason.AUDIT})
SCORE_HIDDEN = "blind OR review_reason = 'appeal' OR review_reason = 'audit'"
# How far a score is from a half; of a hidden one by lot, for a place in the queue would tell it. To the letter as
# Postgres prints it, or Alembic takes it for another expression.
CERTAINTY = f"""
CASE
    WHEN {SCORE_HIDDEN} THEN (uuid_hash(id) & 1023)::float8 / 4096::float8
    ELSE abs(COALESCE(score, 0.5::float8) - 0.5::float8)
END"""
_PLACE: tuple[Any, ...] = (text("(-priority)"), text(f"({CERTAINTY})"), "settled_at", "id")
_SEEN_IN_QUEUE = [
    *("priority", "score", "blind", "review_reason", "restricted", "escalated_at", "held_until", "assigned_to"),
    *("category", "model_version_id"),
]


def _queue(name: str, *first: str) -> Index:
    """An index in the order of the review queue, after `first`."""
    return Index(
        name,
        "tenant_id",
        *first,
        *_PLACE,
        postgresql_where=ANSWERABLE,
        postgresql_include=[column for column in _SEEN_IN_QUEUE if column not in first],
    )


class Policy(Identified, Row):
    """One version of a tenant's thresholds: p_fake ≥ fake_from is fake, ≤ real_up_to is real, between is a review."""

    __tablename__ = "policies"
    __table_args__ = (
        UniqueConstraint("tenant_id", "version"),
        CheckConstraint("0 <= real_up_to AND real_up_to < fake_from AND fake_from <= 1", "thresholds_in_order"),
    )

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id))
    version: Mapped[int]
    fake_from: Mapped[float]
    real_up_to: Mapped[float]
    min_pair_mass: Mapped[float]
    explain: Mapped[ExplainMode]


class Case(Identified, Row):
    """What is decided. Only moderation/cases.py writes `status`.

    `offered_until` is the relay's: the broker has been told, ask again after this. `lease_until` is the worker's: it is
    at work until then. `fence` grows with every take, by a worker or a person; whoever writes must still hold the
    newest one. `score` is the verdict's p_fake and `model_version_id` whose it is, here too so that the review queue is
    read from one index. `blind`,
    with its probability, is drawn when the case first goes to review, `second` (a second opinion is wanted) when it is
    first answered, and whether it is audited when the policy decides it: `audit_probability` is set where it is.
    `policy_label` is what the policy decided, whatever came after. `category` is what the platform says the image
    shows, or `other` where the queue had too many categories when it came in. `answer_due` is when a moderator's answer
    takes effect; until then it can be undone. `verdict_forgotten_at`, `forgotten_at`: since then the verdict, or what
    the platform and people said of it, is gone (moderation/retention.py, moderation/erasure.py).
    """

    __tablename__ = "cases"
    __table_args__ = (
        Index("ix_cases_waiting", "tenant_id", text("priority DESC"), "queued_at", "id", postgresql_where=WAITING),
        Index("ix_cases_offered", "offered_until", postgresql_where=WAITING),
        Index("ix_cases_leased", "lease_until", postgresql_where=WAITING),
        Index("ix_cases_listed", "tenant_id", "id"),
        Index(
            "ix_cases_failed",
            "tenant_id",
            "id",
            postgresql_where=FAILED,
            postgresql_include=["failure_reason", "settled_at"],
        ),
        _queue("ix_cases_review_queue"),
        _queue("ix_cases_queue_by_reason", "review_reason"),
        _queue("ix_cases_queue_by_category", "category"),
        _queue("ix_cases_queue_by_version", "model_version_id"),
        Index("ix_cases_queue_by_age", "tenant_id", "settled_at", postgresql_where=ANSWERABLE),
        Index(
            "ix_cases_put_aside",
            "held_until",
            postgresql_where=f"{ANSWERABLE} AND held_until IS NOT NULL",
            postgresql_include=[
                *("tenant_id", "id"),
                *(column for column in _SEEN_IN_QUEUE if column != "held_until"),
                "settled_at",
            ],
        ),
        Index("ix_cases_assigned", "assigned_to", postgresql_where=f"{ANSWERABLE} AND assigned_to IS NOT NULL"),
        Index("ix_cases_answered", "answer_due", postgresql_where="answer_due IS NOT NULL"),
        # What insight counts, so that no case is read for it. A case comes in when it is settled, and not before.
        Index(
            "ix_cases_outcomes",
            "tenant_id",
            "created_at",
            postgresql_where="settled_at IS NOT NULL",
            postgresql_include=[
                *("status", "decided_by", "label", "policy_label", "settled_at", "score", "category"),
                *("model_version_id", "audit_probability", "verdict_id"),
            ],
        ),
        Index("ix_cases_under_way", "tenant_id", "created_at", postgresql_where="settled_at IS NULL"),
        Index("ix_cases_audited", "tenant_id", "created_at", postgresql_where="audit_probability IS NOT NULL"),
        # For each verdict that goes, its cases are looked for; so in reviews.
        Index("ix_cases_verdict_id", "verdict_id", postgresql_where="verdict_id IS NOT NULL"),
    )

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id))
    submission_id: Mapped[UUID] = mapped_column(ForeignKey(Submission.id), unique=True)
    image_id: Mapped[UUID | None] = mapped_column(ForeignKey(Image.id), index=True)
    verdict_id: Mapped[UUID | None] = mapped_column(ForeignKey(Verdict.id))
    model_version_id: Mapped[UUID | None] = mapped_column(ForeignKey(ModelVersion.id))
    policy_id: Mapped[UUID | None] = mapped_column(ForeignKey(Policy.id))
    status: Mapped[CaseStatus]
    priority: Mapped[int]
    sequence: Mapped[int] = mapped_column(server_default=text("0"))
    review_reason: Mapped[ReviewReason | None]
    failure_reason: Mapped[FailureReason | None]
    failure_detail: Mapped[str | None]
    label: Mapped[Label | None]
    decided_by: Mapped[DecidedBy | None]
    policy_label: Mapped[Label | None]
    category: Mapped[str | None]
    restricted: Mapped[bool] = mapped_column(server_default=text("false"))
    score: Mapped[float | None]
    blind: Mapped[bool | None]
    blind_probability: Mapped[float | None]
    second: Mapped[bool | None]
    second_probability: Mapped[float | None]
    audit_probability: Mapped[float | None]
    appeal_message: Mapped[str | None]
    held_until: Mapped[datetime | None]
    escalated_at: Mapped[datetime | None]
    assigned_to: Mapped[UUID | None] = mapped_column(ForeignKey(User.id))
    answer_due: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    offered_until: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    queued_at: Mapped[datetime] = mapped_column(server_default=func.now())
    settled_at: Mapped[datetime | None]
    verdict_forgotten_at: Mapped[datetime | None]
    forgotten_at: Mapped[datetime | None]

    submission: Mapped[Submission] = relationship()
    image: Mapped[Image | None] = relationship()
    verdict: Mapped[Verdict | None] = relationship()
    policy: Mapped[Policy | None] = relationship()


class Rejudging(Asked, Row):
    """The champion's verdict is wanted on a case that another version judged, beside that one's."""

    __tablename__ = "rejudgings"
    __table_args__ = (Index("ix_rejudgings_due", "next_attempt_at", postgresql_where="failed_at IS NULL"),)

    case_id: Mapped[UUID] = mapped_column(ForeignKey(Case.id), primary_key=True)
