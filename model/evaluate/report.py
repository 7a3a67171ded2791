"""The summary as one page that needs nothing else: plots inside, the worst mistakes as thumbnails.

Names of files and what models say are other people's text: the template escapes all of it, and the page may load
nothing from anywhere.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from model.decode import to_rgb
from model.evaluate import plots, table
from model.evaluate.journal import Record
from model.evaluate.metrics import LABELS, OUTCOMES
from model.evaluate.records.sample import Sample
from model.evaluate.run import Results

TEMPLATE = "report.html.jinja"
MISTAKES = 12
THUMBNAIL = 240  # pixels, the longer side
SKIPS_SHOWN = 50
HEADLINE = ("accuracy", "balanced_accuracy", "f1_real", "f1_fake", "auroc", "calibration_error", "rouge_l", "css")


def render(summary: Record, results: Results, samples: Sequence[Sample]) -> str:
    """The page. `samples` are those that `results.rows` are about, in the same order."""
    environment = Environment(
        loader=PackageLoader("model.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        value=table.value, interval=table.interval, signed=table.signed, percent=_percent, counted=table.counted
    )
    return environment.get_template(TEMPLATE).render(
        summary=summary,
        names=table.NAMES,
        undefined=table.undefined(summary),
        headline=[name for name in HEADLINE if summary["metrics"].get(name, {}).get("value") is not None],
        labels=LABELS,
        outcomes=[name for name in OUTCOMES if name != "unparsable" or "unparsable" in summary["metrics"]],
        plots=_plots(summary, results.rows),
        mistakes=worst_mistakes(results.rows, samples),
        wrong=sum(row["error"] is None and row["predicted"] != row["label"] for row in results.rows),
        skipped=results.skipped[:SKIPS_SHOWN],
    )


def worst_mistakes(rows: Sequence[Record], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The images judged wrongly with most certainty, each with a picture of it; first come those nearest 0 or 1."""
    wrong = [
        (row, sample)
        for row, sample in zip(rows, samples, strict=True)
        if row["error"] is None and row["predicted"] != row["label"]
    ]
    wrong.sort(key=lambda pair: -abs(pair[0]["p_fake"] - 0.5))
    return [{**row, "thumbnail": _thumbnail(sample)} for row, sample in wrong[:MISTAKES]]


def _plots(summary: Record, rows: Sequence[Record]) -> list[dict[str, Any]]:
    judged = [row for row in rows if row["error"] is None]
    of = {label: [row["p_fake"] for row in judged if row["label"] == label] for label in LABELS}
    drawn = [
        ("Reliability", "Of images with this score, how many are fake?", plots.reliability(summary["reliability"])),
        ("Coverage", "How accurate are the rest when unsure ones go to people?", plots.coverage(summary["coverage"])),
        ("Scores", "How far apart are the classes?", plots.scores(of["real"], of["fake"])),
    ]
    # The SVG is drawn here, from numbers.
    return [{"title": title, "asks": asks, "svg": Markup(svg)} for title, asks, svg in drawn]  # nosec B704


def _thumbnail(sample: Sample) -> str:
    """A small JPEG as a data URI."""
    image = to_rgb(sample.path)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
