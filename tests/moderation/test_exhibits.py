"""What the case page needs of an image is made once, all of it, whatever the file is like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from PIL import Image as Pixels
from sqlalchemy import func, select

from infra.demo.samples import samples
from moderation import erasure, exhibits, renditions, traits
from moderation.db import new_id, transaction
from moderation.sandbox import Sandbox, SandboxCrash
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Image, ImageHash, SimilarImage, Tenant
from moderation.vocabulary import CaseStatus
from tests.factories import make_case, make_image

DATA = samples()[0].path.read_bytes()


@pytest.fixture
def store(bucket: str) -> Storage:
    return Storage(settings())


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(1, settings().decode_memory_bytes, 60)
    yield made
    made.close()


@pytest.fixture
def make(store: Storage, sandbox: Sandbox) -> Callable[..., None]:
    def made(image_id: UUID, data: bytes = DATA, pixels: Pixels.Image | None = None) -> None:
        with transaction() as session:
            image = session.get_one(Image, image_id)
        with Pixels.open(samples()[0].path) as opened:
            found = exhibits.made_apart(sandbox, image_id, data, image.media_type, pixels or opened.convert("RGB"))
        exhibits.keep(store, image.tenant_id, image_id, found)

    return made


def new_image(tenant: Tenant) -> UUID:
    with transaction() as session:
        return make_image(session, tenant).id


def is_complete(image_id: UUID) -> bool:
    with transaction() as session:
        return exhibits.are_complete(session, session.get_one(Image, image_id))


def test_everything_is_made_and_twice_is_harmless(tenant: Tenant, make: Callable[..., None], store: Storage) -> None:
    image_id = new_image(tenant)
    assert not is_complete(image_id)
    make(image_id)
    make(image_id)
    assert is_complete(image_id)
    with transaction() as session:
        image = session.get_one(Image, image_id)
        assert renditions.read(store, image)[:2] == b"\xff\xd8" and image.provenance == {}


def test_in_the_sandbox_the_same_is_made_at_once(sandbox: Sandbox) -> None:
    with Pixels.open(samples()[0].path) as opened:
        pixels = opened.convert("RGB")
    at_once = sandbox.call(traits.of, DATA, "image/jpeg", pixels)
    assert at_once == exhibits.made_apart(sandbox, new_id(), DATA, "image/jpeg", pixels)


@pytest.mark.parametrize("lacks", ["rendition_key", "provenance", "hash"])
def test_what_is_missing_is_made(tenant: Tenant, make: Callable[..., None], lacks: str) -> None:
    with transaction() as session:
        image = make_image(session, tenant, exhibited=True)
        if lacks == "hash":
            session.delete(session.get_one(ImageHash, image.id))
        else:
            setattr(image, lacks, None)
    assert not is_complete(image.id)
    make(image.id)
    assert is_complete(image.id)


def test_the_same_picture_in_another_file_is_similar(tenant: Tenant, make: Callable[..., None]) -> None:
    one, other = new_image(tenant), new_image(tenant)
    make(one)
    make(other)
    with transaction() as session:
        assert session.scalars(select(SimilarImage.distance)).all() == [0, 0]


def test_a_file_that_kills_its_reader_is_complete_with_a_provenance_that_says_so(
    tenant: Tenant, make: Callable[..., None], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> object:
        raise SandboxCrash("It died.")

    monkeypatch.setattr(sandbox, "call", die)
    image_id = new_image(tenant)
    make(image_id)
    with transaction() as session:
        assert session.get_one(Image, image_id).provenance == {"unreadable": ["exif", "texts", "xmp", "c2pa"]}
    assert is_complete(image_id)


def test_of_an_image_that_was_erased_nothing_is_kept(tenant: Tenant, make: Callable[..., None], store: Storage) -> None:
    image_id = new_image(tenant)
    with transaction() as session:
        erasure.erase(session, tenant.id, image_id, actor="test", request_id=None)
    make(image_id)
    with transaction() as session:
        image = session.get_one(Image, image_id)
        assert image.provenance is None and image.rendition_key is None
        assert session.scalar(select(func.count()).select_from(ImageHash)) == 0


def test_lacking_are_images_of_judged_cases_only_one_page_at_a_time(tenant: Tenant) -> None:
    with transaction() as session:
        in_review, decided, waiting, erased = (make_image(session, tenant) for _ in range(4))
        whole = make_image(session, tenant, exhibited=True)
        for image in (in_review, erased, whole):
            make_case(session, tenant, CaseStatus.IN_REVIEW, image=image)
        make_case(session, tenant, CaseStatus.DECIDED, image=decided)
        make_case(session, tenant, CaseStatus.QUEUED, image=waiting)
        erasure.erase(session, tenant.id, erased.id, actor="test", request_id=None)
        found = [image.id for image in exhibits.lacking(session)]
        assert found == [in_review.id, decided.id]
        assert [image.id for image in exhibits.lacking(session, after=in_review.id)] == [decided.id]
        assert len(exhibits.lacking(session, limit=1)) == 1
