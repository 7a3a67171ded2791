"""Model versions, and what they say of images."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from moderation.tables.images import Image
from moderation.tables.row import Asked, Identified, Row
from moderation.vocabulary import Label, ModelStage


class ModelVersion(Identified, Row):
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


class Verdict(Identified, Row):
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


class Explanation(Identified, Row):
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
