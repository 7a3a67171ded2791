"""A snapshot divided, and what is on record of it: which case was trained on, which was measured on, in which run.

The record stays when an image is erased, as an id and a hash. It does not know how a side is chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session, aliased

from moderation.retraining import holdout
from moderation.retraining.snapshot import Example, Snapshot
from moderation.tables import Case, Image, Tenant, TrainingExample
from moderation.vocabulary import Split

AT_ONCE = 5000  # ids in one query


def divided(snapshot: Snapshot, share: float) -> dict[UUID, Split]:
    """The side of each case; a pure function of the snapshot, so that repeating it gives the same."""
    earlier = [(row.group, row.split) for row in snapshot.earlier]
    sides = holdout.assigned({example.group for example in snapshot.examples}, earlier, share)
    return {example.case: sides[example.group] for example in snapshot.examples}


def record(session: Session, run_id: UUID, snapshot: Snapshot, sides: Mapping[UUID, Split]) -> None:
    """Write down a run's examples; again replaces them."""
    session.execute(delete(TrainingExample).where(TrainingExample.run_id == run_id))
    rows = [
        {
            "run_id": run_id,
            "case_id": example.case,
            "tenant_id": example.tenant,
            "image_id": example.image,
            "sha256": example.sha256,
            "cluster": example.group,
            "split": sides[example.case],
        }
        for example in snapshot.examples
    ]
    if rows:
        session.execute(insert(TrainingExample), rows)


def counts_by_tenant(session: Session, run_id: UUID, tenant_ids: Collection[UUID]) -> dict[UUID, dict[Split, int]]:
    """How many cases of each of these tenants were on each side of a run; a tenant that had none is not there."""
    query = select(TrainingExample.tenant_id, TrainingExample.split, func.count()).where(
        TrainingExample.run_id == run_id, TrainingExample.tenant_id.in_(tenant_ids)
    )
    found: dict[UUID, dict[Split, int]] = {}
    for tenant_id, split, count in session.execute(query.group_by(TrainingExample.tenant_id, TrainingExample.split)):
        found.setdefault(tenant_id, {})[split] = count
    return found


def sides_of(session: Session, run_id: UUID) -> dict[UUID, Split]:
    """The side of each case of a run, as it is on record; empty where the run never came to its split."""
    query = select(TrainingExample.case_id, TrainingExample.split).where(TrainingExample.run_id == run_id)
    return {row.case_id: row.split for row in session.execute(query)}


def allowed_now(session: Session, examples: Sequence[Example]) -> dict[UUID, Image]:
    """The images that may still be read, by case: not erased, not restricted, their tenants still allowing training."""
    found: dict[UUID, Image] = {}
    other = aliased(Case)
    elsewhere = select(other.id).where(other.image_id == Image.id, other.restricted)
    for some in _chunks([example.case for example in examples]):
        query = select(Case, Image).join(Image, Image.id == Case.image_id).join(Tenant, Tenant.id == Case.tenant_id)
        query = query.where(Case.id.in_(some), Tenant.allow_training, Image.erased_at.is_(None), ~elsewhere.exists())
        found |= {case.id: image for case, image in session.execute(query)}
    return found


def _chunks(ids: Sequence[UUID]) -> Iterable[Sequence[UUID]]:
    return (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE))
