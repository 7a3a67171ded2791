"""When a run may be held against the paper, and every reason why not."""

from __future__ import annotations

from typing import Any

from model.evaluate import published


def run(
    format_: str = "FakeClue", judged: int = 5000, answers: str = "free", *, is_demo: bool = False
) -> dict[str, Any]:
    return {
        "checkpoint": {"is_demo": is_demo},
        "data": {"format": format_, "judged": judged},
        "options": {"answers": answers},
    }


def test_the_same_set_measured_the_same_way_is_comparable() -> None:
    assert published.differences(run()) == []
    assert published.verdict(run()).startswith("Comparable in accuracy and F1")


def test_every_difference_is_named() -> None:
    assert published.differences(run(is_demo=True)) == ["the checkpoint is a demo model, not FakeVLM"]
    assert published.differences(run("folders")) == ["the paper measured no such set"]
    assert published.differences(run("FakeClue", 100)) == ["its set has 5,000 images, and 100 were judged here"]
    [frames] = published.differences(run("DD-VQA", 262))
    assert frames == "it is not published which frames of which videos the paper judged"
    assert published.differences(run("LOKI", 2217)) == [
        "it is not published whether the paper judged all of LOKI's public images"
    ]
    [reason] = published.differences(run(answers="scored"))
    assert "free answers" in reason
    said = published.verdict(run("LOKI", 100, "none", is_demo=True))
    assert said.startswith("Not comparable")
    assert said.count(";") == 3


def test_published_f1_is_of_real_images() -> None:
    """At 63.8 % fake and 98.6 % accuracy, 1.4 % wrong: F1 of reals can be .981, and of fakes not."""
    share_real, wrong = 0.362, 0.014
    assert abs(2 * (share_real - wrong / 2) / (2 * (share_real - wrong / 2) + wrong) - 0.981) < 0.001
