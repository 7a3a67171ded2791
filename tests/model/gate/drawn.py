"""Rows as `model.evaluate` writes them, drawn from two normal distributions whose distance says how good a version is.

A score is what both versions see of an image, and what each sees for itself: `shared` is the first part's share of the
variance. The distance follows from the balanced accuracy that is asked for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from model.gate.comparison import Pair, pair
from model.gate.evidence import Evidence, Proof, Speeds
from model.gate.leaks import Fingerprint
from model.manifest import Golden, Manifest

Row = dict[str, Any]

REFERENCE = "This is a fake image. A regular pattern of dots covers it."
GOLDEN = Golden(image="a.png", sha256="0", label="fake", logit=1.0, text="", dtype="float32", engine="transformers")
CHAMPION = Manifest(name="champion", kind="demo", base="drawn", golden=(GOLDEN,))
CHALLENGER = CHAMPION.model_copy(update={"name": "challenger"})


def distance(accuracy: float) -> float:
    """Between the classes' means, in standard deviations, for this balanced accuracy at the best threshold."""
    return 2 * float(norm.ppf(accuracy))


def scores(
    rng: np.random.Generator, fake: NDArray[np.bool_], accuracies: tuple[float, float], shared: float = 0.7
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two versions' calibrated logits of the same images, with these balanced accuracies."""
    common = rng.normal(size=len(fake))
    found = []
    for accuracy in accuracies:
        own = math.sqrt(shared) * common + math.sqrt(1 - shared) * rng.normal(size=len(fake))
        apart = distance(accuracy)
        found.append(apart * (own + np.where(fake, apart, -apart) / 2))  # the log odds of two such normals
    return found[0], found[1]


def rows(logit: NDArray[np.float64], fake: NDArray[np.bool_], name: str, groups: int | None = None) -> list[Row]:
    """One for each image; `groups` deals them out to so many groups of alike images."""
    return [
        {
            "place": f"row {number}",
            "id": f"{name}-{number}",
            "image": f"{name}/{number}.jpg",
            "category": "photo",
            "group": None if groups is None else f"{name}-{number % groups}",
            "label": "fake" if fake[number] else "real",
            "sha256": f"{name}-{number}",
            "p_fake": (p := 1 / (1 + math.exp(-each))),
            "logit": float(each),
            "pair_mass": 0.99,
            "scored": (said := "fake" if p >= 0.5 else "real"),
            "predicted": said,
            "answer": f"This is a {said} image. A regular pattern of dots covers it.",
            "references": [REFERENCE],
            "rouge_l": 0.8,
            "css": 0.9,
            "error": None,
        }
        for number, each in enumerate(logit)
    ]


def drawn(
    rng: np.random.Generator,
    name: str,
    images: int,
    accuracies: tuple[float, float],
    shared: float = 0.7,
    groups: int | None = None,
    off: float = 0.0,
) -> Pair:
    """Half of the images fake. The champion's boundary is `off` by so much: its decisions suffer, its AUC does not."""
    fake = np.arange(images) // 2 % 2 == 0
    before, after = scores(rng, fake, accuracies, shared)
    before = before - off
    return pair(rows(before, fake, name, groups), rows(after, fake, name, groups))


def evidence(new: Pair, old: Pair, **changes: Any) -> Evidence:
    """Sound in all that is not measured on images."""
    held = tuple(
        Fingerprint(row["id"], row["sha256"], row["group"]) for each in (new, old) for row in each.champion_rows
    )
    sound: dict[str, Any] = {
        "champion": CHAMPION,
        "challenger": CHALLENGER,
        "new": new,
        "old": old,
        "trained": (Fingerprint("trained", "trained"),),
        "holdout": held,
        "proof": Proof(),
        "speeds": Speeds((10.0, 9.0), (9.5, 10.0)),
    }
    return Evidence(**sound | changes)
