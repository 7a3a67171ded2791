"""The heartbeat: a living worker keeps its cases through a bad moment of the database; a stopped one lets them go."""

from __future__ import annotations

import threading
import time
from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from infra.services import wait_until
from moderation import screening
from moderation.db import transaction
from moderation.leases import Lease
from moderation.settings import settings
from moderation.tables import Case
from tests import factories
from tests.leases import is_kept, lapse
from workers.heartbeat import Heartbeat


class Beats:
    """What was renewed, beat by beat."""

    def __init__(self) -> None:
        self.seen: list[set[Lease]] = []
        self.beat = threading.Event()

    def __call__(self, leases: list[Lease]) -> None:
        self.seen.append(set(leases))
        self.beat.set()

    def wait(self) -> set[Lease]:
        """The leases of a beat that begins after this call."""
        for _ in range(2):
            self.beat.clear()
            assert self.beat.wait(60)
        return self.seen[-1]


def lease() -> Lease:
    return Lease(uuid4(), 1, 1)


def test_every_lease_is_renewed_while_it_is_held_and_none_after() -> None:
    beats, first, second = Beats(), lease(), lease()
    heart = Heartbeat(beats, 0.02)
    with heart.keeping(first):
        assert beats.wait() == {first}
        with heart.keeping(second):
            assert beats.wait() == {first, second}
        assert beats.wait() == {first}
    count = len(beats.seen)
    time.sleep(0.1)
    heart.stop()
    under_way = beats.seen[count:]
    assert under_way in ([], [{first}]), "with nothing held, nothing is renewed"


def test_a_lease_is_let_go_when_its_work_fails() -> None:
    beats, one, other = Beats(), lease(), lease()
    heart = Heartbeat(beats, 0.02)
    with heart.keeping(other):
        with pytest.raises(ZeroDivisionError), heart.keeping(one):
            _ = 1 / 0
        assert beats.wait() == {other}
    heart.stop()


def test_a_stopped_heart_beats_no_more() -> None:
    beats = Beats()
    heart = Heartbeat(beats, 0.01)
    with heart.keeping(lease()):
        beats.wait()
        heart.stop()
        count = len(beats.seen)
        time.sleep(0.05)
        assert len(beats.seen) == count


def test_a_living_workers_case_is_not_offered_to_another(db: Engine) -> None:
    rules = settings().model_copy(update={"case_lease_s": 600})
    with transaction() as session:
        version = factories.make_version(session)
        case_id = factories.make_case(session, factories.make_tenant(session)).id
    job = screening.begin(case_id, version.id, rules)
    assert job is not None
    heart = Heartbeat(partial(screening.renew, settings=rules), 0.1)
    with heart.keeping(job.lease):
        lapse()
        wait_until(lambda: is_kept(case_id), "the next beat")
        assert screening.begin(case_id, version.id, rules) is None
    heart.stop()
    lapse()
    taken_over = screening.begin(case_id, version.id, rules)
    assert taken_over is not None and taken_over.lease.fence == job.lease.fence + 1


def test_a_heart_survives_a_database_that_refuses_a_beat(db: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The connection is really cut, in the middle of the first beat."""
    with transaction() as session:
        case = factories.make_case(session, factories.make_tenant(session))
        kept = factories.take_case(session, case)
    beats = 0
    recovered = threading.Event()

    def renew(leases: list[Lease]) -> None:
        nonlocal beats
        beats += 1
        if beats == 1:
            with transaction() as session:
                session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        screening.renew(leases, settings())
        recovered.set()

    heart = Heartbeat(renew, 0.05)
    with heart.keeping(kept):
        assert recovered.wait(60)
    heart.stop()
    assert "could not renew 1 leases" in caplog.text
    with transaction() as session:
        assert session.get_one(Case, case.id).lease_until is not None


def test_a_heart_survives_whatever_a_beat_raises(caplog: pytest.LogCaptureFixture) -> None:
    beats = 0
    recovered = threading.Event()

    def renew(leases: list[Lease]) -> None:
        nonlocal beats
        beats += 1
        if beats == 1:
            raise KeyError("a defect")
        recovered.set()

    heart = Heartbeat(renew, 0.02)
    with heart.keeping(lease()):
        assert recovered.wait(60)
    heart.stop()
    assert "KeyError: 'a defect'" in caplog.text
