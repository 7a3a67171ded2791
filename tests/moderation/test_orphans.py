"""Objects that no row speaks of are swept, a page at a time; what has a row, and what is young, stays."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine

from moderation import orphans
from moderation.checkpoints import PLACE
from moderation.db import new_id, transaction
from moderation.orphans import Sweep
from moderation.settings import settings
from moderation.storage import (
    Storage,
    adapter_key,
    original_key,
    rendition_key,
    snapshot_key,
    upload_key,
    view_key,
)
from moderation.tables import Image, Tenant, TrainingRun, Upload
from moderation.vocabulary import RunStatus, View
from tests.factories import make_image, make_version


@pytest.fixture
def store(db: Engine, bucket: str) -> Storage:
    """Without what other tests have left in it, whose rows are gone."""
    made = Storage(settings())
    round_of(Sweep(older_than=timedelta(0)), made)
    return made


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


def test_what_arrived_for_an_upload_whose_row_is_gone_goes(tenant: Tenant, store: Storage) -> None:
    """Its form was still good then; one that may yet be submitted stays."""
    offered, late = new_id(), new_id()
    kept = upload_key(tenant.id, offered)
    with transaction() as session:
        expires = datetime.now(UTC) + timedelta(minutes=5)
        session.add(Upload(id=offered, tenant_id=tenant.id, s3_key=kept, expires_at=expires))
    store.put(kept, b"bytes", "image/png")
    store.put(upload_key(tenant.id, late), b"bytes", "image/png")
    assert round_of(Sweep(older_than=timedelta(0)), store) == 1
    assert store.exists(kept)


def test_a_snapshot_that_no_run_has_goes(tenant: Tenant, store: Storage) -> None:
    """As a worker killed before its commit leaves it, or one that found the store away when it was to go."""
    kept, left_behind = snapshot_key("0" * 64), snapshot_key("1" * 64)
    with transaction() as session:
        session.add(TrainingRun(status=RunStatus.REJECTED, asked_by="test", snapshot_key=kept))
    for key in (kept, left_behind):
        store.put(key, b"{}", "application/json")
    assert round_of(Sweep(older_than=timedelta(0)), store) == 1
    assert store.exists(kept)


def test_an_adapter_of_no_version_or_of_one_that_was_removed_goes(tenant: Tenant, store: Storage) -> None:
    judging, removed, unknown = "1" * 64, "2" * 64, "3" * 64
    with transaction() as session:
        make_version(session).checkpoint = f"{PLACE}{judging}"
        old = make_version(session, champion=False)
        old.checkpoint, old.removed_at = f"{PLACE}{removed}", old.created_at
    for digest in (judging, removed, unknown):
        for file in ("golden/one.png", "inventory.json"):
            store.put(adapter_key(digest, file), b"bytes", "application/octet-stream")
    assert round_of(Sweep(older_than=timedelta(0)), store) == 4
    assert store.exists(adapter_key(judging, "golden/one.png"))


def test_what_is_not_named_as_ours_is_left_alone_and_counted(
    tenant: Tenant, store: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    orphan = original_key(tenant.id, new_id())
    foreign = [f"{kind.prefix}keep.txt" for kind in orphans.KINDS]
    foreign += [
        "originals/",
        f"originals/{tenant.id}/",
        f"{orphan}.bak",
        f"originals/x/{tenant.id}",
        "snapshots/1.json",
    ]
    for key in [*foreign, orphan]:
        store.put(key, b"bytes", "image/png")
    try:
        assert round_of(Sweep(older_than=timedelta(0)), store) == 1
        assert all(store.exists(key) for key in foreign)
        counted = re.findall(r"(\d+) keys are not ours", caplog.text)  # other tests may have left some too
        assert sum(map(int, counted)) >= len(foreign)
    finally:
        store.delete_all(foreign)


def test_it_begins_at_any_kind_and_some_tenant_and_comes_by_everything(
    tenant: Tenant, store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in orphans.KINDS:
        monkeypatch.setattr(orphans, "random", SimpleNamespace(choice=lambda _, kind=kind: kind))
        for key in (original_key(new_id(), new_id()), upload_key(new_id(), new_id()), snapshot_key("1" * 64)):
            store.put(key, b"bytes", "image/png")
        sweep = Sweep.anywhere()
        sweep._older_than = timedelta(0)
        assert sweep._kind is kind and not sweep.at_start
        assert round_of(sweep, store) + round_of(sweep, store) == 3
