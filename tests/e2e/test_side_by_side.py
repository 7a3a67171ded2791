"""Several of each: two screening workers and two relays share the work, and whichever is left does all of it."""

from __future__ import annotations

import re
from collections import Counter
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from moderation.db import transaction
from moderation.tables import Case, Event, Verdict
from moderation.vocabulary import CaseStatus, EventType
from tests.e2e.conftest import all_in, new_tenant, picture, submit
from tests.e2e.processes import Process, Stage, wait_for

JUDGED = (CaseStatus.DECIDED, CaseStatus.IN_REVIEW)
# So long that none lapses here, however slow the machine: whatever is offered twice is then a mistake.
OFFERED_ONCE = {"TELLTALE_OFFER_LEASE_S": "600"}
pytestmark = pytest.mark.timeout(400)
# What a worker's log says of each task that ended.
TASK = re.compile(r"screening\.screen ([0-9a-f-]{36})\b")


def tasks(worker: Process) -> Counter[UUID]:
    """The cases that a worker was sent, by how often."""
    return Counter(UUID(found) for found in TASK.findall(worker.output()))


def relays() -> int:
    """How many are connected."""
    with transaction() as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'telltale-relay'"
        return session.scalar(text(f"{query} AND datname = current_database()"))


@pytest.mark.parametrize("stage", [OFFERED_ONCE], indirect=True)
def test_two_workers_and_two_relays_settle_every_case_once_and_offer_none_in_vain(stage: Stage) -> None:
    tenant = new_tenant("side by side")
    cases = [submit(tenant, picture(seed)) for seed in range(30)]
    workers = [stage.screening(), stage.screening()]
    wait_for(lambda: all(" ready." in worker.output() for worker in workers), "both workers' start", stage)
    first, second = stage.relay(), stage.relay()
    wait_for(all_in(cases, *JUDGED), "every case being judged", stage)

    # One relay goes without a word, and the other does what both did.
    wait_for(lambda: relays() == 2, "both relays' start", stage)
    first.kill()
    cases += [submit(tenant, picture(seed)) for seed in range(30, 40)]
    wait_for(all_in(cases, *JUDGED), "every case being judged with one relay", stage)
    assert second.popen.poll() is None

    with transaction() as session:
        rows = session.scalars(select(Case).where(Case.id.in_(cases))).all()
        verdicts = session.scalar(select(func.count()).select_from(Verdict))
        told = session.scalars(select(Event.case_id).where(Event.type == EventType.VERDICT_COMPLETED)).all()
    assert [(row.attempts, row.fence) for row in rows] == [(1, 1)] * len(cases)
    assert verdicts == len(cases)
    assert Counter(told) == Counter(cases)
    # A worker says so a moment after the case is written.
    wait_for(lambda: sum(tasks(worker).total() for worker in workers) >= len(cases), "the workers' lines", stage)
    shares = [tasks(worker) for worker in workers]
    assert shares[0] + shares[1] == Counter(cases), "each was sent once, to one of them"
    assert min(share.total() for share in shares) > 0, "both had work"
