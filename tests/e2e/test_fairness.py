"""One tenant's backfill starves nobody."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from moderation import images
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case
from moderation.vocabulary import CaseStatus, Priority
from tests.e2e.conftest import all_in, case, new_tenant, picture, submit
from tests.e2e.processes import Stage, wait_for

BACKFILL = 1000
pytestmark = pytest.mark.timeout(400)

# Images of their own, so that each is really judged, over the bytes of one.
_QUEUE = text(
    """
    WITH made AS (
        INSERT INTO images (id, tenant_id, sha256, s3_key, media_type, width, height, frames, bytes)
        SELECT gen_random_uuid(), :tenant, 'backfill-' || n, :key, 'image/png', 96, 96, 1, :size
        FROM generate_series(1, :count) AS n RETURNING id
    ), sent AS (
        INSERT INTO submissions (id, tenant_id, metadata, request_id)
        SELECT id, :tenant, '{}', 'backfill' FROM made RETURNING id
    )
    INSERT INTO cases (id, tenant_id, submission_id, image_id, status, priority)
    SELECT gen_random_uuid(), :tenant, sent.id, made.id, 'queued', 1 FROM sent JOIN made USING (id)
    """
)


def queue_backfill(tenant: UUID) -> None:
    data = picture(0)
    facts = images.inspect(data, settings().max_image_pixels)
    Storage(settings()).put("backfill", data, facts.media_type)
    with transaction(wake=True) as session:
        session.execute(_QUEUE, {"tenant": tenant, "key": "backfill", "size": len(data), "count": BACKFILL})


def settled(tenant: UUID) -> int:
    with transaction() as session:
        return session.scalar(
            select(func.count()).select_from(Case).where(Case.tenant_id == tenant, Case.settled_at.is_not(None))
        )


def test_a_thousand_queued_cases_do_not_delay_anothers_urgent_one(stage: Stage) -> None:
    crowd, guest = new_tenant("crowd"), new_tenant("guest")
    queue_backfill(crowd)
    stage.relay()
    stage.screening()
    wait_for(lambda: settled(crowd) >= 50, "the backfill getting going", stage)
    urgent = submit(guest, picture(1), Priority.URGENT)
    ahead = settled(crowd)
    wait_for(all_in([urgent], CaseStatus.DECIDED, CaseStatus.IN_REVIEW), "the urgent case", stage)
    with transaction() as session:
        overtook = session.scalar(
            select(func.count())
            .select_from(Case)
            .where(Case.tenant_id == crowd, Case.settled_at <= case(urgent).settled_at)
        )
    batches = (overtook - ahead) / settings().batch_size
    # What the worker had in flight, what it had reserved, and the relay's window were sent before it came.
    in_the_way = 2 * settings().screening_threads + settings().dispatch_window
    assert batches <= in_the_way / settings().batch_size
    assert settled(crowd) < BACKFILL
