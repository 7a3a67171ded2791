"""The memory of the GPUs that a process uses, as its driver says when somebody scrapes."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily


class GpuMemory:
    """Bytes in use, by whomever, and in all of each GPU that this process has something on; no sample without one.

    Read when somebody asks. Other GPUs are not asked: for that they would be opened, which takes hundreds of megabytes.
    """

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Without a sample."""
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """A sample of each kind for each device."""
        import torch  # here, so that to know what is served takes no GPU stack

        family = self._family()
        for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
            if not torch.cuda.memory_reserved(device):
                continue
            free, total = torch.cuda.mem_get_info(device)
            family.add_metric([f"cuda:{device}", "used"], total - free)
            family.add_metric([f"cuda:{device}", "total"], total)
        yield family

    def _family(self) -> GaugeMetricFamily:
        named = "telltale_gpu_memory_bytes", "Memory of a GPU that this process uses: used, by whomever, and total."
        return GaugeMetricFamily(*named, labels=["device", "kind"])


def watch() -> None:
    """Have the memory of GPUs among this process's metrics from now on."""
    REGISTRY.register(GpuMemory())
