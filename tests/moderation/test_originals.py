"""Originals on a real store: bytes once per tenant, as sent, erased when asked, and never half there."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from uuid import UUID

import numpy as np
import pytest
from PIL import Image as Picture
from sqlalchemy import select

from moderation import erasure, images, originals
from moderation.db import new_id, transaction
from moderation.errors import Conflict, NotFound, StorageUnavailable
from moderation.images import ImageFacts
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import Event, Image, Tenant
from moderation.vocabulary import EventType
from tests.conftest import ServiceRun
from tests.factories import make_tenant


def drawn(seed: int, size: int = 24) -> bytes:
    """A PNG of coloured noise; each seed makes another one."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = BytesIO()
    Picture.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def facts_of(data: bytes) -> ImageFacts:
    return images.inspect(data, settings().max_image_pixels)


@pytest.fixture(scope="module")
def store(services: ServiceRun) -> Storage:
    return Storage(settings())


def kept(store: Storage, tenant: Tenant, data: bytes) -> Image:
    """The way submissions go: bytes to the store, then the row, then what is left over goes."""
    original = originals.keep(store, tenant.id, data, facts_of(data))
    with transaction() as session:
        image = originals.attach(session, original)
    originals.discard_duplicate(store, original, image)
    return image


def erase(tenant: Tenant, image: Image) -> Image:
    with transaction() as session:
        return erasure.erase(session, tenant.id, image.id, actor="api_key:x", request_id="r1")


def images_of(tenant: Tenant) -> list[Image]:
    with transaction() as session:
        return list(session.scalars(select(Image).where(Image.tenant_id == tenant.id).order_by(Image.id)))


def stored_under(store: Storage, prefix: str) -> set[str]:
    """The keys that the bucket really holds."""
    answer = store._client.list_objects_v2(Bucket=settings().s3_bucket, Prefix=prefix)
    return {entry["Key"] for entry in answer.get("Contents", [])}


def test_bytes_are_kept_as_they_were_sent(store: Storage, tenant: Tenant) -> None:
    data = drawn(1)
    image = kept(store, tenant, data)
    assert store.get(image.s3_key, max_bytes=10**6) == data
    assert (image.sha256, image.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (image.media_type, image.width, image.height, image.frames) == ("image/png", 24, 24, 1)


def test_the_same_bytes_again_are_one_row_and_one_object(store: Storage, tenant: Tenant) -> None:
    data = drawn(2)
    assert kept(store, tenant, data).id == kept(store, tenant, data).id
    assert len(images_of(tenant)) == 1
    assert stored_under(store, f"originals/{tenant.id}/") == {images_of(tenant)[0].s3_key}


def test_threads_that_send_the_same_bytes_make_one_row_and_one_object(store: Storage, tenant: Tenant) -> None:
    rivals = 5
    barrier = threading.Barrier(rivals, timeout=60)
    for seed in range(10, 14):
        data = drawn(seed)

        def send(_: int, data: bytes = data) -> UUID:
            barrier.wait()
            return kept(store, tenant, data).id

        with ThreadPoolExecutor(rivals) as pool:
            assert len(set(pool.map(send, range(rivals)))) == 1
    assert len(images_of(tenant)) == 4
    assert stored_under(store, f"originals/{tenant.id}/") == {image.s3_key for image in images_of(tenant)}


def test_another_tenants_same_bytes_are_another_image(store: Storage, tenant: Tenant) -> None:
    data = drawn(3)
    with transaction() as session:
        other = make_tenant(session)
    mine, theirs = kept(store, tenant, data), kept(store, other, data)
    assert mine.id != theirs.id and mine.s3_key != theirs.s3_key
    erase(tenant, mine)
    originals.purge(store, originals.doomed())
    assert not store.exists(mine.s3_key)
    assert store.get(theirs.s3_key, max_bytes=10**6) == data
    assert images_of(other)[0].erased_at is None


def test_bytes_are_in_the_store_before_any_row_speaks_of_them(tenant: Tenant) -> None:
    away = Storage(unreachable())
    data = drawn(4)
    with pytest.raises(StorageUnavailable):
        originals.keep(away, tenant.id, data, facts_of(data))
    assert images_of(tenant) == []


def unreachable() -> Settings:
    """An object store nobody listens for."""
    return settings().model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"})


# --- Erasure ---


def test_an_erased_image_is_a_tombstone_and_its_bytes_go_with_the_next_purge(store: Storage, tenant: Tenant) -> None:
    image = kept(store, tenant, drawn(5))
    erased = erase(tenant, image)
    assert erased.erased_at is not None and erased.purged_at is None
    assert originals.purge(store, originals.doomed()) == 1
    assert not store.exists(image.s3_key)
    tombstone = images_of(tenant)[0]
    assert (tombstone.sha256, tombstone.bytes) == (image.sha256, image.bytes)
    assert tombstone.purged_at is not None
    assert originals.purge(store, originals.doomed()) == 0, "purging again changes nothing"


def test_erasing_twice_is_harmless_and_one_event(store: Storage, tenant: Tenant) -> None:
    image = kept(store, tenant, drawn(6))
    assert erase(tenant, image).erased_at == erase(tenant, image).erased_at
    with transaction() as session:
        event = session.scalars(select(Event).where(Event.type == EventType.IMAGE_ERASED)).one()
    assert (event.actor, event.before, event.request_id) == ("api_key:x", None, "r1")
    assert event.after == {"image": str(image.id), "erased": True}


def test_another_tenant_can_neither_see_nor_erase_an_image(store: Storage, tenant: Tenant) -> None:
    image = kept(store, tenant, drawn(7))
    with transaction() as session:
        other = make_tenant(session)
    for image_id in (image.id, new_id()):
        with pytest.raises(NotFound, match=f"There is no image {image_id}"), transaction() as session:
            erasure.erase(session, other.id, image_id, actor="x", request_id=None)
        with pytest.raises(NotFound, match=f"There is no image {image_id}"), transaction() as session:
            originals.image_of(session, other.id, image_id)
    assert images_of(tenant)[0].erased_at is None


def test_an_erased_image_that_is_sent_again_is_a_new_one(store: Storage, tenant: Tenant) -> None:
    data = drawn(8)
    first = kept(store, tenant, data)
    erase(tenant, first)
    second = kept(store, tenant, data)
    assert second.id != first.id
    originals.purge(store, originals.doomed())
    assert store.get(second.s3_key, max_bytes=10**6) == data
    assert not store.exists(first.s3_key)


def test_an_image_erased_between_storing_and_writing_is_a_conflict_and_not_a_row_without_bytes(
    store: Storage, tenant: Tenant
) -> None:
    data = drawn(9)
    known = kept(store, tenant, data)
    original = originals.keep(store, tenant.id, data, facts_of(data))
    assert original.image_id == known.id
    erase(tenant, known)
    originals.purge(store, originals.doomed())
    with pytest.raises(Conflict, match="send it once more"), transaction() as session:
        originals.attach(session, original)
    assert [image.erased_at is None for image in images_of(tenant)] == [False]


def test_erasure_waits_for_a_submission_that_is_being_written(store: Storage, tenant: Tenant) -> None:
    """Whoever attached an image has it until the commit; erasure then finds the case too."""
    data = drawn(20)
    image = kept(store, tenant, data)
    erased = threading.Event()

    def eraser() -> None:
        erase(tenant, image)
        erased.set()

    with transaction() as session:
        originals.attach(session, originals.keep(store, tenant.id, data, facts_of(data)))
        thread = threading.Thread(target=eraser)
        thread.start()
        assert not erased.wait(0.3)
    thread.join(60)
    assert erased.is_set()


def test_a_purge_that_the_store_interrupts_goes_on_later(store: Storage, tenant: Tenant) -> None:
    image = kept(store, tenant, drawn(21))
    erase(tenant, image)
    with pytest.raises(StorageUnavailable):
        originals.purge(Storage(unreachable()), originals.doomed())
    assert images_of(tenant)[0].purged_at is None
    assert originals.purge(store, originals.doomed()) == 1
