"""Housekeeping: every chore is done, each may be repeated, and those that need no store do not wait for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select

from moderation import backlog, erasure, idempotency, retention, submissions
from moderation.db import transaction
from moderation.errors import StorageUnavailable
from moderation.retraining import tombstones
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import IdempotencyKey, Image, Tenant, Upload
from tests.factories import make_image, make_tenant
from tests.moderation.test_originals import unreachable
from workers import housekeeping


@pytest.fixture
def store(bucket: str) -> Storage:
    return Storage(settings())


@pytest.fixture
def litter(db: Engine, store: Storage) -> tuple[Tenant, Image]:
    """An erased image whose bytes are still there, an expired upload, an old answer."""
    with transaction() as session:
        tenant = make_tenant(session)
        image = make_image(session, tenant)
        erasure.erase(session, tenant.id, image.id, actor="test", request_id=None)
    store.put(image.s3_key, b"bytes", "image/png")
    upload, _ = submissions.offer_upload(tenant.id, storage=store, settings=settings())
    idempotency.begin(tenant.id, "k", "print")
    past = datetime.now(UTC) - timedelta(seconds=1)
    with transaction() as session:
        session.get_one(Upload, upload.id).expires_at = past
        session.get_one(IdempotencyKey, (tenant.id, "k")).expires_at = past
    return tenant, image


def left() -> list[int]:
    with transaction() as session:
        unpurged = session.scalar(select(func.count()).select_from(Image).where(Image.purged_at.is_(None))) or 0
        rows = [session.scalar(select(func.count()).select_from(row)) or 0 for row in (Upload, IdempotencyKey)]
        return [unpurged, *rows]


def test_all_that_is_over_is_cleaned_up_and_again_changes_nothing(litter: tuple[Tenant, Image], store: Storage) -> None:
    assert left() == [1, 1, 1]
    for _ in range(2):
        housekeeping.clean_up()
        assert left() == [0, 0, 0]
    assert not store.exists(litter[1].s3_key)


def test_while_the_store_is_away_the_other_chores_are_done(
    litter: tuple[Tenant, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(housekeeping, "settings", unreachable)
        with pytest.raises(StorageUnavailable):
            housekeeping.clean_up()
    assert left() == [1, 1, 0]
    housekeeping.clean_up()
    assert left() == [0, 0, 0]


def test_a_chore_that_fails_keeps_none_of_the_others_from_being_done_and_is_heard_of(
    litter: tuple[Tenant, Image], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    for module, name in ((backlog, "summarise"), (retention, "sweep"), (tombstones, "place")):
        monkeypatch.setattr(module, name, broken)
    with pytest.raises(RuntimeError, match="broken"):
        housekeeping.clean_up()
    assert left() == [1, 0, 0], "only the bytes wait for what knows of them"
    said = [record for record in caplog.records if record.name == housekeeping.log.name]
    failed = [record.getMessage() for record in said if record.exc_info]
    assert failed == ["queue changes taken up failed", "past their time failed", "images purged failed"]
