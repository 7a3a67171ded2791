"""A service that runs as `telltale up` would run it, and a shell in which the documents' commands are."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from infra.cli import COMMANDS
from infra.commands.models import ensure_champion
from infra.services import LOOPBACK, free_port, wait_until
from moderation.settings import settings
from tests import forked
from tests.conftest import ServiceRun, empty
from tests.docs import curl
from tests.docs.transcript import Step
from tests.e2e.processes import Stage
from tests.forked import Nursery
from tests.infra.client.distribution import installed

ROOT = Path(__file__).parents[2]
# What the commands read of the repository.
SHOWN = ("model", "docs")


@dataclass(frozen=True)
class Shell:
    """A folder that looks like a clone, and a bash in it that knows the service."""

    folder: Path
    environment: dict[str, str]
    addresses: dict[str, str]

    def follow(self, steps: Sequence[Step]) -> list[str]:
        """Run the commands of a page in one bash, which ends with the first that fails; what each step printed."""
        outputs = [self.folder / f"step-{number}.out" for number in range(len(steps))]
        script = ["set -euo pipefail"]
        for step, output in zip(steps, outputs, strict=True):
            for name, text in step.files.items():
                (self.folder / name).write_text(self._here(text))
            if any(map(str.strip, step.commands)):
                script += ["{", *map(self._here, step.commands), f"}} > {output}"]
        ended = subprocess.run(
            # With what it left running, should it take too long.
            ["timeout", "--kill-after=5", "200", "bash", "-c", "\n".join(script)],
            cwd=self.folder,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        printed = [output.read_text() if output.exists() else "" for output in outputs]
        assert ended.returncode == 0, "\n".join([*printed, ended.stderr])
        return printed

    def _here(self, text: str) -> str:
        for shown, real in self.addresses.items():
            text = text.replace(shown, real)
        return text


@pytest.fixture
def stage(
    engine: Engine, services: ServiceRun, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stage, dict[str, str]]]:
    """The processes of a service, and what stands for the documents' ports."""
    empty(engine)
    ensure_champion(settings())
    addresses = {shown: str(free_port()) for shown in ("8000", "9000")}
    api, receiver = (f"{LOOPBACK}:{port}" for port in addresses.values())
    made = Stage(nursery, tmp_path_factory.mktemp("stage"), {"TELLTALE_ALLOWED_HOSTS": json.dumps([receiver])})
    try:
        made.api(int(addresses["8000"]))
        made.relay()
        made.screening("tests.docs.unaudited")
        made.delivery()
        wait_until(lambda: _answers(f"http://{api}/health/live"), "the api")
        yield made, addresses
    finally:
        made.end()


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH: a `telltale` that starts quickly, and a curl."""
    folder = tmp_path_factory.mktemp("programs")
    ready = Nursery(folder / "telltale.socket", sorted({where.partition(":")[0] for where, _ in COMMANDS.values()}))
    _program(folder / "telltale", forked.caller(ready.path, "tests.docs.telltale"))
    _program(folder / "curl", f'#!/bin/sh\nexec {sys.executable} {curl.__file__} "$@"\n')
    ready.begin()
    yield folder
    ready.end()


@pytest.fixture
def shell(
    stage: tuple[Stage, dict[str, str]], programs: Path, client_packages: Path, tmp_path: Path
) -> Iterator[Shell]:
    """A fresh clone, as far as commands can tell."""
    _, addresses = stage
    for name in SHOWN:
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(client_packages),
        "TELLTALE_PUBLIC_URL": f"http://{LOOPBACK}:{addresses['8000']}",
        "TELLTALE_ALLOWED_HOSTS": json.dumps([f"{LOOPBACK}:{addresses['9000']}"]),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    yield Shell(tmp_path, environment, addresses)


@pytest.fixture
def client_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client as `pip install ./infra/client` installs it."""
    return installed(tmp_path_factory.mktemp("client"))


def _program(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
