"""Fixtures for tests across processes: a champion, a tenant, and a stage to start the service's processes on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Engine, select

from moderation import images, model_versions, submissions, tenants
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.submissions import Request
from moderation.tables import Case
from moderation.vocabulary import CaseStatus, Priority
from tests.e2e.processes import Stage
from tests.forked import Nursery

# No lease of a living worker lapses, and no call is taken for one that hangs, however slow the machine is: those of a
# worker that has died end when the test says so (tests/leases.py). Offers are repeated soon, which does no harm.
UNHURRIED = {"TELLTALE_CASE_LEASE_S": "600", "TELLTALE_OFFER_LEASE_S": "2", "TELLTALE_GPU_TIMEOUT_S": "600"}


@pytest.fixture
def champion(db: Engine) -> UUID:
    """The demo checkpoint, registered and promoted."""
    from infra.commands.models import ensure_champion

    ensure_champion(settings())
    with transaction() as session:
        version = model_versions.champion(session)
    assert version is not None
    return version.id


@pytest.fixture
def stage(
    tmp_path: Path, champion: UUID, redis_url: str, bucket: str, nursery: Nursery, request: pytest.FixtureRequest
) -> Iterator[Stage]:
    """Where a test starts processes; all of them end with it."""
    made = Stage(nursery, tmp_path, UNHURRIED | getattr(request, "param", {}))
    yield made
    made.end()


def new_tenant(name: str) -> UUID:
    """A platform with the default policy."""
    with transaction() as session:
        return tenants.create_tenant(session, name).id


def picture(seed: int, colour: tuple[int, int, int] | None = None) -> bytes:
    """A small PNG: noise that no other seed gives, or one plain colour (whose size then tells seeds apart)."""
    if colour is not None:
        image = Image.new("RGB", (96 + seed, 96), colour)
    else:
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (96, 96, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def submit(tenant_id: UUID, data: bytes, priority: Priority = Priority.NORMAL) -> UUID:
    """Submit one image the way the api does; the case's id."""
    request = Request(tenant_id=tenant_id, actor="test", request_id="test", priority=priority)
    facts = images.inspect(data, settings().max_image_pixels)
    return submissions.submit_image(request, data, facts, storage=Storage(settings()), settings=settings()).id


def case(case_id: UUID) -> Case:
    """The case as it stands now."""
    with transaction() as session:
        return session.get_one(Case, case_id)


def statuses(case_ids: list[UUID]) -> list[CaseStatus]:
    """Where each case stands now."""
    with transaction() as session:
        found = {row.id: row.status for row in session.scalars(select(Case).where(Case.id.in_(case_ids)))}
    return [found[case_id] for case_id in case_ids]


def all_in(case_ids: list[UUID], *wanted: CaseStatus) -> Callable[[], bool]:
    """A condition for `wait_for`: every case stands in one of these."""
    return lambda: set(statuses(case_ids)) <= set(wanted)
