"""Which model versions there are, and which one is champion.

A manifest is stored as the JSON its checkpoint came with; this module does not load checkpoints.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from moderation import webhooks
from moderation.errors import Conflict, NotFound
from moderation.tables import ModelVersion
from moderation.vocabulary import EventType, ModelStage


def register(session: Session, *, checkpoint: str, manifest: dict[str, Any], digest: str) -> ModelVersion:
    """Store a version as challenger; the same manifest again is the same version.

    Raises Conflict where another manifest has this name.
    """
    name = manifest["name"]
    known = session.scalar(select(ModelVersion).where(ModelVersion.digest == digest))
    if known is not None:
        known.checkpoint = checkpoint
        return known
    if session.scalar(select(ModelVersion.id).where(ModelVersion.name == name)):
        raise Conflict(f"There is another model version named {name}; give this one a name of its own with --name.")
    version = ModelVersion(
        name=name, checkpoint=checkpoint, digest=digest, manifest=manifest, stage=ModelStage.CHALLENGER
    )
    session.add(version)
    session.flush()
    return version


def champion(session: Session) -> ModelVersion | None:
    """The version that judges, if any."""
    return session.scalar(select(ModelVersion).where(ModelVersion.stage == ModelStage.CHAMPION))


def versions(session: Session) -> list[ModelVersion]:
    """All of them, newest first."""
    return list(session.scalars(select(ModelVersion).order_by(ModelVersion.id.desc())))


def version_named(session: Session, name: str) -> ModelVersion:
    """Raises NotFound."""
    version = session.scalar(select(ModelVersion).where(ModelVersion.name == name))
    if version is None:
        raise NotFound(f"There is no model version {name!r}; `telltale models list` shows them.")
    return version


def promote(session: Session, version_id: UUID, *, actor: str) -> ModelVersion:
    """Make a version champion and retire the one that was; promoting the champion changes nothing. Raises NotFound."""
    # All of them, so that of two promotions at once the second sees what the first did.
    everything = select(ModelVersion).order_by(ModelVersion.id).with_for_update()
    versions = session.scalars(everything, execution_options={"populate_existing": True}).all()
    version = next((version for version in versions if version.id == version_id), None)
    if version is None:
        raise NotFound(f"There is no model version {version_id}; `telltale models list` shows them.")
    before = champion(session)
    if before is not None and before.id == version.id:
        return version
    session.execute(
        update(ModelVersion).where(ModelVersion.stage == ModelStage.CHAMPION).values(stage=ModelStage.RETIRED)
    )
    version.stage = ModelStage.CHAMPION
    version.promoted_at = datetime.now(UTC)
    session.flush()
    webhooks.record(
        session,
        EventType.MODEL_PROMOTED,
        tenant_id=None,
        actor=actor,
        before={"version": before.name} if before else None,
        after={"version": version.name},
        data={"version": version.name, "kind": version.manifest["kind"]},
    )
    return version
