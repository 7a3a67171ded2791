"""`telltale up`: what dies comes back, what ends leaves nothing running, what was kept is there at the next start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from infra.local import RUNNING, Outside, Stack
from infra.supervision import Supervisor
from model import manifest as manifests
from model.detector import Detector, make_goldens
from moderation.errors import ConfigurationError
from tests.infra.test_supervision import eventually, running
from tests.model import tiny

# A start imports torch twice; two cores may be shared with other tests.
START_TIMEOUT_S = 150
pytestmark = pytest.mark.timeout(400)


@dataclass
class Up:
    """A `telltale up` in a process of its own."""

    folder: Path
    model: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it says what runs."""
        process = subprocess.Popen(self._command("up", "--port", "0"), env=self._environment())
        self.started.append(process)
        assert eventually((self.folder / RUNNING).exists, START_TIMEOUT_S)
        return process

    def telltale(self, *arguments: str) -> str:
        """What another command, which finds the running stack by its folder, prints; empty where it fails."""
        command = self._command(*arguments)
        return subprocess.run(command, env=self._environment(), check=False, text=True, stdout=subprocess.PIPE).stdout

    def is_up(self) -> bool:
        """Whether a stack runs here that said it is ready."""
        return (self.folder / RUNNING).exists()

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.folder, [], pid=json.loads((self.folder / RUNNING).read_text())["pid"])

    def pids(self) -> list[int]:
        """Of every process of the stack."""
        supervisor = self.supervisor
        assert supervisor.pid
        return [supervisor.pid, *supervisor.pids().values()]

    def _command(self, *arguments: str) -> list[str]:
        call = "from infra.cli import telltale; telltale()"
        return [sys.executable, "-c", call, "--data", str(self.folder), *arguments]

    def _environment(self) -> dict[str, str]:
        """Without the TELLTALE_* of the tests' own services."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TELLTALE_")}
        return inherited | {"TELLTALE_MODEL": str(self.model), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights that has golden outputs."""
    folder = tiny.save(tmp_path_factory.mktemp("model") / "checkpoint")
    image = folder / "golden.png"
    Image.new("RGB", (48, 40), "green").save(image)
    manifest = manifests.read(folder)
    detector = Detector.load(folder, device="cpu", manifest=manifest)
    manifest.model_copy(update={"golden": make_goldens(detector, folder, [image])}).write(folder)
    return folder


@pytest.fixture
def up(model: Path) -> Iterator[Up]:
    # Not pytest's own temporary folder: its path may be closed to the user PostgreSQL runs as.
    with tempfile.TemporaryDirectory(prefix="telltale-up-", ignore_cleanup_errors=True) as folder:
        made = Up(Path(folder), model)
        yield made
        for process in made.started:
            process.kill()
            process.wait()


def test_it_heals_ends_whole_and_keeps_its_data(up: Up) -> None:
    process = up.start()
    up.telltale("tenants", "create", "a-platform")
    before = up.supervisor.pids()
    workers = {"screening", "fetching", "delivery"}
    assert set(before) == {"postgres", "valkey", "seaweedfs", "api", "relay", "retraining", "beat"} | workers

    killed = ("delivery", "postgres")
    for name in killed:
        os.kill(before[name], signal.SIGKILL)
    assert eventually(lambda: all(up.supervisor.pids().get(name, before[name]) != before[name] for name in killed))
    assert eventually(lambda: "a-platform" in up.telltale("tenants", "list"), 60)

    supervisor = up.supervisor.pid
    assert supervisor
    os.kill(supervisor, signal.SIGKILL)
    assert eventually(lambda: up.is_up() and up.supervisor.pid != supervisor, START_TIMEOUT_S)

    pids = up.pids()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert [pid for pid in pids if running(pid)] == []

    process = up.start()
    assert "a-platform" in up.telltale("tenants", "list")
    with pytest.raises(ConfigurationError, match="already runs"):
        Stack(up.folder, outside=Outside.nothing())
    pids = up.pids()
    process.kill()
    process.wait()
    assert eventually(lambda: not any(map(running, pids)), 60)


def test_a_start_that_fails_says_why_and_leaves_nothing(up: Up) -> None:
    stack = Stack(up.folder, environment={"TELLTALE_MODEL": "/no/such/checkpoint"}, outside=Outside.nothing())
    with pytest.raises(ConfigurationError, match="/no/such/checkpoint"):
        stack.start()
    assert not stack.supervisor.alive()
    assert not (up.folder / RUNNING).exists()
