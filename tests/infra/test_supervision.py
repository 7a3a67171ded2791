"""What dies is started again; what ends, or is killed, leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.supervision import Program, Supervisor, tethered

SLEEPER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]


def running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def eventually(holds: Callable[[], bool], timeout_s: float = 90) -> bool:
    """Whether it holds within the time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """Two programs in two groups, both running, in a folder whose name needs escaping and has no room for a socket."""
    folder = tmp_path / ("100% " + "long" * 30)
    folder.mkdir()
    programs = [Program(name, f"group-{name}", SLEEPER, folder) for name in ("first", "second")]
    made = Supervisor(folder, programs).start()
    made.wait_started()
    for program in programs:
        made.start_group(program.group)
    assert eventually(lambda: len(made.pids()) == 2)
    yield made
    made.stop()


def test_what_is_killed_is_started_again(supervisor: Supervisor) -> None:
    assert eventually(lambda: set(supervisor.states().values()) == {"RUNNING"})
    before = supervisor.pids()
    os.kill(before["first"], signal.SIGKILL)
    assert eventually(lambda: supervisor.pids().get("first", before["first"]) != before["first"])
    assert supervisor.pids()["second"] == before["second"]


def test_stop_leaves_nothing(supervisor: Supervisor) -> None:
    pids = [*supervisor.pids().values(), supervisor.pid]
    supervisor.stop()
    assert [pid for pid in pids if pid and running(pid)] == []


def test_nothing_outlives_a_killed_supervisor(supervisor: Supervisor) -> None:
    pids = supervisor.pids().values()
    assert supervisor.pid
    os.kill(supervisor.pid, signal.SIGKILL)
    assert eventually(lambda: not any(map(running, pids)))


def test_output_is_kept_in_a_log_of_its_own(supervisor: Supervisor) -> None:
    assert eventually(lambda: (supervisor.logs / "first.log").read_text() == "here\n")


@pytest.mark.parametrize("at_work", [False, True], ids=["that has just begun", "that is at work"])
def test_nothing_outlives_its_killed_parent(at_work: bool) -> None:
    """Whatever a child is doing when its parent is killed: being started, too."""
    child_command = tethered(SLEEPER, "TERM")
    script = (
        f"import subprocess, sys, time; child = subprocess.Popen({child_command}, stdout=subprocess.PIPE, text=True)\n"
        f"{at_work} and child.stdout.readline(); print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout
        child = int(next(line for line in parent.stdout if line.strip().isdigit()))
        assert running(child)
        parent.kill()
    assert eventually(lambda: not running(child))
