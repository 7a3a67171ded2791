"""Small data, and runs over it that a test may change in single settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from model import checkpoint
from model.finetune import results
from model.finetune.arguments import Arguments
from model.finetune.run import finetune
from tests.model import finetune_records, tiny

Run = Callable[..., Path]

# What accelerate is to start: on a port of their own, for other tests start theirs.
TWO_CPUS = """
distributed_type: MULTI_GPU
use_cpu: true
mixed_precision: 'no'
num_processes: 2
main_process_port: 0
"""


@pytest.fixture(autouse=True)
def goldens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One per label where a test needs them, none elsewhere: a tiny network's answers run to the limit."""
    monkeypatch.setattr(results, "TRIED", int("needs_goldens" in request.fixturenames))


@pytest.fixture
def needs_goldens() -> None:
    """For tests about golden outputs."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return finetune_records.write(tmp_path / "data")


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bitsandbytes wants rows of at least 64 weights on a CPU: the tiny network, twice as wide."""
    processor = tiny.processor()
    config = tiny.config(processor.tokenizer)
    config.text_config.hidden_size, config.text_config.intermediate_size, config.text_config.head_dim = 64, 128, 32
    torch.manual_seed(0)
    network = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    folder = tmp_path_factory.mktemp("wide") / "checkpoint"
    return checkpoint.save_classic(network, processor, tiny.manifest(), folder, torch.float32)


def arguments(base: Path, data: Path, output: Path, **changes: Any) -> Arguments:
    """A run of three updates over eight rows in float32, or whatever `changes` make of it."""
    values: dict[str, Any] = {
        "base": str(base),
        "data": data,
        "output": output,
        "name": "tiny-2",
        "method": "full",
        "epochs": 1,
        "batch_size": 3,
        "accumulate": 1,
        "learning_rate": 2e-3,
        "precision": "float32",
        "stored_as": "float32",
        "log_every": 1,
    }
    return Arguments.model_validate(values | changes)


@pytest.fixture
def run(tmp_path: Path, tiny_checkpoint: Path, data: Path) -> Run:
    """Finetune the tiny checkpoint into a folder of the given name, with the given settings."""

    def one(output: str, **changes: Any) -> Path:
        values = {"base": tiny_checkpoint, "data": data} | changes
        return finetune(arguments(values.pop("base"), values.pop("data"), tmp_path / output, **values))

    return one


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The network's weights under their own names, as they load."""
    state: dict[str, torch.Tensor] = checkpoint.load(folder, device="cpu").model.state_dict()
    return state


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of the weights that are not bit-identical."""
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Distance of two networks relative to their size. Single weights say little: Adam's first steps are as long for a
    gradient that is only rounding as for any other."""
    difference = sum(float((tensor - other[name]).square().sum()) for name, tensor in one.items())
    return float((difference / sum(float(tensor.square().sum()) for tensor in one.values())) ** 0.5)
