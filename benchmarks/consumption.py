"""What processes use: seconds of CPU and bytes of memory, by the name of the program they belong to.

From /proc, so it costs those processes nothing. It does not know what they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

# A process that ends while it is looked at is no longer there to be counted.
GONE = (psutil.NoSuchProcess, psutil.ZombieProcess)


def family(pid: int) -> Iterator[psutil.Process]:
    """A process and all that descend from it, as far as they live."""
    try:
        process = psutil.Process(pid)
        yield process
        yield from process.children(recursive=True)
    except GONE:
        return


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and all its descendants so far, also of those that have ended and were waited for."""
    total = 0.0
    for process in family(pid):
        try:
            times = process.cpu_times()
        except GONE:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def cpu_by_program(pids: Mapping[str, int]) -> dict[str, float]:
    """Seconds of CPU so far of each program, by name."""
    return {name: cpu_s(pid) for name, pid in pids.items()}


def cpu_by_thread(pid: int) -> dict[int, float]:
    """Seconds of CPU so far of each thread of a process, by its id."""
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(pid).threads()}


def busiest_s(before: Mapping[int, float], after: Mapping[int, float], count: int) -> float:
    """Seconds of CPU that the `count` busiest threads used between two readings."""
    return sum(sorted((used - before.get(thread, 0.0) for thread, used in after.items()), reverse=True)[:count])


def memory_by_program(pids: Mapping[str, int]) -> dict[str, int]:
    """Bytes that are each program's own: those of its processes which no other process shares (USS), added up."""
    return {name: sum(_own_bytes(process) for process in family(pid)) for name, pid in pids.items()}


def _own_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except (*GONE, psutil.AccessDenied):
        return 0


def machine() -> str:
    """The machine in words: how many cores of what, and how busy it is now."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else "an unnamed processor"
    return f"{len(names)} cores of {name}, load average {psutil.getloadavg()[0]:.1f}"
