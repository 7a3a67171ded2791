"""The reckoning of `make chaos` sees what it is there to see: each planted violation is named, and nothing else is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from benchmarks.chaos.faults import KILLED, PAUSED
from benchmarks.chaos.receivers import Received, Receivers
from benchmarks.chaos.reckoning import cases_of, decisions_of, ids_of, told_of
from benchmarks.chaos.storm import MOODS, QUOTA, ROUNDS, timetable
from benchmarks.chaos.stream import Shipment

ENDPOINT = "anna.steady.1"
TYPES = ("submission.accepted", "verdict.completed", "decision.created")


class World:
    """One platform's two submissions, both settled and told of, as they should be."""

    def __init__(self, folder: Path) -> None:
        self.tenant_id = uuid4()
        self.shipments = [Shipment(f"e{n}", "anna", "file", f"sha{n}", case_id=str(uuid4())) for n in range(2)]
        self.cases = [self._case(shipment) for shipment in self.shipments]
        self.events = [self._event(case.id, n, type_) for case in self.cases for n, type_ in enumerate(TYPES, 1)]
        self.verdicts: Counter[Any] = Counter({(uuid4(), uuid4()): 1})
        self.receivers = Receivers(folder / "log", seed=0)
        self.receivers.received = [self._received(event) for event in self.events]

    def _case(self, shipment: Shipment) -> SimpleNamespace:
        id_ = UUID(shipment.case_id)
        sent = {"external_id": shipment.external_id, "sha256": shipment.sha256}
        settled = {"status": "decided", "verdict_id": uuid4(), "failure_reason": None, "failure_detail": None}
        return SimpleNamespace(id=id_, tenant_id=self.tenant_id, **sent, **settled)

    def _event(self, case_id: UUID, sequence: int, type_: str) -> SimpleNamespace:
        return SimpleNamespace(id=uuid4(), tenant_id=self.tenant_id, case_id=case_id, sequence=sequence, type=type_)

    def _received(self, event: SimpleNamespace) -> Received:
        return Received(ENDPOINT, str(event.id), event.type, str(event.case_id), event.sequence, "anna", "body", 0.0)

    def violations(self) -> set[str]:
        types: dict[UUID, Counter[str]] = defaultdict(Counter)
        for event in self.events:
            types[event.case_id][event.type] += 1
        tenants = {self.tenant_id: "anna"}
        ledger: Any = SimpleNamespace(
            cases=self.cases, events=self.events, verdicts=self.verdicts, types=types, tenants=tenants
        )
        found = [
            *cases_of(self.shipments, ledger),
            *decisions_of(ledger),
            *told_of(self.shipments, ledger, self.receivers, {"anna": [ENDPOINT]}),
            *ids_of(self.receivers),
        ]
        return {violation.kind for violation in found}


def lose_a_case(world: World) -> None:
    del world.cases[0]


def leave_one_waiting(world: World) -> None:
    world.cases[0].status = "queued"


def judge_another_image(world: World) -> None:
    world.cases[0].sha256 = "another"


def open_two_cases(world: World) -> None:
    world.cases.append(world._case(replace(world.shipments[0], case_id=str(uuid4()))))


def decide_twice(world: World) -> None:
    again = world._event(world.cases[0].id, 4, "case.in_review")
    world.events.append(again)
    world.receivers.received.append(world._received(again))


def judge_twice(world: World) -> None:
    world.verdicts[next(iter(world.verdicts))] = 2


def forget_to_tell(world: World) -> None:
    del world.receivers.received[2]


def never_write_the_event(world: World) -> None:
    """Neither in the database nor told: only what the clients know shows it."""
    del world.events[0], world.receivers.received[0]


def tell_under_two_ids(world: World) -> None:
    world.receivers.received.append(replace(world.receivers.received[0], webhook_id=str(uuid4())))


def tell_with_two_bodies(world: World) -> None:
    world.receivers.received.append(replace(world.receivers.received[0], body="another"))


def tell_somebody_else(world: World) -> None:
    world.receivers.received.append(replace(world.receivers.received[0], endpoint="berta.steady.1"))


def refuse_what_is_right(world: World) -> None:
    world.shipments.append(Shipment("e2", "anna", "file", "sha2", refusal="422: no"))


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lose_a_case, "lost"),
        (leave_one_waiting, "lost"),
        (judge_another_image, "lost"),
        (open_two_cases, "accepted twice"),
        (decide_twice, "decided twice"),
        (judge_twice, "decided twice"),
        (forget_to_tell, "event missing"),
        (never_write_the_event, "event missing"),
        (tell_under_two_ids, "two ids"),
        (tell_with_two_bodies, "two bodies"),
        (tell_somebody_else, "leaked"),
        (refuse_what_is_right, "refused"),
    ],
)
def test_what_is_planted_is_found(tmp_path: Path, plant: Callable[[World], None], kind: str) -> None:
    world = World(tmp_path)
    assert world.violations() == set()
    plant(world)
    assert kind in world.violations()


def test_what_is_delivered_again_is_no_violation(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.receivers.received *= 2
    assert world.violations() == set()


@pytest.mark.parametrize("seed", range(5))
def test_every_fault_is_in_every_timetable_at_least_twice_and_the_seed_draws_it(seed: int) -> None:
    lanes = timetable(seed, 60)
    drawn = Counter((strike.fault, strike.what) for lane in lanes.values() for strike in lane)
    kinds = {
        *(("kill", program) for program in KILLED),
        *(("pause", program) for program in PAUSED),
        ("fill_quota", QUOTA),
    }
    assert kinds <= set(drawn)
    assert {what for _, what in drawn} >= set(MOODS)
    assert min(drawn.values()) >= ROUNDS
    assert timetable(seed, 60) == lanes != timetable(seed + 1, 60)
