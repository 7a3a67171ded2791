"""Functions run in a process that may be killed: a decoder that hangs, swallows memory or crashes takes nothing along.

It is a limit on memory and time, not a wall against an attacker who takes over the process. It does not know what it
runs. Each process has a line of its own, on which a call waits without anybody in between: who died, and of what, is
never in doubt. Arguments and results travel through a file in memory, so that the line only ever carries a few bytes,
and pixels are not copied through it a few kilobytes at a time. That file has no name, so an image is never left behind
on a disk either. Linux only.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar, cast

from moderation.errors import TelltaleError

P = ParamSpec("P")
T = TypeVar("T")

CALLS_PER_PROCESS = 200  # then a fresh one: decoders leak
# A crash is believed the second time: the machine may have been out of memory, or the process was killed while idle.
ATTEMPTS = 2
# For a fresh process to come up, and the modules with the first of them, however busy the machine is.
START_S = 60.0
# The kernel ends a process that outlives its limit by this, should nobody be left to do it.
ORPHAN_GRACE_S = 5.0
STANDARD_ERROR = 2
PRELOADED = ("moderation.images",)
CLOSED = "The sandbox is closed."
NOT_STARTED = "No process can be started to do the work: look at the memory and the log."
DONE = b"done"  # what a process says when it has come up, and after each call


class SandboxTimeout(TelltaleError):
    """The call took longer than it may."""


class SandboxCrash(TelltaleError):
    """The process that ran the call died of it, or was killed."""


class SandboxMemory(TelltaleError):
    """The call needed more memory than it may."""


class SandboxClosed(TelltaleError):
    """The process that owns the sandbox is ending: the call says nothing of the work, which another may do."""


class Sandbox:
    """A few processes that run calls within `memory_bytes` (all of the process's data) and `seconds` (of each call).

    Starts with the first call; safe to use from many threads; calls beyond `processes` wait their turn, and their
    seconds do not count while they wait. `preloaded`: modules that are loaded once, and not by every fresh process.
    """

    def __init__(self, processes: int, memory_bytes: int, seconds: float, preloaded: Sequence[str] = PRELOADED) -> None:
        self._memory_bytes = memory_bytes
        self._seconds = seconds
        self._preloaded = list(preloaded)
        self._places = processes
        self._room = threading.Semaphore(processes)
        # Processes that are free, the one used last at the end; there may be room for more. And those at work.
        self._free: list[_Process] = []
        self._busy: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises; function, arguments and result must pickle.

        Raises SandboxTimeout, SandboxMemory and SandboxCrash, of which other calls notice nothing, and SandboxClosed.
        """
        with open(os.memfd_create("telltale-call"), "w+b") as errand:  # noqa: PTH123
            pickle.dump((function, args, kwargs), errand, protocol=pickle.HIGHEST_PROTOCOL)
            errand.flush()
            outcome_at = errand.tell()
            self._run(f"/proc/{os.getpid()}/fd/{errand.fileno()}", outcome_at)
            errand.seek(outcome_at)
            # Here and below: the two processes are ours; who takes over a decoder has taken over more than this.
            result, error = pickle.load(errand)  # nosec B301
        if isinstance(error, MemoryError):
            raise SandboxMemory(f"The work needed more than {self._memory_bytes} bytes of memory.") from error
        if error is not None and not isinstance(error, Exception):
            raise SandboxCrash(f"The work wanted to end the process: {error!r}.")
        if error is not None:
            raise error
        return cast(T, result)

    def close(self) -> None:
        """End the processes; calls under way and later ones raise SandboxClosed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for process in self._busy:
                process.kill()
        for _ in range(self._places):  # until every call under way has ended
            self._room.acquire()
        for process in self._free:
            process.end()
        self._room.release(self._places)

    def _run(self, path: str, outcome_at: int) -> None:
        """Have one call's outcome written; a call that crashed is run once more."""
        for attempt in range(ATTEMPTS):
            try:
                with self._lent() as process:
                    process.perform(path, outcome_at)
                return
            except SandboxCrash as crash:
                if self._closed:
                    raise SandboxClosed(CLOSED) from crash
                if attempt + 1 == ATTEMPTS:
                    raise

    @contextmanager
    def _lent(self) -> Iterator[_Process]:
        """A process for one call, which ends with the block if that raises. Raises SandboxClosed, SandboxCrash."""
        with self._room:
            process = self._taken()
            try:
                with self._lock:
                    if self._closed:
                        raise SandboxClosed(CLOSED)
                    self._busy.add(process)
                yield process
                process.calls_left -= 1
            except BaseException:
                process.calls_left = 0
                raise
            finally:
                self._given_back(process)

    def _taken(self) -> _Process:
        with self._lock:
            if self._closed:
                raise SandboxClosed(CLOSED)
            if self._free:
                return self._free.pop()
        return _Process(self._preloaded, self._memory_bytes, self._seconds)

    def _given_back(self, process: _Process) -> None:
        if not process.calls_left:
            process.end()
        with self._lock:
            self._busy.discard(process)
            if process.calls_left:
                self._free.append(process)


# Of a line whose other end is gone.
_GONE = (EOFError, OSError)
# multiprocessing looks at all of its children whenever one is started; two that see the same one end disagree of what.
_births_and_deaths = threading.Lock()


class _Process:
    """A process and the line to it, for one call at a time. Raises SandboxCrash where none can be started."""

    def __init__(self, preloaded: Sequence[str], memory_bytes: int, seconds: float) -> None:
        self.calls_left = CALLS_PER_PROCESS
        self._seconds = seconds
        # Never fork: the caller has threads, and perhaps a GPU. The fork server is a clean process that forks.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preloaded))
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, memory_bytes, seconds), daemon=True)
        try:
            with _births_and_deaths, theirs:
                self._process.start()
        except _GONE as error:
            raise SandboxCrash(NOT_STARTED) from error
        if not self._heard(START_S):
            self.end()
            raise SandboxCrash(NOT_STARTED)

    def perform(self, path: str, outcome_at: int) -> None:
        """Have the outcome of the call in `path` written. Raises SandboxCrash, SandboxTimeout."""
        try:
            self._line.send((path, outcome_at))
        except _GONE:
            raise self._crash() from None
        if not self._heard(self._seconds):
            raise SandboxTimeout(f"The work took longer than {self._seconds:g} s.")

    def _heard(self, seconds: float) -> bool:
        """Whether it said in time that it is done."""
        try:
            return self._line.poll(seconds) and self._line.recv_bytes() == DONE
        except _GONE:
            raise self._crash() from None

    def _crash(self) -> SandboxCrash:
        self.end()
        code = self._process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return SandboxCrash(f"The process that did the work ended with {how}.")

    def kill(self) -> None:
        """Whoever waits for it hears that it is gone; somebody else may do this."""
        self._process.kill()

    def end(self) -> None:
        """End it, unless it has ended, and wait for that; it may be done twice."""
        self._process.kill()
        with _births_and_deaths:
            self._process.join()
        self._line.close()


# --- In the other process ---


def _serve(line: Connection, memory_bytes: int, seconds: float) -> None:
    """One call after another, for as long as somebody is at the other end."""
    _confine(memory_bytes)
    line.send_bytes(DONE)
    while True:
        try:
            path, outcome_at = line.recv()
        except EOFError:
            return
        _perform(path, outcome_at, seconds)
        line.send_bytes(DONE)


def _confine(memory_bytes: int) -> None:
    """Limit this process. RLIMIT_DATA counts what is written to; RLIMIT_AS would also count the libraries' mappings.

    Decoders complain on standard error in the words of the file they read: nobody is to write into our log like that.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), STANDARD_ERROR)
    # Python's own handlers would wait for Python to run, which a hanging decoder never lets it; and Ctrl-C, which goes
    # to every process of a terminal, is the owner's to answer.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _perform(path: str, outcome_at: int, seconds: float) -> None:
    """Run the call in `path`, and write behind it the pickled pair of its result and its error.

    The call itself stays as it is, for it may be run once more.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + ORPHAN_GRACE_S)
    try:
        with Path(path).open("r+b") as errand:
            _answer(errand, outcome_at)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(errand: BinaryIO, outcome_at: int) -> None:
    try:
        function, args, kwargs = pickle.load(errand)  # nosec B301
        result = function(*args, **kwargs)
        errand.seek(outcome_at)
        pickle.dump((result, None), errand, protocol=pickle.HIGHEST_PROTOCOL)
    except BaseException as error:  # noqa: BLE001
        packed = _pickled_error(error)
        errand.seek(outcome_at)
        errand.write(packed)


def _pickled_error(error: BaseException) -> bytes:
    """The error as it is, where it survives the journey; else its name and text."""
    try:
        packed = pickle.dumps((None, error))
        pickle.loads(packed)  # nosec B301
    except Exception as obstacle:  # noqa: BLE001
        said = f"{type(error).__name__}: {error} (and it cannot be pickled: {obstacle})"
        return pickle.dumps((None, RuntimeError(said)))
    return packed
