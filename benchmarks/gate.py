"""`make gate-check`: seven bad challengers, each of which the gate must block for the right reason, and a good one.

The demo checkpoint is the champion, and halftone the type it has never seen. Four challengers are trained for real, by
`model.finetune`: the good one on reviewed images and replay, one on flipped labels, one on halftones alone, one on
answers that stop after the verdict. Four are the good one with one thing made wrong: its prompt, an adapter that was
never trained, its calibration, a holdout with images it was trained on. All are judged on the same held-out images, by
the same gate, from what they really say. The last line is JSON.

Photos serve one purpose each (`model.demo.newtype`): to train on, to calibrate, or to be held out. A crop, its mirror
image and their halftones are one group of alike images; other crops of its photo are other pictures.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pdqhash
import torch
from PIL import Image
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers.utils import logging as transformers_logging

from model import adapters, checkpoint
from model import manifest as manifests
from model.calibration import CannotCalibrate, Scores, apply, choose, hold_reals
from model.decode import to_rgb
from model.demo import newtype
from model.demo.evaluate import CHECKPOINT
from model.demo.newtype import HALFTONE, Purpose
from model.detector import Detector
from model.evaluate.records.sample import Sample
from model.finetune import parts, results
from model.finetune.arguments import Arguments, Lora
from model.finetune.run import finetune
from model.gate import evidence as gathered
from model.gate import table
from model.gate.comparison import pair
from model.gate.evidence import Evidence, Speeds
from model.gate.finding import Finding
from model.gate.judgement import Judgement, judge
from model.gate.leaks import Fingerprint
from model.manifest import Calibration, Manifest

Record = dict[str, Any]

BATCH = 24
REPLAYED, NEW_FAKES, NEW_REALS = 16, 4, 4  # of each update
LORA = Lora(rank=16, alpha=32, dropout=0.0)
RATE = 2e-3
PARTS: tuple[Any, ...] = ("language_model", "projector", "vision_tower")
WRONG_PROMPT = "USER: <image>\nDoes the image looks real/fake? ASSISTANT:"
FLATTER = 0.05  # of the logit: decisions stay, and all scores come to lie near 0.5
POISON = 24  # training images that are put into the holdout, saved anew
MIN_QUALITY = 50  # of a PDQ hash, as its authors recommend
SPEED_IMAGES, SPEED_ROUNDS, SPEED_TIMES = 16, 3, 5
SEEDS: dict[Purpose, int] = {"reviewed": 1, "calibration": 2, "holdout": 3}


@dataclass(frozen=True)
class Amounts:
    """Updates of the good challenger and of each bad one, and images of replay."""

    good: int = 150
    bad: int = 30
    replay: int = 480


@dataclass(frozen=True)
class Data:
    """Records of every set; images are named relative to `folder`."""

    folder: Path
    sets: Mapping[str, list[Record]]

    def samples(self, name: str, which: Callable[[Record], bool] = lambda record: True) -> list[Sample]:
        return [_sample(self.folder, record) for record in self.sets[name] if which(record)]


@dataclass(frozen=True)
class Champion:
    """The demo checkpoint, and what it says of the holdout."""

    detector: Detector
    new: list[Record]
    old: list[Record]
    reals_right: float


@dataclass(frozen=True)
class Planted:
    """One challenger, the rule that must block it (or a rule's beginning), and what the gate said."""

    name: str
    expected: str
    judgement: Judgement

    @property
    def is_blocked(self) -> bool:
        return self.judgement.outcome == "reject"

    @property
    def right(self) -> list[Finding]:
        """What it was to be blocked by, if it was."""
        return [each for each in self.judgement.of("fail") if each.rule.startswith(self.expected)]

    @property
    def others(self) -> list[str]:
        return [each.rule for each in self.judgement.of("fail") if not each.rule.startswith(self.expected)]

    @property
    def has_right_reason(self) -> bool:
        return self.is_blocked and bool(self.right)


def main() -> None:
    logging.getLogger("model").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), Amounts(), Console(highlight=False))


def check(work: Path, amounts: Amounts, console: Console) -> dict[str, Any]:
    """All of it, in `work`; what the last line says."""
    started = time.perf_counter()

    def tell(what: str) -> None:
        console.print(f"[dim]{time.perf_counter() - started:5.0f} s[/dim]  {what}")

    tell("drawing halftones, making replay")
    data = make_data(work / "data", amounts)
    champion = ask_champion(data, work)
    tell(f"training on what was reviewed, {amounts.good} updates of {BATCH}")
    good = train(work, data, "good", mixed(data, amounts.good))
    calibrated(good, data, champion)
    kept = examine(work, good, data, champion)
    table.show(kept, console)
    planted = []
    for name, expected, make in bad_ones(work, data, amounts, good, champion):
        tell(name)
        planted.append(Planted(name, expected, make()))
    console.print(_table(planted))
    summary = {
        "planted": len(planted),
        "blocked": sum(each.is_blocked for each in planted),
        "right_reason": sum(each.has_right_reason for each in planted),
        "good_promoted": kept.outcome == "promote",
    }
    console.file.write(json.dumps(summary) + "\n")
    return summary


def bad_ones(
    work: Path, data: Data, amounts: Amounts, good: Path, champion: Champion
) -> list[tuple[str, str, Callable[[], Judgement]]]:
    """Name, the rule that must block it, and how it is made and judged."""

    def trained(name: str, records: Sequence[Record]) -> Judgement:
        folder = train(work, data, name, several(records, amounts.bad * BATCH))
        calibrated(folder, data, champion)
        return examine(work, folder, data, champion)

    def changed(name: str, **changes: Any) -> Judgement:
        return examine(work, copied(good, work / name, **changes), data, champion)

    reviewed = data.sets["reviewed"]
    halftones = [record for record in reviewed if record["artifact"] == HALFTONE]
    flat = _flattened(manifests.read(good).calibration)
    prompt = champion.detector.manifest.prompt.model_copy(update={"text": WRONG_PROMPT})
    return [
        ("flipped labels", "new_auc", lambda: trained("flipped", [flipped(each) for each in reviewed])),
        ("one category only", "category:", lambda: trained("one-category", halftones)),
        ("wrong prompt", "prompt", lambda: changed("wrong-prompt", prompt=prompt)),
        ("adapter that does nothing", "loads", lambda: examine(work, idle(good, work / "idle"), data, champion)),
        ("broken calibration", "calibration", lambda: broken(work, good, data, champion, flat)),
        ("empty explanations", "empty_explanations", lambda: trained("empty", [emptied(each) for each in reviewed])),
        ("poisoned holdout", "clean_holdout", lambda: leaking(work / "poisoned", good, poisoned(data))),
    ]


def make_data(folder: Path, amounts: Amounts) -> Data:
    sets = {}
    for purpose, seed in SEEDS.items():
        drawn = newtype.draw(newtype.heldout(purpose), folder / purpose, seed)
        sets[purpose] = [{**record, "image": f"{purpose}/{record['image']}"} for record in drawn]
    replayed = newtype.replay(folder / "replay", amounts.replay)
    sets["replay"] = [{**record, "image": f"replay/{record['image']}"} for record in replayed]
    return Data(folder, sets)


def mixed(data: Data, updates: int) -> list[Record]:
    """As many rows as these updates take: replay, half of it real, with what is new in a fair share of both classes."""
    reviewed, replayed = data.sets["reviewed"], data.sets["replay"]
    known = [*replayed, *(record for record in reviewed if record["artifact"] not in (None, HALFTONE))]
    reals, fakes = _split(known)
    new_reals, new_fakes = _split([record for record in reviewed if record["artifact"] in (None, HALFTONE)])
    shares = [
        (reals, REPLAYED // 2),
        (fakes, REPLAYED - REPLAYED // 2),
        (new_fakes, NEW_FAKES),
        (new_reals, NEW_REALS),
    ]
    return [record for records, each in shares for record in several(records, each * updates)]


def several(records: Sequence[Record], count: int) -> list[Record]:
    """So many of them, every one as often as the others, give or take one."""
    rng = np.random.default_rng(0)
    order = [number for _ in range(-(-count // len(records))) for number in rng.permutation(len(records))]
    return [records[number] for number in order[:count]]


def flipped(record: Record) -> Record:
    """Fake for real and real for fake, in label and answer."""
    words = manifests.Prompt()
    said = record["conversations"][1]["value"]
    ours, theirs = ("real", "fake") if record["artifact"] is None else ("fake", "real")
    answer = said.replace(words.answer_start(ours), words.answer_start(theirs))
    return {**_answered(record, answer), "label": 1 - record["label"]}


def emptied(record: Record) -> Record:
    """The opening sentence alone."""
    return _answered(record, manifests.Prompt().answer_start("real" if record["artifact"] is None else "fake"))


def train(work: Path, data: Data, name: str, records: Sequence[Record]) -> Path:
    """An adapter on the demo checkpoint, by one pass over `records`."""
    rows = newtype.write(records, work / f"{name}.json")
    return finetune(
        Arguments(
            base="demo",
            data=rows,
            images=data.folder,
            output=work / name,
            name=name,
            method="lora",
            train=PARTS,
            lora=LORA,
            epochs=1,
            batch_size=BATCH,
            accumulate=1,
            learning_rate=RATE,
            warmup=0.1,
            precision="float32",
            save_every=10**6,
            log_every=10**6,
        )
    )


def ask_champion(data: Data, work: Path) -> Champion:
    detector = Detector.load(CHECKPOINT)
    scores = scored(detector, data)
    right = apply(detector.manifest.calibration, scores.logit[~scores.fake]) < 0.5
    return Champion(detector, *said_of(detector, data, work / "rows-champion"), float(right.mean()))


def calibrated(folder: Path, data: Data, champion: Champion) -> None:
    """By images that serve nothing else, and so that as many of their reals stay real as the champion calls so.

    What cannot be calibrated goes to the gate as it is.
    """
    scores = scored(Detector.load(folder), data)
    try:
        found = choose(scores, f"{len(scores)} images of photos kept for it").calibration
    except CannotCalibrate:
        return
    results.calibrate(folder, hold_reals(found, scores, champion.reals_right))


def scored(detector: Detector, data: Data) -> Scores:
    samples = data.samples("calibration")
    verdicts = detector.judge([to_rgb(sample.path) for sample in samples])
    return Scores(
        np.array([verdict.logit for verdict in verdicts]),
        np.array([sample.label == "fake" for sample in samples]),
        groups=np.array([sample.group for sample in samples]),
    )


def examine(work: Path, folder: Path, data: Data, champion: Champion) -> Judgement:
    """Open a challenger, ask it about the holdout, and judge."""
    proof, detector = gathered.prove(folder)
    found = Evidence(
        champion=champion.detector.manifest,
        challenger=manifests.read(folder),
        new=None,
        old=None,
        trained=fingerprints(data, [*data.sets["reviewed"], *data.sets["replay"]]),
        holdout=fingerprints(data, data.sets["holdout"]),
        proof=proof,
    )
    if detector is None:
        return judge(found)
    new, old = said_of(detector, data, work / f"rows-{folder.name}")
    pairs = {"new": pair(champion.new, new), "old": pair(champion.old, old)}
    return judge(replace(found, **pairs, speeds=speeds(champion, detector, data)))


def said_of(detector: Detector, data: Data, folder: Path) -> tuple[list[Record], list[Record]]:
    """Of the new images and of the old ones; real photos are among both."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = gathered.rows(detector, data.samples("holdout"), folder / "holdout.jsonl")
    return (
        [row for row in everything if row["category"] in ("photo", HALFTONE)],
        [row for row in everything if row["category"] != HALFTONE],
    )


def speeds(champion: Champion, challenger: Detector, data: Data) -> Speeds:
    """Of both, in turns."""
    images = [to_rgb(each.path) for each in data.samples("holdout")[:SPEED_IMAGES]]
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(SPEED_ROUNDS):
        for is_champion, detector in ((True, champion.detector), (False, challenger)):
            found[is_champion] += [gathered.speed(detector, images) for _ in range(SPEED_TIMES)]
    return Speeds(found[True], found[False])


def copied(good: Path, folder: Path, **changes: Any) -> Path:
    """The good challenger with another manifest."""
    shutil.copytree(good, folder)
    _rewrite(folder, name=folder.name, **changes)
    return folder


def idle(good: Path, folder: Path) -> Path:
    """Adapters as they are before the first update, under the good challenger's manifest."""
    copied(good, folder)
    base = checkpoint.load(CHECKPOINT)
    fresh = adapters.attach(base.model, parts.adapters(base.model, LORA, PARTS))
    adapters.save(fresh, folder, checkpoint.DEMO)
    return folder


def broken(work: Path, good: Path, data: Data, champion: Champion, calibration: Calibration) -> Judgement:
    folder = copied(good, work / "broken-calibration")
    results.calibrate(folder, calibration)
    return examine(work, folder, data, champion)


def leaking(work: Path, good: Path, data: Data) -> Judgement:
    """The good challenger on another holdout."""
    return examine(work, good, data, ask_champion(data, work))


def poisoned(data: Data) -> Data:
    """The holdout with some of the images that were trained on, saved anew: other bytes, under other names."""
    folder = data.folder / "holdout" / "poison"
    folder.mkdir()
    detailed = [record for record in data.sets["reviewed"] if _pdq(data.folder / record["image"])]
    added = []
    for number, record in enumerate(detailed[:POISON]):
        name = f"holdout/poison/{number}.jpg"
        Image.open(data.folder / record["image"]).save(data.folder / name, quality=80)
        added.append({**record, "image": name, "photo": f"unknown {number}", "crop": f"unknown {number}"})
    return Data(data.folder, {**data.sets, "holdout": [*data.sets["holdout"], *added]})


def fingerprints(data: Data, records: Sequence[Record]) -> list[Fingerprint]:
    """By the file's name, its bytes, its photo and its PDQ hash."""
    return [
        Fingerprint(
            record["image"],
            hashlib.sha256((data.folder / record["image"]).read_bytes()).hexdigest(),
            record["photo"],
            _pdq(data.folder / record["image"]),
        )
        for record in records
    ]


def _pdq(path: Path) -> str | None:
    """64 hexadecimal digits; None of an image with too little detail."""
    bits, quality = pdqhash.compute(np.asarray(to_rgb(path)))
    return np.packbits(bits).tobytes().hex() if quality >= MIN_QUALITY else None


def _sample(folder: Path, record: Record) -> Sample:
    return Sample(
        place=record["image"],
        id=record["image"],
        image=record["image"],
        path=folder / record["image"],
        label="real" if record["artifact"] is None else "fake",
        category=record["cate"],
        references=(record["conversations"][1]["value"],),
        group=record["crop"],
    )


def _split(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Reals and fakes."""
    reals = [record for record in records if record["artifact"] is None]
    return reals, [record for record in records if record["artifact"] is not None]


def _answered(record: Record, answer: str) -> Record:
    human, _ = record["conversations"]
    return {**record, "conversations": [human, {"from": "gpt", "value": answer}]}


def _flattened(calibration: Calibration) -> Calibration:
    """The same decisions, from scores that say nothing."""
    if calibration.method == "isotonic":
        knots = tuple((logit, 0.5 + FLATTER * (chance - 0.5)) for logit, chance in calibration.knots)
        return calibration.model_copy(update={"knots": knots})
    scale, bias = FLATTER * calibration.scale, FLATTER * calibration.bias
    return calibration.model_copy(update={"method": "platt", "scale": scale, "bias": bias})


def _rewrite(folder: Path, **changes: Any) -> Manifest:
    manifest = manifests.read(folder).model_copy(update=changes)
    manifest.write(folder)
    return manifest


def _table(planted: Sequence[Planted]) -> Table:
    found = Table(title="Bad challengers, and what blocked them", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, width in {"planted": 13, "outcome": 7, "blocked by": 19, "because": 44, "and also by": 22}.items():
        found.add_column(name, width=width)
    for each in planted:
        why = escape(each.right[0].reason) if each.right else "[red]It is not: that rule is met.[/red]"
        found.add_row(each.name, each.judgement.outcome, each.expected, why, ", ".join(each.others))
    return found


if __name__ == "__main__":
    sys.exit(main())
