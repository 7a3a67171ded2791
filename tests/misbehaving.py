"""Functions that hang, crash and swallow memory, for the tests of sandboxes.

A sandbox's every fresh process imports the module that its call is from: this one imports next to nothing, so that what
a call may take is the call's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from moderation.errors import BadStatus, Undecodable

MEBIBYTE = 1024 * 1024


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


def hang_in_c(begun: Path | None = None) -> None:
    """Blocks the interpreter itself: no signal handler written in Python ever runs. It has once `begun` is there."""
    if begun is not None:
        begun.touch()
    ctypes.PyDLL(None).sleep(100)


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
