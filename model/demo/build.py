"""The recipe from photos to the shipped checkpoint, stage by stage. Every seed is fixed.

Stages leave their results in a work folder, so that a run that was stopped goes on where it was; an empty one starts
anew.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from model import calibration
from model import manifest as manifests
from model.calibration import Scores
from model.checkpoint import save_classic
from model.decode import to_rgb
from model.demo import base, card, dataset, evaluate, fakes, photos, samples, warmup
from model.demo.crops import SIDE
from model.demo.evaluate import CHECKPOINT, HELDOUT
from model.demo.fakes import Autoencoders
from model.demo.photos import Photo, Split
from model.detector import Detector, make_goldens
from model.finetune.arguments import Arguments
from model.finetune.run import finetune
from model.manifest import Manifest

log = logging.getLogger(__name__)

NAME = "telltale-demo"
BASE = "random weights, trained from scratch by model.demo (not FakeVLM)"
SEEDS = {"autoencoders": 1, "train": 1, "validation": 2, "test": 3, "network": 0, "training": 0}
GOLDENS = 8


@dataclass(frozen=True)
class Amounts:
    """How much of everything: images per side of the split, and passes over the training images.

    `warmup` lists phases, each with how many of the training images it uses and how often: few images many times first,
    then all of them. `epochs` is for joint training, on all.
    """

    train: int = 30_000
    validation: int = 1_100
    test: int = 364
    warmup: tuple[tuple[int, int], ...] = ((10_000, 5), (30_000, 3))
    epochs: int = 1


@dataclass(frozen=True)
class Places:
    """Where the results go: the checkpoint, the held-out images, the samples, and the NOTICE file."""

    checkpoint: Path = CHECKPOINT
    heldout: Path = HELDOUT
    samples: Path = samples.FOLDER
    notice: Path = Path(__file__).parents[2] / "NOTICE"


def build(work: Path, amounts: Amounts | None = None, places: Places | None = None) -> dict[str, int | float]:
    """Run the recipe; what `evaluate.summary` says of the result.

    Raises PhotosUnavailable, and what `finetune` raises.
    """
    amounts, places = amounts or Amounts(), places or Places()
    torch.set_flush_denormal(True)  # dying units and old moments make denormal numbers, and those cost a CPU a tenfold
    found = photos.collect(work)
    sides = photos.split([photo.name for photo in found])
    log.info("%d photos", len(found))
    pixels = {photo.name: photo.pixels() for photo in found}
    autoencoders = _autoencoders(work, _on_side(pixels, sides, "train"))
    data = make_data(work / "data", pixels, sides, autoencoders, amounts)
    warm = _warmed_up(work, data["train"], amounts)
    trained = _trained(work, warm, data["train"], amounts)
    _ship_images(places, data["test"], {photo.name: photo for photo in found}, autoencoders)
    _remember_recipe(trained, amounts)
    return _describe(trained, work / "checkpoint", places, data["validation"], found, sides)


def make_data(
    folder: Path,
    pixels: Mapping[str, Image.Image],
    sides: Mapping[str, Split],
    autoencoders: Autoencoders,
    amounts: Amounts,
) -> dict[Split, Path]:
    """The three data sets on disk, each made from its own photos only."""
    wanted: dict[Split, int] = {"train": amounts.train, "validation": amounts.validation, "test": amounts.test}
    for side, count in wanted.items():
        if not (folder / side / dataset.RECORDS).exists():
            dataset.write(folder / side, _on_side(pixels, sides, side), count, autoencoders, SEEDS[side])
            log.info("%s: %d images", side, count)
    return {side: folder / side for side in wanted}


def _on_side(pixels: Mapping[str, Image.Image], sides: Mapping[str, Split], side: Split) -> dict[str, Image.Image]:
    return {name: image for name, image in pixels.items() if sides[name] == side}


def _autoencoders(work: Path, pixels: Mapping[str, Image.Image]) -> Autoencoders:
    path = work / "autoencoders.pt"
    if not path.exists():
        log.info("training the autoencoders")
        torch.save(fakes.train_autoencoders(list(pixels.values()), SEEDS["autoencoders"]), path)
    # Our own file of this very run: the only pickle that is ever read.
    loaded: Autoencoders = torch.load(path, weights_only=False)  # nosec B614
    return loaded


def _warmed_up(work: Path, train: Path, amounts: Amounts) -> Path:
    folder = work / "warm"
    if (folder / "config.json").exists():
        return folder
    manifest = Manifest(name=f"{NAME}-warm", kind="demo", base=BASE, training={"seeds": SEEDS})
    processor = base.processor(manifest.prompt)
    network = base.network(processor, SEEDS["network"])
    records = json.loads((train / dataset.RECORDS).read_text())
    pixels = warmup.load_pixels(train, records, processor)
    targets = warmup.classes(records)
    for count, epochs in amounts.warmup:
        warmup.warm_up(network, pixels[:count], targets[:count], epochs=epochs, seed=SEEDS["training"])
    return save_classic(network, processor, manifest, folder, torch.float32)


def _trained(work: Path, warm: Path, train: Path, amounts: Amounts) -> Path:
    folder = work / "trained"
    if (folder / "config.json").exists():
        return folder
    return finetune(
        Arguments(
            base=str(warm),
            data=train / dataset.RECORDS,
            output=folder,
            name=NAME,
            method="full",
            epochs=amounts.epochs,
            batch_size=48,
            accumulate=1,
            learning_rate=1e-3,
            warmup=0.05,
            weight_decay=0.05,
            precision="bfloat16",
            attention="eager",
            stored_as="float16",
            seed=SEEDS["training"],
            log_every=50,
        )
    )


def _remember_recipe(trained: Path, amounts: Amounts) -> None:
    """What finetuning does not know of: the stages before it."""
    training = manifests.read(trained).training
    _rewrite(trained, training=training | {"recipe": {"seeds": SEEDS, "amounts": asdict(amounts)}})


def _ship_images(places: Places, test: Path, found: Mapping[str, Photo], autoencoders: Autoencoders) -> None:
    for folder in (places.heldout, places.samples):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(test, places.heldout)
    samples.write(places.samples, found, autoencoders)


def _describe(
    trained: Path, staged: Path, places: Places, validation: Path, found: list[Photo], sides: Mapping[str, Split]
) -> dict[str, int | float]:
    """Calibrate, measure, and write checkpoint, card and NOTICE.

    All of it in `staged` first: a service that starts meanwhile must not find a checkpoint without its goldens.
    """
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(trained, staged, ignore=shutil.ignore_patterns("logs"))
    scored = evaluate.score(_detector(staged), validation)
    fitted_on = f"{len(scored.fake)} images of {len(set(scored.photos))} validation photos"
    fitted = calibration.fit(Scores(scored.logit, scored.fake), "platt", fitted_on)
    _rewrite(staged, base=BASE, calibration=fitted)
    measured = evaluate.score(_detector(staged), places.heldout)
    _rewrite(staged, metrics={"measured_on": "model/demo/heldout", **evaluate.summary(measured)})
    detector = _detector(staged)
    manifest = _rewrite(staged, golden=make_goldens(detector, staged, _golden_images(staged, places.heldout)))
    names, misjudged = _try_samples(detector, places.samples)
    weights = staged / "model.safetensors"
    network = {"parameters": weights.stat().st_size // 2, "megabytes": weights.stat().st_size / 1e6, "side": SIDE}
    text = card.card(manifest, evaluate.measure(measured), found, sides, network, misjudged, len(names))
    (staged / "README.md").write_text(text)
    shutil.rmtree(places.checkpoint, ignore_errors=True)
    shutil.copytree(staged, places.checkpoint)
    places.notice.write_text(card.notice(found, sides))
    return evaluate.summary(measured)


def _detector(folder: Path) -> Detector:
    return Detector.load(folder, device="cpu")


def _rewrite(folder: Path, **changes: Any) -> Manifest:
    manifest = manifests.read(folder).model_copy(update=changes)
    manifest.write(folder)
    return manifest


def _golden_images(checkpoint: Path, heldout: Path) -> list[Path]:
    """Copies of the first held-out images, beside the manifest that speaks of them, in place of training images."""
    folder = checkpoint / "golden"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return [Path(shutil.copy(path, folder)) for path in sorted((heldout / "images").iterdir())[:GOLDENS]]


def _try_samples(detector: Detector, folder: Path) -> tuple[list[str], list[str]]:
    """All samples' names, and those that are misjudged."""
    listed = json.loads((folder / samples.INDEX).read_text())["samples"]
    verdicts = detector.judge([to_rgb(folder / entry["file"]) for entry in listed])
    wrong = [entry["file"] for entry, found in zip(listed, verdicts, strict=True) if found.label != entry["label"]]
    return [entry["file"] for entry in listed], wrong
