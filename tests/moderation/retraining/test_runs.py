"""Runs: one at a time whoever asks, under a lease, cancelled, released, lost; who has lost it can write nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, func, select, update

from moderation.db import new_id, transaction
from moderation.errors import Conflict, LostLease, NotFound
from moderation.retraining import runs
from moderation.retraining.runs import Lease
from moderation.tables import Event, TrainingRun
from moderation.vocabulary import EventType, RunStage, RunStatus

LEASE = timedelta(seconds=60)
TONIGHT = date(2026, 11, 1)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(autouse=True)
def _(db: Engine) -> None:
    """Every test has the database to itself."""


def ask(night: date | None = None) -> UUID:
    with transaction() as session:
        return runs.ask(session, actor="test", night=night).id


def take() -> Lease | None:
    with transaction() as session:
        return runs.take(session, LEASE)


def taken() -> Lease:
    lease = take()
    assert lease is not None
    return lease


def run_of(run_id: UUID) -> TrainingRun:
    with transaction() as session:
        return runs.run_of(session, run_id)


def lapse(run_id: UUID) -> None:
    """The run's worker has not been heard of."""
    with transaction() as session:
        session.execute(
            update(TrainingRun).where(TrainingRun.id == run_id).values(lease_until=func.now() - timedelta(minutes=1))
        )


def events() -> list[tuple[EventType, str]]:
    with transaction() as session:
        return [(each.type, each.actor) for each in session.scalars(select(Event).order_by(Event.id))]


def test_a_run_goes_from_asked_to_its_end_and_says_so() -> None:
    run_id = ask()
    lease = taken()
    assert lease == Lease(run_id, 1)
    assert run_of(run_id).status is RunStatus.RUNNING
    with transaction() as session:
        runs.enter(session, lease, RunStage.SPLIT)
        runs.note(session, lease, RunStage.SPLIT, {"images": 3})
        runs.note(session, lease, RunStage.SPLIT, {"images": 4})
        runs.end(session, lease, RunStatus.SKIPPED, "Nobody has reviewed anything.")
    run = run_of(run_id)
    assert (run.status, run.stage, run.numbers) == (RunStatus.SKIPPED, RunStage.SPLIT, {"split": {"images": 4}})
    assert run.reason == "Nobody has reviewed anything."
    assert run.lease_until is None and run.ended_at is not None
    assert events() == [
        (EventType.RUN_ASKED, "test"),
        (EventType.RUN_STARTED, "retraining"),
        (EventType.RUN_ENDED, "retraining"),
    ]


def test_while_a_run_is_live_who_asks_gets_that_one() -> None:
    run_id = ask()
    assert ask() == run_id
    taken()
    assert ask() == run_id
    assert take() is None


def test_two_schedulers_at_once_make_one_run() -> None:
    def beat(_: int) -> UUID:
        with transaction() as session:
            return runs.ask_for_the_night(session, BERLIN, 2).id

    with ThreadPoolExecutor(8) as schedulers:
        asked = set(schedulers.map(beat, range(24)))
    assert len(asked) == 1
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(TrainingRun)) == 1
    assert [type_ for type_, _ in events()] == [EventType.RUN_ASKED]


@pytest.mark.parametrize(
    ("now", "hour", "night"),
    [
        (datetime(2026, 11, 23, 2, 0), 2, 23),
        (datetime(2026, 11, 24, 1, 59), 2, 23),  # the worker was away for nearly a day
        (datetime(2026, 11, 23, 23, 0), 23, 23),
        (datetime(2026, 11, 24, 0, 10), 23, 23),  # and here for an hour
        (datetime(2026, 11, 24, 0, 0), 0, 24),
        (datetime(2026, 3, 29, 3, 0, tzinfo=BERLIN), 2, 29),  # 2:00 was not, for it was 3:00
        (datetime(2026, 10, 25, 2, 0, tzinfo=BERLIN, fold=1), 2, 25),  # 2:00 for the second time
    ],
)
def test_a_night_begins_at_its_hour_and_goes_on_after_midnight(now: datetime, hour: int, night: int) -> None:
    assert runs.night_of(now, hour).day == night


def test_a_night_has_one_run_even_when_that_has_ended() -> None:
    run_id = ask(TONIGHT)
    lease = taken()
    with transaction() as session:
        runs.end(session, lease, RunStatus.REJECTED)
    assert ask(TONIGHT) == run_id
    assert take() is None
    assert ask(TONIGHT + timedelta(days=1)) != run_id


def test_two_workers_at_once_take_it_once() -> None:
    ask()
    with ThreadPoolExecutor(8) as workers:
        leases = list(workers.map(lambda _: take(), range(8)))
    assert sum(lease is not None for lease in leases) == 1


def test_a_dead_run_is_gone_on_with_by_the_next_worker_and_the_old_one_can_write_nothing() -> None:
    run_id = ask()
    old = taken()
    lapse(run_id)
    new = taken()
    assert (new.run_id, new.fence) == (run_id, 2)
    for attempt in (
        lambda session: runs.renew(session, old, LEASE),
        lambda session: runs.enter(session, old, RunStage.GATE),
        lambda session: runs.note(session, old, RunStage.GATE, {}),
        lambda session: runs.release(session, old),
        lambda session: runs.end(session, old, RunStatus.PROMOTED),
    ):
        with pytest.raises(LostLease), transaction() as session:
            attempt(session)
    assert run_of(run_id).status is RunStatus.RUNNING


def test_a_dead_run_that_nobody_went_on_with_is_lost_once_somebody_asks_for_the_next() -> None:
    dead = ask()
    old = taken()
    lapse(dead)
    following = ask()
    assert following != dead
    assert (run_of(dead).status, run_of(dead).reason) == (
        RunStatus.LOST,
        "Its worker died, and no other went on with it.",
    )
    with pytest.raises(LostLease), transaction() as session:
        runs.renew(session, old, LEASE)


def test_a_run_that_cost_three_workers_is_lost() -> None:
    run_id = ask()
    for _ in range(runs.ATTEMPTS):
        taken()
        lapse(run_id)
    assert take() is None
    assert run_of(run_id).status is RunStatus.LOST


def test_a_run_that_is_given_back_is_taken_at_once_and_has_cost_nobody() -> None:
    run_id = ask()
    for _ in range(2 * runs.ATTEMPTS):
        lease = taken()
        with transaction() as session:
            runs.release(session, lease)
    assert run_of(run_id).attempts == 0


def test_renewing_keeps_the_lease_and_tells_of_a_cancellation() -> None:
    run_id = ask()
    lease = taken()
    lapse(run_id)
    with transaction() as session:
        assert runs.renew(session, lease, LEASE) is False
    assert take() is None
    with transaction() as session:
        runs.cancel(session, run_id, actor="user:1")
    with transaction() as session:
        assert runs.renew(session, lease, LEASE) is True
    assert run_of(run_id).cancel_requested_by == "user:1"


def test_what_nobody_has_taken_is_cancelled_at_once() -> None:
    run_id = ask()
    with transaction() as session:
        runs.cancel(session, run_id, actor="user:1")
    assert run_of(run_id).status is RunStatus.CANCELLED
    assert take() is None
    with pytest.raises(Conflict, match="it is cancelled"), transaction() as session:
        runs.cancel(session, run_id, actor="user:1")


def test_a_dead_run_that_was_to_be_cancelled_is() -> None:
    run_id = ask()
    taken()
    with transaction() as session:
        runs.cancel(session, run_id, actor="user:1")
    lapse(run_id)
    assert take() is None
    assert run_of(run_id).status is RunStatus.CANCELLED


@pytest.mark.parametrize("word", [RunStatus.PROMOTED, RunStatus.REJECTED])
def test_a_lead_decides_what_was_kept_for_one_and_once(word: RunStatus) -> None:
    run_id = ask()
    lease = taken()
    with pytest.raises(Conflict, match="The run is running"), transaction() as session:
        runs.decide(session, run_id, word, actor="user:1")
    with transaction() as session:
        runs.end(session, lease, RunStatus.KEPT)
    with transaction() as session:
        runs.decide(session, run_id, word, actor="user:1")
    assert run_of(run_id).status is word
    with pytest.raises(Conflict), transaction() as session:
        runs.decide(session, run_id, word, actor="user:1")


def test_a_run_is_found_by_its_id_and_by_its_snapshot() -> None:
    run_id = ask()
    with transaction() as session:
        runs.run_of(session, run_id).snapshot_digest = "ab" * 32
    with transaction() as session:
        for what in (str(run_id), "ab" * 32):
            found = runs.find(session, what)
            assert found is not None and found.id == run_id
        assert runs.find(session, "cd" * 32) is None
        assert runs.find(session, str(new_id())) is None
    with pytest.raises(NotFound), transaction() as session:
        runs.run_of(session, new_id())
