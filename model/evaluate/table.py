"""The summary on a terminal. It knows the summary's shape, and computes nothing."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PIPE_WIDTH = 120
MINUS = "\N{MINUS SIGN}"

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
RATES = {"accuracy": "accuracy", "recall_real": "reals\nright", "recall_fake": "fakes\nright", "auroc": "AUROC"}

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
    if why := undefined(summary):
        console.print(escape(why), soft_wrap=True)
    console.print(escape(summary["published"]["verdict"]), soft_wrap=True)
    if summary["checkpoint"]["is_demo"]:
        console.print(f"[yellow]{escape(summary['checkpoint']['name'])} is a demo model, not FakeVLM.[/yellow]")


def counted(number: int, thing: str) -> str:
    """`1 image`, `1,000 images`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def undefined(summary: Record) -> str | None:
    """Why there is no AUROC, where there is none: the set, or what --limit left of it, has one class only."""
    data, limit = summary["data"], summary["options"]["limit"]
    if data["real"] and data["fake"]:
        return None
    of = "the set" if limit is None else f"what --limit {limit} took of the set"
    return (
        f"AUROC and balanced accuracy need both classes, and {of} has only {'fake' if data['fake'] else 'real'} images."
    )


def value(estimate: Record) -> str:
    """Three digits, or a dash where the measure is not defined."""
    return "–" if estimate["value"] is None else f"{estimate['value']:.3f}"


def interval(estimate: Record) -> str:
    """`0.912 – 0.951`, or nothing where there is none."""
    return "" if estimate["low"] is None else f"{estimate['low']:.3f} – {estimate['high']:.3f}"


def signed(difference: float | None) -> str:
    """Three digits with their sign, or a dash where there is no difference."""
    return "–" if difference is None else f"{difference:+.3f}".replace("-", MINUS)


def _measures(summary: Record) -> Table:
    theirs = summary["published"]["results"].get(summary["data"]["format"])
    table = _table(f"{summary['checkpoint']['name']} on {counted(summary['data']['judged'], 'image')}", "measure")
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
    _numbers(table, "images")
    _rates(table, *RATES.values())
    for name, each in summary["categories"].items():
        found = [cell for measure in RATES for cell in _both(each["metrics"][measure])]
        table.add_row(escape(name), f"{each['images']:,}", *found)
    return table


def _robustness(summary: Record) -> Table:
    images = counted(summary["robustness"][0]["metrics"]["accuracy"]["images"], "image")
    table = _table(
        f"{images} after an alteration, by the score, with 95 % intervals (the report says what each is)", "alteration"
    )
    first, *rest = RATES.values()
    _rates(table, first)
    _numbers(table, "change")
    _rates(table, *rest)
    _numbers(table, "paper")
    for each in summary["robustness"]:
        found, paper = each["metrics"], each["published_accuracy"]
        accuracy, *others = (_both(found[measure]) for measure in RATES)
        change = "" if each["name"] == "clean" else signed(found["change"]["value"])
        cells = [cell for pair in others for cell in pair]
        table.add_row(each["name"], *accuracy, change, *cells, "" if paper is None else f"{paper:.3f}")
    return table


def _numbers(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def _rates(table: Table, *names: str) -> None:
    """Two columns each: the value, and its interval; with less room between them, for there are many."""
    table.collapse_padding = True
    for name in names:
        _numbers(table, name)
        table.add_column("", style="dim", no_wrap=True)


def _both(estimate: Record) -> tuple[str, str]:
    """`0.937` and ` .901– .970`: a value and its interval, in little room and each end in its place."""
    if estimate["low"] is None:
        return value(estimate), ""
    low, high = (f"{end:.3f}".removeprefix("0").rjust(5) for end in (estimate["low"], estimate["high"]))
    return value(estimate), f"{low}–{high}"


def _table(title: str, first: str) -> Table:
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column(first, overflow="fold")
    return table
