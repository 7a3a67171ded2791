"""Objects that no row speaks of are swept, a page at a time; what has a row, and what is young, stays."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from moderation import orphans
from moderation.db import new_id, transaction
from moderation.orphans import Sweep
from moderation.settings import settings
from moderation.storage import Storage, original_key, rendition_key, view_key
from moderation.tables import Image, Tenant
from moderation.vocabulary import View
from tests.factories import make_image, make_tenant


@pytest.fixture
def store(db: Engine, bucket: str) -> Storage:
    """Without what other tests have left in it, whose rows are gone."""
    made = Storage(settings())
    round_of(Sweep(older_than=timedelta(0)), made)
    return made


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        return make_tenant(session)


def image_with_all(store: Storage, tenant: Tenant) -> Image:
    with transaction() as session:
        image = make_image(session, tenant)
    for key in keys_of(tenant, image):
        store.put(key, b"bytes", "image/png")
    return image


def keys_of(tenant: Tenant, image: Image) -> list[str]:
    named = (tenant.id, image.id)
    return [original_key(*named), rendition_key(*named), view_key(*named, View.NOISE)]


def round_of(sweep: Sweep, store: Storage) -> int:
    swept = sweep.turn(store)
    while not sweep.at_start:
        swept += sweep.turn(store)
    return swept


def test_what_no_row_speaks_of_goes_and_the_rest_stays(
    tenant: Tenant, store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process killed between storing an image and its commit leaves it; over several pages."""
    monkeypatch.setattr(orphans, "PAGE", 2)
    kept = [image_with_all(store, tenant) for _ in range(2)]
    left_behind = [original_key(tenant.id, new_id()) for _ in range(3)]
    for key in left_behind:
        store.put(key, b"bytes", "image/png")
    assert round_of(Sweep(older_than=timedelta(0)), store) == len(left_behind)
    assert not any(store.exists(key) for key in left_behind)
    assert all(store.exists(key) for image in kept for key in keys_of(tenant, image))
    assert round_of(Sweep(older_than=timedelta(0)), store) == 0


def test_what_is_younger_than_a_day_may_still_get_its_row(tenant: Tenant, store: Storage) -> None:
    key = original_key(tenant.id, new_id())
    store.put(key, b"bytes", "image/png")
    assert round_of(Sweep(), store) == 0
    assert store.exists(key)


def test_what_was_made_of_an_image_after_it_was_erased_goes(tenant: Tenant, store: Storage) -> None:
    image = image_with_all(store, tenant)
    with transaction() as session:
        row = session.get_one(Image, image.id)
        row.erased_at = row.purged_at = row.created_at
    assert round_of(Sweep(older_than=timedelta(0)), store) == len(keys_of(tenant, image))


def test_it_begins_at_some_tenant_and_comes_by_everything(tenant: Tenant, store: Storage) -> None:
    key = original_key(new_id(), new_id())
    store.put(key, b"bytes", "image/png")
    sweep = Sweep.anywhere()
    sweep._older_than = timedelta(0)
    assert not sweep.at_start
    assert round_of(sweep, store) + round_of(sweep, store) == 1
