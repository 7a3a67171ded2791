"""Promotion and rollback under load: real workers, no case fails, and every verdict is its version's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from infra.cli import telltale
from model.checkpoint import DEMO, DEMO_FOLDER
from model.decode import to_rgb
from model.detector import Detector
from moderation import rejudging
from moderation.db import transaction
from moderation.policy import Thresholds
from moderation.tables import Case, Event, ModelVersion, Rejudging, Verdict
from moderation.vocabulary import CaseStatus, EventType, ExplainMode
from tests.e2e.conftest import all_in, case, picture, statuses, submit
from tests.e2e.processes import Stage, kept_alive, wait_for
from tests.factories import make_tenant
from tests.model import adapted

JUDGED = (CaseStatus.DECIDED, CaseStatus.IN_REVIEW)
KINDS = 6
AHEAD = 8
UNCLEAR = 0  # the kind that people are to see
BASE = "telltale-demo"
FOR_PEOPLE = Thresholds(fake_from=1, real_up_to=0, min_pair_mass=0, explain=ExplainMode.REVIEW)
# Random adapters write explanations to their limit: here only verdicts are wanted.
NO_WORDS = Thresholds(fake_from=0.5, real_up_to=0.4999, min_pair_mass=0, explain=ExplainMode.REVIEW)
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version whose answers differ from the demo model's on every image."""
    golden = sorted((DEMO_FOLDER / "golden").iterdir())[:2]
    return adapted.make(tmp_path_factory.mktemp("adapter") / "retrained", DEMO, golden, strength=0.03)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers fetch adapters below TMPDIR."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture(scope="module")
def logits(adapter: Path) -> dict[str, list[float]]:
    """What each version says of each picture, loaded alone."""
    pictures = [to_rgb(picture(kind)) for kind in range(KINDS)]
    folders = {BASE: DEMO_FOLDER, "retrained": adapter}
    found = {name: [v.logit for v in Detector.load(at, device="cpu").judge(pictures)] for name, at in folders.items()}
    differences = [abs(one - other) for one, other in zip(*found.values(), strict=True)]
    assert min(differences) > 0.05
    return found


def models(*arguments: str) -> Any:
    result = CliRunner().invoke(telltale, ["models", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class Load:
    """Keeps `AHEAD` images waiting, each of a tenant of its own, until told to stop: no machine has too much.

    At most five a second, for while a worker starts the others would take all of the machine.
    """

    def __init__(self) -> None:
        self.kinds: dict[UUID, int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._submit)
        self._thread.start()

    def _submit(self) -> None:
        while not self._stopping.wait(0.2):
            if len(self.kinds) - self.judged() >= AHEAD:
                continue
            number = len(self.kinds)
            kind = number % KINDS
            with transaction() as session:
                tenant = make_tenant(session, f"load {number}", FOR_PEOPLE if kind == UNCLEAR else NO_WORDS)
            self.kinds[submit(tenant.id, picture(kind))] = kind

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def judged(self) -> int:
        found = statuses(list(self.kinds))
        return sum(status in JUDGED for status in found)


@pytest.fixture
def load() -> Iterator[Load]:
    made = Load()
    yield made
    made.stop()


def events(type_: EventType) -> list[dict[str, Any]]:
    with transaction() as session:
        query = select(Event.after).where(Event.type == type_).order_by(Event.id)
        return [after for after in session.scalars(query) if after]


def served_by(version: str) -> list[dict[str, Any]]:
    return [one for one in events(EventType.MODEL_SWAPPED) if one["version"] == version]


def unclear_of(version: str) -> int:
    """How many cases people are to see by what this version said."""
    with transaction() as session:
        own = session.query(Case).join(Verdict, Verdict.id == Case.verdict_id).join(Verdict.model_version)
        return own.filter(Case.status == CaseStatus.IN_REVIEW, ModelVersion.name == version).count()


def more_are_judged(load: Load, count: int, stage: Stage) -> None:
    target = load.judged() + count
    wait_for(lambda: load.judged() >= target, f"{count} more verdicts", stage)


def require_verdicts_of_their_version(load: Load, logits: dict[str, list[float]]) -> set[str]:
    """Every case was judged at its first attempt, with the score of the version that its verdict names."""
    names = set()
    with transaction() as session:
        for found in session.scalars(select(Case).where(Case.id.in_(load.kinds))):
            assert (found.failure_reason, found.attempts) == (None, 1)
            assert found.verdict is not None
            name = found.verdict.model_version.name
            names.add(name)
            assert found.verdict.logit == pytest.approx(logits[name][load.kinds[found.id]], abs=0.01)
    return names


def test_promotion_rollback_and_judging_again_under_load(
    stage: Stage, load: Load, adapter: Path, logits: dict[str, list[float]]
) -> None:
    stage.relay()
    workers = [stage.screening(), stage.screening()]
    assert models("register", str(adapter))["stage"] == "challenger"
    more_are_judged(load, 8, stage)
    models("promote", "retrained", "--reason", "better on halftone")
    wait_for(lambda: len(served_by("retrained")) == 2, "both workers changing over", stage)
    more_are_judged(load, 8, stage)
    wait_for(lambda: unclear_of("retrained"), "one that people are to see", stage)
    models("rollback", "--reason", "a test")
    wait_for(lambda: len(served_by(BASE)) == 2, "both workers going back", stage)
    more_are_judged(load, 8, stage)
    load.stop()
    wait_for(all_in(list(load.kinds), *JUDGED), "every case ending", stage)
    assert require_verdicts_of_their_version(load, logits) == {BASE, "retrained"}
    assert [worker.popen.poll() for worker in workers] == [None, None], "neither has ended"
    assert events(EventType.MODEL_SWAP_REFUSED) == []
    took = {version: [one["seconds"] for one in served_by(version)] for version in ("retrained", BASE)}
    lines = [line for w in workers for line in w.output().splitlines() if "golden outputs took" in line]
    report = {"cases": len(load.kinds), "promoted_live_s": took["retrained"], "rolled_back_live_s": took[BASE]}
    print(json.dumps(report), *lines, sep="\n")  # noqa: T201 - measured times, for `pytest -s`
    promoted, back = events(EventType.MODEL_PROMOTED)[-2:]
    assert (promoted["reason"], back["reason"], back["rollback"]) == ("better on halftone", "a test", True)
    require_judged_again(load, logits, stage)


def require_judged_again(load: Load, logits: dict[str, list[float]], stage: Stage) -> None:
    """What the version that was rolled back had sent to people gets the champion's verdict beside its own."""
    models("rejudge")  # those in flight at the change have been asked for by then
    wait_for(lambda: models("rejudge") == {"cases": 0} and not waiting(), "the second verdicts", stage)
    again = 0
    with transaction() as session:
        for found in session.scalars(select(Case).where(Case.id.in_(load.kinds), Case.status == CaseStatus.IN_REVIEW)):
            assert load.kinds[found.id] == UNCLEAR
            said = {verdict.model_version.name: verdict for verdict in rejudging.verdicts_of(session, found)}
            assert said[BASE].logit == pytest.approx(logits[BASE][UNCLEAR], abs=0.01)
            assert found.verdict in said.values()
            again += found.verdict is not said[BASE]
    assert 0 < again <= len(events(EventType.CASE_REJUDGED))


def waiting() -> int:
    with transaction() as session:
        return session.query(Rejudging).count()


def test_a_worker_killed_with_an_unproven_version_on_its_network(stage: Stage, load: Load, adapter: Path) -> None:
    """It starts again with the champion, proven; its cases are judged then, and none is lost."""
    stage.relay()
    victim = stage.screening("tests.e2e.killed_in_exchange")
    more_are_judged(load, 5, stage)
    models("register", str(adapter), "--promote")
    with kept_alive(victim):
        wait_for(lambda: victim.starts > 1, "the worker being killed amid the change", stage)
        wait_for(lambda: victim.output().count(" ready.") == 2, "its second start", stage)
        load.stop()
        wait_for(all_in(list(load.kinds), *JUDGED), "every case ending", stage)
    assert victim.starts == 2
    assert "retrained is a demo model" in victim.output(), "it was loaded at the start, not put on later"
    assert max(case(case_id).attempts for case_id in load.kinds) <= 2
