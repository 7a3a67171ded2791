"""The package away from the repository: built, installed into a bare environment, used there.

What only works beside the sources (a file that is no package data, a dependency that no extra names) fails here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from model import checkpoint
from tests import packaged
from tests.model import finetune_records, tiny
from tests.packaged import run


@pytest.fixture
def python(wheel: Path, tmp_path: Path) -> Path:
    """The interpreter of an environment with `telltale[finetune]`: with what it asks for, and nothing else."""
    return packaged.environment(tmp_path / "bare", wheel, frozenset({"finetune"}))


@pytest.mark.timeout(400)
def test_one_training_step_and_one_evaluation_far_from_the_repository(python: Path, tmp_path: Path) -> None:
    here = tmp_path / "elsewhere"
    data = finetune_records.write(here / "data", count=2)
    tiny.save(here / "base")
    asked = {
        "base": "base",
        "data": "data/records.json",
        "output": "out",
        "name": "far-away",
        "epochs": 1,
        "batch_size": 2,
        "accumulate": 1,
        "learning_rate": 0.02,
        "warmup": 0,
        "precision": "float32",
    }
    (here / "run.yaml").write_text(yaml.safe_dump(asked))
    said = run(python.with_name("telltale"), "finetune", "--config", "run.yaml", cwd=here)
    assert said.splitlines()[-1] == "out"
    assert checkpoint.load(here / "out", device="cpu").manifest.training["updates"] == 1
    measure = ["--data", data, "--images", data.parent, "--checkpoint", "out", "--out", "report"]
    run(python, "-m", "model.evaluate", *measure, cwd=here)
    assert any("far-away" in path.read_text() for path in (here / "report").glob("*.json"))
    imported = run(python, "-c", "import model; print(model.__file__)", cwd=here)
    assert Path(imported.strip()).is_relative_to(tmp_path)
