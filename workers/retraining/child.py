"""One process of a training run: watched while it runs, ended with us however we end, and asked why where it failed.

Training and judging are processes of their own, so that what they take (memory, the GPU) is given back, and a crash is
theirs alone. It knows commands and log files, not what they are about.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

TICK_S = 0.5
# What is killed may be a moment away yet: in the kernel, or giving back the memory of a GPU.
GONE_WITHIN_S = 30.0
TAIL_BYTES = 8000
LONGEST_REASON = 500  # characters
NOT_BY_US = re.compile(r"SIGKILL|exitcode: -9")
DISK = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
MEMORY = re.compile(r"out of memory|can't allocate memory|Cannot allocate memory|MemoryError", re.IGNORECASE)


class ChildFailed(RuntimeError):
    """The process ended otherwise than well; the message says why, as far as it is known, and what to do."""


def tethered(command: Sequence[str], parent: str = "-") -> list[str]:
    """`command` in a process that the kernel kills when its parent ends (infra/tether.py, by name: we import none)."""
    return [sys.executable, "-m", "infra.tether", parent, "KILL", "-", *command]


def run(command: Sequence[str], log: Path, watch: Callable[[], None]) -> None:
    """Run a command to its end, with all it says in `log`; call it on a thread that lives as long as this process.

    `watch` is called every half second, and once at the end; what it raises ends the process and goes on. Raises
    ChildFailed.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            tethered(command, str(os.getpid())),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                watch()
                time.sleep(TICK_S)
            watch()
        finally:
            _end(process)
    if process.returncode:
        raise ChildFailed(reason(process.returncode, tail(log)))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and whatever it started, and see them gone: what follows wants their memory, and writes their files."""
    below = _below(process.pid)
    with contextlib.suppress(ProcessLookupError):  # nothing of the session is left
        os.killpg(process.pid, signal.SIGKILL)
    for each in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    deadline = time.monotonic() + GONE_WITHIN_S
    while left := {*_at_work(process.pid), *(each.pid for each in below if _is_at_work(each))}:
        if time.monotonic() > deadline:
            logger.warning("Processes %s were killed %.0f s ago and are still there.", left, GONE_WITHIN_S)
            return
        time.sleep(0.01)


def _below(pid: int) -> list[psutil.Process]:
    """What a process has started, and what that has: torch's launcher gives each of its own a session."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _is_at_work(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _at_work(session: int) -> list[int]:
    """The processes of a session that have not ended; one that nobody has waited for has."""
    return [
        each.pid
        for each in psutil.process_iter(["status"])
        if each.info["status"] != psutil.STATUS_ZOMBIE and _session(each.pid) == session
    ]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def tail(log: Path) -> str:
    """The last of what a log says."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def reason(code: int, said: str) -> str:
    """Why a process ended with this code, from the last of what it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if DISK.search(said):
        return f"The disk is full: make room in TELLTALE_RETRAIN_FOLDER, and run it again. ({_last(lines, DISK)})"
    if MEMORY.search(said):
        return f"Memory ran out: lower `batch_size` in the recipe. ({_last(lines, MEMORY)})"
    if code == -signal.SIGKILL or NOT_BY_US.search(said):
        return "It was killed from outside, most likely because memory ran out: lower `batch_size` in the recipe."
    return (lines[-1] if lines else f"It ended with status {code} and said nothing.")[:LONGEST_REASON]


def _last(lines: Sequence[str], pattern: re.Pattern[str]) -> str:
    return next(line for line in reversed(lines) if pattern.search(line))[:LONGEST_REASON]
