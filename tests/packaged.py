"""Telltale as others install it: built into a wheel, and put into a bare environment with what some extras ask for.

What they ask for is lent by the environment that runs the tests: installing torch once more would take minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("api", "infra", "migrations", "model", "moderation", "workers")
DESCRIPTION = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that knows nothing of this process's packages."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"{command[0]} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def build(folder: Path) -> Path:
    """The wheel, built in `folder` from a copy: building leaves folders beside the sources."""
    copy = folder / "sources"
    for name in PACKAGES:
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in DESCRIPTION:
        shutil.copy(REPOSITORY / name, copy)
    into = ("--wheel-dir", folder / "dist")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", *into, copy, cwd=folder)
    shutil.rmtree(copy)
    wheel = next((folder / "dist").glob("telltale-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked(wheel))
    return wheel


def unpacked(wheel: Path) -> Path:
    """The folder with what is in the wheel; environments share it, so that its modules are compiled once."""
    return wheel.parent / "unpacked"


def environment(folder: Path, wheel: Path, extras: frozenset[str]) -> Path:
    """The interpreter of an environment in `folder` with the wheel, what these extras ask for, and nothing else."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    (own,) = map(PathDistribution, unpacked(wheel).glob("telltale-*.dist-info"))
    lent = required(own, extras)
    for path in (*unpacked(wheel).iterdir(), *top_level(lent)):
        if not (packages / path.name).exists():
            (packages / path.name).symlink_to(path)
    for each in (own, *lent.values()):
        _write_commands(each, folder / "bin")
    return folder / "bin" / "python"


def required(own: Distribution, extras: frozenset[str]) -> dict[str, Distribution]:
    """Every distribution that Telltale's own needs with these extras, directly or not, by name; not itself."""
    found: dict[str, Distribution] = {"telltale": own}
    waiting = [("telltale", extras)]
    seen = set(waiting)
    while waiting:
        of, wanted = waiting.pop()
        for requirement in map(Requirement, found[of].requires or []):
            applies = (requirement.marker is None) or any(
                requirement.marker.evaluate({"extra": extra}) for extra in wanted | {""}
            )
            key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if applies and key not in seen:
                seen.add(key)
                waiting.append(key)
                if key[0] not in found:
                    found[key[0]] = distribution(requirement.name)
    del found["telltale"]
    return found


def top_level(distributions: dict[str, Distribution]) -> list[Path]:
    """The files and folders that these put into the folder of packages."""
    tops = set()
    for each in distributions.values():
        names = {file.parts[0] for file in each.files or [] if file.parts[0] not in ("..", "__pycache__")}
        tops |= {Path(str(each.locate_file(name))) for name in names}
    return sorted(tops)


def _write_commands(of: Distribution, folder: Path) -> None:
    """What pip writes for a distribution's commands."""
    for point in of.entry_points.select(group="console_scripts"):
        file = folder / point.name
        file.write_text(
            f"#!{folder / 'python'}\nimport sys\nfrom {point.module} import {point.attr}\nsys.exit({point.attr}())\n"
        )
        file.chmod(0o755)
