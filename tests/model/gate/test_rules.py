"""Each rule on both sides of its margin, from drawn images; and the outcome that follows."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from model.detector import Detector
from model.gate import rules
from model.gate.comparison import NotComparable, Pair, pair
from model.gate.evidence import Evidence, Proof, Speeds, speed
from model.gate.finding import Finding
from model.gate.judgement import Judgement, decide, judge
from model.gate.leaks import Fingerprint
from model.gate.margins import Margins
from model.manifest import Adapter, Prompt
from tests.model.gate.drawn import CHALLENGER, CHAMPION, Row, drawn, evidence, rows

MARGINS = Margins()
ADAPTER = Adapter(base="demo", digest="0" * 64)


def better(seed: int = 0, **changes: Any) -> Evidence:
    """A challenger that is clearly better on what is new, and as good on what is old."""
    rng = np.random.default_rng(seed)
    new, old = drawn(rng, "new", 300, (0.6, 0.85)), drawn(rng, "old", 800, (0.93, 0.93), shared=0.95)
    return evidence(new, old, **changes)


def altered(found: Pair, change: Any) -> Pair:
    """The same images; the challenger's rows through `change`."""
    return pair(found.champion_rows, [change(dict(row)) for row in found.challenger_rows])


def only(judgement: Judgement, rule: str) -> Finding:
    """The one rule that is not met."""
    assert [each.rule for each in judgement.findings if each.answer not in ("pass", "left out")] == [rule]
    return judgement.finding(rule)


def said(row: Row, logit: float) -> Row:
    """The row, with another score."""
    label = "fake" if logit >= 0 else "real"
    return {**row, "logit": logit, "p_fake": 1 / (1 + np.exp(-logit)), "scored": label, "predicted": label}


def test_a_better_challenger_is_promoted() -> None:
    judgement = judge(better())
    assert judgement.outcome == "promote"
    assert not judgement.of("fail") and not judgement.of("unsure")
    assert [each.rule for each in judgement.of("left out")] == ["graded"]
    assert judgement.finding("new_auc").low > 0  # type: ignore[operator]


def test_a_judgement_survives_json() -> None:
    judgement = judge(better())
    assert Judgement.model_validate_json(judgement.model_dump_json()) == judgement


def test_the_strictest_answer_decides() -> None:
    def findings(*answers: Any) -> tuple[Finding, ...]:
        return tuple(Finding(rule="r", title="t", answer=answer, reason="") for answer in answers)

    assert decide(findings("pass", "left out")) == "promote"
    assert decide(findings("pass", "unsure")) == "ask"
    assert decide(findings("unsure", "fail", "pass")) == "reject"


def test_a_trained_image_in_the_holdout_rejects_and_is_named() -> None:
    leaked = (Fingerprint("trained-7", "new-3"), Fingerprint("other", "other"))
    finding = only(judge(better(trained=leaked)), "clean_holdout")
    assert finding.answer == "fail"
    assert "new-3 is trained-7 (same sha256)" in finding.reason


def test_what_was_trained_on_must_be_stated() -> None:
    assert only(judge(better(trained=())), "clean_holdout").answer == "unsure"


def test_a_challenger_that_cannot_be_opened_is_rejected_without_measures() -> None:
    shut = replace(better(), new=None, old=None, speeds=None, proof=Proof(loads="The adapters change no output."))
    judgement = judge(shut)
    assert judgement.outcome == "reject"
    assert only(judgement, "loads").reason == "The adapters change no output."


def test_goldens_that_do_not_come_out_again_reject() -> None:
    assert only(judge(better(proof=Proof(goldens="a.png is real, was fake"))), "goldens").answer == "fail"


def test_another_prompt_rejects() -> None:
    other = CHALLENGER.model_copy(update={"prompt": Prompt(text="<image>Real or fake?")})
    finding = only(judge(better(challenger=other)), "prompt")
    assert finding.answer == "fail"
    assert "its text is '<image>Real or fake?'" in finding.reason


def test_a_challenger_that_says_the_same_does_nothing() -> None:
    same = better()
    new, old = (pair(each.champion_rows, each.champion_rows) for each in (same.new, same.old) if each)
    judgement = judge(evidence(new, old))
    assert judgement.finding("answers_differ").answer == "fail"


def test_few_images_ask() -> None:
    rng = np.random.default_rng(0)
    found = evidence(drawn(rng, "new", 30, (0.6, 0.95)), drawn(rng, "old", 800, (0.93, 0.93), shared=0.95))
    judgement = judge(found)
    assert judgement.outcome == "ask"
    assert "14 real in new" in judgement.finding("enough_images").reason


def test_many_alike_images_are_few() -> None:
    rng = np.random.default_rng(0)
    new = drawn(rng, "new", 300, (0.6, 0.9), groups=12)
    judgement = judge(evidence(new, drawn(rng, "old", 800, (0.93, 0.93), shared=0.95)))
    assert judgement.finding("enough_images").answer == "unsure"


def test_images_of_which_a_few_audits_decide_alone_are_few() -> None:
    """Five of each class stand for fifty images each: (70 + 250)² / (70 + 5 · 50²) = 8.1 equal ones."""
    rng = np.random.default_rng(0)
    plain, old = drawn(rng, "new", 150, (0.6, 0.95)), drawn(rng, "old", 800, (0.93, 0.93), shared=0.95)
    heavy = [place for fake in (True, False) for place in np.flatnonzero(plain.fake == fake)[:5]]
    weight = np.where(np.isin(np.arange(150), heavy), 50.0, 1.0)
    few, enough = (
        judge(evidence(replace(plain, weight=each), old)).finding("enough_images") for each in (weight, plain.weight)
    )
    assert (few.answer, enough.answer) == ("unsure", "pass")
    assert "8 fake in new" in few.reason and "Audited ones stand for many" in few.reason
    assert "Audited" not in enough.reason


def test_no_gain_rejects_and_a_gain_that_is_not_shown_asks_for_more_images() -> None:
    rng = np.random.default_rng(1)
    same = list(
        rules.new_is_better(
            evidence(drawn(rng, "new", 600, (0.8, 0.8), shared=0.95), drawn(rng, "old", 40, (0.9, 0.9))), MARGINS
        )
    )
    assert [each.answer for each in same] == ["fail", "fail"]
    new = drawn(np.random.default_rng(5), "new", 60, (0.7, 0.78))
    little = list(rules.new_is_better(evidence(new, new), MARGINS))
    assert [each.answer for each in little] == ["unsure", "unsure"]
    assert "new images would show it" in little[0].reason


def test_more_fakes_found_without_a_better_order_is_only_saying_fake() -> None:
    found = better()
    assert found.new is not None
    louder = pair(found.new.champion_rows, [said(dict(row), row["logit"] + 2) for row in found.new.champion_rows])
    (finding,) = rules.auc_with_recall(evidence(louder, louder), MARGINS)
    assert finding.answer == "fail"
    assert "learned to say fake" in finding.reason
    some = np.arange(len(louder)) < 30
    (asked,) = rules.auc_with_recall(evidence(louder.where(some), louder), MARGINS)
    assert (asked.answer, "too few" in asked.reason) == ("unsure", True), "as everything that few images say"


def test_a_loss_on_old_images_rejects_once_it_is_clear() -> None:
    rng = np.random.default_rng(0)
    found = evidence(drawn(rng, "new", 300, (0.6, 0.85)), drawn(rng, "old", 800, (0.93, 0.86)))
    answers = {each.rule: each.answer for each in rules.old_is_kept(found, MARGINS)}
    assert answers == {"old_auc": "fail", "old_balanced_accuracy": "fail"}


def test_a_loss_that_may_be_chance_asks() -> None:
    old = drawn(np.random.default_rng(3), "old", 60, (0.93, 0.9))
    answers = {each.answer for each in rules.old_is_kept(evidence(old, old), MARGINS)}
    assert "unsure" in answers and "fail" not in answers


def test_real_photos_that_are_called_fake_reject() -> None:
    found = better()
    assert found.old is not None
    turned = {row["id"] for row in found.old.champion_rows if row["label"] == "real" and hash_of(row) < 0.3}
    old = altered(found.old, lambda row: said(row, 3.0) if row["id"] in turned else row)
    judgement = judge(replace(found, old=old))
    finding = judgement.finding("reals")
    assert finding.answer == "fail"
    assert finding.change is not None and finding.change < -0.05


def hash_of(row: Row) -> float:
    """A number from 0 to 1 that depends on the row alone."""
    return int(str(row["id"]).rpartition("-")[2]) * 0.6180339887 % 1


def test_one_category_that_pays_for_the_others_rejects_and_a_small_one_asks() -> None:
    found = better()
    assert found.old is not None

    def named(row: Row, size: int) -> Row:
        return {**row, "category": "cars" if int(row["id"].split("-")[1]) < size else "photo"}

    def judged(size: int, share: float) -> Finding:
        assert found.old is not None
        before = [named(row, size) for row in found.old.champion_rows]
        after = [
            said(named(row, size), -row["logit"])
            if named(row, size)["category"] == "cars" and hash_of(row) < share
            else named(row, size)
            for row in found.old.challenger_rows
        ]
        findings = rules.categories_are_kept(replace(found, old=pair(before, after)), MARGINS)
        return {each.rule: each for each in findings}["category:cars"]

    assert judged(100, 0.3).answer == "fail"
    assert judged(8, 0.15).answer == "unsure"
    assert judged(100, 0.0).answer == "pass"


def test_explanations_further_from_their_references_reject() -> None:
    found = better()
    assert found.old is not None
    worse = altered(found.old, lambda row: {**row, "rouge_l": 0.6})
    assert only(judge(replace(found, old=worse)), "rouge_l").answer == "fail"


def test_explanations_without_references_ask() -> None:
    found = better()
    bare = [
        pair(
            [{**row, "references": []} for row in each.champion_rows],
            [{**row, "references": []} for row in each.challenger_rows],
        )
        for each in (found.new, found.old)
        if each is not None
    ]
    answers = {each.rule: each.answer for each in rules.explanations_are_kept(evidence(*bare), MARGINS)}
    assert answers == {"rouge_l": "unsure", "css": "unsure", "graded": "left out"}


def test_sentences_graded_wrong_reject() -> None:
    found = better()
    graded = [
        pair(
            [{**row, "graded": 1.0} for row in each.champion_rows],
            [{**row, "graded": 0.5} for row in each.challenger_rows],
        )
        for each in (found.new, found.old)
        if each is not None
    ]
    assert only(judge(evidence(*graded)), "graded").answer == "fail"


@pytest.mark.parametrize("answer", ["This is a fake image.", "This is a real image. .", "", None])
def test_empty_explanations_reject_and_count_as_far_from_their_references(answer: str | None) -> None:
    found = better()
    assert found.old is not None
    silent = altered(found.old, lambda row: {**row, "answer": answer, "rouge_l": None, "css": None})
    judgement = judge(replace(found, old=silent))
    assert judgement.finding("empty_explanations").answer == "fail"
    assert judgement.finding("rouge_l").answer == "fail"


def test_answers_that_cannot_be_read_reject() -> None:
    found = better()
    assert found.old is not None
    lost = altered(found.old, lambda row: {**row, "pair_mass": 0.1 if hash_of(row) < 0.05 else 0.99})
    assert only(judge(replace(found, old=lost)), "readable").answer == "fail"
    unparsable = altered(found.old, lambda row: {**row, "predicted": "unparsable"} if hash_of(row) < 0.05 else row)
    assert only(judge(replace(found, old=unparsable)), "readable").answer == "fail"


def test_images_that_only_the_challenger_fails_on_count_against_it() -> None:
    found = better()
    assert found.old is not None
    broken = altered(found.old, lambda row: {**row, "error": "refused"} if hash_of(row) < 0.05 else row)
    assert judge(replace(found, old=broken)).finding("readable").answer == "fail"
    not_a_number = altered(found.old, lambda row: {**row, "logit": float("nan")} if hash_of(row) < 0.05 else row)
    assert judge(replace(found, old=not_a_number)).finding("readable").answer == "fail"


def test_a_score_that_does_not_mean_what_it_says_rejects() -> None:
    found = better()
    assert found.new is not None and found.old is not None
    flat = [
        altered(each, lambda row: {**row, "p_fake": 0.5 + 0.05 * (row["p_fake"] - 0.5)})
        for each in (found.new, found.old)
    ]
    finding = only(judge(evidence(*flat)), "calibration")
    assert finding.answer == "fail"
    assert finding.challenger is not None and finding.challenger > 0.3


@pytest.mark.parametrize(
    ("champion", "challenger", "speeds", "answer"),
    [
        (None, None, Speeds((10.0,), (8.1,)), "pass"),
        (None, None, Speeds((10.0,), (5.0, 7.9)), "unsure"),
        (None, None, Speeds((10.0, 3.0), (6.9, 2.0)), "fail"),
        (ADAPTER, ADAPTER, Speeds((10.0,), (7.9,)), "unsure"),
        (ADAPTER, None, Speeds((10.0,), (7.9,)), "unsure"),
        (None, ADAPTER, Speeds((10.0,), (6.5,)), "pass"),
        (None, ADAPTER, Speeds((10.0,), (6.3,)), "unsure"),
        (None, ADAPTER, Speeds((10.0,), (5.5,)), "fail"),
        (None, None, None, "unsure"),
    ],
)
def test_speed_is_kept_and_the_first_adapter_may_cost_what_any_does(
    champion: Adapter | None, challenger: Adapter | None, speeds: Speeds | None, answer: str
) -> None:
    found = better(
        champion=CHAMPION.model_copy(update={"adapter": champion}),
        challenger=CHALLENGER.model_copy(update={"adapter": challenger}),
        speeds=speeds,
    )
    (finding,) = rules.speed_is_kept(found, MARGINS)
    assert finding.answer == answer


@pytest.mark.parametrize(("gpu", "images_per_second"), [(False, 20), (True, 5)])
def test_on_a_cpu_the_processor_s_time_counts_and_with_a_gpu_the_clock_s(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, images_per_second: float
) -> None:
    """An image takes the processor 0.05 s, and meanwhile somebody else has it for 0.15 s."""
    clock, processor = itertools.count(0, 0.2), itertools.count(0, 0.05)
    clocks = SimpleNamespace(perf_counter=clock.__next__, process_time=processor.__next__)
    monkeypatch.setattr("model.gate.evidence.time", clocks)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    detector = cast(Detector, SimpleNamespace(judge=lambda images: []))
    assert speed(detector, [Image.new("RGB", (8, 8))]) == pytest.approx(images_per_second)


def test_other_images_are_no_comparison() -> None:
    rng = np.random.default_rng(0)
    one, other = drawn(rng, "new", 40, (0.7, 0.7)), drawn(rng, "old", 40, (0.7, 0.7))
    with pytest.raises(NotComparable, match="on other images"):
        pair(one.champion_rows, other.challenger_rows)
    with pytest.raises(NotComparable, match="another label"):
        pair(one.champion_rows, [{**row, "label": "fake"} for row in one.challenger_rows])


def test_weights_stand_for_images_that_were_not_sampled() -> None:
    """Half of the images count for nothing much, and what is only better there is no better."""
    fake = np.arange(400) % 2 == 0
    strong, weak = np.where(fake, 3.0, -3.0), np.where(fake, -3.0, 3.0)
    wrong_first = np.where(np.arange(400) < 200, weak, strong)
    before = [
        {**row, "weight": 1.0 if number < 200 else 100.0} for number, row in enumerate(rows(wrong_first, fake, "new"))
    ]
    after = rows(strong, fake, "new")
    weighed, plain = (pair(each, after) for each in (before, rows(wrong_first, fake, "new")))
    heavy, even = (next(iter(rules.reals_are_kept(evidence(each, each), MARGINS))) for each in (weighed, plain))
    assert even.champion == pytest.approx(0.5)
    assert heavy.champion == pytest.approx(100 / 101)
