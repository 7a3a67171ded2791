"""Renditions and views: kept under keys of their own, made once, and gone with the image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO
from uuid import UUID

import pytest
from PIL import Image as Pixels
from sqlalchemy import Engine

from infra.demo.samples import samples
from moderation import erasure, originals, renditions, views
from moderation.db import transaction
from moderation.errors import ImageTooLarge, NotFound, StorageUnavailable
from moderation.sandbox import Sandbox
from moderation.settings import settings
from moderation.storage import Storage, rendition_key, view_key
from moderation.tables import Image
from moderation.vocabulary import View
from tests.exhibiting import exhibit
from tests.factories import make_image, make_tenant


@pytest.fixture
def store(bucket: str) -> Storage:
    return Storage(settings())


@pytest.fixture
def image_id(db: Engine) -> UUID:
    with transaction() as session:
        return make_image(session, make_tenant(session)).id


def row(image_id: UUID) -> Image:
    with transaction() as session:
        return session.get_one(Image, image_id)


def opened(data: bytes) -> Pixels.Image:
    return Pixels.open(BytesIO(data))


def test_it_is_kept_under_its_own_key_and_read_again(store: Storage, image_id: UUID) -> None:
    pixels = Pixels.new("RGB", (20, 10), "teal")
    for _ in range(2):  # a second time changes nothing
        exhibit(store, image_id, pixels)
        image = row(image_id)
        assert image.rendition_key == rendition_key(image.tenant_id, image_id) != image.s3_key
    assert opened(renditions.read(store, image)).size == (20, 10)
    assert store.head(image.rendition_key).media_type == "image/jpeg"


def test_erasure_takes_the_rendition_too(store: Storage, image_id: UUID) -> None:
    exhibit(store, image_id, Pixels.new("RGB", (20, 10)))
    image = row(image_id)
    key = rendition_key(image.tenant_id, image_id)
    with transaction() as session:
        erasure.erase(session, image.tenant_id, image_id, actor="test", request_id=None)
    with pytest.raises(NotFound):
        renditions.read(store, row(image_id))
    assert store.exists(key), "until it is purged"
    originals.purge(store, originals.doomed())
    assert not store.exists(key)
    assert row(image_id).rendition_key is None


def test_an_image_erased_while_its_rendition_was_made_keeps_none(store: Storage, image_id: UUID) -> None:
    image = row(image_id)
    with transaction() as session:
        erasure.erase(session, image.tenant_id, image_id, actor="test", request_id=None)
    originals.purge(store, originals.doomed())
    exhibit(store, image_id, Pixels.new("RGB", (20, 10)))
    assert not store.exists(rendition_key(image.tenant_id, image_id))
    assert row(image_id).rendition_key is None


def test_a_rendition_that_came_too_late_and_could_not_be_deleted_goes_with_the_next_housekeeping(
    store: Storage, image_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = row(image_id)
    with transaction() as session:
        erasure.erase(session, image.tenant_id, image_id, actor="test", request_id=None)
    originals.purge(store, originals.doomed())

    def away(self: Storage, key: str) -> None:
        raise StorageUnavailable("The object store is away.")

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "delete", away)
        with pytest.raises(StorageUnavailable):
            exhibit(store, image_id, Pixels.new("RGB", (20, 10)))
    assert store.exists(rendition_key(image.tenant_id, image_id))
    originals.purge(store, originals.doomed())
    assert not store.exists(rendition_key(image.tenant_id, image_id))


def test_there_is_none_before_it_is_made(store: Storage, image_id: UUID) -> None:
    with pytest.raises(NotFound):
        renditions.read(store, row(image_id))


@pytest.fixture(scope="module")
def studio() -> Iterator[Sandbox]:
    made = Sandbox(1, settings().decode_memory_bytes, 60)
    yield made
    made.close()


@pytest.fixture
def photograph(store: Storage, image_id: UUID) -> Image:
    """The image with the bytes of a photograph."""
    data = samples()[0].path.read_bytes()
    with transaction() as session:
        image = session.get_one(Image, image_id)
        image.bytes = len(data)
    store.put(image.s3_key, data, "image/png")
    return image


def keys(image: Image) -> list[str]:
    return [view_key(image.tenant_id, image.id, view) for view in View]


def look(store: Storage, studio: Sandbox, image: Image, view: View, max_pixels: int = 10_000_000) -> bytes:
    return renditions.read_view(store, studio, image, view, max_pixels=max_pixels)


def test_a_view_is_made_once_and_then_read(
    store: Storage, studio: Sandbox, photograph: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {view: look(store, studio, photograph, view) for view in View}
    assert len(set(made.values())) == len(View)
    monkeypatch.setattr(studio, "call", None)
    assert {view: look(store, studio, photograph, view) for view in View} == made


def test_erasure_takes_every_view_too(store: Storage, studio: Sandbox, photograph: Image) -> None:
    for view in View:
        look(store, studio, photograph, view)
    assert all(store.exists(key) for key in keys(photograph))
    with transaction() as session:
        erasure.erase(session, photograph.tenant_id, photograph.id, actor="test", request_id=None)
    with pytest.raises(NotFound):
        look(store, studio, row(photograph.id), View.NOISE)
    originals.purge(store, originals.doomed())
    assert not any(store.exists(key) for key in keys(photograph))


def test_a_view_of_an_image_that_is_erased_meanwhile_is_not_kept(
    store: Storage, studio: Sandbox, photograph: Image
) -> None:
    before = row(photograph.id)
    with transaction() as session:
        erasure.erase(session, photograph.tenant_id, photograph.id, actor="test", request_id=None)
    with pytest.raises(NotFound):
        look(store, studio, before, View.FULL)
    assert not any(store.exists(key) for key in keys(photograph))
    assert row(photograph.id).purged_at is None, "housekeeping looks again"


def at_length(data: bytes, view: View, max_pixels: int) -> bytes:
    """As views.made, were it to take a minute."""
    time.sleep(60)
    return views.made(data, view, max_pixels)


def test_what_takes_too_much_for_a_view_is_said_to_be_too_large(
    store: Storage, photograph: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImageTooLarge, match="at most 100 are accepted"):
        with_room = Sandbox(1, settings().decode_memory_bytes, 60)
        try:
            look(store, with_room, photograph, View.FULL, max_pixels=100)
        finally:
            with_room.close()
    hasty = Sandbox(1, settings().decode_memory_bytes, 0.2)
    monkeypatch.setattr(views, "made", at_length)
    try:
        with pytest.raises(ImageTooLarge, match="too large for this view"):
            look(store, hasty, photograph, View.FULL)
    finally:
        hasty.close()
    assert not any(store.exists(key) for key in keys(photograph))
