"""Likeness: near copies are found whatever was done to them, others are not, and never another tenant's."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest
from PIL import Image as Pixels
from PIL import ImageOps
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from infra.demo.samples import samples
from moderation import erasure, likeness
from moderation.db import transaction
from moderation.fingerprints import ENOUGH, Fingerprint, fingerprint
from moderation.tables import Image, ImageHash, SimilarImage, Tenant
from moderation.vocabulary import CaseStatus
from tests.factories import make_case, make_image, make_tenant

random = np.random.default_rng(5)


def photo(number: int = 0) -> Pixels.Image:
    with Pixels.open(samples()[number].path) as opened:
        return opened.convert("RGB")


def recompressed(image: Pixels.Image) -> Pixels.Image:
    kept = BytesIO()
    image.save(kept, "JPEG", quality=40)
    return Pixels.open(kept).convert("RGB")


def apart(one: Fingerprint, other: Fingerprint) -> int:
    return int.from_bytes(one.pdq, "big").__xor__(int.from_bytes(other.pdq, "big")).bit_count()


def flipped(found: Fingerprint, *bits: int) -> Fingerprint:
    """The hash with these bits, 0 to 255, turned over."""
    changed = int.from_bytes(found.pdq, "big")
    for bit in bits:
        changed ^= 1 << bit
    return Fingerprint(changed.to_bytes(32, "big"), found.quality)


def some_hash(quality: int = 100) -> Fingerprint:
    return Fingerprint(random.bytes(32), quality)


def hashed(session: Session, image: Image, found: Fingerprint) -> None:
    row = {"pdq": found.pdq, "quality": found.quality, "bands": found.bands}
    session.add(ImageHash(image_id=image.id, tenant_id=image.tenant_id, **row))
    session.flush()


def stored(session: Session, tenant: Tenant, found: Fingerprint) -> Image:
    """An image of this hash, matched."""
    image = make_image(session, tenant)
    hashed(session, image, found)
    likeness.match(session, tenant.id, image.id, found)
    return image


def near(session: Session, image: Image) -> dict[object, int]:
    query = select(SimilarImage.other_id, SimilarImage.distance).where(SimilarImage.image_id == image.id)
    return {row.other_id: row.distance for row in session.execute(query)}


@pytest.mark.parametrize(
    "changed",
    [
        recompressed,
        lambda image: image.resize((image.width // 2, image.height // 2)),
        lambda image: image.resize((image.width * 3, image.height * 3)),
        ImageOps.grayscale,
        lambda image: image.point(lambda level: min(255, int(level * 1.15))),
    ],
)
def test_a_copy_that_was_handled_has_nearly_the_same_hash(changed: object) -> None:
    for number in range(4):
        copy = changed(photo(number)).convert("RGB")  # type: ignore[operator]
        assert apart(fingerprint(photo(number)), fingerprint(copy)) <= likeness.NEAR, samples()[number].path.name


def test_different_photographs_have_different_hashes() -> None:
    found = [fingerprint(photo(number)) for number in range(len(samples()))]
    distances = [apart(one, other) for n, one in enumerate(found) for other in found[:n]]
    assert min(distances) > likeness.NEAR and all(one.quality >= ENOUGH for one in found)


def test_a_flat_image_has_too_few_features() -> None:
    assert fingerprint(Pixels.new("RGB", (200, 100), "teal")).quality < ENOUGH
    assert fingerprint(Pixels.new("RGB", (1, 1))).bands == []


def test_every_band_knows_its_place() -> None:
    found = Fingerprint(bytes(range(32)), 100)
    assert found.bands[:2] == [0x0001, (1 << 16) | 0x0203] and found.bands[15] == (15 << 16) | 0x1E1F
    assert len(set(likeness._probes(found))) == 16 * 17


@pytest.mark.usefixtures("db")
class TestMatching:
    def test_up_to_31_bits_are_found_wherever_they_are_and_32_are_not(self) -> None:
        with transaction() as session:
            tenant = make_tenant(session)
            base = some_hash()
            image = stored(session, tenant, base)
            found = {}
            for _ in range(60):
                count = int(random.integers(1, 32))
                bits = random.choice(256, count, replace=False)
                found[stored(session, tenant, flipped(base, *map(int, bits))).id] = count
            # The hardest one: two bits in each band but one, which has one.
            spread = [band * 16 + bit for band in range(16) for bit in (0, 7)]
            found[stored(session, tenant, flipped(base, *spread[:31])).id] = 31
            too_far = stored(session, tenant, flipped(base, *spread))
            expected = dict(sorted(found.items()))
            assert dict(sorted(near(session, image).items())) == expected
            assert image.id not in near(session, too_far)

    def test_either_image_knows_of_the_other(self) -> None:
        with transaction() as session:
            tenant, base = make_tenant(session), some_hash()
            first = stored(session, tenant, base)
            second = stored(session, tenant, flipped(base, 3))
            assert (near(session, first), near(session, second)) == ({second.id: 1}, {first.id: 1})
            likeness.match(session, tenant.id, first.id, base)  # again
            assert near(session, first) == {second.id: 1}

    def test_another_tenants_images_are_never_found(self) -> None:
        with transaction() as session:
            base = some_hash()
            ours = stored(session, make_tenant(session), base)
            stored(session, make_tenant(session), base)
            assert near(session, ours) == {}

    def test_poor_hashes_are_kept_and_not_compared(self) -> None:
        with transaction() as session:
            tenant = make_tenant(session)
            poor = some_hash(quality=ENOUGH - 1)
            one, other = stored(session, tenant, poor), stored(session, tenant, poor)
            good = stored(session, tenant, Fingerprint(poor.pdq, 100))
            assert near(session, one) == near(session, other) == near(session, good) == {}
            assert session.get_one(ImageHash, one.id).pdq == poor.pdq

    def test_the_index_is_asked_and_no_row_is_read_for_nothing(self) -> None:
        with transaction() as session:
            tenant = make_tenant(session)
            for _ in range(50):
                stored(session, tenant, some_hash())
            scans = text("SELECT pg_stat_get_xact_numscans('ix_image_hashes_bands'::regclass)")
            rows = text("SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'image_hashes'")
            before = session.scalar(scans), session.scalar(rows)
            likeness.match(session, tenant.id, make_image(session, tenant).id, some_hash())
            after = session.scalar(scans), session.scalar(rows)
            assert (after[0] - before[0], after[1] - before[1]) == (1, 0)

    def test_erasure_forgets_hash_and_likeness(self) -> None:
        with transaction() as session:
            tenant, base = make_tenant(session), some_hash()
            first, second = stored(session, tenant, base), stored(session, tenant, base)
            first.provenance = {"exif": {"camera": "Box"}}
            erasure.erase(session, tenant.id, first.id, actor="test", request_id=None)
            session.expire_all()
            assert near(session, second) == {} and session.get(ImageHash, first.id) is None
            assert session.get_one(Image, first.id).provenance is None

    @pytest.mark.parametrize("erased", [0, 1])
    def test_what_is_erased_before_it_is_matched_stays_forgotten(self, erased: int) -> None:
        base = some_hash()
        with transaction() as session:
            tenant = make_tenant(session)
            images = [make_image(session, tenant) for _ in range(2)]
            for image in images:
                hashed(session, image, base)
        with transaction() as session:
            # As when the search has found it, and it is erased only then: its hash is still there.
            session.get_one(Image, images[erased].id).erased_at = datetime.now(UTC)
        with transaction() as session:
            assert likeness.match(session, tenant.id, images[0].id, base) == 0
            assert session.scalars(select(SimilarImage)).all() == []

    def test_nothing_is_erased_while_it_is_matched(self) -> None:
        base = some_hash()
        with transaction() as session:
            tenant = make_tenant(session)
            first, second = stored(session, tenant, base), make_image(session, tenant)
            hashed(session, second, base)
        with transaction() as session:
            assert likeness.match(session, tenant.id, second.id, base) == 1
            with pytest.raises(OperationalError, match="lock timeout"), transaction() as other:
                other.execute(text("SET LOCAL lock_timeout = '100ms'"))
                erasure.erase(other, tenant.id, first.id, actor="test", request_id=None)


@pytest.mark.usefixtures("db")
class TestOthers:
    def test_the_same_image_comes_first_then_similar_ones_each_newest_first(self) -> None:
        with transaction() as session:
            tenant, base = make_tenant(session), some_hash()
            same, like = stored(session, tenant, base), stored(session, tenant, flipped(base, 1, 2))
            likes = [make_case(session, tenant, CaseStatus.QUEUED, image=like).id for _ in range(2)]
            earlier = [make_case(session, tenant, CaseStatus.QUEUED, image=same).id for _ in range(2)]
            make_case(session, tenant, CaseStatus.QUEUED)
            case = make_case(session, tenant, CaseStatus.QUEUED, image=same)
            found = likeness.others(session, case, restricted=True)
            assert [other.case.id for other in found] == [*reversed(earlier), *reversed(likes)]
            assert [(other.same, other.distance) for other in found] == [(True, 0), (True, 0), (False, 2), (False, 2)]

    def test_restricted_ones_only_where_they_are_asked_for(self) -> None:
        with transaction() as session:
            tenant = make_tenant(session)
            image = stored(session, tenant, some_hash())
            hidden = make_case(session, tenant, CaseStatus.QUEUED, image=image)
            hidden.restricted = True
            case = make_case(session, tenant, CaseStatus.QUEUED, image=image)
            session.flush()
            assert likeness.others(session, case, restricted=False) == []
            assert [other.case.id for other in likeness.others(session, case, restricted=True)] == [hidden.id]

    def test_a_case_without_an_image_has_none(self) -> None:
        with transaction() as session:
            case = make_case(session, make_tenant(session), CaseStatus.FETCHING)
            assert likeness.others(session, case, restricted=True) == ()
