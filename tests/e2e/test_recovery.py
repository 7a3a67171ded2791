"""Invariants 2 to 4: processes die, the broker forgets, images kill; every accepted case still ends, once."""

from __future__ import annotations

import pytest
import redis
from sqlalchemy import func, select

from moderation.db import transaction
from moderation.tables import Event, Verdict
from moderation.vocabulary import CaseStatus, EventType, FailureReason
from tests.e2e.conftest import all_in, case, new_tenant, picture, statuses, submit
from tests.e2e.processes import COLOURS, MISBEHAVING, Stage, kept_alive, wait_for

JUDGED = (CaseStatus.DECIDED, CaseStatus.IN_REVIEW)
pytestmark = pytest.mark.timeout(400)


def events_of(case_id: object, type_: EventType) -> int:
    with transaction() as session:
        return session.scalar(
            select(func.count()).select_from(Event).where(Event.case_id == case_id, Event.type == type_)
        )


def test_a_worker_killed_in_the_middle_of_a_case_costs_time_and_nothing_else(stage: Stage) -> None:
    """Its lease really lapses."""
    slow = submit(new_tenant("killed"), picture(1, COLOURS["takes until the end"]))
    stage.relay()
    worker = stage.screening(MISBEHAVING, TELLTALE_CASE_LEASE_S="3")
    wait_for(lambda: statuses([slow]) == [CaseStatus.SCREENING], "the case being taken", stage)
    worker.kill()
    assert statuses([slow]) == [CaseStatus.SCREENING]
    stage.screening()
    wait_for(all_in([slow], *JUDGED), "the case finishing on another worker", stage)
    assert case(slow).attempts == 2
    assert events_of(slow, EventType.VERDICT_COMPLETED) == 1


def test_an_emptied_broker_loses_nothing(stage: Stage, redis_url: str) -> None:
    tenant = new_tenant("emptied")
    cases = [submit(tenant, picture(seed)) for seed in range(20)]
    stage.relay()
    client = redis.Redis.from_url(redis_url)
    wait_for(lambda: client.llen("screening") > 0, "the relay filling the queue", stage)
    client.flushdb()
    worker = stage.screening()
    wait_for(lambda: any(s in JUDGED for s in statuses(cases)), "the first case", stage)
    client.flushdb()
    wait_for(all_in(cases, *JUDGED), "every case finishing", stage)
    assert worker.popen.poll() is None
    assert [events_of(c, EventType.VERDICT_COMPLETED) for c in cases] == [1] * 20
    client.close()


def test_an_image_that_kills_its_worker_fails_alone(stage: Stage) -> None:
    tenant = new_tenant("poisoned")
    mates = [submit(tenant, picture(seed)) for seed in range(5)]
    poison = submit(tenant, picture(0, COLOURS["kills"]))
    mates += [submit(tenant, picture(seed)) for seed in range(5, 10)]
    stage.relay()
    worker = stage.screening(MISBEHAVING)
    with kept_alive(worker):
        wait_for(all_in(mates, *JUDGED), "every batch-mate getting its verdict", stage)
        wait_for(all_in([poison], CaseStatus.FAILED), "the poison failing", stage)
    assert case(poison).failure_reason is FailureReason.WORKER_LOST
    assert worker.starts == 4  # three lost attempts, and the one that buried the case
    # One crash each at most: after it, suspects ran one at a time.
    assert max(case(mate).attempts for mate in mates) <= 2
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Verdict)) == len(mates)


@pytest.mark.parametrize("stage", [{"TELLTALE_BATCH_SIZE": "1"}], indirect=True)
def test_a_worker_told_to_stop_finishes_what_it_can_and_gives_the_rest_back(stage: Stage) -> None:
    """One ends in time, and those after it do not: no attempt is lost, and no lease waited for."""
    tenant = new_tenant("told to stop")
    slow = [submit(tenant, picture(seed, COLOURS["takes until the end"])) for seed in range(3)]
    stage.relay()
    worker = stage.screening(MISBEHAVING)
    wait_for(lambda: statuses(slow) == [CaseStatus.SCREENING] * 3, "the cases being taken", stage)
    worker.popen.terminate()
    assert worker.popen.wait() == 0
    finished = [one for one in slow if case(one).status in JUDGED]
    given_back = [one for one in slow if case(one).status is CaseStatus.QUEUED]
    assert (len(finished), len(given_back)) == (1, 2)
    assert [case(one).attempts for one in finished + given_back] == [1, 0, 0]


@pytest.mark.parametrize("stage", [{"TELLTALE_CASE_ATTEMPTS": "1", "TELLTALE_GPU_TIMEOUT_S": "3"}], indirect=True)
def test_a_call_that_hangs_ends_the_worker_and_then_the_case(stage: Stage) -> None:
    hanging = submit(new_tenant("hanging"), picture(0, COLOURS["hangs"]))
    stage.relay()
    worker = stage.screening(MISBEHAVING)
    with kept_alive(worker):
        wait_for(all_in([hanging], CaseStatus.FAILED), "the case that hangs failing", stage)
    assert case(hanging).failure_reason is FailureReason.WORKER_LOST
    assert "hangs, ending this process" in worker.output()
