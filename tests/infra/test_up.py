"""`telltale up`: what dies comes back, what ends leaves nothing running, what was kept is there at the next start.

And what is seen of it while it runs: a case's way through every process's log, and what `telltale doctor` names when a
process stops. One stack for all of that, in this order, for a start takes long.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from PIL import Image

from infra.local import RUNNING, TARGETS, Outside, Stack
from infra.services import Postgres
from infra.supervision import Supervisor
from model import manifest as manifests
from model.detector import Detector, make_goldens
from moderation.errors import ConfigurationError
from tests.infra.test_supervision import eventually, running
from tests.infra.watching import PRIVATE, PROCESSES, Watch, World, lines_of, misbehave, submit, watched
from tests.measuring import scraped
from tests.model import tiny

# A start imports torch twice; two cores may be shared with other tests.
START_TIMEOUT_S = 150
PATIENCE_S = 90
pytestmark = pytest.mark.timeout(600)


@dataclass
class Up:
    """A `telltale up` in a process of its own."""

    folder: Path
    model: Path
    hosts: list[str] = field(default_factory=list)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it says what runs."""
        process = subprocess.Popen(self._command("up", "--port", "0"), env=self.environment())
        self.started.append(process)
        assert eventually(lambda: self.is_up() or process.poll() is not None, START_TIMEOUT_S) and self.is_up()
        return process

    def begin(self) -> tuple[subprocess.Popen[bytes], Supervisor]:
        """Start it until its services serve, which is the part that finds what was kept and takes seconds."""
        process = subprocess.Popen(self._command("up", "--port", "0"), env=self.environment(), stderr=subprocess.PIPE)
        self.started.append(process)
        assert process.stderr is not None
        assert any(b"Preparing the database" in line for line in process.stderr)
        return process, Supervisor(self.folder, [], pid=int((self.folder / "supervisord.pid").read_text()))

    def telltale(self, *arguments: str) -> str:
        """What another command, which finds the running stack by its folder, prints; empty where it fails."""
        command = self._command(*arguments)
        return subprocess.run(command, env=self.environment(), check=False, text=True, stdout=subprocess.PIPE).stdout

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

    def environment(self) -> dict[str, str]:
        """Without the TELLTALE_* of the tests' own services."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TELLTALE_")}
        ours = {"TELLTALE_ALLOWED_HOSTS": json.dumps(self.hosts), "TELLTALE_LOG_FORMAT": "json"}
        return inherited | ours | {"TELLTALE_MODEL": str(self.model), "OMP_NUM_THREADS": "1"}


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


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    with made.server:
        yield made


@pytest.fixture(scope="module")
def up(model: Path, world: World) -> Iterator[Up]:
    """One that has been started."""
    # Not pytest's own temporary folder: its path may be closed to the user PostgreSQL runs as.
    with tempfile.TemporaryDirectory(prefix="telltale-up-", ignore_cleanup_errors=True) as folder:
        made = Up(Path(folder), model, [world.server.host])
        made.start()
        yield made
        for process in made.started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def watch(up: Up, world: World) -> Iterator[Watch]:
    with watched(up.folder, world, up.environment()) as made:
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="telltale-up-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def test_one_request_id_leads_through_every_log_and_nothing_private_is_in_any(watch: Watch) -> None:
    by_file, by_link, gone = submit(watch)
    misbehave(watch)
    told = watch.world.events_of
    settled = {"submission.accepted", "verdict.completed"}
    assert eventually(lambda: settled <= told(by_file).keys() and settled <= told(by_link).keys(), PATIENCE_S)
    assert eventually(lambda: "verdict.failed" in told(gone), PATIENCE_S)
    assert set(told(by_file).values()) == {"journey-file"} and set(told(gone).values()) == {"journey-gone"}

    ways = {
        "journey-file": {"api", "relay", "screening", "delivery"},
        "journey-link": {"api", "relay", "fetching", "screening", "delivery"},
        "refused-key": {"api"},
        "refused-path": {"api"},
    }
    # What a process has done, it logs a moment later.
    assert eventually(lambda: all(set(about(watch)[id_]) >= way for id_, way in ways.items()), PATIENCE_S), ways
    assert eventually(lambda: all(lines_of(watch.logged()).values()), PATIENCE_S)
    logged, said = watch.logged(), about(watch)
    assert {line["process"] for lines in lines_of(logged).values() for line in lines} == set(PROCESSES)
    assert {id_: set(said[id_]) for id_ in ways} == ways
    ours = [line for name, lines in said["journey-link"].items() if name != "api" for line in lines]
    assert {line["case_id"] for line in ours} == {by_link}
    (judged,) = said["journey-link"]["screening"]
    assert judged["task"] == "screening.screen" and judged["outcome"] == "done" and judged["attempt"] == 1
    assert judged["label"] in ("real", "fake") and 0 <= judged["p_fake"] <= 1 and judged["duration_ms"] > 0
    refused = [line for line in said["journey-file"]["delivery"] if line["level"] == "WARNING"]
    assert refused and {line["message"] for line in refused} == {"not delivered: status 503"}
    (asked,) = [line for line in said["refused-key"]["api"] if "route" in line]
    assert (asked["method"], asked["route"], asked["status"]) == ("GET", "/v1/cases", 401)
    assert said["refused-path"]["api"][0]["route"] == "unknown"

    assert [line for text in logged.values() for line in text.splitlines() if PRIVATE in line] == []


def about(watch: Watch) -> dict[str, dict[str, list[Any]]]:
    """By request id and process, the lines that have been logged by now."""
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for name, lines in lines_of(watch.logged()).items():
        for line in lines:
            found[line.get("request_id", "")][name].append(line)
    return found


def test_the_doctor_names_what_has_stopped_and_nothing_else(watch: Watch) -> None:
    assert eventually(lambda: watch.broken() == [], PATIENCE_S), watch.found()
    unwell = {name: said for name, (state, said) in watch.found().items() if state != "well"}
    assert set(unwell) == {"vllm", "mail server"}
    named = {
        **{"postgres": "postgres", "valkey": "redis", "seaweedfs": "object store", "api": "api"},
        **{role: f"{role} worker" for role in ("screening", "fetching", "delivery")},
    }
    for process, check in named.items():
        with watch.stopped(process):
            # And so what was stopped before is well again.
            right = eventually(lambda expected=check: watch.broken() == [expected], PATIENCE_S)
            assert right, (process, watch.found())
    with watch.stopped("relay"):
        # By its numbers, or, on a machine that is slow enough, by the signs of life that do not come.
        assert eventually(lambda: watch.broken() in (["metrics"], ["relay"]), PATIENCE_S), watch.found()
    rest = ("retraining", "beat")
    with watch.stopped(*rest):
        silent = f"None from {', '.join(rest)}: it hangs, or does not run."
        assert eventually(lambda: watch.found()["metrics"] == ("broken", silent), PATIENCE_S), watch.found()


def assert_each_serves_its_metrics(up: Up, own: set[str]) -> None:
    """Where the stack says to Prometheus that they are."""
    targets = json.loads((up.folder / TARGETS).read_text())
    ports = {each["labels"]["job"]: int(each["targets"][0].rpartition(":")[2]) for each in targets}
    assert set(ports) == own
    for name, port in ports.items():
        assert scraped(port), name


def test_it_heals_ends_whole_and_keeps_its_data(up: Up) -> None:
    (process,) = up.started
    up.telltale("tenants", "create", "a-platform")
    before = up.supervisor.pids()
    workers = {"screening", "fetching", "delivery"}
    own = {"api", "relay", "retraining", "beat"} | workers
    assert set(before) == {"postgres", "valkey", "seaweedfs"} | own
    assert_each_serves_its_metrics(up, own)

    killed = ("delivery", "postgres")
    for name in killed:
        os.kill(before[name], signal.SIGKILL)
    assert eventually(lambda: all(up.supervisor.pids().get(name, before[name]) != before[name] for name in killed))
    assert eventually(lambda: "a-platform" in up.telltale("tenants", "list"), PATIENCE_S)

    supervisor = up.supervisor.pid
    assert supervisor
    os.kill(supervisor, signal.SIGKILL)
    assert eventually(lambda: up.is_up() and up.supervisor.pid != supervisor, START_TIMEOUT_S)

    pids = up.pids()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert [pid for pid in pids if running(pid)] == []

    process, begun = up.begin()
    assert ("a-platform",) in kept(up, begun.pids()["postgres"])
    with pytest.raises(ConfigurationError, match="already runs"):
        Stack(up.folder, outside=Outside.nothing())
    assert begun.pid
    pids = [begun.pid, *begun.pids().values()]
    process.kill()
    process.wait()
    assert eventually(lambda: not any(map(running, pids)), PATIENCE_S)


def kept(up: Up, pid: int) -> list[Any]:
    """What is in the table of tenants, of the PostgreSQL that runs as this process."""
    port = re.search(r"port=(\d+)", " ".join(psutil.Process(pid).cmdline()))
    assert port is not None
    postgres = Postgres(up.folder, json.loads((up.folder / "passwords.json").read_text())["postgres"], int(port[1]))
    with psycopg.connect(postgres.database_url().replace("+psycopg", "")) as connection:
        return connection.execute("SELECT name FROM tenants").fetchall()


def test_a_start_that_fails_says_why_and_leaves_nothing(folder: Path) -> None:
    stack = Stack(folder, environment={"TELLTALE_MODEL": "/no/such/checkpoint"}, outside=Outside.nothing())
    with pytest.raises(ConfigurationError, match="/no/such/checkpoint"):
        stack.start()
    assert not stack.supervisor.alive()
    assert not (folder / RUNNING).exists()
