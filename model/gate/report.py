"""A judgement as HTML: a section for somebody's page, or a page of its own, with the plots of `model.evaluate`.

Names and reasons are other people's text: the templates escape all of it, and the page may load nothing from anywhere.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from model.evaluate import metrics, plots
from model.evaluate.metrics import Outcomes
from model.gate import table
from model.gate.evidence import Evidence
from model.gate.judgement import Judgement

WORDS = {"pass": "met", "unsure": "ask", "fail": "not met", "left out": "left out"}
CLASSES = {"pass": "right", "unsure": "doubtful", "fail": "wrong", "left out": "soft"}


def section(judgement: Judgement, evidence: Evidence) -> Markup:
    """The gate as one `<section>`, for a page that has the evaluation report's style."""
    # The template escapes what it is given.
    written = _environment().get_template("gate.html.jinja").render(_context(judgement, evidence))
    return Markup(written)  # nosec B704


def page(judgement: Judgement, evidence: Evidence) -> str:
    """The same, as a page that needs nothing else."""
    return _environment().get_template("page.html.jinja").render(_context(judgement, evidence))


def _environment() -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader("model.gate"), PackageLoader("model.evaluate")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _context(judgement: Judgement, evidence: Evidence) -> dict[str, Any]:
    return {
        "judgement": judgement,
        "is_demo": evidence.challenger.is_demo,
        "said": table.SAID,
        "words": WORDS,
        "classes": CLASSES,
        "number": table.number,
        "change": table.change,
        "interval": table.interval,
        "margin": table.margin,
        "scores": _scores(evidence),
    }


def _scores(evidence: Evidence) -> list[tuple[str, list[dict[str, Any]]]]:
    """For what is new and what is old, both versions' plots."""
    return [
        (f"{version} on {name} images", _plots(outcomes))
        for name, pairs in evidence.pairs
        if len(pairs)
        for version, outcomes in (("Champion", pairs.champion), ("Challenger", pairs.challenger))
    ]


def _plots(outcomes: Outcomes) -> list[dict[str, Any]]:
    bins = [asdict(each) for each in metrics.reliability(outcomes)]
    points = [asdict(each) for each in metrics.coverage(outcomes)]
    reals, fakes = (outcomes.p_fake[outcomes.truth == label].tolist() for label in metrics.LABELS)
    drawn = [
        ("Reliability", "Of images with this score, how many are fake?", plots.reliability(bins)),
        ("Coverage", "How accurate are the rest when unsure ones go to people?", plots.coverage(points)),
        ("Scores", "How far apart are the classes?", plots.scores(reals, fakes)),
    ]
    # The SVG is drawn here, from numbers.
    return [{"title": title, "asks": asks, "svg": Markup(svg)} for title, asks, svg in drawn]  # nosec B704
