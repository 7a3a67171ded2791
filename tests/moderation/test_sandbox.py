"""The sandbox, with functions that really hang, crash and swallow memory in real processes."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moderation.errors import BadStatus, TelltaleError, Undecodable
from moderation.sandbox import Sandbox, SandboxClosed, SandboxCrash, SandboxMemory, SandboxTimeout

MEBIBYTE = 1024 * 1024
LIMIT = 256 * MEBIBYTE


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(processes=2, memory_bytes=LIMIT, seconds=2)
    yield box
    box.close()


def double(value: int) -> int:
    return 2 * value


def size_of(data: bytes, scale: int = 1) -> int:
    return len(data) * scale


def process_id() -> int:
    return os.getpid()


def is_threaded_parent() -> bool:
    return threading.active_count() > 1


def allocate(size: int) -> int:
    return len(bytearray(size))


def swallow(*_: object) -> None:
    bytearray(64 * 1024 * MEBIBYTE)


def hang(*_: object) -> None:
    while True:
        time.sleep(1)


def hang_in_c() -> None:
    """Blocks the interpreter itself: no signal handler written in Python ever runs."""
    ctypes.PyDLL(None).sleep(30)


def segfault(*_: object) -> None:
    ctypes.string_at(0)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    sys.exit(3)


def undecodable() -> None:
    raise Undecodable("broken", pointer="/image")


def bad_status() -> None:
    raise BadStatus("cannot be pickled as it is", status=404)


def unpicklable() -> object:
    return lambda: None


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
def test_a_call_that_hangs_is_ended_in_time(sandbox: Sandbox, function: object) -> None:
    sandbox.call(double, 1)  # so that the start is not counted
    start = time.monotonic()
    with pytest.raises(SandboxTimeout, match="longer than 2 s"):
        sandbox.call(function)  # type: ignore[arg-type]
    assert 1.9 < time.monotonic() - start < 10
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
    box = Sandbox(processes=2, memory_bytes=LIMIT, seconds=2.5)
    bad = [(segfault, SandboxCrash), (killed, SandboxCrash), (hang, SandboxTimeout), (leave, SandboxCrash)]

    def one(number: int) -> bool:
        if number % 3:
            return box.call(double, number) == 2 * number
        function, kind = bad[number // 3 % len(bad)]
        with pytest.raises(kind):
            box.call(function)
        return True

    try:
        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(one, range(48)))
    finally:
        box.close()


def test_a_process_killed_while_idle_is_replaced(sandbox: Sandbox) -> None:
    victims = {sandbox.call(process_id) for _ in range(10)}
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    time.sleep(0.5)
    assert sandbox.call(process_id) not in victims
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda n: sandbox.call(double, n), range(8))) == [2 * n for n in range(8)]


def test_processes_are_recycled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderation.sandbox.CALLS_PER_PROCESS", 2)
    box = Sandbox(processes=1, memory_bytes=LIMIT, seconds=2)
    try:
        seen = [box.call(process_id) for _ in range(6)]
    finally:
        box.close()
    assert len(set(seen)) == 3


def test_nothing_starts_before_the_first_call() -> None:
    before = set(multiprocessing.active_children())
    box = Sandbox(processes=2, memory_bytes=LIMIT, seconds=2)
    assert set(multiprocessing.active_children()) == before
    box.close()


def test_closing_ends_the_processes_and_whoever_waits(sandbox: Sandbox) -> None:
    box = Sandbox(processes=1, memory_bytes=LIMIT, seconds=30)
    pid = box.call(process_id)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(box.call, hang) for _ in range(2)]  # one under way, one in the queue
        time.sleep(0.3)
        start = time.monotonic()
        box.close()
        for call in waiting:
            with pytest.raises(SandboxClosed):
                call.result(10)
        assert time.monotonic() - start < 5
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(SandboxClosed):
        box.call(double, 1)
    box.close()
    assert sandbox.call(double, 1) == 2


def test_closing_again_and_again_is_never_a_crash_of_the_calls_it_ends() -> None:
    """Each at another moment of the call: where a process dies of the closing, it is not the work's doing."""
    for moment in range(8):
        box = Sandbox(processes=2, memory_bytes=LIMIT, seconds=30)
        box.call(double, 1)
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(box.call, hang) for _ in range(4)]
            time.sleep(moment / 20)
            box.close()
            for call in calls:
                with pytest.raises(SandboxClosed):
                    call.result(10)


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
    for _ in range(20):
        one()
    deadline = time.monotonic() + 10
    while (now := open_files()) > before + 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert now <= before + 5


def test_a_call_that_hangs_does_not_outlive_a_killed_parent() -> None:
    """The parent is killed in the middle of a call that no handler can interrupt; the kernel ends the orphan."""
    script = (
        "import os, threading, time\n"
        "from moderation.sandbox import Sandbox\n"
        "from tests.moderation.test_sandbox import hang_in_c, process_id\n"
        "if __name__ == '__main__':\n"
        "    box = Sandbox(processes=1, memory_bytes=2**28, seconds=3)\n"
        "    print(box.call(process_id), flush=True)\n"
        "    threading.Thread(target=box.call, args=(hang_in_c,)).start()\n"
        "    time.sleep(0.2)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    orphan = Path(f"/proc/{int(parent.stdout)}")
    assert parent.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 15
    while orphan.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not orphan.exists()
