"""The retraining worker: looks for a run that is asked for, takes it under a lease, and brings it to its end.

    snapshot → split → download → train → evaluate → calibrate → gate → promote

Every stage can be done again after a kill: what it found is in the run's row, in the object store, or in files of the
run's folder, and what is there is not made anew. A worker that has lost its lease ends its processes and writes
nothing. `python -m workers.retraining` runs until SIGTERM; then a run under way is given back, and gone on with by the
next worker.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import yaml
from click import ClickException
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from model.evaluate.records.fakeclue import LABELS
from model.manifest import Manifest
from moderation import model_versions
from moderation.db import transaction
from moderation.errors import ConfigurationError, LostLease, TelltaleError
from moderation.retraining import dataset, examples, replay, runs, snapshot
from moderation.retraining.labels import Wording
from moderation.retraining.replay import Plan
from moderation.retraining.runs import Lease
from moderation.retraining.snapshot import Example, Snapshot
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import ModelVersion, TrainingRun
from moderation.vocabulary import GateOutcome, Label, ReviewReason, RunStage, RunStatus, Split
from workers import child, training
from workers.child import ChildFailed

log = logging.getLogger(__name__)

POLL_S = 2.0
PAUSE_AFTER_ERROR_S = 10.0
BEATS_PER_LEASE = 3
SPARE_BYTES = 512 * 1024**2  # beside the images: an adapter, and the states of its training
IMAGES = "images"
REPLAY = "replay"  # a link to where the replay set's images are
# Files of the run's folder that workers/evaluation.py reads and writes.
JOB, DRAFT, CONFIG, ADAPTER, ROWS, JUDGEMENT = (
    "job.json",
    "draft.json",
    "run.yaml",
    "adapter",
    "rows",
    "judgement.json",
)
ENDS = {
    GateOutcome.PROMOTE: RunStatus.PROMOTED,
    GateOutcome.ASK: RunStatus.KEPT,
    GateOutcome.REJECT: RunStatus.REJECTED,
}
FOR_THE_RUN = {"base", "revision", "data", "images", "output", "name", "epochs", "seed", "resume"}


class Cancelled(Exception):
    """Somebody has asked for the run to end."""


class Stopping(Exception):
    """This worker is to end; the run is not."""


class NothingToLearn(Exception):
    """The run makes no sense tonight; the message says why."""


class Watch:
    """Keeps a run's lease from a thread of its own, and knows whether there is a reason to stop.

    A lease that could not be renewed for its whole length may be somebody else's by now, so it counts as lost.
    """

    def __init__(self, lease: Lease, length_s: float, stopping: threading.Event) -> None:
        self._lease, self._length_s, self._stopping = lease, length_s, stopping
        self._lost = self._cancelled = False
        self._renewed = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        """Raises LostLease, Cancelled or Stopping."""
        if self._lost or time.monotonic() - self._renewed > self._length_s:
            raise LostLease(f"The lease on run {self._lease.run_id} is lost.")
        if self._cancelled:
            raise Cancelled
        if self._stopping.is_set():
            raise Stopping

    def _beat(self) -> None:
        while not self._over.wait(self._length_s / BEATS_PER_LEASE):
            asked = time.monotonic()
            try:
                with transaction() as session:
                    self._cancelled |= runs.renew(session, self._lease, timedelta(seconds=self._length_s))
                self._renewed = asked
            except LostLease:
                self._lost = True
                return
            except (DBAPIError, PoolTimeout) as error:
                log.warning("could not renew the lease on run %s: %s", self._lease.run_id, error)


@dataclass(frozen=True)
class Shown:
    """One row to be trained on: a reviewed image, or one of the replay set; `record` as the trainer reads it."""

    label: Label
    record: Mapping[str, Any]


class Retraining:
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
            RunStage.CALIBRATE: lambda: self._step("calibrate"),
            RunStage.GATE: self._gate,
            RunStage.PROMOTE: self._promote,
        }

    def _take_snapshot(self) -> None:
        """What the run is about is written down once, and is the same however often it is begun again."""
        with transaction() as session:
            run = runs.run_of(session, self._lease.run_id)
            champion = model_versions.champion(session)
        if run.snapshot_digest is not None:
            return
        if champion is None:
            raise ConfigurationError("No model version is champion: there is nothing to go on from.")
        assert run.started_at is not None
        configuration = configured(self._rules, champion, run)
        burst = timedelta(seconds=configuration["burst_s"])
        found = snapshot.taken(run.started_at, _wording(champion), burst, run.id)
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
        held = [each for each in there if sides[each.case] is Split.HOLDOUT]
        trained = [each for each in there if sides[each.case] is Split.TRAIN]
        shown, replayed = self._shown(trained, held)
        _require_both([each.label for each in shown])
        self._write_held(held)
        self._start_anew_if_changed([dict(each.record) for each in shown])
        self._write(JOB, self._job(trained, held, replayed))
        self._step("prepare")
        numbers = {"gone": len(wanted) - len(there), "shown": len(shown), "replay_set": len(replayed)}
        with transaction() as session:
            runs.note(session, self._lease, RunStage.DOWNLOAD, numbers)

    def _require_room(self, wanted: Sequence[Example]) -> None:
        """Before anything is fetched. Raises OSError as a full disk would."""
        with transaction() as session:
            allowed = examples.allowed_now(session, wanted)
        missing = {image.sha256: image.bytes for image in allowed.values()}
        needed = SPARE_BYTES + sum(missing.values())
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, and {free:,} are free", str(self.folder))

    def _shown(self, trained: Sequence[Example], held: Sequence[Example]) -> tuple[list[Shown], dict[str, str]]:
        """All that the network is shown, and of the replay set's images among it the sha256 by name."""
        configuration = self._configuration
        new = [self._reviewed(each) for each in trained if each.new]
        earlier = [self._reviewed(each) for each in trained if not each.new]
        if not new:
            raise NothingToLearn("Every reviewed image that is not held out has been learned already.")
        plan = Plan(configuration["replay_share"], configuration["passes"], self._seed)
        shown = replay.drawn(new, earlier, self._replay_set(), plan)
        reviewed = {each.sha256 for each in held}
        hashes = {
            name: _sha256(self.folder / name) for name in {each.record["image"] for each in shown} if _is_base(name)
        }
        leaking = {name for name, digest in hashes.items() if digest in reviewed}
        kept = [each for each in shown if each.record["image"] not in leaking]
        return kept, {name: digest for name, digest in hashes.items() if name not in leaking}

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

    def _start_anew_if_changed(self, draft: list[dict[str, Any]]) -> None:
        """An image that was erased meanwhile changes what is trained on, and then nothing half done can be used."""
        path = self.folder / DRAFT
        if path.exists() and json.loads(path.read_text()) != draft:
            for half_done in (ADAPTER, ROWS):
                shutil.rmtree(self.folder / half_done, ignore_errors=True)
        dataset.write_records(path, draft)

    def _job(self, trained: Sequence[Example], held: Sequence[Example], replayed: Mapping[str, str]) -> dict[str, Any]:
        configuration = self._configuration
        return {
            **{key: configuration[key] for key in ("base", "revision", "recipe", "old_set", "champion")},
            "name": configuration["name"],
            "seed": self._seed,
            "processes": 1 if configuration["accelerate"] == "single" else None,
            "trained": [_fingerprint(each) for each in trained]
            + [{"id": name, "sha256": digest} for name, digest in sorted(replayed.items())],
            "held": [_fingerprint(each) for each in held],
        }

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
        """A step of workers/evaluation.py, in a process of its own."""
        command = [sys.executable, "-m", "workers.evaluation", name, str(self.folder)]
        child.run(command, self.folder / f"{name}.log", self._watch.check)

    def _gate(self) -> None:
        self._step("gate")
        judgement = json.loads((self.folder / JUDGEMENT).read_text())
        with transaction() as session:
            run = runs.note(session, self._lease, RunStage.GATE, judgement)
            run.outcome = GateOutcome(judgement["outcome"])
            run.reasons = [judgement["reason"]]

    def _promote(self) -> None:
        """The new version on record and, where the gate says so, champion: with the run's end, in one commit."""
        manifest = Manifest.model_validate_json((self.folder / ADAPTER / "telltale.json").read_bytes())
        stored = manifest.model_dump(mode="json")
        with transaction(wake=True) as session:
            run = runs.held(session, self._lease)
            assert run.outcome is not None
            status, reason = ENDS[run.outcome], None
            version = model_versions.register(
                session, checkpoint=str(self.folder / ADAPTER), manifest=stored, digest=manifest.digest()
            )
            run.model_version_id = version.id
            if status is RunStatus.PROMOTED and not self._is_still_champion(model_versions.champion(session)):
                status, reason = RunStatus.KEPT, "Another version was made champion while this run was going on."
            if status is RunStatus.PROMOTED:
                model_versions.promote(session, version.id, actor=runs.WORKER)
            runs.end(session, self._lease, status, reason)

    def _is_still_champion(self, version: ModelVersion | None) -> bool:
        return version is not None and str(version.id) == self._configuration["champion"]["id"]

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


def configured(rules: Settings, champion: ModelVersion, run: TrainingRun) -> dict[str, Any]:
    """What the run is done with, whatever the settings become meanwhile. Raises ConfigurationError."""
    manifest = Manifest.model_validate(champion.manifest)
    adapter = manifest.adapter
    if rules.retrain_replay_set and rules.retrain_replay_set == rules.retrain_old_set:
        raise ConfigurationError("TELLTALE_RETRAIN_OLD_SET is never trained on: name another file than the replay set.")
    for name in ("retrain_replay_set", "retrain_old_set"):
        place = getattr(rules, name)
        if place is not None and not place.is_file():
            raise ConfigurationError(f"TELLTALE_{name.upper()} {place} is no file.")
    return {
        # Always on the pinned base, never on an adapter: what a rejected night learned is not learned from.
        "base": adapter.base if adapter else champion.checkpoint,
        "revision": adapter.revision if adapter else manifest.revision,
        "champion": {"id": str(champion.id), "checkpoint": champion.checkpoint, "manifest": champion.manifest},
        "name": f"{manifest.kind}-{run.created_at:%Y%m%d}-{run.id.hex[-6:]}",
        "holdout_share": rules.retrain_holdout_share,
        "replay_share": rules.retrain_replay_share,
        "passes": rules.retrain_passes,
        "burst_s": rules.retrain_burst_s,
        "min_reviews": rules.retrain_min_reviews,
        "replay_set": str(rules.retrain_replay_set) if rules.retrain_replay_set else None,
        "old_set": str(rules.retrain_old_set.resolve()) if rules.retrain_old_set else None,
        "accelerate": rules.retrain_accelerate,
        "recipe": _recipe(rules.retrain_recipe),
    }


def _recipe(path: Path | None) -> dict[str, Any]:
    """Settings for the trainer. Raises ConfigurationError."""
    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"TELLTALE_RETRAIN_RECIPE {path} cannot be read: {error}") from error
    if not isinstance(found, dict) or FOR_THE_RUN & found.keys():
        raise ConfigurationError(
            f"TELLTALE_RETRAIN_RECIPE {path}: a mapping of finetuning settings is expected, without those that "
            f"each run sets itself ({', '.join(sorted(FOR_THE_RUN))})."
        )
    return found


def _wording(champion: ModelVersion) -> Wording:
    prompt = Manifest.model_validate(champion.manifest).prompt
    return Wording(prompt.text, prompt.answer_start("real"), prompt.answer_start("fake"))


def _weight(example: Example) -> float:
    """How many images of the traffic a held-out one stands for: 1/probability of an audit sample, one of others.

    Whatever the policy does not decide is reviewed with certainty; what it decides, only by the audit's draw.
    """
    drawn = example.probabilities.audit
    return 1 / drawn if example.reason is ReviewReason.AUDIT and drawn else 1.0


def _fingerprint(example: Example) -> dict[str, Any]:
    return {"id": str(example.case), "sha256": example.sha256, "group": example.group, "pdq": example.pdq}


def _trainable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("label", "conversations")}


def _is_base(name: str) -> bool:
    return name.startswith(f"{REPLAY}/")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_both(labels: Sequence[Label]) -> None:
    """Of one class alone, a network only learns to say so. Raises NothingToLearn."""
    if len(missing := set(Label) - set(labels)) > 0:
        raise NothingToLearn(
            f"There is no {missing.pop().value} image to train on, and one class alone teaches nothing."
        )


def work(lease: Lease, store: Storage, rules: Settings, stopping: threading.Event) -> None:
    """Bring a run to whatever its end is. Where the lease is lost, or the database away, it is left to the next worker.

    Call it on a thread that lives as long as the process: what it starts ends with that.
    """
    with Watch(lease, rules.retrain_lease_s, stopping) as watch:
        run = Retraining(lease, watch, store, rules)
        try:
            _finish(lease, *_outcome(run))
            _tidy(run.folder)
        except Stopping:
            with transaction() as session:
                runs.release(session, lease)
            log.info("run %s is given back", lease.run_id)
        except LostLease as error:
            log.warning("%s It is left to who has it now.", error.message)


def _outcome(run: Retraining) -> tuple[RunStatus | None, str | None]:
    """How the run ended, and why; None where it has brought itself to its end. Raises LostLease, Stopping."""
    try:
        run.go()
    except (LostLease, Stopping, DBAPIError, PoolTimeout):
        raise
    except Cancelled:
        return RunStatus.CANCELLED, None
    except NothingToLearn as error:
        return RunStatus.SKIPPED, str(error)
    except ChildFailed as error:
        return RunStatus.FAILED, str(error)
    except TelltaleError as error:
        return RunStatus.FAILED, error.message
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            log.exception("run %s failed", run.folder.name)
        return RunStatus.FAILED, _of_the_system(error)
    except MemoryError:
        return RunStatus.FAILED, "Memory ran out in the retraining worker."
    except Exception as error:
        log.exception("run %s failed", run.folder.name)
        return RunStatus.FAILED, f"The run failed with {type(error).__name__}: {error}"
    return None, None


def _of_the_system(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: make room in TELLTALE_RETRAIN_FOLDER, and run it again. ({error.strerror})"
    return f"The run failed: {error}"


def _finish(lease: Lease, status: RunStatus | None, reason: str | None) -> None:
    if status is not None:
        with transaction() as session:
            runs.end(session, lease, status, reason)
    log.info("run %s ended%s", lease.run_id, f": {status.value}, {reason}" if status else "")


def _tidy(folder: Path) -> None:
    """No bytes of anybody's image stay behind: what is erased must be gone."""
    shutil.rmtree(folder / IMAGES, ignore_errors=True)
    (folder / REPLAY).unlink(missing_ok=True)


def tidy_up(folder: Path, live: UUID | None) -> None:
    """What runs that were lost have left behind, of all but the live one."""
    for left in folder.glob("*-*/"):
        if left.name != str(live):
            _tidy(left)


def turn(store: Storage, rules: Settings, stopping: threading.Event) -> bool:
    """Take the run that waits, if one does, and work on it; whether there was one."""
    with transaction() as session:
        lease = runs.take(session, timedelta(seconds=rules.retrain_lease_s))
    if lease is None:
        return False
    tidy_up(rules.retrain_folder, lease.run_id)
    work(lease, store, rules, stopping)
    return True


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    logging.basicConfig(level=settings().log_level, format="%(asctime)s %(levelname)s retraining: %(message)s")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    store = Storage(settings())
    log.info("retraining worker started")
    while not stopping.is_set():
        try:
            busy = turn(store, settings(), stopping)
        except (DBAPIError, PoolTimeout) as error:
            log.warning("the database is away: %s", error)
            stopping.wait(PAUSE_AFTER_ERROR_S)
            continue
        if not busy:
            stopping.wait(POLL_S)
    log.info("retraining worker stopped")


if __name__ == "__main__":
    main()
