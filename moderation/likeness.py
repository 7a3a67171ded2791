"""Whether an image has been here before, nearly as it is: perceptual hashes, matched within one tenant.

Two images whose hashes (moderation/fingerprints.py) differ in at most NEAR bits are called similar: the number is the
paper's.

Matching asks the database for hashes of which one of sixteen 16-bit bands differs in one bit at most: where 31 bits or
fewer differ, there must be such a band, for sixteen bands with two bits each would be 32. It does not know what a
likeness means for a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, selectinload

from moderation.fingerprints import BAND_BITS, Fingerprint
from moderation.tables import Case, Image, SimilarImage

NEAR = 31  # bits of 256
MOST_SIMILAR = 100
MOST_SHOWN = 20


@dataclass(frozen=True)
class Other:
    """Another case of the same image (`distance` 0 and `same`) or of one that differs in so many bits."""

    case: Case
    same: bool
    distance: int


def match(session: Session, tenant_id: UUID, image_id: UUID, found: Fingerprint) -> int:
    """Store which of the tenant's images are similar, in either direction; how many. Doing it twice is harmless.

    In a transaction after the commit of its hash: of two images that come at the same moment, one sees the other.
    Images that were erased meanwhile are left out.
    """
    near = _near(session, tenant_id, image_id, found)
    if not near:
        return 0
    there = _there(session, [image_id, *(row.image_id for row in near)])
    kept = [row for row in near if {image_id, row.image_id} <= there]
    for row in kept:
        pair = [(image_id, row.image_id), (row.image_id, image_id)]
        rows = [{"image_id": one, "other_id": other, "distance": row.distance} for one, other in pair]
        session.execute(insert(SimilarImage).values(rows).on_conflict_do_nothing())
    return len(kept)


def _there(session: Session, ids: Sequence[UUID]) -> set[UUID]:
    """Which of these images are not erased, and are not before the transaction ends.

    Of an erased one nothing may be left that says what it is like.
    """
    query = select(Image.id).where(Image.id.in_(ids), Image.erased_at.is_(None)).order_by(Image.id)
    return set(session.scalars(query.with_for_update(read=True)))


# Bytes have no XOR in Postgres; bit strings do.
_NEAR = text(
    """
    WITH probed AS MATERIALIZED (
        SELECT image_id, tenant_id, pdq FROM image_hashes WHERE bands && CAST(:probes AS integer[])
    ), measured AS (
        SELECT image_id, bit_count(('x' || encode(pdq, 'hex'))::bit(256) # CAST(:ours AS bit(256))) AS distance
        FROM probed WHERE tenant_id = :tenant AND image_id <> :image
    )
    SELECT image_id, distance FROM measured WHERE distance <= :near ORDER BY distance, image_id LIMIT :most
    """
)


def _near(session: Session, tenant_id: UUID, image_id: UUID, found: Fingerprint) -> Sequence[Row[Any]]:
    """The nearest MOST_SIMILAR of the tenant's other images, with their distances in bits."""
    if not found.bands:
        return ()
    # The planner takes it that most arrays have one of so many words, and would compare each: 6.7 s for 100,000 rows.
    session.execute(text("SET LOCAL enable_seqscan = off"))
    ours = {"probes": _probes(found), "ours": f"x{found.pdq.hex()}", "tenant": tenant_id, "image": image_id}
    return session.execute(_NEAR, {**ours, "near": NEAR, "most": MOST_SIMILAR}).all()


def _probes(found: Fingerprint) -> list[int]:
    """Every word, in its place, that differs from the hash's in at most one bit: 16 · 17."""
    return [band ^ change for band in found.bands for change in (0, *(1 << bit for bit in range(BAND_BITS)))]


def others(session: Session, case: Case, *, restricted: bool) -> Sequence[Other]:
    """Other cases of the same image, then of similar ones, each newest first; restricted ones only where one asks."""
    if case.image_id is None:
        return ()
    near = select(SimilarImage.other_id, SimilarImage.distance).where(SimilarImage.image_id == case.image_id)
    distances: dict[UUID, int] = {other_id: distance for other_id, distance in session.execute(near)}  # noqa: C416
    distances[case.image_id] = 0
    query = select(Case).where(Case.image_id.in_(distances), Case.tenant_id == case.tenant_id, Case.id != case.id)
    if not restricted:
        query = query.where(Case.restricted.is_(False))
    is_other = (Case.image_id != case.image_id).asc()
    found = session.scalars(
        query.options(selectinload(Case.submission)).order_by(is_other, Case.id.desc()).limit(MOST_SHOWN)
    )
    return [_other(one, case, distances) for one in found]


def _other(one: Case, case: Case, distances: dict[UUID, int]) -> Other:
    assert one.image_id is not None
    return Other(one, same=one.image_id == case.image_id, distance=distances[one.image_id])
