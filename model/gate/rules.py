"""The rules, each a function of the evidence and the margins. They say what they find, and decide nothing.

Where a rule compares, both versions were judged on the same images, and its interval is that of the difference. What
was not measured is never taken for good: it is unsure, and a lead is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from model.evaluate import intervals, metrics
from model.evaluate.intervals import CONFIDENCE, Flags
from model.evaluate.journal import Record
from model.gate import comparison
from model.gate.comparison import Change, Pair
from model.gate.evidence import Evidence
from model.gate.finding import Finding, of
from model.gate.leaks import leaks
from model.gate.margins import Margins
from model.manifest import Prompt

NO_CHANGE = 1e-5  # of a logit, as `model.adapters` has it: above rounding, far below one update of any use
ROUNDING = 1e-9  # of an effective number of images
EXAMPLES = 3  # named in a reason

Rule = Callable[[Evidence, Margins], Iterable[Finding]]


def clean_holdout(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """No image of the holdout was trained on, under any name, cut or compression."""
    about = {"rule": "clean_holdout", "title": "Nothing trained on is in the holdout", "unit": "none"}
    if not evidence.trained or not evidence.holdout:
        reason = "It was not stated which images were trained on and held out, so a leak cannot be ruled out."
        yield Finding(**about, answer="unsure", reason=reason)
        return
    found = leaks(evidence.trained, evidence.holdout, margins.near_copy_bits)
    numbers = {**about, "images": len(evidence.holdout)}
    if not found:
        reason = f"None of {len(evidence.holdout):,} images is among the {len(evidence.trained):,} trained on."
        yield Finding(**numbers, answer="pass", reason=reason)
        return
    named = "; ".join(f"{each.holdout} is {each.trained} (same {each.by})" for each in found[:EXAMPLES])
    yield Finding(
        **numbers,
        answer="fail",
        reason=f"{len(found):,} of {len(evidence.holdout):,} holdout images were trained on: {named}"
        f"{'; …' if len(found) > EXAMPLES else ''}. What was measured on them says nothing.",
    )


def loads(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """It opens as a worker would open it, which an adapter that does nothing does not."""
    about = {"rule": "loads", "title": "It loads, and its adapter does something", "unit": "none"}
    complaint = evidence.proof.loads
    reason = complaint or "Every weight found its place, and outputs differ from the base's."
    yield Finding(**about, answer="fail" if complaint else "pass", reason=reason)


def goldens(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """It answers as its manifest says."""
    if evidence.proof.loads:
        return
    about = {"rule": "goldens", "title": "Golden outputs come out again", "unit": "none"}
    complaint = evidence.proof.goldens
    count = len(evidence.challenger.golden)
    reason = complaint or f"All {count} golden images are judged and explained as the manifest says."
    yield Finding(**about, answer="fail" if complaint else "pass", reason=reason)


def prompt(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """The prompt is the champion's, byte for byte; another would have to be measured from the beginning."""
    about = {"rule": "prompt", "title": "The prompt is the champion's", "unit": "none"}
    ours, theirs = evidence.challenger.prompt, evidence.champion.prompt
    if ours == theirs:
        yield Finding(**about, answer="pass", reason="Both ask in the same words.")
        return
    changed = [name for name in Prompt.model_fields if getattr(ours, name) != getattr(theirs, name)]
    said = "; ".join(f"its {name} is {getattr(ours, name)!r}, not {getattr(theirs, name)!r}" for name in changed)
    yield Finding(**about, answer="fail", reason=f"It asks otherwise than the champion: {said}.")


def answers_differ(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """Training changed what it says: a challenger that is the champion proves nothing by being as good."""
    pairs = evidence.all
    if pairs is None or not len(pairs):
        return
    about = {"rule": "answers_differ", "title": "It answers otherwise than the champion", "unit": "none"}
    furthest = float(np.abs(pairs.challenger.logit - pairs.champion.logit).max())
    moved = furthest > NO_CHANGE
    reason = (
        f"Scores moved by up to {furthest:.3g}."
        if moved
        else f"No score moved on {len(pairs)} images: its adapter does nothing, or is the champion's own."
    )
    yield Finding(**about, answer="pass" if moved else "fail", reason=reason, images=len(pairs))


def enough_images(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """Too few images, or too many alike, and nothing that was measured means anything."""
    if evidence.new is None or evidence.old is None:
        return
    counts = {(name, label): each.independent(label) for name, each in evidence.pairs for label in metrics.LABELS}
    told = ", ".join(f"{count:.0f} {label} in {name}" for (name, label), count in counts.items())
    lacking = any(_is_few(each, margins) for _, each in evidence.pairs)
    reason = f"Images that are not alike: {told}; at least {margins.least_of_class} of each are needed."
    if any((each.weight != each.weight[:1]).any() for _, each in evidence.pairs):
        reason += " Audited ones stand for many that nobody looked at, so all together count for fewer."
    if lacking:
        reason += " Review more before this can be decided by numbers."
    yield Finding(
        rule="enough_images",
        title="The holdout is large enough",
        answer="unsure" if lacking else "pass",
        reason=reason,
        unit="none",
        images=sum(len(each) for _, each in evidence.pairs),
    )


def new_is_better(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """On what is new, both by the order of scores and by decisions."""
    if evidence.new is None:
        return
    few = _is_few(evidence.new, margins)
    for rule, title, change in (
        ("new_auc", "AUC on new images is higher", comparison.area(evidence.new)),
        ("new_balanced_accuracy", "Balanced accuracy on new images is higher", comparison.balanced(evidence.new)),
    ):
        yield _better(rule, title, change, margins, few)


def auc_with_recall(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """More fakes found is worth nothing where scores tell them from real images no better: it only says "fake"."""
    if evidence.new is None:
        return
    found, order = comparison.recall(evidence.new, "fake"), comparison.area(evidence.new)
    about = {"rule": "auc_with_recall", "title": "Where recall rose, so did AUC", **of(order)}
    if found.value is None or order.value is None:
        yield Finding(**about, answer="unsure", reason="Recall and AUC need both classes among the new images.")
    elif found.value > 0 >= order.value:
        said = f"Recall of fakes rose by {_points(found.value)} and AUC changed by {order.value:+.3f}"
        if _is_few(evidence.new, margins):
            yield Finding(**about, answer="unsure", reason=f"{said}: too few new images to tell.")
        else:
            yield Finding(**about, answer="fail", reason=f"{said}: it has learned to say fake, not to tell.")
    else:
        reason = f"Recall of fakes changed by {_points(found.value)}, AUC by {order.value:+.3f}."
        yield Finding(**about, answer="pass", reason=reason)


def old_is_kept(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    if evidence.old is None:
        return
    for rule, title, change in (
        ("old_auc", "AUC on old images is kept", comparison.area(evidence.old)),
        ("old_balanced_accuracy", "Balanced accuracy on old images is kept", comparison.balanced(evidence.old)),
    ):
        yield _kept(rule, title, change, margins.old_allowed, margins.old_excluded)


def reals_are_kept(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """Real photos, new and old: a false accusation is the worst mistake, and what a new type costs first."""
    pairs = evidence.all
    if pairs is None:
        return
    change = comparison.recall(pairs, "real")
    yield _kept("reals", "Real images are still called real", change, margins.reals_allowed, margins.reals_excluded)


def categories_are_kept(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """No category pays for the others. A drop is clear when the interval for all categories at once says so."""
    pairs = evidence.all
    if pairs is None:
        return
    names = sorted(set(pairs.category))
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(names))
    for name in names:
        change = comparison.right(pairs.where(pairs.category == name), confidence)
        yield _category(name, change, margins)


def explanations_are_kept(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """As near to references as before, and where people graded both, as often right."""
    pairs = evidence.all
    if pairs is None:
        return
    compared = pairs.where(np.array([bool(row["references"]) for row in pairs.champion_rows], dtype=np.bool_))
    for rule, title in (("rouge_l", "ROUGE-L of explanations is kept"), ("css", "CSS of explanations is kept")):
        before, after = (
            [row[rule] or 0.0 for row in rows] for rows in (compared.champion_rows, compared.challenger_rows)
        )
        change = comparison.average(compared, before, after)
        yield _kept(rule, title, change, margins.texts_allowed, margins.texts_excluded)
    yield from _graded(pairs, margins)


def explanations_say_something(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """An opening sentence and no more is no explanation."""
    pairs = evidence.all
    if pairs is None:
        return
    before = _empty(pairs.champion_rows, evidence.champion.prompt)
    after = _empty(pairs.challenger_rows, evidence.challenger.prompt)
    yield _bounded(
        "empty_explanations",
        "Explanations say something",
        pairs,
        (before, after),
        margins.empty_allowed,
        "explanations say nothing beyond the verdict",
    )


def answers_are_readable(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """An answer that cannot be read, or a network that would rather say something else, decides nothing."""
    pairs = evidence.all
    if pairs is None:
        return
    before, after = (
        (each.pair_mass < metrics.LOW_PAIR_MASS) | np.array([row["predicted"] == "unparsable" for row in rows])
        for each, rows in ((pairs.champion, pairs.champion_rows), (pairs.challenger, pairs.challenger_rows))
    )
    yield _bounded(
        "readable",
        "Answers can be read",
        pairs,
        (before, after),
        margins.unreadable_allowed,
        "answers cannot be read, or put under half of the probability on real and fake",
        failed=pairs.failed,
    )


def calibration_is_bounded(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """p_fake is what policies decide by, so it must mean what it says."""
    pairs = evidence.all
    if pairs is None:
        return
    change = comparison.calibration_error(pairs)
    about = {"rule": "calibration", "title": "The score is calibrated", **of(change), "change": None}
    about["allowed"] = margins.calibration_allowed
    if change.challenger is None or change.low is None:
        yield Finding(**about, answer="unsure", reason="There are no images to measure it on.")
        return
    said = f"Its calibration error is {change.challenger:.3f} (champion {change.champion:.3f})"
    bound = f"{margins.calibration_allowed:.2f} is allowed"
    if change.challenger <= margins.calibration_allowed:
        yield Finding(**about, answer="pass", reason=f"{said}; {bound}.")
    elif change.low > margins.calibration_allowed:
        yield Finding(**about, answer="fail", reason=f"{said}, at least {change.low:.3f}; {bound}.")
    else:
        reason = f"{said}; {bound}, and with {change.images} images it may be {change.low:.3f}."
        yield Finding(**about, answer="unsure", reason=reason)


def speed_is_kept(evidence: Evidence, margins: Margins) -> Iterable[Finding]:
    """As fast as the champion; the first adapter on a bare base may be slower by what any adapter costs."""
    about: dict[str, Any] = {"rule": "speed", "title": "It is as fast", "unit": "images/s"}
    if evidence.speeds is None or not evidence.speeds.champion or not evidence.speeds.challenger:
        if not evidence.proof.loads:
            yield Finding(**about, answer="unsure", reason="Its speed was not measured.")
        return
    before, after = max(evidence.speeds.champion), max(evidence.speeds.challenger)
    left = 1 - margins.adapter_share if evidence.first_adapter else 1.0
    ratio, asks, rejects = after / before, left * margins.speed_asks_below, left * margins.speed_rejects_below
    about |= {"champion": before, "challenger": after, "change": after - before, "allowed": (1 - asks) * before}
    said = f"{after:.1f} images/s against {before:.1f}, {ratio:.2f} times as many"
    if evidence.first_adapter:
        said += f"; any adapter that is not merged costs a bare base up to {margins.adapter_share:.0%}"
    if ratio >= asks:
        yield Finding(**about, answer="pass", reason=f"{said}.")
    elif ratio >= rejects:
        yield Finding(**about, answer="unsure", reason=f"{said}: slower than {asks:.2f} times, which chance is not.")
    else:
        yield Finding(**about, answer="fail", reason=f"{said}: too slow, at least {rejects:.2f} times is asked for.")


RULES: tuple[Rule, ...] = (
    clean_holdout,
    loads,
    goldens,
    prompt,
    answers_differ,
    enough_images,
    new_is_better,
    auc_with_recall,
    old_is_kept,
    reals_are_kept,
    categories_are_kept,
    explanations_are_kept,
    explanations_say_something,
    answers_are_readable,
    calibration_is_bounded,
    speed_is_kept,
)


def _is_few(pairs: Pair, margins: Margins) -> bool:
    return min(pairs.independent(label) for label in metrics.LABELS) < margins.least_of_class - ROUNDING


def _better(rule: str, title: str, change: Change, margins: Margins, few: bool) -> Finding:
    about = {"rule": rule, "title": title, **of(change), "allowed": margins.smallest_gain}
    if change.value is None or change.low is None or change.high is None:
        return Finding(**about, answer="unsure", reason="It needs both classes among the new images.")
    said = _said(change)
    if change.low > 0 and change.value >= margins.smallest_gain:
        return Finding(**about, answer="pass", reason=f"{said}: better.")
    if change.value >= margins.smallest_gain:
        enough = change.images * ((change.high - change.low) / 2 / change.value) ** 2
        reason = f"{said}: perhaps better. If it stays so, about {enough:,.0f} new images would show it."
        return Finding(**about, answer="unsure", reason=reason)
    if few:
        return Finding(**about, answer="unsure", reason=f"{said}: too few new images to tell.")
    reason = f"{said}: no gain worth having (at least {_points(margins.smallest_gain)} is asked for)."
    return Finding(**about, answer="fail", reason=reason)


def _kept(rule: str, title: str, change: Change, allowed: float, excluded: float) -> Finding:
    about = {"rule": rule, "title": title, **of(change), "allowed": allowed, "excluded": excluded}
    if change.value is None or change.low is None or change.high is None:
        return Finding(**about, answer="unsure", reason="There are no images to measure it on.")
    said, bound = _said(change), f"{_points(allowed, sign=False)} may be lost"
    if change.value < -allowed and change.high < 0:
        return Finding(**about, answer="fail", reason=f"{said}: worse; {bound}.")
    if change.value < -allowed:
        return Finding(**about, answer="unsure", reason=f"{said}: more than may be, but perhaps by chance; {bound}.")
    if change.low < -excluded:
        reason = f"{said}: kept as measured, but too few images to rule out a loss of {_points(excluded, sign=False)}."
        return Finding(**about, answer="unsure", reason=reason)
    return Finding(**about, answer="pass", reason=f"{said}; {bound}.")


def _category(name: str, change: Change, margins: Margins) -> Finding:
    about = {
        "rule": f"category:{name}",
        "title": f"Category {name} is kept",
        **of(change),
        "allowed": margins.category_allowed,
        "excluded": None,
    }
    if change.value is None or change.high is None:
        return Finding(**about, answer="unsure", reason="There are no images to measure it on.")
    said = _said(change)
    if change.value < -margins.category_allowed and change.high < 0:
        return Finding(**about, answer="fail", reason=f"{said}: worse.")
    if change.value < -margins.category_suspect:
        reason = f"{said}: much worse, but on too few images to be sure."
        return Finding(**about, answer="unsure", reason=reason)
    return Finding(**about, answer="pass", reason=f"{said}.")


def _graded(pairs: Pair, margins: Margins) -> Iterable[Finding]:
    """Rows may have `graded`, the share of an explanation's sentences that a person graded right."""
    both = [
        one.get("graded") is not None and other.get("graded") is not None
        for one, other in zip(pairs.champion_rows, pairs.challenger_rows, strict=True)
    ]
    title = "Sentences are as often graded right"
    if not any(both):
        reason = "Nobody graded both versions' explanations of the same images."
        yield Finding(rule="graded", title=title, answer="left out", reason=reason)
        return
    chosen = pairs.where(np.array(both))
    before, after = ([row["graded"] for row in rows] for rows in (chosen.champion_rows, chosen.challenger_rows))
    change = comparison.average(chosen, before, after)
    yield _kept("graded", title, change, margins.texts_allowed, margins.texts_excluded)


def _bounded(
    rule: str, title: str, pairs: Pair, hits: tuple[Flags, Flags], allowed: float, what: str, failed: int = 0
) -> Finding:
    """A share of images that must be small by itself. `failed` more images count as hit by the challenger."""
    before, after = hits
    images, bad = len(after) + failed, int(after.sum()) + failed
    if not images:
        return Finding(rule=rule, title=title, answer="unsure", reason="There are no images to measure it on.")
    low, high = intervals.wilson(bad, images)
    about = {
        "rule": rule,
        "title": title,
        "champion": float(before.mean()) if len(before) else None,
        "challenger": bad / images,
        "low": low,
        "high": high,
        "allowed": allowed,
        "images": images,
    }
    said = f"{bad} of {images:,} {what} ({bad / images:.1%}, at most {allowed:.0%} may)"
    if bad / images <= allowed:
        return Finding(**about, answer="pass", reason=f"{said}.")
    if low > allowed:
        return Finding(**about, answer="fail", reason=f"{said}: too many.")
    return Finding(**about, answer="unsure", reason=f"{said}: more than that, perhaps by chance.")


def _empty(rows: Sequence[Record], asked: Prompt) -> Flags:
    openings = [asked.answer_start(label) for label in metrics.LABELS]
    return np.array([not _beyond_opening(row["answer"] or "", openings) for row in rows], dtype=np.bool_)


def _beyond_opening(answer: str, openings: Sequence[str]) -> bool:
    for opening in openings:
        answer = answer.removeprefix(opening)
    return re.search(r"\w", answer) is not None


def _said(change: Change) -> str:
    assert change.champion is not None and change.challenger is not None and change.value is not None
    assert change.low is not None and change.high is not None
    return (
        f"{change.champion:.3f} → {change.challenger:.3f} on {change.images:,} image{'s' * (change.images != 1)}, "
        f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
    )


def _points(share: float, *, sign: bool = True) -> str:
    points = f"{100 * share:+.1f}" if sign else f"{100 * share:g}"
    return f"{points} points"
