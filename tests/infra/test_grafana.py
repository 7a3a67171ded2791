"""The dashboards: Grafana's schema loses nothing of them, each query reads what is served, each panel explains itself.

Grafana itself is in no Python package; its own types of dashboards and panels are (grafana-foundation-sdk).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from infra.processes import ROOT
from tests import measuring
from tests.infra.expressions import mistakes
from tests.infra.test_alerts import ADDRESS, ALERTS

FOLDER = ROOT / "infra/grafana"
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))
}
PANELS = {
    f"{name}: {panel['title']}": panel
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
}
WITH_QUERIES = {name: panel for name, panel in PANELS.items() if panel["type"] != "alertlist"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
EACH = pytest.mark.parametrize("name", BOARDS)


def test_there_are_four_and_grafana_is_told_where() -> None:
    assert set(BOARDS) == {"overview", "screening", "review", "exchange"}
    provider = yaml.safe_load((FOLDER / "provisioning/dashboards/telltale.yml").read_text())["providers"][0]
    source = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert (provider["type"], source["type"], source["isDefault"]) == ("file", "prometheus", True)
    assert {panel["options"]["datasource"] for panel in PANELS.values() if panel["type"] == "alertlist"} == {
        source["name"]
    }


@EACH
def test_grafanas_own_types_know_all_of_it(name: str) -> None:
    plugins.register_default_plugins()
    read = json.loads(JSONEncoder(sort_keys=False).encode(Dashboard.from_json(BOARDS[name])))
    # What Prometheus adds to annotations is no part of Grafana's schema.
    assert [path for path in lost(BOARDS[name], read) if not path.startswith(".annotations.list.")] == []


def lost(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Where one value is not as in the other."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after[key], f"{path}.{key}") if key in after else [f"{path}.{key}"]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from lost(one, other, f"{path}.")
    elif before != after:
        yield path


@EACH
def test_what_all_dashboards_have(name: str) -> None:
    board = BOARDS[name]
    assert (board["uid"], board["tags"]) == (f"telltale-{name}", ["telltale"])
    assert (board["refresh"], board["timezone"], board["graphTooltip"]) == ("30s", "browser", 1)
    variables = {variable["name"]: variable["query"] for variable in board["templating"]["list"]}
    assert variables == {"datasource": "prometheus", "runbooks": ADDRESS}
    assert [link["type"] for link in board["links"]] == ["dashboards", "link"]


@EACH
def test_panels_lie_side_by_side(name: str) -> None:
    places = [panel["gridPos"] for panel in BOARDS[name]["panels"]]
    assert len({panel["id"] for panel in BOARDS[name]["panels"]}) == len(places)
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    assert [(one, other) for one, other in combinations(places, 2) if overlap(one, other)] == []


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether two rectangles have a cell in common."""
    return all(one[at] < other[at] + other[size] and other[at] < one[at] + one[size] for at, size in ("xw", "yh"))


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_explains_itself(name: str) -> None:
    panel = PANELS[name]
    assert panel["title"] and panel["description"].endswith((".", ")"))
    for link in panel.get("links", []):
        alert = link["title"].removeprefix("Runbook: ")
        assert alert in ALERTS
        assert link["url"] == f"${{runbooks}}#{alert.lower()}"


@pytest.mark.parametrize("name", WITH_QUERIES)
def test_a_panel_has_a_unit_and_reads_what_is_served(name: str) -> None:
    panel = WITH_QUERIES[name]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == SOURCE
    assert all(target["datasource"] == SOURCE for target in panel["targets"])
    assert [wrong for target in panel["targets"] for wrong in mistakes(plain(target["expr"]))] == []


@EACH
def test_marks_read_what_is_served(name: str) -> None:
    queries = [mark["expr"] for mark in BOARDS[name]["annotations"]["list"] if "expr" in mark]
    assert len(queries) == 2
    assert [wrong for query in queries for wrong in mistakes(query)] == []


def plain(expression: str) -> str:
    """As Prometheus is asked: Grafana puts a duration into the place of its variable."""
    return expression.replace("$__rate_interval", "1m")


def test_every_metric_is_on_a_panel_or_in_an_alert() -> None:
    queries = [target["expr"] for panel in WITH_QUERIES.values() for target in panel["targets"]]
    read = set(re.findall(r"\w+", " ".join([*queries, *(rule["expr"] for rule in ALERTS.values())])))
    assert [metric.name for metric in measuring.served() if not read & {metric.name, *metric.series}] == []


def test_every_alert_is_linked_from_a_panel() -> None:
    linked = {link["title"].removeprefix("Runbook: ") for panel in PANELS.values() for link in panel.get("links", [])}
    assert linked == set(ALERTS)
