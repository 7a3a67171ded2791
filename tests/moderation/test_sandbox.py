"""The sandbox, with functions that really hang, crash and swallow memory in real processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.services import wait_until
from moderation.errors import TelltaleError, Undecodable
from moderation.sandbox import Sandbox, SandboxClosed, SandboxCrash, SandboxMemory, SandboxTimeout
from tests.misbehaving import (
    MEBIBYTE,
    allocate,
    bad_status,
    double,
    hang,
    hang_in_c,
    is_threaded_parent,
    killed,
    leave,
    process_id,
    segfault,
    size_of,
    undecodable,
    unpicklable,
)

LIMIT = 256 * MEBIBYTE
# For whatever is to end in time: a machine that is busy takes some for anything.
PATIENCE_S = 60


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(processes=2, memory_bytes=LIMIT, seconds=PATIENCE_S)
    yield box
    box.close()


def test_a_call_returns_what_the_function_returns(sandbox: Sandbox) -> None:
    assert sandbox.call(double, 21) == 42
    assert sandbox.call(size_of, b"abc", scale=2) == 6
    assert sandbox.call(process_id) != os.getpid()
    assert not sandbox.call(is_threaded_parent)


def test_large_arguments_arrive(sandbox: Sandbox) -> None:
    assert sandbox.call(size_of, bytes(64 * MEBIBYTE)) == 64 * MEBIBYTE


def test_the_functions_own_errors_pass_through(sandbox: Sandbox) -> None:
    with pytest.raises(Undecodable, match="broken") as error:
        sandbox.call(undecodable)
    assert error.value.pointer == "/image"
    with pytest.raises(RuntimeError, match="BadStatus: cannot be pickled as it is"):
        sandbox.call(bad_status)
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        sandbox.call(unpicklable)
    assert sandbox.call(double, 1) == 2


@pytest.mark.parametrize("function", [hang, hang_in_c])
def test_a_call_that_hangs_is_ended_in_time(
    sandbox: Sandbox, function: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    with monkeypatch.context() as hasty, pytest.raises(SandboxTimeout, match="longer than 1 s"):
        hasty.setattr(sandbox, "_seconds", 1)
        sandbox.call(function)  # type: ignore[arg-type]
    assert 0.9 < time.monotonic() - start < PATIENCE_S
    assert sandbox.call(double, 1) == 2


@pytest.mark.parametrize(("function", "how"), [(segfault, "SIGSEGV"), (killed, "SIGKILL"), (leave, "SystemExit")])
def test_a_crash_is_an_error_of_that_call_only(sandbox: Sandbox, function: object, how: str) -> None:
    for _ in range(3):
        with pytest.raises(SandboxCrash, match=how):
            sandbox.call(function)  # type: ignore[arg-type]
        assert sandbox.call(double, 4) == 8


def test_memory_is_limited_and_the_process_survives(sandbox: Sandbox) -> None:
    assert sandbox.call(allocate, LIMIT // 2) == LIMIT // 2
    with pytest.raises(SandboxMemory, match=str(LIMIT)):
        sandbox.call(allocate, LIMIT)
    with pytest.raises(SandboxMemory):
        sandbox.call(size_of, bytes(LIMIT))  # too large even to be read
    assert sandbox.call(allocate, LIMIT // 2) == LIMIT // 2


def test_the_errors_are_ours() -> None:
    assert all(issubclass(kind, TelltaleError) for kind in (SandboxTimeout, SandboxCrash, SandboxMemory, SandboxClosed))


def test_bad_calls_harm_no_call_beside_them() -> None:
    """Sixteen threads, every third call bad in some way; every good one gets its own answer."""
    box = Sandbox(processes=2, memory_bytes=LIMIT, seconds=5)
    bad = [*[(segfault, SandboxCrash), (killed, SandboxCrash), (leave, SandboxCrash)] * 3, (hang, SandboxTimeout)]

    def one(number: int) -> bool:
        if number % 3:
            return box.call(double, number) == 2 * number
        function, kind = bad[number // 3 % len(bad)]
        with pytest.raises(kind):
            box.call(function)
        return True

    try:
        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(one, range(36)))
    finally:
        box.close()


def test_a_process_killed_while_idle_is_replaced(sandbox: Sandbox) -> None:
    victims = {sandbox.call(process_id) for _ in range(10)}
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert sandbox.call(process_id) not in victims
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda n: sandbox.call(double, n), range(8))) == [2 * n for n in range(8)]


def test_processes_are_recycled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderation.sandbox.CALLS_PER_PROCESS", 2)
    box = Sandbox(processes=1, memory_bytes=LIMIT, seconds=PATIENCE_S)
    try:
        seen = [box.call(process_id) for _ in range(6)]
    finally:
        box.close()
    assert len(set(seen)) == 3


def test_nothing_starts_before_the_first_call() -> None:
    before = set(multiprocessing.active_children())
    box = Sandbox(processes=2, memory_bytes=LIMIT, seconds=2)
    assert set(multiprocessing.active_children()) <= before, "others' may end"
    box.close()


def test_closing_ends_the_processes_and_whoever_waits(sandbox: Sandbox) -> None:
    box = Sandbox(processes=1, memory_bytes=LIMIT, seconds=2 * PATIENCE_S)
    pid = box.call(process_id)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(box.call, hang) for _ in range(2)]  # one under way, one in the queue
        time.sleep(0.3)
        start = time.monotonic()
        box.close()
        for call in waiting:
            with pytest.raises(SandboxClosed):
                call.result(PATIENCE_S)
        assert time.monotonic() - start < PATIENCE_S
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of its process")
    with pytest.raises(SandboxClosed):
        box.call(double, 1)
    box.close()
    assert sandbox.call(double, 1) == 2


def test_closing_again_and_again_is_never_a_crash_of_the_calls_it_ends() -> None:
    """Each at another moment of the call: where a process dies of the closing, it is not the work's doing."""
    for moment in range(8):
        box = Sandbox(processes=2, memory_bytes=LIMIT, seconds=2 * PATIENCE_S)
        box.call(double, 1)
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(box.call, hang) for _ in range(4)]
            time.sleep(moment / 20)
            box.close()
            for call in calls:
                with pytest.raises(SandboxClosed):
                    call.result(PATIENCE_S)


def test_calls_leave_no_open_files_behind(sandbox: Sandbox) -> None:
    def one() -> None:
        sandbox.call(double, 1)
        with pytest.raises(SandboxCrash):
            sandbox.call(segfault)

    def open_files() -> int:
        """With one process alive and those that died forgotten, which the pool does at its own pace."""
        sandbox.call(double, 1)
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    one()
    before = max(open_files() for _ in range(3))
    for _ in range(8):
        one()
    wait_until(lambda: open_files() <= before + 5, "as few open files as before")


ORPHANING = """
import os, sys, threading
from pathlib import Path
from infra.services import wait_until
from moderation.sandbox import Sandbox
from tests.misbehaving import hang_in_c, process_id

box, begun = Sandbox(processes=1, memory_bytes=2**28, seconds=60), Path(sys.argv[1])
print(box.call(process_id), flush=True)
box._seconds = 0.5
threading.Thread(target=box.call, args=(hang_in_c, begun)).start()
wait_until(begun.exists, "the call")
os.kill(os.getpid(), 9)
"""


def test_a_call_that_hangs_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    """The parent is killed in the middle of a call that no handler can interrupt; the kernel ends the orphan."""
    command = [sys.executable, "-c", ORPHANING, tmp_path / "begun"]
    parent = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    orphan = Path(f"/proc/{int(parent.stdout)}")
    wait_until(lambda: not orphan.exists(), "the orphan's end")
