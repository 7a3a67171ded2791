"""The summary on a terminal. It knows the summary's shape, and computes nothing."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PIPE_WIDTH = 120

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "calibration_error": "calibration error (ECE)",
    "precision_real": "precision, real",
    "recall_real": "recall, real",
    "f1_real": "F1, real",
    "precision_fake": "precision, fake",
    "recall_fake": "recall, fake",
    "f1_fake": "F1, fake",
    "low_pair_mass": "low pair mass",
    "unparsable": "unparsable answers",
    "answer_agrees_with_score": "answer agrees with score",
    "rouge_l": "ROUGE-L",
    "css": "CSS",
}

Record = dict[str, Any]


def show(summary: Record) -> None:
    """Print what was measured: overall, by category, and after alterations where there are any."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(_measures(summary))
    if len(summary["categories"]) > 1:
        console.print(_categories(summary))
    if summary["robustness"]:
        console.print(_robustness(summary))
    console.print(escape(summary["published"]["verdict"]), soft_wrap=True)
    if summary["checkpoint"]["is_demo"]:
        console.print(f"[yellow]{escape(summary['checkpoint']['name'])} is a demo model, not FakeVLM.[/yellow]")


def value(estimate: Record) -> str:
    """Three digits, or a dash where the measure is not defined."""
    return "–" if estimate["value"] is None else f"{estimate['value']:.3f}"


def interval(estimate: Record) -> str:
    """`0.912 – 0.951`, or nothing where there is none."""
    return "" if estimate["low"] is None else f"{estimate['low']:.3f} – {estimate['high']:.3f}"


def _measures(summary: Record) -> Table:
    theirs = summary["published"]["results"].get(summary["data"]["format"])
    table = _table(f"{summary['checkpoint']['name']} on {summary['data']['judged']:,} images", "measure")
    for column in ("images", "value"):
        table.add_column(column, justify="right")
    table.add_column("95 % interval")
    table.add_column("paper", justify="right")
    paper = {} if theirs is None else {**theirs, "f1_real": theirs["f1"]}
    for name, shown in NAMES.items():
        if name in summary["metrics"]:
            found = summary["metrics"][name]
            published = f"{paper[name]:.3f}" if name in paper else ""
            table.add_row(shown, f"{found['images']:,}", value(found), interval(found), published)
    return table


def _categories(summary: Record) -> Table:
    table = _table("by category", "category")
    for column in ("images", "accuracy"):
        table.add_column(column, justify="right")
    table.add_column("95 % interval")
    for column in ("reals right", "fakes right", "AUROC"):
        table.add_column(column, justify="right")
    for name, each in summary["categories"].items():
        found = each["metrics"]
        table.add_row(
            escape(name),
            f"{each['images']:,}",
            value(found["accuracy"]),
            interval(found["accuracy"]),
            *(value(found[measure]) for measure in ("recall_real", "recall_fake", "auroc")),
        )
    return table


def _robustness(summary: Record) -> Table:
    table = _table("after an alteration, by the score", "images")
    table.add_column("accuracy", justify="right")
    table.add_column("95 % interval")
    table.add_column("change", justify="right")
    for column in ("reals right", "fakes right", "AUROC", "paper"):
        table.add_column(column, justify="right")
    for each in summary["robustness"]:
        found, paper = each["metrics"], each["published_accuracy"]
        table.add_row(
            each["what"],
            value(found["accuracy"]),
            interval(found["accuracy"]),
            "" if each["name"] == "clean" else f"{found['change']['value']:+.3f}",
            *(value(found[measure]) for measure in ("recall_real", "recall_fake", "auroc")),
            "" if paper is None else f"{paper:.3f}",
        )
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    return table
