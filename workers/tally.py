"""What a screening worker counts: batches, verdicts, and the memory of the GPUs it sees."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily

from model.batcher import Ran
from model.detector import Verdict
from moderation import metrics, policy
from moderation.policy import Thresholds
from moderation.vocabulary import ReviewReason

NO_LABEL = "none"


def ran(batch: Ran) -> None:
    """A batch has been judged."""
    metrics.BATCH_IMAGES.observe(batch.images)
    metrics.BATCH_SECONDS.labels("score").observe(batch.score_s)
    if batch.explain_s is not None:
        metrics.BATCH_SECONDS.labels("explain").observe(batch.explain_s)


def judged(verdict: Verdict, thresholds: Thresholds) -> None:
    """An image has been judged. A score that its policy takes for none is in no histogram."""
    metrics.IMAGES_JUDGED.labels(verdict.model_version, verdict.engine).inc()
    is_none = policy.judge(verdict.p_fake, verdict.pair_mass, thresholds).review is ReviewReason.UNPARSABLE
    metrics.VERDICTS.labels(verdict.model_version, NO_LABEL if is_none else verdict.label).inc()
    if not is_none:
        metrics.P_FAKE.labels(verdict.model_version).observe(verdict.p_fake)


class GpuMemory:
    """Bytes in use, by whomever, and in all of each GPU that this process has something on; no sample without one.

    Read when somebody asks. Other GPUs are not asked: for that they would be opened, which takes hundreds of megabytes.
    """

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Without a sample."""
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """A sample of each kind for each device."""
        family = self._family()
        for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
            if not torch.cuda.memory_reserved(device):
                continue
            free, total = torch.cuda.mem_get_info(device)
            family.add_metric([f"cuda:{device}", "used"], total - free)
            family.add_metric([f"cuda:{device}", "total"], total)
        yield family

    def _family(self) -> GaugeMetricFamily:
        named = "telltale_gpu_memory_bytes", "Memory of a GPU this process uses: used, by whomever, and total."
        return GaugeMetricFamily(*named, labels=["device", "kind"])


def watch_gpus() -> None:
    """Have the memory of GPUs among this process's metrics from now on."""
    REGISTRY.register(GpuMemory())
