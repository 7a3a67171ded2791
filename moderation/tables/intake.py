"""Where submissions come from, and what was asked for already."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from moderation.tables.accounts import Tenant
from moderation.tables.row import AsSent, Identified, Row
from moderation.vocabulary import SourceKind, SourceScheme

# Whose image it is, as its platform names them, or how that begins: an entry of an index has a limit, and webhooks and
# older submissions may say more.
MAX_SUBJECT = 255
SUBJECT = f"left(metadata ->> 'subject', {MAX_SUBJECT})"


class Source(Identified, Row):
    """How one platform's webhooks are signed, and where the images are in them.

    `secrets` and `s3_secret_key` are sealed (moderation/sealing.py); there are several secrets while one rotates.
    """

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


class Submission(Identified, Row):
    """One request, as it was sent."""

    __tablename__ = "submissions"
    __table_args__ = (
        Index(None, "tenant_id", "external_id"),
        Index(
            "ix_submissions_subject",
            "tenant_id",
            text(SUBJECT),
            postgresql_where="(metadata ->> 'subject') IS NOT NULL",
        ),
    )

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
