"""Renditions: what browsers are shown, made of the pixels that were judged, and gone with the image."""

from __future__ import annotations

from io import BytesIO
from uuid import UUID

import numpy as np
import pytest
from PIL import Image as Pixels
from sqlalchemy import Engine

from model.decode import to_rgb
from moderation import originals, renditions
from moderation.db import transaction
from moderation.errors import NotFound, StorageUnavailable
from moderation.settings import settings
from moderation.storage import Storage, rendition_key
from moderation.tables import Image
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


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (640, 480)), ((4096, 2048), (2048, 1024)), ((3, 6000), (1, 2048)), ((2048, 2048), (2048, 2048))],
)
def test_a_rendition_displays_and_is_no_larger_than_it_need_be(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    pixels = Pixels.new("RGB", size, "teal")
    made = opened(renditions.encoded(pixels))
    assert (made.format, made.mode, made.size) == ("JPEG", "RGB", expected)
    assert pixels.size == size, "what is judged stays as it is"


def test_sixteen_bits_turned_by_exif_come_out_as_eight_upright_and_without_metadata() -> None:
    gradient = np.linspace(0, 65535, 60 * 40, dtype=np.uint16).reshape(40, 60)
    sent = BytesIO()
    exif = Pixels.Exif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"
    Pixels.fromarray(gradient).save(sent, "PNG", exif=exif)
    made = opened(renditions.encoded(to_rgb(sent.getvalue())))
    assert made.size == (40, 60) and made.getextrema()[0][1] > 250
    assert not made.getexif() and "exif" not in made.info


def test_it_is_kept_under_its_own_key_and_read_again(store: Storage, image_id: UUID) -> None:
    pixels = Pixels.new("RGB", (20, 10), "teal")
    for _ in range(2):  # a second time changes nothing
        renditions.keep(store, image_id, pixels)
        image = row(image_id)
        assert image.rendition_key == rendition_key(image.tenant_id, image_id) != image.s3_key
    assert opened(renditions.read(store, image)).size == (20, 10)
    assert store.head(image.rendition_key).media_type == renditions.MEDIA_TYPE


def test_erasure_takes_the_rendition_too(store: Storage, image_id: UUID) -> None:
    renditions.keep(store, image_id, Pixels.new("RGB", (20, 10)))
    image = row(image_id)
    key = rendition_key(image.tenant_id, image_id)
    with transaction() as session:
        originals.erase(session, image.tenant_id, image_id, actor="test", request_id=None)
    with pytest.raises(NotFound):
        renditions.read(store, row(image_id))
    assert store.exists(key), "until it is purged"
    originals.purge(store)
    assert not store.exists(key)
    assert row(image_id).rendition_key is None


def test_an_image_erased_while_its_rendition_was_made_keeps_none(store: Storage, image_id: UUID) -> None:
    image = row(image_id)
    with transaction() as session:
        originals.erase(session, image.tenant_id, image_id, actor="test", request_id=None)
    originals.purge(store)
    renditions.keep(store, image_id, Pixels.new("RGB", (20, 10)))
    assert not store.exists(rendition_key(image.tenant_id, image_id))
    assert row(image_id).rendition_key is None


def test_a_rendition_that_came_too_late_and_could_not_be_deleted_goes_with_the_next_housekeeping(
    store: Storage, image_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = row(image_id)
    with transaction() as session:
        originals.erase(session, image.tenant_id, image_id, actor="test", request_id=None)
    originals.purge(store)

    def away(self: Storage, key: str) -> None:
        raise StorageUnavailable("The object store is away.")

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "delete", away)
        with pytest.raises(StorageUnavailable):
            renditions.keep(store, image_id, Pixels.new("RGB", (20, 10)))
    assert store.exists(rendition_key(image.tenant_id, image_id))
    originals.purge(store)
    assert not store.exists(rendition_key(image.tenant_id, image_id))


def test_there_is_none_before_it_is_made(store: Storage, image_id: UUID) -> None:
    with pytest.raises(NotFound):
        renditions.read(store, row(image_id))
