"""While something is away, one at a time tries, nothing is tried in between, and nobody waits for long."""

from __future__ import annotations

import threading
import time

from workers.outage import Outage

AWAY = OSError("away")


def goes(outage: Outage) -> bool:
    with outage.turn() as go:
        return go


def test_where_nothing_is_away_everybody_goes_at_once() -> None:
    outage = Outage(patience_s=0)
    with outage.turn() as first, outage.turn() as second:
        assert first and second


def test_nobody_goes_before_it_is_time_and_then_one_does() -> None:
    outage = Outage(first_s=3600, patience_s=0)
    outage.met(AWAY)
    assert not goes(outage)
    outage._not_before = time.monotonic()
    with outage.turn() as tries, outage.turn() as beside:
        assert (tries, beside) == (True, False)


def test_whoever_waits_goes_when_its_time_has_come() -> None:
    outage = Outage(first_s=0.05, patience_s=5)
    outage.met(AWAY)
    assert goes(outage)


def test_each_try_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    outage = Outage(first_s=0.01, longest_s=0.04, patience_s=1)
    pauses = []
    for _ in range(5):
        with outage.turn() as go:
            assert go
            outage.met(AWAY)
            pauses.append(outage._pause_s)
    assert pauses == [0.01, 0.02, 0.04, 0.04, 0.04]


def test_those_that_were_under_way_when_it_went_count_once() -> None:
    outage = Outage(first_s=1, patience_s=0)
    with outage.turn(), outage.turn():
        outage.met(AWAY)
        outage.met(AWAY)
    assert outage._pause_s == 1


def test_once_it_is_back_everybody_who_waits_goes() -> None:
    outage = Outage(first_s=3600, patience_s=60)
    outage.met(AWAY)
    went: list[bool] = []
    waiting = [threading.Thread(target=lambda: went.append(goes(outage))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    outage.over()
    for thread in waiting:
        thread.join()
    assert went == [True] * 3


def test_a_try_that_found_nothing_to_do_leaves_it_to_the_next() -> None:
    outage = Outage(first_s=0.01, patience_s=1)
    outage.met(AWAY)
    assert goes(outage)
    assert goes(outage)
