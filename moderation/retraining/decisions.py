"""What a person decides about versions and runs: promoted or rejected, and the run it came of told of it.

A version that a run was kept for is decided together with the run, in one transaction, whoever promotes it and from
where. Call these within `model_versions.changing()`. It knows no roles: who may decide is asked before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from moderation import model_versions
from moderation.errors import Conflict
from moderation.retraining import runs
from moderation.tables import ModelVersion, TrainingRun
from moderation.vocabulary import RunStatus


def promote(
    session: Session,
    version_id: UUID,
    *,
    actor: str,
    reason: str | None = None,
    instead_of: UUID | None = None,
) -> ModelVersion:
    """Make a version champion, as `model_versions.promote` does; a run that was kept for it is promoted too."""
    for run_id in session.scalars(_kept_for(version_id)).all():  # the run's row first, as its worker locks them
        runs.decide(session, run_id, RunStatus.PROMOTED, actor=actor)
    return model_versions.promote(session, version_id, actor=actor, reason=reason, instead_of=instead_of)


def promote_kept(
    session: Session, run_id: UUID, *, actor: str, reason: str | None = None, instead_of: UUID | None = None
) -> ModelVersion:
    """A lead's yes to a run that was kept. Raises NotFound, Conflict, InvalidRequest."""
    run = runs.decide(session, run_id, RunStatus.PROMOTED, actor=actor)
    if run.model_version_id is None:
        raise Conflict("No version came of this run.")
    return model_versions.promote(session, run.model_version_id, actor=actor, reason=reason, instead_of=instead_of)


def reject_kept(session: Session, run_id: UUID, *, actor: str) -> TrainingRun:
    """A lead's no. Raises NotFound, Conflict."""
    return runs.decide(session, run_id, RunStatus.REJECTED, actor=actor)


def run_by_version(session: Session, versions: Collection[ModelVersion]) -> Mapping[UUID, TrainingRun]:
    """The run that each version came of, by the version's id; versions that were registered by hand have none."""
    query = select(TrainingRun).where(TrainingRun.model_version_id.in_([version.id for version in versions]))
    return {run.model_version_id: run for run in session.scalars(query) if run.model_version_id is not None}


def _kept_for(version_id: UUID) -> Select[UUID]:
    return select(TrainingRun.id).where(
        TrainingRun.model_version_id == version_id, TrainingRun.status == RunStatus.KEPT
    )
