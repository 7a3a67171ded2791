"""The alert rules: each reads what is served, says what to do, has a runbook, and is tested.

Whether an alert fires when it should is shown by promtool (infra/prometheus/tests), which no Python package brings.
Here is held what can be held without it.
"""

from __future__ import annotations

import re
from typing import Any

import promql_parser
import pytest
import yaml

from infra.processes import ROOT
from tests.infra.expressions import mistakes

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "infra/prometheus/rules/telltale.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES}
TESTS: list[dict[str, Any]] = [
    test
    for file in sorted((ROOT / "infra/prometheus/tests").glob("*_test.yml"))
    for test in yaml.safe_load(file.read_text())["tests"]
]
RUNBOOKS = ROOT / "docs/runbooks.md"
# Where the runbooks are until a deployment says so: the dashboards have it too.
ADDRESS = "https://telltale.example.com/runbooks/"
EACH = pytest.mark.parametrize("name", ALERTS)


def test_no_two_alerts_have_one_name() -> None:
    assert len(RULES) == len(ALERTS)
    assert all(re.fullmatch(r"Telltale\w+", name) for name in ALERTS)


@EACH
def test_it_reads_what_is_served(name: str) -> None:
    assert mistakes(ALERTS[name]["expr"]) == []


@EACH
def test_it_says_how_bad_it_is_what_it_means_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{{{{ $externalLabels.runbooks }}}}#{name.lower()}"


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    sections = dict(re.findall(r"^### (Telltale\w+)\n\*\*(\w+)\*\*", RUNBOOKS.read_text(), re.MULTILINE))
    assert sections == {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}


def test_prometheus_is_told_where_the_runbooks_are() -> None:
    address = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text())["global"]["external_labels"]
    assert address == {"runbooks": ADDRESS}


@EACH
def test_promtool_is_told_when_it_fires_and_when_it_does_not(name: str) -> None:
    cases = [case for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == name]
    assert {bool(case.get("exp_alerts")) for case in cases} == {True, False}


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test["name"])
def test_promtool_is_given_series_that_are_served(test: dict[str, Any]) -> None:
    assert [wrong for series in test["input_series"] for wrong in mistakes(series["series"])] == []


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("rate(telltale_task_total[5m])", ["telltale_task_total is not served"]),
        ('telltale_tasks_total{queue="screening"}', ["telltale_tasks_total has no label queue"]),
        ('sum(telltale_tasks_total{task="screening.look"})', ["task is never screening.look"]),
        ('up{job=~"api|celery"} == 0', ["job is never api|celery"]),
    ],
)
def test_a_name_that_is_wrong_is_found(expression: str, wrong: list[str]) -> None:
    assert mistakes(expression) == wrong


def test_what_is_no_promql_is_found() -> None:
    with pytest.raises(ValueError):
        promql_parser.parse("sum by (job (up)")
