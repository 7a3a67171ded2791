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

# What is shown of a category and of an alteration, in this order.
RATES = ("accuracy", "recall_real", "recall_fake", "auroc")

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


def signed(difference: float | None) -> str:
    """Three digits with their sign, or a dash where there is no difference."""
    return "–" if difference is None else f"{difference:+.3f}"


def _measures(summary: Record) -> Table:
    theirs = summary["published"]["results"].get(summary["data"]["format"])
    table = _table(f"{summary['checkpoint']['name']} on {summary['data']['judged']:,} images", "measure")
    for column in ("images", "value"):
        table.add_column(column, justify="right")
    table.add_column("95 % interval")
    table.add_column("" if theirs is None else f"paper, {summary['data']['format']}", justify="right")
    paper = {} if theirs is None else {**theirs, "f1_real": theirs["f1"]}
    for name, shown in NAMES.items():
        found = summary["metrics"].get(name)
        if found and found["images"]:
            published = f"{paper[name]:.3f}" if name in paper else ""
            table.add_row(shown, f"{found['images']:,}", value(found), interval(found), published)
    return table


def _categories(summary: Record) -> Table:
    table = _table("by category, with 95 % intervals", "category")
    _rates(table, "images", "accuracy", "reals right", "fakes right", "AUROC")
    for name, each in summary["categories"].items():
        found = [_both(each["metrics"][measure]) for measure in RATES]
        table.add_row(escape(name), f"{each['images']:,}", *found)
    return table


def _robustness(summary: Record) -> Table:
    table = _table(
        "after an alteration, by the score, with 95 % intervals (the report says what each is)", "alteration"
    )
    _rates(table, "accuracy", "change", "reals right", "fakes right", "AUROC", "paper")
    for each in summary["robustness"]:
        found, paper = each["metrics"], each["published_accuracy"]
        accuracy, *others = (_both(found[measure]) for measure in RATES)
        change = "" if each["name"] == "clean" else signed(found["change"]["value"])
        table.add_row(each["name"], accuracy, change, *others, "" if paper is None else f"{paper:.3f}")
    return table


def _rates(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def _both(estimate: Record) -> str:
    """`0.937 .901–.970`: a value and its interval in little room."""
    if estimate["low"] is None:
        return value(estimate)
    low, high = (f"{end:.3f}".removeprefix("0") for end in (estimate["low"], estimate["high"]))
    return f"{value(estimate)} [dim]{low}–{high}[/dim]"


def _table(title: str, first: str) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    return table
