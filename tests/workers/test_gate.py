"""The gate: ordinary cases together, a suspect alone, and nobody for ever outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from workers.gate import Gate

WAIT_S = 60.0
# Long enough for a thread that may pass to have passed.
SOON_S = 0.1


class Room:
    """Who is inside, and what was seen while they were."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.inside = 0
        self.alone = 0
        self.most = 0
        self.met_a_suspect = False
        self._lock = threading.Lock()

    def visit(self, alone: bool, stay: Callable[[], object]) -> None:
        with self.gate.enter(alone=alone):
            with self._lock:
                self.inside += 1
                self.alone += alone
                self.most = max(self.most, self.inside)
                self.met_a_suspect |= bool(self.alone) and self.inside > 1
            stay()
            with self._lock:
                self.inside -= 1
                self.alone -= alone


def test_ordinary_cases_run_together() -> None:
    room, together = Room(), threading.Barrier(6)
    with ThreadPoolExecutor(6) as pool:
        for visit in [pool.submit(room.visit, False, lambda: together.wait(WAIT_S)) for _ in range(6)]:
            visit.result(WAIT_S)
    assert room.most == 6


def test_a_suspect_is_never_with_anybody_else() -> None:
    room = Room()
    with ThreadPoolExecutor(8) as pool:
        visits = [pool.submit(room.visit, number % 4 == 0, lambda: time.sleep(0.001)) for number in range(200)]
        for visit in visits:
            visit.result(WAIT_S)
    assert not room.met_a_suspect
    assert (room.inside, room.alone) == (0, 0)


def held(room: Room, pool: ThreadPoolExecutor, alone: bool) -> tuple[Future[None], threading.Event]:
    """Somebody inside, until the event is set."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        entered.set()
        assert leave.wait(WAIT_S)

    visit = pool.submit(room.visit, alone, stay)
    assert entered.wait(WAIT_S)
    return visit, leave


def test_while_a_suspect_waits_nobody_new_is_let_in_so_its_turn_comes() -> None:
    room = Room()
    order: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        first, leave = held(room, pool, alone=False)
        suspect = pool.submit(room.visit, True, lambda: order.append("suspect"))
        while not room.gate._suspects_waiting:
            time.sleep(0.001)
        late = pool.submit(room.visit, False, lambda: order.append("late"))
        time.sleep(SOON_S)
        assert order == []
        leave.set()
        for visit in (first, suspect, late):
            visit.result(WAIT_S)
    assert order == ["suspect", "late"]


def test_suspects_wait_for_one_another() -> None:
    room = Room()
    with ThreadPoolExecutor(4) as pool:
        first, leave = held(room, pool, alone=True)
        second = pool.submit(room.visit, True, lambda: None)
        time.sleep(SOON_S)
        assert not second.done()
        leave.set()
        first.result(WAIT_S)
        second.result(WAIT_S)
    assert room.most == 1


@pytest.mark.parametrize("alone", [True, False])
def test_whoever_fails_inside_leaves_the_gate_open(alone: bool) -> None:
    gate = Gate()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), gate.enter(alone=alone):
            _ = 1 / 0
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(Room.visit, Room(), not alone, lambda: None).result(WAIT_S) is None
    entered = threading.Event()

    def enter() -> None:
        with gate.enter(alone=not alone):
            entered.set()

    threading.Thread(target=enter, daemon=True).start()
    assert entered.wait(WAIT_S)
