"""The relay's collector: one count for many who ask, and a database that is away or hangs is a number, not an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from infra.services import wait_until
from moderation import db as db_module
from moderation.db import transaction
from moderation.tables import TrainingRun
from moderation.vocabulary import CaseStatus, RunStatus
from tests.factories import make_case, make_tenant, make_version
from workers.census import Census, Kept


class Counting:
    """Reads how often it was asked; waits while the gate is shut."""

    def __init__(self) -> None:
        self.times = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, session: Session) -> int:
        self.times += 1
        assert self.gate.wait(60)
        return self.times


@pytest.fixture
def counting() -> Iterator[Counting]:
    made = Counting()
    yield made
    made.gate.set()


def samples(census: Census) -> dict[str, dict[tuple[str, ...], float]]:
    """By name, and by the values of the labels."""
    registry = CollectorRegistry()
    registry.register(census)
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_it_says_what_stands_in_the_database(db: Engine) -> None:
    with transaction() as session:
        name = make_version(session).name
        tenant = make_tenant(session, "MARKER")
        for status in (CaseStatus.QUEUED, CaseStatus.IN_REVIEW, CaseStatus.FAILED):
            make_case(session, tenant, status, external_id="MARKER", details={"category": "MARKER"})
        session.add(TrainingRun(status=RunStatus.KEPT, asked_by="test"))
    census = Census()
    wait_until(lambda: samples(census)["telltale_database_up"] == {(): 1}, "the count")
    found = samples(census)
    assert found["telltale_database_up"] == {(): 1}
    assert found["telltale_waiting"] == {("screening",): 1, ("fetching",): 0, ("delivery",): 0, ("reviews",): 1}
    assert found["telltale_review_backlog"] == {("in_review",): 1, ("appeal",): 0, ("audit_sample",): 0}
    assert found["telltale_oldest_waiting_seconds"]["delivery",] == 0
    assert found["telltale_oldest_waiting_seconds"]["screening",] > 0
    assert found["telltale_failed_cases"] == {(): 1}
    assert found["telltale_training_run"] == {(state.value,): float(state is RunStatus.KEPT) for state in RunStatus}
    assert found["telltale_champion_info"] == {(name, name, "demo"): 1}
    assert "telltale_score_drift" not in found
    assert "MARKER" not in str(found)


def test_a_database_that_is_away_is_said_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = create_engine("postgresql+psycopg://nobody:secret@127.0.0.1:9/none")
    monkeypatch.setattr(db_module, "engine", lambda: nowhere)
    assert samples(Census()) == {"telltale_database_up": {(): 0}}


def test_many_who_ask_at_once_cost_one_count(db: Engine, counting: Counting) -> None:
    kept = Kept(counting, good_for_s=600, patience_s=60)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: kept.latest(), range(40))) == [1] * 40
    assert counting.times == 1


def test_it_is_counted_anew_when_it_is_no_longer_good(db: Engine, counting: Counting) -> None:
    kept = Kept(counting, good_for_s=0, patience_s=60)
    # At least as long as it took, twenty times over, it stays; so asking once more may still give the first.
    assert kept.latest() == 1
    kept._good_until = 0
    assert kept.latest() == 2


def test_a_count_that_takes_its_time_leaves_what_was_known_for_a_while(db: Engine, counting: Counting) -> None:
    kept = Kept(counting, good_for_s=600, patience_s=0.05, stale_s=300)
    wait_until(lambda: kept.latest() == 1, "the first count")
    counting.gate.clear()
    kept._good_until = 0
    assert [kept.latest(), kept.latest()] == [1, 1]
    wait_until(lambda: counting.times == 2, "the second count's beginning")
    kept._began -= 300
    assert [kept.latest(), kept.latest()] == [None, None]
    assert counting.times == 2, "it is still being counted, and not begun anew"
    counting.gate.set()
    kept._thread.shutdown()  # the next test finds no transaction open
