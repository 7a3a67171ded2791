"""A run's processes: ended with us however we end, at once when there is a reason, and asked why where they fail."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workers.retraining import child
from workers.retraining.child import ChildFailed, reason, run

ENOUGH_S = 60


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def at_work(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pid: int) -> bool:
    """Whether the process ends soon."""
    until = time.monotonic() + ENOUGH_S
    while time.monotonic() < until:
        if not at_work(pid):
            return True
        time.sleep(0.05)
    return False


def written(path: Path) -> str:
    until = time.monotonic() + ENOUGH_S
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until, f"{path} was not written"
        time.sleep(0.02)
    return path.read_text()


def test_what_it_says_is_kept_and_it_is_watched(tmp_path: Path) -> None:
    looks: list[float] = []
    run(python("print('done')"), tmp_path / "log", lambda: looks.append(time.monotonic()))
    run(python("print('again')"), tmp_path / "log", lambda: None)
    assert (tmp_path / "log").read_text() == "done\nagain\n"
    assert looks


NESTED = """
import os, subprocess, sys
inner = subprocess.Popen(["sleep", "600"], start_new_session=len(sys.argv) > 2)
open(sys.argv[1], "w").write(f"{os.getpid()} {inner.pid}")
inner.wait()
"""
# A worker, whose child starts a tethered process of its own, as accelerate's launcher does.
WORKER = """
import sys
from pathlib import Path
from workers.retraining import child
child.run([sys.executable, "-c", sys.argv[2], *sys.argv[1:]], Path(sys.argv[1] + ".log"), lambda: None)
"""
LAUNCHER = """
import subprocess, sys
from workers.retraining.child import tethered
subprocess.Popen(tethered([sys.executable, "-c", sys.argv[3], sys.argv[1]])).wait()
"""
TRAINER = """
import os, sys, time
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""


@pytest.mark.parametrize("apart", [[], ["in a session of its own"]])
def test_a_reason_to_stop_ends_it_and_what_it_started(tmp_path: Path, apart: list[str]) -> None:
    """And it is seen to be gone."""
    pids = tmp_path / "pids"

    def stop() -> None:
        if pids.exists() and pids.read_text():
            raise KeyError("a reason")

    with pytest.raises(KeyError):
        run([*python(NESTED), str(pids), *apart], tmp_path / "log", stop)
    assert not any(at_work(int(pid)) for pid in pids.read_text().split())


def test_it_dies_with_its_parent_even_by_sigkill(tmp_path: Path) -> None:
    """And so does what it started, if that is tethered as it is."""
    pids = tmp_path / "pids"
    parent = subprocess.Popen([*python(WORKER), str(pids), LAUNCHER, TRAINER])
    pid = int(written(pids))
    parent.kill()
    parent.wait()
    assert gone(pid)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('the base is not there')", "the base is not there"),
        ("raise SystemExit(3)", "It ended with status 3 and said nothing."),
        ("raise OSError(28, 'No space left on device')", "The disk is full: make room in TELLTALE_RETRAIN_FOLDER"),
        ("raise MemoryError", "Memory ran out: lower `batch_size`"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", "Memory ran out: lower `batch_size`"),
        ("import os; os.kill(os.getpid(), 9)", "most likely because memory ran out"),
    ],
)
def test_why_it_failed(tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(ChildFailed) as failed:
        run(python(code), tmp_path / "log", lambda: None)
    assert str(failed.value).startswith(said) or said in str(failed.value)


def test_memory_that_really_runs_out_is_named(tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); bytearray(2**33)"
    with pytest.raises(ChildFailed, match="Memory ran out"):
        run(python(limited), tmp_path / "log", lambda: None)


def test_a_trainer_that_was_killed_below_its_launcher_is_told_from_one_that_failed() -> None:
    launcher = "subprocess.CalledProcessError: Command '[...]' died with <Signals.SIGKILL: 9>."
    assert "killed from outside" in reason(1, launcher)
    assert reason(1, "Traceback\nValueError: no\n") == "ValueError: no"


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("No space left on device\n" + "x" * child.TAIL_BYTES + "\nthe end\n")
    assert reason(1, child.tail(log)) == "the end"


def test_the_signal_is_the_kernels(tmp_path: Path) -> None:
    """`tethered` sets the signal before the command runs: there is no moment without it."""
    code = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
    command = child.tethered(python(code))
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{int(signal.SIGKILL)}\n"
