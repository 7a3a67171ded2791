"""What the FakeVLM paper reports (arXiv 2503.14905), and whether a run of ours may be held against it.

Its F1 is that of real images (98.6 % accuracy on a set that is 63.8 % fake allows no other). It names neither the
variant of ROUGE-L nor the embedder of CSS. Of its robustness figures we know the kinds, not the parameters or the set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.detector import QUANTIZED
from model.evaluate.table import counted
from model.manifest import FAKEVLM_PROMPT


@dataclass(frozen=True)
class Published:
    """One row of the paper's tables.

    `images` is how many its set has, where that is public, and `unknown` what else of the set is not.
    """

    images: int | None
    accuracy: float
    f1: float
    rouge_l: float
    css: float
    unknown: str | None = None


RESULTS = {
    "FakeClue": Published(5000, 0.986, 0.981, 0.580, 0.877),
    "LOKI": Published(2217, 0.843, 0.837, 0.201, 0.582, "whether the paper judged all of LOKI's public images"),
    "DD-VQA": Published(None, 0.932, 0.931, 0.704, 0.866, "which frames of which videos the paper judged"),
}

# Accuracies after an alteration, by our names for them.
ROBUSTNESS = {"blur": 0.895, "rotate15": 0.909, "jpeg80": 0.910, "jpeg70": 0.912, "noise": 0.921}


def differences(summary: dict[str, Any]) -> list[str]:
    """Every reason why this run's accuracy and F1 are not the paper's quantity; none where they may be compared."""
    found = _of_checkpoint(summary) + _of_set(summary["data"])
    if summary["options"]["limit"] is not None:
        found.append(f"--limit {summary['options']['limit']} took a part of the set")
    if summary["options"]["answers"] != "free":
        found.append("it reads labels from free answers (--answers free), and here the score gave them")
    return found


def _of_checkpoint(summary: dict[str, Any]) -> list[str]:
    checkpoint = summary["checkpoint"]
    found = [] if checkpoint["kind"] == "fakevlm" else [f"the checkpoint is a {checkpoint['kind']} model, not FakeVLM"]
    if summary["dtype"] in QUANTIZED:
        found.append(f"the checkpoint was quantized to {summary['dtype']}")
    if checkpoint["prompt"] != FAKEVLM_PROMPT:
        found.append(f"its prompt is not FakeVLM's published one, {FAKEVLM_PROMPT}")
    return found


def _of_set(data: dict[str, Any]) -> list[str]:
    theirs = RESULTS.get(data["format"])
    if theirs is None:
        return ["the paper measured no such set"]
    found = []
    if theirs.images is not None and data["judged"] != theirs.images:
        found.append(f"its set has {theirs.images:,} images, and {data['judged']:,} were judged here")
    if data["skipped"]:
        found.append(f"{counted(data['skipped'], 'record')} left out here")
    if theirs.unknown:
        found.append(f"it is not published {theirs.unknown}")
    return found


def verdict(summary: dict[str, Any]) -> str:
    """Comparable or not, and why."""
    found = differences(summary)
    if found:
        return f"Not comparable with the paper: {'; '.join(found)}."
    theirs = RESULTS[summary["data"]["format"]]
    return (
        f"Comparable in accuracy and F1 if these are the {theirs.images:,} test records: format, number of images, "
        "prompt and the way labels are read are the paper's; which records they are is not checked. "
        "ROUGE-L and CSS are not: the paper names neither the variant nor the embedder."
    )
