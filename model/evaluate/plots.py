"""Plots as SVG for a page: what is drawn follows the page's text colour, so that it suits light and dark."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# A colour that nothing else has, replaced by `currentColor` once the plot is drawn.
INK = "#010203"
REAL, FAKE, OURS = "#2f9e6b", "#d9534f", "#3b82c4"
SIZE = (4.4, 3.3)  # inches
BINS = 20

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "telltale",  # ids, and so the whole page, the same every time
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}

Record = dict[str, Any]


def reliability(bins: Sequence[Record]) -> str:
    """Share of fakes against mean p_fake, bin by bin, with intervals; a calibrated score lies on the diagonal."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes("mean p_fake of the bin", "share that is fake")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="calibrated")
        full = [each for each in bins if each["mean_p"] is not None]
        places, shares = [each["mean_p"] for each in full], [each["fake"]["value"] for each in full]
        down = [max(0.0, each["fake"]["value"] - each["fake"]["low"]) for each in full]
        up = [max(0.0, each["fake"]["high"] - each["fake"]["value"]) for each in full]
        sizes = [20 + 100 * each["fake"]["images"] / max(other["fake"]["images"] for other in full) for each in full]
        axes.errorbar(places, shares, yerr=[down, up], color=OURS, linewidth=1, capsize=2, fmt="none")
        axes.scatter(places, shares, s=sizes, color=OURS, alpha=0.8, label="bins, larger with more images")
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(-0.04, 1.04)
        _legend(axes)
        return _svg(figure, "Reliability: share of fakes against the mean score, in ten bins")


def coverage(points: Sequence[Record]) -> str:
    """Accuracy of the images that are decided, against the share of images that is."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes("share of images decided (coverage)", "accuracy of those")
        shown = [each for each in points if each["accuracy"]["value"] is not None]
        share = [each["covered"]["value"] for each in shown]
        axes.fill_between(
            share,
            [each["accuracy"]["low"] for each in shown],
            [each["accuracy"]["high"] for each in shown],
            color=OURS,
            alpha=0.18,
            linewidth=0,
            label="95 % interval",
        )
        axes.plot(share, [each["accuracy"]["value"] for each in shown], color=OURS, marker="o", markersize=4)
        _legend(axes)
        return _svg(figure, "Accuracy against coverage, as the abstain band widens")


def scores(reals: Sequence[float], fakes: Sequence[float]) -> str:
    """How many real and fake images have which p_fake."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes("p_fake", "images")
        edges = [step / BINS for step in range(BINS + 1)]
        axes.hist([list(reals), list(fakes)], bins=edges, color=[REAL, FAKE], label=["real", "fake"], stacked=False)
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 1)
        _legend(axes)
        return _svg(figure, "Scores of real and of fake images")


def _axes(across: str, up: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes


def _legend(axes: Any) -> None:
    """Above the plot, where no mark can be under it."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, borderaxespad=0.2)


def _svg(figure: Figure, title: str) -> str:
    """The picture alone, without XML head or date, scaled by the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
