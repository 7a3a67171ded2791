"""The package away from the repository: built, installed into a bare environment, used there.

What only works beside the sources (a file that is no package data, a dependency that no extra names) fails here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from model import checkpoint
from tests.model import finetune_records, tiny

REPOSITORY = Path(__file__).parents[2]
SOURCES = ("api", "infra", "migrations", "model", "moderation", "workers")
DESCRIPTION = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that knows nothing of this process's packages."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"{command[0]} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Built from a copy: building leaves folders beside the sources."""
    copy = tmp_path / "sources"
    for name in SOURCES:
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in DESCRIPTION:
        shutil.copy(REPOSITORY / name, copy)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        tmp_path / "dist",
        copy,
        cwd=tmp_path,
    )
    shutil.rmtree(copy)
    return next((tmp_path / "dist").glob("telltale-*.whl"))


@pytest.fixture
def python(wheel: Path, tmp_path: Path) -> Path:
    """The interpreter of an environment with `telltale[finetune]`: with what it asks for, and nothing else.

    What it asks for is lent by this environment: installing torch once more would take minutes.
    """
    run(sys.executable, "-m", "venv", tmp_path / "bare", cwd=tmp_path)
    interpreter = tmp_path / "bare" / "bin" / "python"
    run(interpreter, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    packages = Path(
        run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    for lent in sorted(top_level(required("telltale", frozenset({"finetune"})))):
        if not (packages / lent.name).exists():
            (packages / lent.name).symlink_to(lent)
    return interpreter


def required(name: str, extras: frozenset[str]) -> dict[str, Distribution]:
    """Every distribution that this one needs, directly or not, by name; not itself."""
    found: dict[str, Distribution] = {}
    waiting = [(name, extras)]
    seen = set(waiting)
    while waiting:
        of, wanted = waiting.pop()
        for line in distribution(of).requires or []:
            requirement = Requirement(line)
            applies = (requirement.marker is None) or any(
                requirement.marker.evaluate({"extra": extra}) for extra in wanted | {""}
            )
            key = (requirement.name, frozenset(requirement.extras))
            if applies and key not in seen:
                seen.add(key)
                waiting.append(key)
                found[requirement.name] = distribution(requirement.name)
    return found


def top_level(distributions: dict[str, Distribution]) -> set[Path]:
    """The files and folders that these put into the folder of packages."""
    tops = set()
    for each in distributions.values():
        names = {file.parts[0] for file in each.files or [] if file.parts[0] not in ("..", "__pycache__")}
        tops |= {Path(str(each.locate_file(name))) for name in names}
    return tops


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
