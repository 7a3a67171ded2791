"""The metrics that processes serve: by name, with type, labels and what they mean; and how to read what was counted."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from infra.services import LOOPBACK
from moderation import metrics
from workers.census import Census
from workers.gpus import GpuMemory

TIMEOUT_S = 60


@dataclass(frozen=True)
class Metric:
    """One metric as it is served; a counter's name ends with `_total`."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def series(self) -> dict[str, set[str]]:
        """The name of each series that it has, with its labels."""
        labels = set(self.labels)
        if self.type != "histogram":
            return {self.name: labels}
        return {f"{self.name}_bucket": labels | {"le"}, f"{self.name}_sum": labels, f"{self.name}_count": labels}


def served() -> Iterator[Metric]:
    """Every metric of ours, whichever process serves it."""
    counted = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    for each in counted:
        for family in each.describe():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield Metric(name, family.type, tuple(each._labelnames), family.documentation)
    for collector in (Census(), GpuMemory()):
        for gauge in collector.describe():
            labels: Any = gauge._labelnames  # type: ignore[attr-defined]
            yield Metric(gauge.name, gauge.type, tuple(labels), gauge.documentation)


def value(name: str, **labels: str) -> float:
    """What this process has counted so far."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def scraped(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample that the process at this port serves, by name and labels in order."""
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=TIMEOUT_S) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
