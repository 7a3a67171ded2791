"""A judgement on a terminal. It computes nothing."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model.evaluate.table import PIPE_WIDTH
from model.gate.finding import Answer, Finding
from model.gate.judgement import Judgement, Outcome

MARKS: dict[Answer, str] = {
    "pass": "[green]✓ met[/green]",
    "unsure": "[yellow]? ask[/yellow]",
    "fail": "[red]✗ not met[/red]",
    "left out": "[dim]– left out[/dim]",
}
COLORS: dict[Outcome, str] = {"promote": "green", "ask": "yellow", "reject": "red"}
SAID: dict[Outcome, str] = {"promote": "promote", "ask": "ask a lead", "reject": "reject"}


def show(judgement: Judgement, console: Console | None = None) -> None:
    """Print every rule with its numbers, the reasons of those that are not met, and the outcome."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    console.print(_rules(judgement))
    for finding in [*judgement.of("fail"), *judgement.of("unsure")]:
        console.print(f"{MARKS[finding.answer]} [bold]{escape(finding.title)}[/bold]: {escape(finding.reason)}")
    color = COLORS[judgement.outcome]
    console.print(f"[{color} bold]{SAID[judgement.outcome]}[/{color} bold]: {escape(judgement.reason)}")


def number(finding: Finding, value: float | None) -> str:
    """Three digits; one for images per second; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.1f}" if finding.unit == "images/s" else f"{value:.3f}"


def change(finding: Finding) -> str:
    """With its sign."""
    if finding.change is None:
        return "–"
    return f"{finding.change:+.1f}" if finding.unit == "images/s" else f"{finding.change:+.3f}"


def interval(finding: Finding) -> str:
    """Of the change with signs; of a share or an error by itself without."""
    if finding.low is None or finding.high is None:
        return ""
    signed = "+" if finding.change is not None else ""
    return f"{finding.low:{signed}.3f} to {finding.high:{signed}.3f}"


def margin(finding: Finding) -> str:
    """What the measured value was held against, in words."""
    if finding.allowed is None:
        return ""
    if finding.rule.startswith("new_"):
        return f"gain ≥ {finding.allowed:.3f}"
    if finding.change is None:
        return f"≤ {finding.allowed:.3f}"
    lost = f"{finding.allowed:.1f}" if finding.unit == "images/s" else f"{finding.allowed:.3f}"
    return f"loss ≤ {lost}"


def _rules(judgement: Judgement) -> Table:
    table = Table(
        title=escape(f"{judgement.challenger} against {judgement.champion}"),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("rule", overflow="fold")
    for name in ("champion", "challenger", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("95 % interval", no_wrap=True)
    table.add_column("margin", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in judgement.findings:
        values = (number(each, each.champion), number(each, each.challenger)) if each.unit != "none" else ("", "")
        moved = change(each) if each.unit != "none" else ""
        table.add_row(escape(each.title), *values, moved, interval(each), margin(each), MARKS[each.answer])
    return table
