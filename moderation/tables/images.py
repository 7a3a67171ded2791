"""Images, what they look like, and those that are on their way."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from moderation.tables.accounts import Tenant
from moderation.tables.row import Identified, Row


class Image(Identified, Row):
    """Bytes one tenant sent, once per sha256. After erasure the row stays as a tombstone without bytes.

    `provenance` is what the file says of where it is from: claims, not proof. `expired_at` is set where it was erased
    because its time was over, `forgotten_at` where what was said of it is gone too, as somebody asked; `purged_at` once
    the store has nothing of it any more.
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
    expired_at: Mapped[datetime | None]
    forgotten_at: Mapped[datetime | None]


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


class Upload(Identified, Row):
    """A presigned POST that was handed out; what arrives is copied to an immutable key when it is submitted.

    `image_id` is what it became, once it was submitted.
    """

    __tablename__ = "uploads"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id))
    s3_key: Mapped[str]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    image_id: Mapped[UUID | None] = mapped_column(ForeignKey(Image.id), index=True)
