"""From rows to the summary: every measure with its interval, and everything a reader needs to know where it is from.

It holds no time and no path of its own, so that the same run always gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluate import intervals, metrics, published, texts
from model.evaluate.journal import Record
from model.evaluate.metrics import Estimate, Outcomes
from model.evaluate.robustness import ALTERATIONS
from model.evaluate.run import Results

DIGITS = 6

OF_CATEGORY = ("accuracy", "recall_real", "recall_fake", "f1_real", "f1_fake", "auroc")
AFTER_ALTERATION = ("accuracy", "recall_real", "recall_fake", "auroc")

UNPARSABLE = {
    "free": "the label is read from the model's whole answer; one that cannot be read counts as wrong",
    "scored": "not measured: the label is the score's and opens the answer, so there is nothing to parse",
    "none": "not measured: no answers were generated",
}


def summarise(results: Results) -> Record:
    """The summary as plain JSON values, rounded to six digits."""
    judged = [row for row in results.rows if row["error"] is None]
    outcomes = outcomes_of(judged)
    described = results.description
    answers = described["options"]["answers"]
    summary: dict[str, Any] = {
        **described,
        "data": {**described["data"], **_counts(results, judged), "data_digest": _digest(judged)},
        "intervals": _how(outcomes),
        "metrics": {name: asdict(each) for name, each in _measures(judged, outcomes, answers).items()},
        "unparsable": UNPARSABLE[answers],
        "low_pair_mass_is_below": metrics.LOW_PAIR_MASS,
        "confusion": metrics.confusion(outcomes),
        "categories": {
            name: _category([row for row in judged if row["category"] == name])
            for name in sorted({row["category"] for row in judged})
        },
        "reliability": [asdict(each) for each in metrics.reliability(outcomes)],
        "coverage": [asdict(each) for each in metrics.coverage(outcomes)],
        "texts": texts.describe() if any(row["rouge_l"] is not None for row in judged) else None,
        "robustness": _robustness(results),
    }
    summary["published"] = {
        "results": {name: asdict(each) for name, each in published.RESULTS.items()},
        "robustness_accuracy": published.ROBUSTNESS,
        "comparable": not published.differences(summary),
        "verdict": published.verdict(summary),
    }
    rounded: Record = _rounded(summary)
    return rounded


def to_json(summary: Record) -> str:
    """The text of `summary.json`."""
    return json.dumps(summary, indent=2) + "\n"


def outcomes_of(rows: Sequence[Record], predicted: str = "predicted") -> Outcomes:
    """Rows as arrays; `predicted` is the field that holds the label."""
    return Outcomes(
        fake=np.array([row["label"] == "fake" for row in rows], dtype=np.bool_),
        predicted=np.array([row[predicted] for row in rows], dtype=np.str_),
        p_fake=np.array([row["p_fake"] for row in rows], dtype=np.float64),
        logit=np.array([row["logit"] for row in rows], dtype=np.float64),
        pair_mass=np.array([row["pair_mass"] for row in rows], dtype=np.float64),
        groups=_groups(rows),
    )


def _groups(rows: Sequence[Record]) -> NDArray[np.str_] | None:
    """What alike images have in common; an image without a group is its own. None where no image has one."""
    if all(row["group"] is None for row in rows):
        return None
    return np.array([f"image {row['place']}" if row["group"] is None else f"group {row['group']}" for row in rows])


def _measures(rows: Sequence[Record], outcomes: Outcomes, answers: str) -> dict[str, Estimate]:
    found = metrics.measure(outcomes)
    if answers == "free":
        found["unparsable"] = metrics.share(outcomes.predicted == "unparsable", outcomes.groups)
        agreeing = np.array([row["predicted"] == row["scored"] for row in rows], dtype=np.bool_)
        found["answer_agrees_with_score"] = metrics.share(agreeing, outcomes.groups)
    return found | _nearness(rows, outcomes)


def _nearness(rows: Sequence[Record], outcomes: Outcomes) -> dict[str, Estimate]:
    compared = np.array([row["rouge_l"] is not None for row in rows], dtype=np.bool_)
    groups = outcomes.groups[compared] if outcomes.groups is not None else None
    near = [row for row in rows if row["rouge_l"] is not None]
    return {name: metrics.average([row[name] for row in near], groups) for name in ("rouge_l", "css")}


def _category(rows: Sequence[Record]) -> Record:
    """What can be said of one category: fewer images, so fewer measures."""
    outcomes = outcomes_of(rows)
    measures = metrics.measure(outcomes, OF_CATEGORY) | _nearness(rows, outcomes)
    return {
        "images": len(rows),
        "confusion": metrics.confusion(outcomes),
        "metrics": {name: asdict(each) for name, each in measures.items()},
    }


def _robustness(results: Results) -> list[Record]:
    """The clean set and each alteration of it, judged by the score, over the images that were judged in all of them."""
    if not results.altered:
        return []
    passes = {"clean": results.rows, **results.altered}
    both = [all(rows[index]["error"] is None for rows in passes.values()) for index in range(len(results.rows))]
    what = {"clean": "as it is"} | {each.name: each.what for each in ALTERATIONS}
    clean = _altered(results.rows, results.rows, both)
    return [
        _condition(name, what[name], _altered(results.rows, rows, both), clean, published.ROBUSTNESS.get(name))
        for name, rows in passes.items()
    ]


def _altered(clean: Sequence[Record], rows: Sequence[Record], both: Sequence[bool]) -> Outcomes:
    merged = [
        {**original, **{name: row[name] for name in ("p_fake", "logit", "pair_mass", "scored")}}
        for original, row, judged in zip(clean, rows, both, strict=True)
        if judged
    ]
    return outcomes_of(merged, "scored")


def _condition(name: str, what: str, outcomes: Outcomes, clean: Outcomes, paper: float | None) -> Record:
    measures = metrics.measure(outcomes, AFTER_ALTERATION)
    measures["change"] = metrics.change(clean.right, outcomes.right, outcomes.groups)
    return {
        "name": name,
        "what": what,
        "metrics": {each: asdict(estimate) for each, estimate in measures.items()},
        "published_accuracy": paper,
    }


def _counts(results: Results, judged: Sequence[Record]) -> Record:
    groups = _groups(judged)
    reasons = Counter(str(each["reason"]).split(":")[0] for each in results.skipped)
    return {
        "judged": len(judged),
        "real": sum(row["label"] == "real" for row in judged),
        "fake": sum(row["label"] == "fake" for row in judged),
        "with_reference": sum(bool(row["references"]) for row in judged),
        "groups": None if groups is None else len(set(groups)),
        "skipped": len(results.skipped),
        "skipped_by_reason": dict(reasons.most_common()),
    }


def _digest(rows: Sequence[Record]) -> str:
    """sha256 over what was judged: every image's own sha256, its label and its references, in order."""
    lines = [json.dumps([row["sha256"], row["label"], row["references"]]) for row in rows]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _how(outcomes: Outcomes) -> str:
    drawn = "images" if outcomes.groups is None else f"{len(set(outcomes.groups))} groups of alike images"
    wider = "" if outcomes.groups is None else ", or by the bootstrap where it is wider"
    return (
        f"95 %, by {intervals.RESAMPLES} bootstrap draws of {drawn} (percentiles, or basic for the calibration error; "
        f"seed {intervals.SEED}); proportions by Wilson's score{wider}; balanced accuracy, F1, AUROC and "
        "changes by the bootstrap or by their formulas for few images, whichever is wider"
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
