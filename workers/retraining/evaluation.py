"""What a run needs networks for, a process for each step: `python -m workers.retraining.evaluation STEP FOLDER`.

Everything is read from files in the run's folder and written there, so that a step that was killed goes on where it
was, and one that is done again gives the same. It knows neither rows nor the object store.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from model import calibration, thresholds
from model import manifest as manifests
from model.calibration import CannotCalibrate, Scores
from model.checkpoint import SAMPLES_FOLDER, CheckpointError, Interface, load_interface
from model.decode import SUFFIXES, UndecodableImage, to_rgb
from model.detector import Detector, make_goldens
from model.engines.engine import EngineError
from model.evaluate.journal import Record
from model.evaluate.records import dataset
from model.evaluate.records.rows import UnreadableRecords
from model.evaluate.records.sample import Sample
from model.finetune.arguments import Arguments, InvalidConfiguration, read
from model.gate import evidence, report
from model.gate.comparison import Pair, pair
from model.gate.evidence import Evidence, Proof, Speeds
from model.gate.judgement import judge
from model.gate.leaks import Fingerprint
from model.manifest import Calibration, Manifest, ManifestError
from model.prompt import encode_answer
from model.thresholds import Judged

# What the parent writes, and what the steps write; all in the run's folder.
JOB, DRAFT, TRAIN, CONFIG, ADAPTER = "job.json", "draft.json", "train.json", "run.yaml", "adapter"
ROWS, PROOF, SPEEDS, CALIBRATION, JUDGEMENT = "rows", "proof.json", "speeds.json", "calibration.json", "judgement.json"
GOLDEN, REPORT = "golden", "report.html"

# Records that are measured on, beside the old set: reviewed since the champion learned, and before that.
NEW, SEEN, OLD = "new", "seen", "old"
VERSIONS = ("champion", "challenger")

STATES = 10  # that a run saves, about
LINES = 100  # of progress, about
FOLDS = 5
TIMED, TURNS, TIMES = 16, 3, 5  # images that speed is measured on, in how many turns, and how often in each
SENTENCE_ENDS = (". ", "! ", "? ")

REFUSALS = (
    CheckpointError,
    EngineError,
    InvalidConfiguration,
    ManifestError,
    UndecodableImage,
    UnreadableRecords,
)


@dataclass(frozen=True)
class Work:
    """A run's folder, and what its job file says."""

    folder: Path

    @cached_property
    def job(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads((self.folder / JOB).read_text())
        return found

    @property
    def adapter(self) -> Path:
        return self.folder / ADAPTER

    @cached_property
    def champion(self) -> Manifest:
        return Manifest.model_validate(self.job["champion"]["manifest"])

    def samples(self, name: str) -> tuple[Sample, ...]:
        """The images of one set that are measured on; none where there is no such set."""
        place = self.job["old_set"] if name == OLD else self.folder / f"{name}.json"
        if place is None or not Path(place).exists():
            return ()
        return dataset.read(Path(place)).samples

    @cached_property
    def weights(self) -> Mapping[str, float]:
        """How much each reviewed image counts: 1/probability where it was sampled."""
        files = [self.folder / f"{name}.json" for name in (NEW, SEEN)]
        records = [record for file in files if file.exists() for record in json.loads(file.read_text())]
        return {record["image"]: record["weight"] for record in records}

    def rows(self, version: str, name: str) -> list[Record]:
        """What a version said of one set, with each image's weight, and whether it was reviewed here."""
        path = self.folder / ROWS / f"{version}-{name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        of_run = {"reviewed": name != OLD}
        return [{**row, **of_run, "weight": self.weights.get(row["id"], 1.0)} for row in map(json.loads, lines)]

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def write(self, name: str, value: Any) -> None:
        """All of it or nothing."""
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps(value, indent=1) + "\n")
        partial.replace(self.folder / name)


def prepare(work: Work) -> None:
    """`draft.json` as rows that can be trained on, none of them too long, and the trainer's configuration."""
    base, revision = work.job["base"], work.job["revision"]
    interface = load_interface(base, revision=revision)
    recipe = dict(work.job["recipe"])
    longest = recipe.get("max_length", Arguments.model_fields["max_length"].default)
    rows = [_fitted(record, interface, longest) for record in work.read(DRAFT)]
    work.write(TRAIN, rows)
    settings = {
        **recipe,
        **{"base": base, "revision": revision, "name": work.job["name"], "seed": work.job["seed"]},
        **{"data": str(work.folder / TRAIN), "images": str(work.folder), "output": str(work.adapter)},
        **{"epochs": 1, "resume": True},
    }
    updates = _updates(settings, len(rows), work.job["processes"] or max(1, torch.cuda.device_count()))
    settings.setdefault("save_every", max(1, updates // STATES))
    settings.setdefault("log_every", max(1, updates // LINES))
    partial = work.folder / f"{CONFIG}.partial"
    partial.write_text(yaml.safe_dump(settings))
    read(partial)
    partial.replace(work.folder / CONFIG)


def _updates(settings: Mapping[str, Any], rows: int, processes: int) -> int:
    """About how many there will be."""
    sizes = [settings.get(name, Arguments.model_fields[name].default) for name in ("batch_size", "accumulate")]
    return max(1, rows // int(np.prod(sizes) * processes))


def _fitted(record: Record, interface: Interface, longest: int) -> Record:
    """The record, its answer cut to as many whole sentences as the trainer takes; the opening one stays."""
    question, answer = record["conversations"]
    text, tokenizer = answer["value"], interface.processor.tokenizer
    room = longest - len(interface.tokens.prompt) - 1  # the end-of-sequence token
    while len(encode_answer(tokenizer, interface.manifest.prompt, text)) > room:
        cut = max(text.rfind(end) for end in SENTENCE_ENDS)
        if cut < 0:
            raise InvalidConfiguration(f"`max_length` {longest} is too little for any answer: raise it in the recipe.")
        text = text[: cut + 1]
    return {**record, "conversations": [question, {**answer, "value": text}]}


def judge_both(work: Work) -> None:
    """What champion and challenger say of the same images, and how fast; or why the challenger cannot be loaded."""
    (work.folder / ROWS).mkdir(exist_ok=True)
    _judge(work, "champion")
    proof, speeds = Proof(), dict[str, list[float]]()
    try:
        _judge(work, "challenger")
    except (CheckpointError, ManifestError) as error:
        proof = Proof(loads=str(error))
    else:
        speeds = _speeds(work)
    work.write(SPEEDS, speeds)
    work.write(PROOF, asdict(proof))


def _judge(work: Work, version: str) -> None:
    """Rows of every set."""
    detector = _loaded(work, version)
    for name in (NEW, SEEN, OLD):
        samples = work.samples(name)
        if samples:
            evidence.rows(detector, samples, work.folder / ROWS / f"{version}-{name}.jsonl")


def _loaded(work: Work, version: str) -> Detector:
    """Alone: two 7B networks do not fit one card."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if version == "challenger":
        return Detector.load(work.adapter)
    place = work.job["champion"]["checkpoint"]
    return Detector.load(place, revision=work.champion.revision, manifest=work.champion)


def _speeds(work: Work) -> dict[str, list[float]]:
    """In turns and often: what else the machine does slows both, and the fastest of each counts."""
    images = [to_rgb(path) for path in _shipped()][:TIMED]
    found: dict[str, list[float]] = {version: [] for version in VERSIONS}
    for _ in range(TURNS):
        for version in VERSIONS:
            detector = _loaded(work, version)
            detector.judge(images)  # the first batch only warms it up
            found[version] += [evidence.speed(detector, images) for _ in range(TIMES)]
            del detector
    return found


def _shipped() -> list[Path]:
    """The sample images that come with us, which are nobody's."""
    return sorted(path for path in SAMPLES_FOLDER.iterdir() if path.suffix.lower() in SUFFIXES)


def calibrate(work: Work) -> None:
    """Make the challenger's score mean what it says, without losing real images, and give it golden outputs.

    The golden images are the shipped samples: those that the trainer took are somebody's, and could not be erased.
    """
    _forget_goldens(work.adapter)
    if work.read(PROOF)["loads"] is not None:
        return
    rows = [row for name in (NEW, SEEN, OLD) for row in work.rows("challenger", name) if row["error"] is None]
    scores = _scores(rows)
    try:
        chosen = calibration.choose(scores, f"{len(rows)} images held out from {work.job['name']}")
        share = _real_recall(work)
        kept = calibration.hold_reals(chosen.calibration, scores, share)
        said = {"reason": chosen.reason, "candidates": [asdict(each) for each in chosen.candidates]}
        chances = _cross_fitted(scores, kept, share)
    except CannotCalibrate as error:
        kept, said = Calibration(), {"reason": str(error), "candidates": []}
        chances = calibration.apply(kept, scores.logit)
    _finish_manifest(work, kept)
    proof, _ = evidence.prove(work.adapter)
    work.write(PROOF, asdict(proof))
    p_fake = {row["id"]: float(chance) for row, chance in zip(rows, chances, strict=True)}
    found = {"calibration": kept.model_dump(mode="json"), **said, "thresholds": _proposed(scores, chances, rows)}
    work.write(CALIBRATION, {**found, "p_fake": p_fake})


def _proposed(scores: Scores, chances: NDArray[np.float64], rows: Sequence[Record]) -> dict[str, Any]:
    """Thresholds for a lead to adopt, or not; from reviewed images alone, for the old set is nobody's traffic."""
    reviewed = np.array([row["reviewed"] for row in rows], dtype=np.bool_)
    some = scores.where(reviewed)
    judged = Judged(chances[reviewed], some.fake, some.weight, some.groups)
    proposal = thresholds.propose(judged)
    return {**asdict(proposal), "fake_from": proposal.fake_from, "real_up_to": proposal.real_up_to}


def _scores(rows: Sequence[Record]) -> Scores:
    return Scores(
        logit=np.array([row["logit"] for row in rows], dtype=np.float64),
        fake=np.array([row["label"] == "fake" for row in rows], dtype=np.bool_),
        weight=np.array([row["weight"] for row in rows], dtype=np.float64),
        groups=np.array([row["group"] or row["sha256"] for row in rows], dtype=np.str_),
    )


def _real_recall(work: Work) -> float:
    """Of real images, the share that the champion calls so: what the challenger must keep."""
    rows = [row for name in (NEW, SEEN, OLD) for row in work.rows("champion", name)]
    reals = [(row["scored"] == "real", row["weight"]) for row in rows if row["label"] == "real" and not row["error"]]
    total = sum(weight for _, weight in reals)
    return sum(weight for right, weight in reals if right) / total if total else 0.0


def _cross_fitted(scores: Scores, whole: Calibration, share: float) -> NDArray[np.float64]:
    """Each image's p_fake by a curve that was fitted without it and without what is near it.

    What the gate then measures on the same images is what the curve is worth on others. Where a part is too small to
    fit on, the curve of all is taken, and its two or three numbers are a little too good.
    """
    assert scores.groups is not None
    folds = np.array([int(hashlib.sha256(str(group).encode()).hexdigest(), 16) % FOLDS for group in scores.groups])
    chances = calibration.apply(whole, scores.logit)
    for fold in range(FOLDS):
        rest, inside = scores.where(folds != fold), folds == fold
        try:
            curve = calibration.hold_reals(calibration.fit(rest, _method(whole)), rest, share)
        except CannotCalibrate:
            continue
        chances[inside] = calibration.apply(curve, scores.logit[inside])
    return chances


def _method(curve: Calibration) -> calibration.Method:
    method: calibration.Method = curve.method
    return method


def _forget_goldens(folder: Path) -> None:
    """The manifest first: one that speaks of images that are gone would be no manifest."""
    manifests.read(folder).model_copy(update={"golden": ()}).write(folder)
    shutil.rmtree(folder / GOLDEN, ignore_errors=True)


def _finish_manifest(work: Work, curve: Calibration) -> None:
    """Write the calibration and golden outputs on the shipped samples into the adapter's manifest."""
    folder = work.adapter
    (folder / GOLDEN).mkdir()
    images = [Path(shutil.copy(path, folder / GOLDEN)) for path in _shipped()]
    plain = manifests.read(folder).model_copy(update={"calibration": curve})
    try:
        golden = make_goldens(Detector.load(folder, manifest=plain), folder, images)
    except ValueError as error:
        raise CheckpointError(f"The new version has no golden outputs: {error}") from error
    plain.model_copy(update={"golden": golden}).write(folder)


def gate(work: Work) -> None:
    """Every rule of the gate on what was measured, into `judgement.json`, and as a page."""
    proof = Proof(**work.read(PROOF))
    challenger = manifests.read(work.adapter)
    new, old = (_pair(work, NEW), _pair(work, SEEN, OLD)) if proof.loads is None else (None, None)
    shown = Evidence(
        champion=work.champion,
        challenger=challenger,
        new=new,
        old=old,
        trained=[Fingerprint(**each) for each in work.job["trained"]],
        holdout=[Fingerprint(**each) for each in (*work.job["held"], *work.job["old"])],
        proof=proof,
        speeds=Speeds(**speeds) if len(speeds := work.read(SPEEDS)) == len(VERSIONS) else None,
    )
    found = judge(shown)
    (work.folder / REPORT).write_text(report.page(found, shown), encoding="utf-8")
    work.write(JUDGEMENT, found.model_dump(mode="json"))


def _pair(work: Work, *names: str) -> Pair:
    """Both versions on the same images, the challenger by its new calibration."""
    p_fake = work.read(CALIBRATION)["p_fake"]
    ours, theirs = ([row for name in names for row in work.rows(version, name)] for version in VERSIONS)
    return pair(ours, [_recalibrated(row, p_fake) for row in theirs])


def _recalibrated(row: Record, p_fake: Mapping[str, float]) -> Record:
    if row["error"] is not None:
        return row
    chance = p_fake[row["id"]]
    label = "fake" if chance >= 0.5 else "real"
    return {**row, "p_fake": chance, "scored": label, "predicted": label}


STEPS: Mapping[str, Callable[[Work], None]] = {
    "prepare": prepare,
    "judge": judge_both,
    "calibrate": calibrate,
    "gate": gate,
}


def main(step: str, folder: str) -> int:
    """0 when the step is done; 1, with the reason on stderr, when it was refused."""
    try:
        STEPS[step](Work(Path(folder)))
    except REFUSALS as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
