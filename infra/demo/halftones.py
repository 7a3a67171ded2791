"""The pictures of `telltale demo-retrain`: what arrives, what is replayed, what the gate keeps, what measures it all.

Every photo serves one purpose (`model.demo.newtype`), so that what is measured in the end comes from photos that were
neither trained on, nor calibrated on, nor seen by the gate. It knows files and what they are, nothing of services.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model.demo import newtype
from model.demo.newtype import HALFTONE
from model.demo.photos import PhotosUnavailable
from moderation.errors import ConfigurationError

SEEDS = {"arriving": 1, "old": 2, "measured": 3, "replay": 5, "bundled": 6, "order": 7}
BETWEEN_SEEDS = 100  # so that no two of them, of any two draws, are the same
KNOWN_SHARE = 0.12  # of what arrives: fakes of the types that the checkpoint knows
Kind = Literal["halftone", "known", "real"]


@dataclass(frozen=True)
class Amounts:
    """How many pictures arrive (half of those that are not known fakes are halftones), are replayed, and are bundled.

    `bundled` are made of the photos that came with libraries, for the gate's old images.
    """

    arriving: int = 200
    replay: int = 960
    bundled: int = 200


@dataclass(frozen=True)
class Picture:
    """One file, what it is, of which photo, and everything that is true of it, in sentences."""

    path: Path
    kind: Kind
    photo: str
    said: str

    @property
    def label(self) -> Literal["real", "fake"]:
        return "real" if self.kind == "real" else "fake"


@dataclass(frozen=True)
class Pictures:
    """All of them: `replay` and `old` are files of records, as settings name them."""

    arriving: tuple[Picture, ...]
    measured: tuple[Picture, ...]
    replay: Path
    old: Path


def draw(folder: Path, amounts: Amounts, say: Callable[[str], None], seed: int = 0) -> Pictures:
    """Make them all below `folder`; another seed draws other ones, of the same photos for the same purposes.

    Raises ConfigurationError where the photos are not there.
    """
    seeds = {name: number + BETWEEN_SEEDS * seed for name, number in SEEDS.items()}

    def drawn(name: str, purpose: newtype.Purpose) -> list[dict[str, Any]]:
        records = newtype.draw(newtype.heldout(purpose), folder / name, seeds[name])
        return [_below(name, record) for record in records]

    try:
        say("Drawing the pictures …")
        arriving = _mixed(drawn("arriving", "reviewed"), amounts.arriving, seeds["order"])
        measured = drawn("measured", "holdout")
        old = [record for record in drawn("old", "calibration") if record["artifact"] != HALFTONE]
        say("Training the makers of known fakes, for replay …")
        made_by = newtype.autoencoders(seeds["replay"])
        replayed = newtype.known(folder / "replay", "train", amounts.replay, made_by, seeds["replay"])
        others = newtype.known(folder / "bundled", "validation", amounts.bundled, made_by, seeds["bundled"])
    except PhotosUnavailable as error:
        raise ConfigurationError(str(error)) from error
    kept = [*old, *(_below("bundled", record) for record in others)]
    return Pictures(
        arriving=tuple(_picture(folder, each) for each in arriving),
        measured=tuple(_picture(folder, each) for each in measured),
        replay=newtype.write(replayed, folder / "replay" / "replay.json"),
        # Crops of one photo are other pictures; a crop and its mirror image are one.
        old=newtype.write([{**each, "group": each.get("crop", each["image"])} for each in kept], folder / "old.json"),
    )


def _below(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "image": f"{name}/{record['image']}"}


def _mixed(records: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[Mapping[str, Any]]:
    """`count` of them in random order: some known fakes, and of the rest as many halftones as reals."""
    random_ = random.Random(seed)
    known = round(count * KNOWN_SHARE)
    halftones = (count - known) // 2
    wanted: dict[Kind, int] = {"known": known, "halftone": halftones, "real": count - known - halftones}
    chosen = []
    for kind, number in wanted.items():
        pool = [record for record in records if _kind(record) == kind]
        if len(pool) < number:
            raise ConfigurationError(f"{number} pictures of the kind {kind} are wanted, and there are {len(pool)}.")
        chosen += random_.sample(pool, number)
    random_.shuffle(chosen)
    return chosen


def _kind(record: Mapping[str, Any]) -> Kind:
    if record["artifact"] is None:
        return "real"
    return "halftone" if record["artifact"] == HALFTONE else "known"


def _picture(folder: Path, record: Mapping[str, Any]) -> Picture:
    return Picture(folder / record["image"], _kind(record), record["photo"], record["conversations"][1]["value"])
