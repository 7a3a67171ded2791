"""docs/metrics.md names every metric as it is served, and no other; and nothing private can be a label."""

from __future__ import annotations

from infra.processes import ROOT, processes
from tests.measuring import Metric, served

# What a label may be about; whoever adds one looks at whether it could name somebody, and at how many values it has.
LABELS = {
    *("method", "route", "status", "task", "outcome", "stage", "queue", "kind", "by", "label", "state"),
    *("model_version", "name", "engine", "device"),
}


def documented() -> list[tuple[Metric, set[str]]]:
    """Each row of the table: the metric, and from which processes it is."""
    table = (ROOT / "docs/metrics.md").read_text().partition("| name | type |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [
        (Metric(_words(name)[0], type_, tuple(_words(labels)), meaning), set(jobs.split(", ")))
        for name, type_, labels, meaning, jobs in rows
    ]


def _words(cell: str) -> list[str]:
    return [word.strip("` ") for word in cell.split(",") if word.strip()]


def test_the_document_is_what_is_served() -> None:
    assert {metric.name: metric for metric, _ in documented()} == {metric.name: metric for metric in served()}


def test_every_metric_is_from_a_process_that_there_is() -> None:
    known = {program.name for program in processes(ROOT, 8000)}
    assert [(metric.name, jobs - known) for metric, jobs in documented() if jobs - known or not jobs] == []


def test_no_label_is_about_anybody() -> None:
    assert {label for metric in served() for label in metric.labels} <= LABELS
