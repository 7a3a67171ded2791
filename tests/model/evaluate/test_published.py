"""When a run may be held against the paper, and every reason why not."""

from __future__ import annotations

from typing import Any

import pytest

from model.evaluate import published


def run(
    format_: str = "FakeClue",
    judged: int = 5000,
    answers: str = "free",
    *,
    kind: str = "fakevlm",
    dtype: str = "bfloat16",
    prompt: str = "<image>Does the image looks real/fake?",
    limit: int | None = None,
    skipped: int = 0,
) -> dict[str, Any]:
    return {
        "checkpoint": {"kind": kind, "prompt": prompt},
        "dtype": dtype,
        "data": {"format": format_, "judged": judged, "skipped": skipped},
        "options": {"answers": answers, "limit": limit},
    }


def test_the_same_set_measured_the_same_way_is_comparable() -> None:
    assert published.differences(run()) == []
    assert published.verdict(run()).startswith("Comparable in accuracy and F1 if these are the 5,000 test records")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"limit": 5000}, "--limit 5000 took a part of the set"),
        ({"dtype": "nf4"}, "the checkpoint was quantized to nf4"),
        ({"dtype": "int8"}, "the checkpoint was quantized to int8"),
        ({"prompt": "<image>Is it real?"}, "its prompt is not FakeVLM's published one"),
        ({"kind": "demo"}, "the checkpoint is a demo model, not FakeVLM"),
        ({"skipped": 3}, "3 records left out here"),
    ],
)
def test_format_and_number_alone_make_nothing_comparable(changes: dict[str, Any], says: str) -> None:
    [reason] = published.differences(run(**changes))
    assert says in reason
    assert published.verdict(run(**changes)).startswith("Not comparable")


def test_every_difference_is_named() -> None:
    assert published.differences(run("folders")) == ["the paper measured no such set"]
    assert published.differences(run("FakeClue", 100)) == ["its set has 5,000 images, and 100 were judged here"]
    [frames] = published.differences(run("DD-VQA", 262))
    assert frames == "it is not published which frames of which videos the paper judged"
    assert published.differences(run("LOKI", 2217)) == [
        "it is not published whether the paper judged all of LOKI's public images"
    ]
    [reason] = published.differences(run(answers="scored"))
    assert "free answers" in reason
    said = published.verdict(run("LOKI", 100, "none", kind="demo"))
    assert said.startswith("Not comparable")
    assert said.count(";") == 3


def test_published_f1_is_of_real_images() -> None:
    """At 63.8 % fake and 98.6 % accuracy, 1.4 % wrong: F1 of reals can be .981, and of fakes not."""
    share_real, wrong = 0.362, 0.014
    assert abs(2 * (share_real - wrong / 2) / (2 * (share_real - wrong / 2) + wrong) - 0.981) < 0.001
