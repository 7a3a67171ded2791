"""The memory of GPUs: of those in use alone, so that asking opens none. The driver is a stub: there is none here."""

from __future__ import annotations

import pytest
import torch

from workers.gpus import GpuMemory

GIBIBYTE = 1024**3
CARD = 80 * GIBIBYTE


def samples() -> dict[tuple[str, str], float]:
    return {
        (sample.labels["device"], sample.labels["kind"]): sample.value
        for family in GpuMemory().collect()
        for sample in family.samples
    }


def free_and_all(device: int) -> tuple[int, int]:
    assert device == 0, "the other one must not be opened"
    return 60 * GIBIBYTE, CARD


def test_only_a_gpu_that_is_in_use_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert samples() == {}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0 if device else 14 * GIBIBYTE)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free_and_all)
    assert samples() == {("cuda:0", "used"): 20 * GIBIBYTE, ("cuda:0", "total"): CARD}
