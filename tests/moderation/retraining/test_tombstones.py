"""Tombstones: a snapshot forgets an erased image, keeps its digest, and nobody who reads it meets the image again."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import select, update

from moderation import erasure, originals
from moderation.accounts import Person
from moderation.db import transaction, turn
from moderation.errors import ConfigurationError, NotFound
from moderation.retraining import runs, snapshot, tombstones
from moderation.retraining.snapshot import Snapshot
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Image, Tenant, TrainingRun
from moderation.vocabulary import RunStatus, Split
from tests.moderation.retraining.test_snapshot import judged, reviewed, taken
from workers import housekeeping


@pytest.fixture
def store(bucket: str) -> Storage:
    return Storage(settings())


def kept(store: Storage, tenant: Tenant, found: Snapshot) -> str:
    """A run's snapshot, stored; its digest."""
    run_id = judged(tenant, found, {each.case: Split.TRAIN for each in found.examples}, RunStatus.REJECTED)
    stored = snapshot.kept(store, found)
    with transaction() as session:
        run = runs.run_of(session, run_id, lock=True)
        run.snapshot_key, run.snapshot_digest = stored.key, stored.digest
    return stored.digest


def erased(case: Case) -> Image:
    assert case.image_id is not None
    with transaction() as session:
        return erasure.erase(session, case.tenant_id, case.image_id, actor="test", request_id=None)


def test_an_example_becomes_a_tombstone_and_the_digest_stays(store: Storage, tenant: Tenant, anna: Person) -> None:
    first, second, third = (reviewed(tenant, anna) for _ in range(3))
    found = taken()
    digest = kept(store, tenant, found)
    for gone, left in ((second, [first, third]), (first, [third])):
        assert tombstones.place(store, [erased(gone)])
        now = snapshot.read(store, digest)
        assert [each.case for each in now.examples] == [case.id for case in left]
        assert now.digest() == found.digest() == digest
    assert {(stone.place, stone.case) for stone in now.tombstones} == {(0, first.id), (1, second.id)}
    assert second.image is not None and second.image.sha256 not in now.to_bytes().decode().split('"examples"')[1]
    assert snapshot.kept(store, found).digest == digest
    assert len(snapshot.read(store, digest).examples) == 1, "what is stored again is not what it was"


def test_placing_twice_changes_nothing_and_without_reviews_nothing_is_read(
    store: Storage, tenant: Tenant, anna: Person
) -> None:
    case = reviewed(tenant, anna)
    digest = kept(store, tenant, taken())
    image = erased(case)
    for _ in range(2):
        assert tombstones.place(store, [image])
    assert len(snapshot.read(store, digest).tombstones) == 1
    assert tombstones.place(store, [])


def test_a_tombstone_that_is_tampered_with_is_found(store: Storage, tenant: Tenant, anna: Person) -> None:
    case = reviewed(tenant, anna)
    digest = kept(store, tenant, taken())
    tombstones.place(store, [erased(case)])
    (stone,) = snapshot.read(store, digest).tombstones
    key = f"snapshots/{digest}.json"
    data = store.get(key, max_bytes=10**6)
    store.put(key, data.replace(stone.digest.encode(), b"0" * 64), "application/json")
    with pytest.raises(ConfigurationError, match="have been changed"):
        snapshot.read(store, digest)


def test_what_was_erased_while_a_snapshot_was_taken_is_not_in_it_for_long(
    store: Storage, tenant: Tenant, anna: Person
) -> None:
    case = reviewed(tenant, anna)
    found = taken()
    image = erased(case)
    assert tombstones.place(store, [image])  # of a snapshot that is not there yet
    digest = kept(store, tenant, found)
    assert tombstones.place_in(store, digest)
    assert snapshot.read(store, digest).examples == ()


def test_a_snapshot_nothing_can_be_taken_out_of_goes_as_a_whole(store: Storage, tenant: Tenant, anna: Person) -> None:
    case = reviewed(tenant, anna)
    digest = kept(store, tenant, taken())
    store.put(f"snapshots/{digest}.json", b'{"format": 1}', "application/json")
    assert tombstones.place(store, [erased(case)])
    with pytest.raises(NotFound):
        snapshot.read(store, digest)
    with transaction() as session:
        assert session.scalars(select(TrainingRun.snapshot_key)).all() == [None]


def test_one_at_a_time_and_the_bytes_wait_for_it(store: Storage, tenant: Tenant, anna: Person) -> None:
    case = reviewed(tenant, anna)
    digest = kept(store, tenant, taken())
    image = erased(case)
    with turn(tombstones.TOMBSTONE_LOCK):
        assert not tombstones.place(store, [image]) and not tombstones.place_in(store, digest)
        assert housekeeping._purge(store) == 0
    assert [each.id for each in originals.doomed()] == [image.id]
    assert housekeeping._purge(store) == 1 and originals.doomed() == []


def test_an_image_whose_time_is_over_goes_too(store: Storage, tenant: Tenant, anna: Person) -> None:
    case = reviewed(tenant, anna)
    digest = kept(store, tenant, taken())
    with transaction() as session:
        image = session.get_one(Image, case.image_id)
        originals.drop(session, image)
        session.execute(update(Case).where(Case.id == case.id).values(category=None))
    assert tombstones.place(store, originals.doomed())
    (stone,) = snapshot.read(store, digest).tombstones
    assert isinstance(stone.image, UUID) and stone.image == case.image_id
