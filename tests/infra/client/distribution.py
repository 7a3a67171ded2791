"""The client as a platform installs it: built from its folder, in a folder of its own, beside what it asks for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "infra" / "client"
NEEDS = ("standardwebhooks", "urllib3")


def installed(folder: Path) -> Path:
    """A folder for `sys.path` with the client and its two packages, which this environment lends, and nothing else."""
    # Building leaves folders beside the sources.
    copy = shutil.copytree(FOLDER, folder / "sources", ignore=shutil.ignore_patterns("__pycache__"))
    packages = folder / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", packages, copy], check=True)
    for name in NEEDS:
        (packages / name).symlink_to(distribution(name).locate_file(name))
    return packages
