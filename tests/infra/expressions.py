"""Expressions of PromQL, as rules and dashboards have them, held against the metrics that the code serves.

What an expression reads is taken from its syntax tree (promql-parser), so that a metric, a label or a task that was
renamed is found wherever it stands. It does not know what an expression is for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache

import promql_parser

from api.app import create_app
from moderation.measures import Backlog, Queue
from moderation.settings import settings
from moderation.vocabulary import Label, RunStatus
from tests import measuring
from workers.celery_app import ROUTES

# Every series has these, from the scrape.
SCRAPED = {"job", "instance"}
# What Prometheus, its client library, SeaweedFS (`weed … -metricsPort`) and kube-state-metrics serve, and labels.
OTHERS = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate", "severity"},
    "process_start_time_seconds": set(),
    "SeaweedFS_volumeServer_resource": {"name", "type"},
    "kube_cronjob_created": {"namespace", "cronjob"},
    "kube_cronjob_status_last_successful_time": {"namespace", "cronjob"},
}
JOBS = {"api", "relay", "screening", "fetching", "delivery", "retraining", "beat"}


@cache
def served() -> dict[str, set[str]]:
    """Every series that the code serves, with its labels."""
    own = [metric.series for metric in measuring.served()]
    return {**OTHERS, **{name: labels for series in own for name, labels in series.items()}}


@cache
def said() -> dict[str, Collection[str]]:
    """What labels may say, where the code settles it."""
    return {
        "job": JOBS,
        "task": set(ROUTES),
        "state": {state.value for state in RunStatus},
        "queue": {queue.value for queue in Queue} | set(ROUTES.values()),
        "kind": {kind.value for kind in Backlog} | {"used", "total"},
        "label": {label.value for label in Label} | {"none"},
        "route": {rule.rule for rule in create_app(settings()).url_map.iter_rules()},
    }


def mistakes(expression: str) -> list[str]:
    """What an expression reads that is not served: metrics, labels, and values that no label has.

    Raises ValueError where it is no PromQL.
    """
    found: list[str] = []

    def look(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.extend(_mistakes_of(node))

    promql_parser.walk(promql_parser.parse(expression), look)
    return found


def _mistakes_of(selector: promql_parser.VectorSelector) -> Iterator[str]:
    labels = served().get(selector.name or "")
    if labels is None:
        yield f"{selector.name} is not served"
        return
    for matcher in selector.matchers.matchers:
        if matcher.name not in labels | SCRAPED:
            yield f"{selector.name} has no label {matcher.name}"
        elif matcher.name in said() and not _can_match(matcher):
            yield f"{matcher.name} is never {matcher.value}"


def _can_match(matcher: promql_parser.Matcher) -> bool:
    """Whether some value matches; of a choice of words, whether each is a value."""
    values = said()[matcher.name]
    words = matcher.value.split("|") if re.fullmatch(r"[\w.]+(\|[\w.]+)*", matcher.value) else [matcher.value]
    is_pattern = matcher.op in (promql_parser.MatchOp.Re, promql_parser.MatchOp.NotRe)
    return all(any(re.fullmatch(word, value) if is_pattern else word == value for value in values) for word in words)
