"""The rows, and the constraints that hold whatever the code does.

Rows only: what may happen to them is in the modules named for each noun. Times are UTC. Everything a tenant owns
carries its `tenant_id`, so that every query can be bound to one tenant.
"""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from moderation.db import new_id
from moderation.vocabulary import (
    Answer,
    CaseStatus,
    ClaimEnd,
    DecidedBy,
    DeliveryStatus,
    EventType,
    ExplainMode,
    FailureReason,
    GateOutcome,
    Grade,
    Label,
    ModelStage,
    PanelSet,
    ReviewReason,
    Role,
    RunStage,
    RunStatus,
    SourceKind,
    SourceScheme,
    Split,
)

WORDS: tuple[type[StrEnum], ...] = (
    Answer,
    CaseStatus,
    ClaimEnd,
    DecidedBy,
    DeliveryStatus,
    EventType,
    ExplainMode,
    FailureReason,
    GateOutcome,
    Grade,
    Label,
    ModelStage,
    PanelSet,
    ReviewReason,
    Role,
    RunStage,
    RunStatus,
    SourceKind,
    SourceScheme,
    Split,
)


def _stored(word: type[StrEnum]) -> Enum:
    return Enum(word, native_enum=False, length=40, values_callable=lambda members: [m.value for m in members])


# What somebody sent or was sent, to the letter: JSONB would write 1e308 in 309 digits, and events are under 20 kB.
AsSent = Annotated[dict[str, Any], "as sent"]


class Row(DeclarativeBase):
    """Base of all rows. Enumerations are stored as text and checked in code, so that adding a word is no migration."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        # None is NULL in SQL too, not the JSON value null.
        dict[str, Any]: JSONB(none_as_null=True),
        AsSent: JSON(none_as_null=True),
        list[str]: ARRAY(Text),
        list[int]: ARRAY(Integer),
        str: Text,
        **{word: _stored(word) for word in WORDS},
    }


class _Identified:
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Asked:
    """Work on something else's row that somebody asked for: offered and leased as a case is, gone once it is done.

    `failed_at` is set where it cannot be done; it stays then, until somebody asks again.
    """

    asked_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    offered_until: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    failure_detail: Mapped[str | None]


class Tenant(_Identified, Row):
    """A platform, and how closely its decisions are looked at.

    Shares, 0 to 1: of its cases in review, `blind_share` is answered before the verdict is shown; of those answered,
    `second_opinion_share` is asked of somebody else too; of those the policy decided, `audit_share` goes to a person.
    """

    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint("0 <= blind_share AND blind_share <= 1", "blind_share_is_a_share"),
        CheckConstraint("0 <= second_opinion_share AND second_opinion_share <= 1", "second_opinion_share_is_a_share"),
        CheckConstraint("0 <= audit_share AND audit_share <= 1", "audit_share_is_a_share"),
    )

    name: Mapped[str] = mapped_column(unique=True)
    allow_training: Mapped[bool] = mapped_column(server_default=text("false"))
    blind_share: Mapped[float] = mapped_column(server_default=text("0.1"))
    second_opinion_share: Mapped[float] = mapped_column(server_default=text("0"))
    audit_share: Mapped[float] = mapped_column(server_default=text("0"))


class User(_Identified, Row):
    """A person who reviews; passwords are argon2id. An operator decides what judges for every tenant."""

    __tablename__ = "users"

    email: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    disabled_at: Mapped[datetime | None]
    operator: Mapped[bool] = mapped_column(server_default=text("false"))


class Membership(Row):
    """What a user may do in one tenant."""

    __tablename__ = "memberships"

    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"), primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id, ondelete="CASCADE"), primary_key=True, index=True)
    role: Mapped[Role]


class SignIn(_Identified, Row):
    """A browser in which a user is signed in. Its cookie's token has 256 bits, so a plain sha256 of it is enough."""

    __tablename__ = "sign_ins"

    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"), index=True)
    token_sha256: Mapped[str] = mapped_column(unique=True)
    address: Mapped[str]
    browser: Mapped[str]
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SignInAttempt(_Identified, Row):
    """A try to sign in that has not succeeded. The account is a hash: people type passwords into the wrong field."""

    __tablename__ = "sign_in_attempts"
    __table_args__ = (
        Index(None, "account_sha256", "created_at"),
        Index(None, "address", "created_at"),
        Index(None, "created_at"),
    )

    account_sha256: Mapped[str]
    address: Mapped[str]


class ApiKey(_Identified, Row):
    """A tenant's key. The secret has 256 bits of entropy, so a plain sha256 of it is enough to store."""

    __tablename__ = "api_keys"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id), index=True)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_sha256: Mapped[str]
    scopes: Mapped[list[str]]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Source(_Identified, Row):
    """How one platform's webhooks are signed, and where the images are in them."""

    __tablename__ = "sources"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id))
    name: Mapped[str]
    scheme: Mapped[SourceScheme]
    kind: Mapped[SourceKind]
    secrets: Mapped[list[str]]
    image_url_pointer: Mapped[str | None]
    external_id_pointer: Mapped[str | None]
    metadata_pointer: Mapped[str | None]
    id_header: Mapped[str | None]
    s3_endpoint_url: Mapped[str | None]
    s3_region: Mapped[str | None]
    s3_access_key: Mapped[str | None]
    s3_secret_key: Mapped[str | None]
    disabled_at: Mapped[datetime | None]


class ReceivedWebhook(Row):
    """An inbound webhook that was accepted: the same id again gets the same answer, however late."""

    __tablename__ = "received_webhooks"

    source_id: Mapped[UUID] = mapped_column(ForeignKey(Source.id), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(primary_key=True)
    answer: Mapped[AsSent]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class Policy(_Identified, Row):
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


class Image(_Identified, Row):
    """Bytes one tenant sent, once per sha256. After erasure the row stays as a tombstone without bytes.

    `provenance` is what the file says of where it is from: claims, not proof.
    """

    __tablename__ = "images"
    __table_args__ = (
        Index("uq_images_tenant_id_sha256", "tenant_id", "sha256", unique=True, postgresql_where="erased_at IS NULL"),
        Index("ix_images_unpurged", "erased_at", postgresql_where="erased_at IS NOT NULL AND purged_at IS NULL"),
    )

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id))
    sha256: Mapped[str]
    s3_key: Mapped[str]
    rendition_key: Mapped[str | None]
    media_type: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    frames: Mapped[int]
    bytes: Mapped[int]
    provenance: Mapped[dict[str, Any] | None]
    erased_at: Mapped[datetime | None]
    purged_at: Mapped[datetime | None]


class ImageHash(Row):
    """An image's PDQ hash, 256 bits. `bands`: its sixteen 16-bit words, each with its place (number · 65536 + word)."""

    __tablename__ = "image_hashes"
    __table_args__ = (  # Without the list of pending entries, which every search would read to its end.
        Index("ix_image_hashes_bands", "bands", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
    )

    image_id: Mapped[UUID] = mapped_column(ForeignKey(Image.id, ondelete="CASCADE"), primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id), index=True)
    pdq: Mapped[bytes]
    quality: Mapped[int]
    bands: Mapped[list[int]]


class SimilarImage(Row):
    """Two images of one tenant whose hashes are near each other; a row for either direction. `distance` in bits."""

    __tablename__ = "similar_images"

    image_id: Mapped[UUID] = mapped_column(ForeignKey(Image.id, ondelete="CASCADE"), primary_key=True)
    other_id: Mapped[UUID] = mapped_column(ForeignKey(Image.id, ondelete="CASCADE"), primary_key=True, index=True)
    distance: Mapped[int]


class Upload(_Identified, Row):
    """A presigned POST that was handed out; what arrives is copied to an immutable key when it is submitted."""

    __tablename__ = "uploads"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id))
    s3_key: Mapped[str]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Submission(_Identified, Row):
    """One request, as it was sent."""

    __tablename__ = "submissions"
    __table_args__ = (Index(None, "tenant_id", "external_id"),)

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id))
    source_id: Mapped[UUID | None] = mapped_column(ForeignKey(Source.id))
    external_id: Mapped[str | None]
    # `metadata` is SQLAlchemy's own name on a row class.
    details: Mapped[AsSent] = mapped_column("metadata")
    image_url: Mapped[str | None]
    s3_bucket: Mapped[str | None]
    s3_object: Mapped[str | None]
    request_id: Mapped[str]


class IdempotencyKey(Row):
    """A request being answered, or its answer, for 24 hours."""

    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    lease_until: Mapped[datetime]
    answer: Mapped[AsSent | None]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class ModelVersion(_Identified, Row):
    """One checkpoint with its manifest. At most one is champion.

    `checkpoint` is where it is: a folder, a hub id, `demo`, or `stored:` and the digest of an adapter in the object
    store. That is gone once `removed_at` is set; the row stays, for the verdicts that name it.
    """

    __tablename__ = "model_versions"
    __table_args__ = (Index("uq_model_versions_champion", "stage", unique=True, postgresql_where="stage = 'champion'"),)

    name: Mapped[str] = mapped_column(unique=True)
    checkpoint: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    manifest: Mapped[dict[str, Any]]
    stage: Mapped[ModelStage]
    promoted_at: Mapped[datetime | None]
    removed_at: Mapped[datetime | None]


class Verdict(_Identified, Row):
    """One model version's output for one image. `logit` is z_fake − z_real, before calibration."""

    __tablename__ = "verdicts"
    __table_args__ = (UniqueConstraint("image_id", "model_version_id"),)

    image_id: Mapped[UUID] = mapped_column(ForeignKey(Image.id))
    model_version_id: Mapped[UUID] = mapped_column(ForeignKey(ModelVersion.id))
    label: Mapped[Label]
    p_fake: Mapped[float]
    logit: Mapped[float]
    pair_mass: Mapped[float]
    engine: Mapped[str]
    dtype: Mapped[str]

    model_version: Mapped[ModelVersion] = relationship()
    explanation: Mapped[Explanation | None] = relationship(back_populates="verdict")
    explanation_request: Mapped[ExplanationRequest | None] = relationship()


class Explanation(_Identified, Row):
    """Why, in words. It may be made after the verdict, by another model version."""

    __tablename__ = "explanations"

    verdict_id: Mapped[UUID] = mapped_column(ForeignKey(Verdict.id), unique=True)
    model_version_id: Mapped[UUID] = mapped_column(ForeignKey(ModelVersion.id))
    text: Mapped[str]

    verdict: Mapped[Verdict] = relationship(back_populates="explanation")


class ExplanationRequest(Asked, Row):
    """Somebody asked why, of a verdict whose policy had skipped the words."""

    __tablename__ = "explanation_requests"

    verdict_id: Mapped[UUID] = mapped_column(ForeignKey(Verdict.id), primary_key=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"), index=True)


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


class Case(_Identified, Row):
    """What is decided. Only moderation/cases.py writes `status`.

    `offered_until` is the relay's: the broker has been told, ask again after this. `lease_until` is the worker's: it is
    at work until then. `fence` grows with every take, by a worker or a person; whoever writes must still hold the
    newest one. `score` is the verdict's p_fake and `model_version_id` whose it is, here too so that the review queue is
    read from one index. `blind`,
    with its probability, is drawn when the case first goes to review, `second` (a second opinion is wanted) when it is
    first answered, and whether it is audited when the policy decides it: `audit_probability` is set where it is.
    `policy_label` is what the policy decided, whatever came after. `category` is what the platform says the image
    shows, or `other` where the queue had too many categories when it came in. `answer_due` is when a moderator's answer
    takes effect; until then it can be undone.
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
        Index("ix_cases_held", "held_until", postgresql_where=f"{ANSWERABLE} AND held_until IS NOT NULL"),
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

    submission: Mapped[Submission] = relationship()
    image: Mapped[Image | None] = relationship()
    verdict: Mapped[Verdict | None] = relationship()
    policy: Mapped[Policy | None] = relationship()


class QueueChange(Row):
    """A case came into the review queue (`amount` 1) or left it (-1) as it is here. Written by triggers on `cases`.

    Only ever added to, so that no commit waits for another; moderation/backlog.py sums it up. `score` is None
    where it is hidden; `for_leads`: restricted or escalated.
    """

    __tablename__ = "queue_changes"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant_id: Mapped[UUID]
    for_leads: Mapped[bool]
    priority: Mapped[int]
    review_reason: Mapped[ReviewReason | None]
    category: Mapped[str | None]
    model_version_id: Mapped[UUID | None]
    score: Mapped[float | None]
    settled_at: Mapped[datetime]
    amount: Mapped[int]


class QueueSummary(Row):
    """The cases of one kind that were in the review queue when this was written: since when, oldest first, and scores.

    `scores` are theirs in the same order; `ranked` are those that are not None, in their own.
    """

    __tablename__ = "queue_summaries"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(index=True)
    for_leads: Mapped[bool]
    priority: Mapped[int]
    review_reason: Mapped[ReviewReason | None]
    category: Mapped[str | None]
    model_version_id: Mapped[UUID | None]
    count: Mapped[int]
    oldest: Mapped[datetime]
    since: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)))
    scores: Mapped[list[float | None]] = mapped_column(ARRAY(Float))
    ranked: Mapped[list[float]] = mapped_column(ARRAY(Float))


class Rejudging(Asked, Row):
    """The champion's verdict is wanted on a case that another version judged, beside that one's."""

    __tablename__ = "rejudgings"
    __table_args__ = (Index("ix_rejudgings_due", "next_attempt_at", postgresql_where="failed_at IS NULL"),)

    case_id: Mapped[UUID] = mapped_column(ForeignKey(Case.id), primary_key=True)


class Claim(_Identified, Row):
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


class Review(_Identified, Row):
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


# A case went to review, or left it.
ENTERED_REVIEW = "after ->> 'status' = 'in_review' AND before ->> 'status' <> 'in_review'"
LEFT_REVIEW = "before ->> 'status' = 'in_review' AND after ->> 'status' <> 'in_review'"


def _events(name: str, which: str, *also: str) -> Index:
    """An index of some of a tenant's events by their time."""
    return Index(name, "tenant_id", "created_at", postgresql_where=which, postgresql_include=also or None)


class Event(_Identified, Row):
    """The audit trail: who did what, and how it was before and after. Append only; a trigger refuses changes."""

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "case_id", "sequence", unique=True),
        Index(None, "tenant_id", "created_at"),
        _events("ix_events_review_entered", ENTERED_REVIEW, "case_id"),
        _events("ix_events_review_left", LEFT_REVIEW, "case_id"),
        _events("ix_events_policy_changed", "type = 'policy.changed'"),
    )

    tenant_id: Mapped[UUID | None] = mapped_column(ForeignKey(Tenant.id))
    case_id: Mapped[UUID | None] = mapped_column(ForeignKey(Case.id))
    sequence: Mapped[int | None]
    type: Mapped[EventType]
    actor: Mapped[str]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    # What endpoints are sent as `data`; None for events that stay inside.
    data: Mapped[AsSent | None]
    request_id: Mapped[str | None]


class Endpoint(_Identified, Row):
    """Where one tenant wants its events. Several secrets while one rotates."""

    __tablename__ = "endpoints"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id), index=True)
    url: Mapped[str]
    secrets: Mapped[list[str]]
    event_types: Mapped[list[str]] = mapped_column(comment="empty: all")
    failing_since: Mapped[datetime | None]
    paused_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]


class Delivery(_Identified, Row):
    """One event on its way to one endpoint."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "endpoint_id"),
        Index("ix_deliveries_due", "endpoint_id", "next_attempt_at", postgresql_where="status = 'pending'"),
        Index("ix_deliveries_listed", "endpoint_id", "id"),
    )

    event_id: Mapped[UUID] = mapped_column(ForeignKey(Event.id))
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey(Endpoint.id))
    status: Mapped[DeliveryStatus] = mapped_column(server_default=DeliveryStatus.PENDING)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    offered_until: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]

    event: Mapped[Event] = relationship()
    endpoint: Mapped[Endpoint] = relationship()


class DeliveryAttempt(_Identified, Row):
    """The delivery log: what the endpoint answered, or why it could not be reached."""

    __tablename__ = "delivery_attempts"

    delivery_id: Mapped[UUID] = mapped_column(ForeignKey(Delivery.id), index=True)
    attempt: Mapped[int]
    response_status: Mapped[int | None]
    response_excerpt: Mapped[str | None]
    error: Mapped[str | None]
    elapsed_ms: Mapped[int]


RUN_LIVE = "status IN ('asked', 'running')"


class TrainingRun(_Identified, Row):
    """One try to make a better model of what was reviewed (moderation/retraining/runs.py). At most one is live.

    `night` is the local date that beat asked for it on, once. `lease_until` and `fence` are its worker's, as with
    cases; `attempts` counts workers that took it and died. `progress`: update, updates, loss, and seconds left of the
    training. `numbers` is whatever the stages measured, by stage. `outcome` and `reasons` are the gate's, `reason` says
    why a run ended without one. `model_version_id` is the version that came of it. `upkeep_at`: from then on somebody
    is to measure the panel and to clear up, in `upkeep_attempts`; `panel_note` says why nothing was measured.
    """

    __tablename__ = "training_runs"
    __table_args__ = (
        Index("uq_training_runs_live", text("(true)"), unique=True, postgresql_where=RUN_LIVE),
        UniqueConstraint("night"),
    )

    status: Mapped[RunStatus]
    stage: Mapped[RunStage | None]
    asked_by: Mapped[str]
    night: Mapped[date | None]
    lease_until: Mapped[datetime | None]
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    heartbeat_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_requested_by: Mapped[str | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    snapshot_key: Mapped[str | None]
    snapshot_digest: Mapped[str | None] = mapped_column(index=True)
    base: Mapped[str | None]
    configuration: Mapped[dict[str, Any] | None]
    progress: Mapped[dict[str, Any] | None]
    numbers: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    outcome: Mapped[GateOutcome | None]
    reasons: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    reason: Mapped[str | None]
    model_version_id: Mapped[UUID | None] = mapped_column(ForeignKey(ModelVersion.id))
    upkeep_at: Mapped[datetime | None]
    upkeep_attempts: Mapped[int] = mapped_column(server_default=text("0"))
    panel_note: Mapped[str | None]


class PanelMeasurement(_Identified, Row):
    """The champion on one of the panel's sets, after one run (moderation/retraining/panel.py).

    `value` with its 95 % interval is balanced accuracy, of audits the share of decisions that were right; None where
    there were too few images, which `note` says. `change` since `before` with its interval is on the images that
    `reference_id` has too. `scores`: of each image its sha256, group, whether it is fake, logit and p_fake.
    """

    __tablename__ = "panel_measurements"
    __table_args__ = (UniqueConstraint("run_id", "measured"),)

    run_id: Mapped[UUID] = mapped_column(ForeignKey(TrainingRun.id))
    model_version_id: Mapped[UUID] = mapped_column(ForeignKey(ModelVersion.id))
    measured: Mapped[PanelSet]
    images: Mapped[int]
    value: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
    auc: Mapped[float | None]
    reference_id: Mapped[UUID | None] = mapped_column(ForeignKey("panel_measurements.id"))
    before: Mapped[float | None]
    change: Mapped[float | None]
    change_low: Mapped[float | None]
    change_high: Mapped[float | None]
    margin: Mapped[float]
    drifted: Mapped[bool]
    note: Mapped[str | None]
    scores: Mapped[list[list[Any]] | None] = mapped_column(JSONB(none_as_null=True), deferred=True)

    model_version: Mapped[ModelVersion] = relationship()


class TrainingExample(Row):
    """Which case was what in which run. It stays when the image is erased: an id and a hash, never bytes."""

    __tablename__ = "training_examples"
    __table_args__ = (Index("ix_training_examples_sha256", "sha256"),)

    run_id: Mapped[UUID] = mapped_column(ForeignKey(TrainingRun.id, ondelete="CASCADE"), primary_key=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey(Case.id), primary_key=True, index=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id), index=True)
    image_id: Mapped[UUID] = mapped_column(ForeignKey(Image.id), index=True)
    sha256: Mapped[str]
    cluster: Mapped[str]
    split: Mapped[Split]
