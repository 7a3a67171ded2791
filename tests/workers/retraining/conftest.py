"""A bench for runs: a tiny champion, reviewed pictures in a real store, and a worker whose processes run in this one.

Red pictures are fake, blue ones real, each a little different. What a run does in processes of its own is done here by
the same functions (`quick`), because starting torch takes longer than training a tiny network, or by stubs (`stubbed`)
where neither training nor judging is the subject. `tests/infra/test_commands_retrain.py` starts all of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
import yaml
from PIL import Image
from sqlalchemy import Engine, func, update

from model import adapters
from model import manifest as manifests
from model.detector import Detector
from model.evaluate import judging
from model.evaluate.texts import Nearness
from model.finetune import process as trainer
from model.finetune import results
from model.manifest import Adapter
from moderation import model_versions
from moderation.db import transaction
from moderation.retraining import examples, runs
from moderation.retraining.runs import Lease
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import Case, Tenant, TrainingRun
from moderation.vocabulary import Answer, GateOutcome, RunStage, Split
from tests.learning import make_consenting, make_picture, make_reviewed
from tests.model import finetune_records, tiny
from tests.reviewing import make_person
from workers.retraining import child, evaluation, run, stages
from workers.retraining.child import ChildFailed

LEASE = timedelta(seconds=60)
RECIPE = {
    "precision": "float32",
    "learning_rate": 0.02,
    "batch_size": 4,
    "accumulate": 1,
    "lora": {"rank": 2, "alpha": 4, "dropout": 0.0},
}


class Killed(BaseException):
    """The worker is gone between one instruction and the next: nothing is caught, nothing is cleaned up."""


def in_process(command: Sequence[str], log: Path, watch: Callable[[], None]) -> None:
    """What `child.run` does, without a process."""
    watch()
    if "--config" in command and "model.finetune" in command:
        code = trainer.main(["--config", command[-1]])
    else:
        code = evaluation.main(*command[-2:])
    watch()
    if code:
        raise ChildFailed("It was refused; standard error says why.")


@dataclass
class Bench:
    """One deployment with a champion, a tenant, and settings for its runs."""

    rules: Settings
    store: Storage
    tenant: Tenant
    cases: list[Case] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def review(self, count: int, *, shade: int = 0) -> None:
        """So many pictures more, half of them fake, each answered by one person."""
        with transaction() as session:
            person = make_person(session, self.tenant)
            for number in range(count):
                fake, tone = number % 2, 55 + 4 * number + shade
                image = make_picture(session, self.store, self.tenant, (tone, shade, 0) if fake else (0, shade, tone))
                answer = Answer.FAKE if fake else Answer.REAL
                self.cases.append(make_reviewed(session, self.tenant, person, answer, image=image))

    def ask(self) -> UUID:
        with transaction() as session:
            return runs.ask(session, actor="test").id

    def take(self) -> Lease:
        with transaction() as session:
            lease = runs.take(session, LEASE)
        assert lease is not None
        return lease

    def go(self) -> TrainingRun:
        """Ask for a run, and have a worker do it."""
        run_id = self.ask()
        return self.go_on(run_id)

    def go_on(self, run_id: UUID) -> TrainingRun:
        assert run.turn(self.store, self.rules, self.stopping)
        return self.run_of(run_id)

    def run_of(self, run_id: UUID) -> TrainingRun:
        with transaction() as session:
            return runs.run_of(session, run_id)

    def lapse(self, run_id: UUID) -> None:
        """Nobody has heard of the run's worker."""
        with transaction() as session:
            session.execute(
                update(TrainingRun)
                .where(TrainingRun.id == run_id)
                .values(lease_until=func.now() - timedelta(minutes=1))
            )

    def sides(self, run_id: UUID) -> dict[UUID, Split]:
        with transaction() as session:
            return examples.sides_of(session, run_id)

    def folder(self, run_id: UUID) -> Path:
        return self.rules.retrain_folder / str(run_id)

    def adapter(self, run_id: UUID) -> bytes:
        return (self.folder(run_id) / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def tidy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """What is done to a run's folder at its end; it is not done, so that the folder can be looked at."""
    done = run._tidy
    monkeypatch.setattr(run, "_tidy", lambda folder: None)
    return done


@pytest.fixture(scope="session")
def champion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny.save(tmp_path_factory.mktemp("retraining") / "champion")


@pytest.fixture
def bench(db: Engine, bucket: str, champion_folder: Path, tmp_path: Path) -> Bench:
    """Sixteen reviewed pictures, eight old ones to keep, eight to replay, and room for more."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    changes: dict[str, Any] = {
        "retrain_folder": tmp_path / "runs",
        "retrain_recipe": recipe,
        "retrain_min_reviews": 10,
        "retrain_holdout_share": 0.4,
        "retrain_passes": 1,
        "retrain_burst_s": 0,
        "retrain_old_set": finetune_records.write(tmp_path / "old", 8),
        "retrain_replay_set": replayed(tmp_path / "replay"),
    }
    manifest = manifests.read(champion_folder)
    with transaction() as session:
        version = model_versions.register(
            session,
            checkpoint=str(champion_folder),
            manifest=manifest.model_dump(mode="json"),
            digest=manifest.digest(),
        )
        model_versions.promote(session, version.id, actor="test")
        tenant = make_consenting(session)
    made = Bench(settings().model_copy(update=changes), Storage(settings()), tenant)
    made.review(16)
    return made


def replayed(folder: Path) -> Path:
    """Another eight pictures than the old ones: larger."""
    path = finetune_records.write(folder, 8)
    for image in (folder / "images").iterdir():
        Image.open(image).resize((44, 44)).save(image)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's processes run in this one; answers, which a tiny network never ends, are short, and not compared."""
    shipped = evaluation._shipped()[:4]
    monkeypatch.setattr(child, "run", in_process)
    monkeypatch.setattr(results, "TRIED", 0)
    monkeypatch.setattr(evaluation, "_shipped", lambda: shipped)
    monkeypatch.setattr(evaluation, "TIMES", 1)
    monkeypatch.setattr(Detector, "load", partial(Detector.load, max_new_tokens=4))
    monkeypatch.setattr(judging.texts, "compare", lambda pairs: [Nearness(0.5, 0.5) for _ in pairs])


@pytest.fixture
def stubbed(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is trained or judged: for tests of what happens around that, which the gate always rejects."""
    monkeypatch.setattr(trainer, "main", leave_adapter)
    monkeypatch.setitem(evaluation.STEPS, "judge", lambda work: (work.folder / evaluation.ROWS).mkdir(exist_ok=True))
    monkeypatch.setitem(evaluation.STEPS, "calibrate", lambda work: work.write(evaluation.CALIBRATION, {"p_fake": {}}))
    judged(monkeypatch, GateOutcome.REJECT)


def judged(monkeypatch: pytest.MonkeyPatch, outcome: GateOutcome) -> None:
    """A gate that has made up its mind: there are too few pictures here for the real one to."""

    def gate(work: evaluation.Work) -> None:
        work.write(evaluation.JUDGEMENT, {"outcome": outcome.value, "reason": "as the test says"})
        (work.folder / evaluation.REPORT).touch()

    monkeypatch.setitem(evaluation.STEPS, "gate", gate)


def leave_adapter(arguments: Sequence[str]) -> int:
    """What the trainer would leave: an adapter, another one for other rows, and a golden image that was trained on."""
    settings = yaml.safe_load(Path(arguments[-1]).read_text())
    output, rows = Path(settings["output"]), Path(settings["data"]).read_bytes()
    (output / evaluation.GOLDEN).mkdir(parents=True)
    shutil.copy(Path(settings["images"]) / json.loads(rows)[0]["image"], output / evaluation.GOLDEN)
    (output / adapters.WEIGHTS).write_bytes(hashlib.sha256(rows).digest())
    adapter = Adapter(base=settings["base"], digest="0" * 64)
    tiny.manifest().model_copy(update={"name": settings["name"], "adapter": adapter}).write(output)
    return 0


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunStage | None], None]:
    """Have the next worker killed when it has done a stage and knows of no other yet; None: let it live."""
    plain = stages.Stages._stages

    def at(stage: RunStage | None) -> None:
        def deadly(self: stages.Stages) -> Any:
            done = dict(plain(self))
            if stage is not None:
                do = done[stage]

                def die() -> None:
                    do()
                    raise Killed

                done[stage] = die
            return done

        monkeypatch.setattr(stages.Stages, "_stages", deadly)

    return at
