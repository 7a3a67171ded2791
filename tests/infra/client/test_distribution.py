"""The client away from the repository: it installs, says what it needs, and loads none of what Telltale needs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from infra.client import VERSION
from tests.infra.client.distribution import NEEDS, installed

HEAVY = ("torch", "sqlalchemy", "celery", "flask", "pydantic", "click", "infra", "moderation")
ALONE = f"""
import sys
sys.path.insert(0, sys.argv[1])
import telltale_client
from telltale_client import Client, verify
print(telltale_client.__version__, *[name for name in {HEAVY} if name in sys.modules])
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("client"))


def test_it_stands_alone(packages: Path) -> None:
    # Isolated, and without this environment's own packages.
    said = subprocess.run([sys.executable, "-ISc", ALONE, packages], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [VERSION]


def test_it_asks_for_what_it_needs_and_says_that_it_is_typed(packages: Path) -> None:
    (info,) = packages.glob("telltale_client-*.dist-info")
    needed = {re.match(r"[\w-]+", one)[0] for one in Distribution.at(info).requires or []}  # type: ignore[index]
    assert needed == set(NEEDS)
    assert (packages / "telltale_client" / "py.typed").exists()
