"""Whether an image has been here before, nearly as it is: perceptual hashes, matched within one tenant.

PDQ (Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019) makes 256 bits of an
image, which scaling, recompression and small changes leave almost alone; two that differ in at most NEAR bits are
called similar, and a hash of a quality below ENOUGH (too few features) is not compared: both numbers are the paper's.

Matching asks the database for hashes of which one of sixteen 16-bit bands differs in one bit at most: where 31 bits or
fewer differ, there must be such a band, for sixteen bands with two bits each would be 32. It does not know what a
likeness means for a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import pdqhash
from PIL import Image as Pixels
from sqlalchemy import ColumnElement, Integer, Row, Text, cast, func, literal, select, text
from sqlalchemy.dialects.postgresql import BIT, insert
from sqlalchemy.orm import Session, selectinload

from moderation import views
from moderation.tables import Case, Image, ImageHash, SimilarImage

NEAR = 31  # bits of 256
ENOUGH = 50  # of 100
BANDS, BAND_BITS = 16, 16
# What PDQ makes smaller anyway; its filter takes a second for a large photograph, and keeps no more.
HASHED_SIDE = 512  # pixels
MOST_SIMILAR = 100
MOST_SHOWN = 20


@dataclass(frozen=True)
class Fingerprint:
    """An image's PDQ hash, 32 bytes, and its quality, 0 to 100."""

    pdq: bytes
    quality: int

    @property
    def bands(self) -> list[int]:
        """The sixteen words, each with its place, as image_hashes.bands has them; none where it is not compared."""
        if self.quality < ENOUGH:
            return []
        words = np.frombuffer(self.pdq, dtype=">u2").astype(int)
        return [place << BAND_BITS | int(word) for place, word in enumerate(words)]


@dataclass(frozen=True)
class Other:
    """Another case of the same image (`distance` 0 and `same`) or of one that differs in so many bits."""

    case: Case
    same: bool
    distance: int


def fingerprint(pixels: Pixels.Image) -> Fingerprint:
    """The hash of upright RGB pixels, which stay as they are."""
    bits, quality = pdqhash.compute(np.asarray(views.shrunk(pixels, HASHED_SIDE)))
    return Fingerprint(np.packbits(bits.astype(np.uint8)).tobytes(), int(quality))


def keep(session: Session, image: Image, found: Fingerprint) -> None:
    """Store an image's hash. Doing it twice is harmless.

    Matching is another transaction, after the commit of this one: of two images that come at the same moment, one sees
    the other.
    """
    row = {"image_id": image.id, "tenant_id": image.tenant_id, "pdq": found.pdq, "quality": found.quality}
    session.execute(insert(ImageHash).values(**row, bands=found.bands).on_conflict_do_nothing())


def match(session: Session, image: Image, found: Fingerprint) -> int:
    """Store which of the tenant's images are similar, in either direction; how many. Doing it twice is harmless.

    Images that were erased meanwhile are left out.
    """
    near = _near(session, image, found)
    there = _there(session, [image.id, *(other_id for other_id, _ in near)])
    kept = [row for row in near if {image.id, row[0]} <= there]
    for other_id, distance in kept:
        pair = [(image.id, other_id), (other_id, image.id)]
        rows = [{"image_id": one, "other_id": other, "distance": distance} for one, other in pair]
        session.execute(insert(SimilarImage).values(rows).on_conflict_do_nothing())
    return len(kept)


def _there(session: Session, ids: Sequence[UUID]) -> set[UUID]:
    """Which of these images are not erased, and are not before the transaction ends.

    Of an erased one nothing may be left that says what it is like.
    """
    query = select(Image.id).where(Image.id.in_(ids), Image.erased_at.is_(None)).order_by(Image.id)
    return set(session.scalars(query.with_for_update(read=True)))


def _near(session: Session, image: Image, found: Fingerprint) -> Sequence[Row[UUID, int]]:
    """The nearest MOST_SIMILAR of the tenant's other images, with their distances."""
    if not found.bands:
        return ()
    # The planner takes it that most arrays have one of so many words, and would compare each: 6.7 s for 100,000 rows.
    session.execute(text("SET LOCAL enable_seqscan = off"))
    probed = select(ImageHash.image_id, ImageHash.tenant_id, ImageHash.pdq)
    found_by_index = probed.where(ImageHash.bands.overlap(_probes(found))).cte().prefix_with("MATERIALIZED")
    distance = _bits_between(found_by_index.c.pdq, found.pdq)
    query = select(found_by_index.c.image_id, distance).where(
        found_by_index.c.tenant_id == image.tenant_id, found_by_index.c.image_id != image.id, distance <= NEAR
    )
    return session.execute(query.order_by(distance, found_by_index.c.image_id).limit(MOST_SIMILAR)).all()


def _bits_between(stored: ColumnElement[bytes], pdq: bytes) -> ColumnElement[int]:
    """The Hamming distance of a row's hash from this one, in SQL. Bytes have no XOR in Postgres; bit strings do."""
    theirs = cast(literal("x", Text).concat(func.encode(stored, "hex")), BIT(256))
    ours = cast(literal(f"x{pdq.hex()}", Text), BIT(256))
    return func.bit_count(theirs.op("#")(ours), type_=Integer)


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
