"""A run's stages, each of which can be done again after a kill.

    snapshot → split → download → train → evaluate → calibrate → gate → promote

What a stage found is in the run's row, in the object store, or in files of the run's folder, and what is there is not
made anew. Whatever needs a network is done by processes of their own (child.py). A worker that has lost its lease ends
those and writes nothing.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from click import ClickException
from sqlalchemy.orm import Session

from model.evaluate.records.fakeclue import LABELS
from model.gate.leaks import Fingerprint
from model.manifest import FILE_NAME, Manifest
from moderation import checkpoints, model_versions
from moderation.db import transaction
from moderation.errors import ConfigurationError
from moderation.retraining import dataset, examples, replay, runs, snapshot, tombstones
from moderation.retraining.replay import Plan
from moderation.retraining.runs import Lease
from moderation.retraining.snapshot import Example, Snapshot
from moderation.settings import Settings
from moderation.storage import Storage, report_key
from moderation.tables import ModelVersion, TrainingRun
from moderation.vocabulary import GateOutcome, Label, ReviewReason, RunStage, RunStatus, Split
from workers.retraining import child, sets, training
from workers.retraining.configuration import configured, wording
from workers.retraining.watch import Watch

log = logging.getLogger(__name__)

TURN_S = 0.5
SPARE_BYTES = 512 * 1024**2  # beside the images: an adapter, and the states of its training
IMAGES = "images"
REPLAY = "replay"  # a link to where the replay set's images are
# Files of the run's folder that evaluation.py reads and writes.
JOB, DRAFT, CONFIG, ADAPTER, ROWS = "job.json", "draft.json", "run.yaml", "adapter", "rows"
PROOF, SPEEDS, CALIBRATION, JUDGEMENT = "proof.json", "speeds.json", "calibration.json", "judgement.json"
REPORT = "report.html"
ENDS = {
    GateOutcome.PROMOTE: RunStatus.PROMOTED,
    GateOutcome.ASK: RunStatus.KEPT,
    GateOutcome.REJECT: RunStatus.REJECTED,
}


class NothingToLearn(Exception):
    """The run makes no sense tonight; the message says why."""


@dataclass(frozen=True)
class Shown:
    """One row to be trained on: a reviewed image, or one of the replay set; `record` as the trainer reads it."""

    label: Label
    record: Mapping[str, Any]


class Stages:
    """One run under a lease, from where it is to its end."""

    def __init__(self, lease: Lease, watch: Watch, store: Storage, rules: Settings) -> None:
        self._lease, self._watch, self._store, self._rules = lease, watch, store, rules
        self.folder = rules.retrain_folder.resolve() / str(lease.run_id)

    def go(self) -> None:
        """Do every stage that is not done. Raises LostLease, Cancelled, Stopping, NothingToLearn, and others."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stage, do in self._stages().items():
            self._watch.check()
            with transaction() as session:
                runs.enter(session, self._lease, stage)
            log.info("run %s: %s", self._lease.run_id, stage.value)
            do()

    def _stages(self) -> Mapping[RunStage, Callable[[], None]]:
        return {
            RunStage.SNAPSHOT: self._take_snapshot,
            RunStage.SPLIT: self._split,
            RunStage.DOWNLOAD: self._download,
            RunStage.TRAIN: self._train,
            RunStage.EVALUATE: lambda: self._step("judge"),
            RunStage.CALIBRATE: self._calibrate,
            RunStage.GATE: self._gate,
            RunStage.PROMOTE: self._promote,
        }

    def _take_snapshot(self) -> None:
        """What the run is about is written down once, and is the same however often it is begun again."""
        with transaction() as session:
            run = runs.run_of(session, self._lease.run_id)
            champion = model_versions.champion(session)
        digest = run.snapshot_digest or self._taken(run, champion)
        while not tombstones.place_in(self._store, digest):
            self._watch.check()
            time.sleep(TURN_S)

    def _taken(self, run: TrainingRun, champion: ModelVersion | None) -> str:
        if champion is None:
            raise ConfigurationError("No model version is champion: there is nothing to go on from.")
        assert run.started_at is not None
        configuration = configured(self._rules, champion, run)
        burst = timedelta(seconds=configuration["burst_s"])
        found = snapshot.taken(run.started_at, wording(champion), burst, run.id)
        stored = snapshot.kept(self._store, found)
        with transaction() as session:
            run = runs.note(
                session,
                self._lease,
                RunStage.SNAPSHOT,
                {"examples": len(found.examples), "fresh": found.fresh, "left_out": found.left_out},
            )
            run.snapshot_key, run.snapshot_digest = stored.key, stored.digest
            run.base, run.configuration = configuration["base"], configuration
        return stored.digest

    def _split(self) -> None:
        sides = examples.divided(self._snapshot, self._configuration["holdout_share"])
        counted = Counter((sides[each.case].value, each.label.value) for each in self._snapshot.examples)
        numbers = {"images": {f"{side} {label}": count for (side, label), count in sorted(counted.items())}}
        with transaction() as session:
            runs.note(session, self._lease, RunStage.SPLIT, numbers)
            examples.record(session, self._lease.run_id, self._snapshot, sides)
        least = self._configuration["min_reviews"]
        if self._snapshot.fresh < least:
            raise NothingToLearn(
                f"{self._snapshot.fresh} images have been reviewed since the last run, and {least} are needed."
            )

    def _download(self) -> None:
        sides = examples.divided(self._snapshot, self._configuration["holdout_share"])
        wanted = [each for each in self._snapshot.examples if sides[each.case] is not Split.LEFT_OUT]
        self._require_room(wanted)
        there = dataset.fetched(self._store, wanted, self._place, lambda done: self._watch.check())
        self._keep_alone(there)
        held = [each for each in there if sides[each.case] is Split.HOLDOUT]
        old = self._old_set()
        trained, known = self._unknown([each for each in there if sides[each.case] is Split.TRAIN], old)
        shown, replayed = self._shown(trained, [*map(_fingerprint, held), *old])
        _require_both([each.label for each in shown])
        self._write_held(held)
        self._write(JOB, self._job(trained, held, replayed, old))
        self._prepare([dict(each.record) for each in shown])
        # Those that were erased before this were never wanted: the snapshot has tombstones for them.
        gone = len(self._snapshot.tombstones) + len(wanted) - len(there)
        numbers = {"gone": gone, "in_old_set": known, "shown": len(shown), "replay_set": len(replayed)}
        with transaction() as session:
            runs.note(session, self._lease, RunStage.DOWNLOAD, numbers)

    def _keep_alone(self, there: Sequence[Example]) -> None:
        """Remove all other images: a worker before fetched some that have a tombstone now, or half of one."""
        kept = {self._place(each) for each in there}
        for file in (self.folder / IMAGES).glob("*"):
            if file not in kept:
                file.unlink()

    def _require_room(self, wanted: Sequence[Example]) -> None:
        """Before anything is fetched. Raises OSError as a full disk would."""
        with transaction() as session:
            allowed = examples.allowed_now(session, wanted)
        missing = {image.sha256: image.bytes for image in allowed.values()}
        needed = SPARE_BYTES + sum(missing.values())
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, and {free:,} are free", str(self.folder))

    def _old_set(self) -> list[Fingerprint]:
        """What the images of the old set are known by, under their names there; none where there is no such set."""
        place = self._configuration["old_set"]
        return sets.fingerprints(sets.measured_on(Path(place)), self._watch.check) if place else []

    def _unknown(self, trained: Sequence[Example], old: Sequence[Fingerprint]) -> tuple[list[Example], int]:
        """Those that are not in the old set, in any form, and how many are.

        Whoever sent one of its images would otherwise have every run rejected, for it would be trained on.
        """
        known = sets.near([_fingerprint(each) for each in trained], old)
        kept = [each for each in trained if str(each.case) not in known]
        return kept, len(trained) - len(kept)

    def _shown(
        self, trained: Sequence[Example], measured: Sequence[Fingerprint]
    ) -> tuple[list[Shown], list[Fingerprint]]:
        """All that the network is shown, and what the replay set's images among it are known by."""
        configuration = self._configuration
        new = [self._reviewed(each) for each in trained if each.new]
        earlier = [self._reviewed(each) for each in trained if not each.new]
        if not new:
            raise NothingToLearn("Every reviewed image that is not held out has been learned already.")
        plan = Plan(configuration["replay_share"], configuration["passes"], self._seed)
        shown = replay.drawn(new, earlier, self._replay_set(), plan)
        names = {name for each in shown if _is_base(name := each.record["image"])}
        replayed = sets.fingerprints({name: self.folder / name for name in names}, self._watch.check)
        leaking = sets.near(replayed, measured)
        kept = [each for each in shown if each.record["image"] not in leaking]
        return kept, [each for each in replayed if each.id not in leaking]

    def _reviewed(self, example: Example) -> Shown:
        return Shown(example.label, dataset.record(example, self._name(example), self._snapshot.question))

    def _replay_set(self) -> list[Shown]:
        """The base set's rows, their images named by a link from the run's folder."""
        place = self._configuration["replay_set"]
        if place is None:
            return []
        link = self.folder / REPLAY
        link.unlink(missing_ok=True)
        link.symlink_to(Path(place).resolve().parent)
        rows = json.loads(Path(place).read_text())
        return [
            Shown(Label(LABELS[row["label"]]), {**_trainable(row), "image": f"{REPLAY}/{row['image']}"}) for row in rows
        ]

    def _write_held(self, held: Sequence[Example]) -> None:
        """What is measured on: reviewed since the champion learned, and before; each with how much it counts."""
        for name, chosen in (("new", [each for each in held if each.new]), ("seen", [e for e in held if not e.new])):
            records = [
                {**dataset.record(each, self._name(each), self._snapshot.question), "weight": _weight(each)}
                for each in chosen
            ]
            (self.folder / f"{name}.json").unlink(missing_ok=True)
            if records:
                dataset.write_records(self.folder / f"{name}.json", records)

    def _prepare(self, draft: list[dict[str, Any]]) -> None:
        """The trainer's files, once for what is shown: an image that was erased meanwhile changes that.

        Then nothing half done can be used.
        """
        path = self.folder / DRAFT
        if path.exists() and json.loads(path.read_text()) != draft:
            for half_done in (ADAPTER, ROWS):
                shutil.rmtree(self.folder / half_done, ignore_errors=True)
            (self.folder / CONFIG).unlink(missing_ok=True)
        if not (self.folder / CONFIG).exists():
            dataset.write_records(path, draft)
            self._step("prepare")

    def _job(
        self,
        trained: Sequence[Example],
        held: Sequence[Example],
        replayed: Sequence[Fingerprint],
        old: Sequence[Fingerprint],
    ) -> dict[str, Any]:
        configuration = self._configuration
        return {
            **{key: configuration[key] for key in ("base", "revision", "recipe", "old_set")},
            "champion": {
                **configuration["champion"],
                "checkpoint": self._here(configuration["champion"]["checkpoint"]),
            },
            "name": configuration["name"],
            "seed": self._seed,
            "processes": 1 if configuration["accelerate"] == "single" else None,
            "trained": [asdict(each) for each in (*map(_fingerprint, trained), *replayed)],
            "held": [asdict(_fingerprint(each)) for each in held],
            "old": [asdict(each) for each in old],
        }

    def _here(self, checkpoint: str) -> str:
        """Where this machine has a version's checkpoint; one that is in the store is fetched."""
        digest = checkpoints.digest_of(checkpoint)
        return str(checkpoints.fetch(self._store, digest)) if digest else checkpoint

    def _train(self) -> None:
        output = self.folder / ADAPTER
        if training.is_done(output):
            return
        shutil.rmtree(self.folder / ROWS, ignore_errors=True)  # of another adapter, if of any
        training.prepare_to_resume(output)
        said = self.folder / "train.log"
        progress = training.Progress(said)
        try:
            command = training.command(self.folder / CONFIG, self._configuration["accelerate"])
        except ClickException as error:
            raise ConfigurationError(error.message) from error
        child.run(command, said, lambda: self._follow(progress))
        with transaction() as session:
            runs.note(session, self._lease, RunStage.TRAIN, progress.latest or {})

    def _follow(self, progress: training.Progress) -> None:
        self._watch.check()
        if news := progress.news():
            with transaction() as session:
                runs.held(session, self._lease).progress = news

    def _step(self, name: str) -> None:
        """A step of evaluation.py, in a process of its own."""
        command = [sys.executable, "-m", "workers.retraining.evaluation", name, str(self.folder)]
        child.run(command, self.folder / f"{name}.log", self._watch.check)

    def _calibrate(self) -> None:
        self._step("calibrate")
        path = self.folder / CALIBRATION
        if path.exists():  # not where the new version cannot be loaded, which the gate says
            found = _measured(path)
            del found["p_fake"]
            with transaction() as session:
                runs.note(session, self._lease, RunStage.CALIBRATE, found)

    def _gate(self) -> None:
        self._step("gate")
        judgement = _measured(self.folder / JUDGEMENT)
        self._store.put(report_key(self._lease.run_id), (self.folder / REPORT).read_bytes(), "text/html")
        with transaction() as session:
            run = runs.note(session, self._lease, RunStage.GATE, judgement)
            run.outcome = GateOutcome(judgement["outcome"])
            run.reasons = [judgement["reason"]]

    def _promote(self) -> None:
        """The new version on record and, where the gate says so, champion: with the run's end, in one commit."""
        adapter = self.folder / ADAPTER
        manifest = Manifest.model_validate_json((adapter / FILE_NAME).read_bytes())
        place = checkpoints.store(self._store, adapter) if manifest.adapter else str(adapter)
        with model_versions.changing() as session:
            run = runs.held(session, self._lease)
            version = model_versions.register(
                session, checkpoint=place, manifest=manifest.model_dump(mode="json"), digest=manifest.digest()
            )
            run.model_version_id = version.id
            self._conclude(session, run, version)

    def _conclude(self, session: Session, run: TrainingRun, version: ModelVersion) -> None:
        judged_against = UUID(self._configuration["champion"]["id"])
        assert run.outcome is not None
        if run.outcome is not GateOutcome.PROMOTE:
            runs.end(session, self._lease, ENDS[run.outcome])
        elif model_versions.champion_id(session) != judged_against:
            reason = "Another version was made champion meanwhile, and this one was not judged against it."
            runs.end(session, self._lease, RunStatus.KEPT, reason)
        else:
            model_versions.promote(session, version.id, actor=runs.WORKER, instead_of=judged_against)
            runs.end(session, self._lease, RunStatus.PROMOTED)

    @cached_property
    def _begun(self) -> tuple[str, dict[str, Any]]:
        """The snapshot's digest and the configuration, which stay what they are once they are written down."""
        with transaction() as session:
            run = runs.run_of(session, self._lease.run_id)
        assert run.snapshot_digest is not None and run.configuration is not None
        return run.snapshot_digest, run.configuration

    @property
    def _configuration(self) -> dict[str, Any]:
        return self._begun[1]

    @cached_property
    def _snapshot(self) -> Snapshot:
        return snapshot.read(self._store, self._begun[0])

    @property
    def _seed(self) -> int:
        """The same for the same snapshot."""
        return int(self._begun[0][:8], 16)

    def _name(self, example: Example) -> str:
        return f"{IMAGES}/{example.sha256}{dataset.suffix(example)}"

    def _place(self, example: Example) -> Path:
        return self.folder / self._name(example)

    def _write(self, name: str, value: Any) -> None:
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps(value, indent=1) + "\n")
        partial.replace(self.folder / name)


def _measured(path: Path) -> dict[str, Any]:
    """What a step found; a number that is none is no number in a row either."""
    found: dict[str, Any] = json.loads(path.read_text(), parse_constant=lambda name: None)
    return found


def _weight(example: Example) -> float:
    """How many images of the traffic a held-out one stands for: 1/probability of an audit sample, one of others.

    Whatever the policy does not decide is reviewed with certainty; what it decides, only by the audit's draw.
    """
    drawn = example.probabilities.audit
    return 1 / drawn if example.reason is ReviewReason.AUDIT and drawn else 1.0


def _fingerprint(example: Example) -> Fingerprint:
    return Fingerprint(str(example.case), example.sha256, example.group, example.pdq)


def _trainable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("label", "conversations")}


def _is_base(name: str) -> bool:
    return name.startswith(f"{REPLAY}/")


def _require_both(labels: Sequence[Label]) -> None:
    """Of one class alone, a network only learns to say so. Raises NothingToLearn."""
    if len(missing := set(Label) - set(labels)) > 0:
        raise NothingToLearn(
            f"There is no {missing.pop().value} image to train on, and one class alone teaches nothing."
        )
