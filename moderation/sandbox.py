"""Functions run in a process that may be killed: a decoder that hangs, swallows memory or crashes takes nothing along.

It is a limit on memory and time, not a wall against an attacker who takes over the process. It does not know what it
runs. Arguments and results travel through a file in memory, so that the pipe the processes share only ever carries a
few bytes: a process that dies within a large message would leave half of one behind for all the others, and pixels
would be copied through it a few kilobytes at a time. That file has no name, so an image is never left behind on a disk
either. Linux only.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar, cast

from pebble import ProcessExpired, ProcessPool

from moderation.errors import TelltaleError

P = ParamSpec("P")
T = TypeVar("T")

CALLS_PER_PROCESS = 200  # then a fresh one: decoders leak
POOL_ATTEMPTS = 3
WATCH_S = 0.5  # how often a waiting call looks whether its pool still lives
# The kernel ends a process that outlives its limit by this, should nobody be left to do it.
ORPHAN_GRACE_S = 5.0
STANDARD_ERROR = 2
PRELOADED = ("moderation.images",)
CLOSED = "The sandbox is closed."


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
        self._processes = processes
        self._memory_bytes = memory_bytes
        self._seconds = seconds
        self._preloaded = list(preloaded)
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
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
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            _end(pool)

    def _run(self, path: str, outcome_at: int) -> None:
        """Have one call's outcome written; a call that crashed is run once more: the crash may have been a neighbour's.

        A process dies between its acknowledging one call and another, and the pool can take the one for the other.
        """
        death: ProcessExpired | None = None
        for _ in range(POOL_ATTEMPTS):
            pool = self._started()
            try:
                future = pool.schedule(_perform, (path, outcome_at, self._seconds), timeout=self._seconds)
                return _await(future, pool)
            except TimeoutError:
                raise SandboxTimeout(f"The work took longer than {self._seconds:g} s.") from None
            except ProcessExpired as error:
                if self._closed:
                    raise SandboxClosed(CLOSED) from error
                if death is not None:
                    raise _crash(error) from error
                death = error
            except (BrokenProcessPool, RuntimeError):
                # The pool is gone (an idle process was killed, say), and this call was not at fault: a new pool.
                # No RuntimeError of the function's own can come here: those are inside the outcome.
                self._discard(pool)
        if death is not None:
            raise _crash(death) from death
        raise SandboxCrash("No process stays alive long enough to do the work: look at the memory and the log.")

    def _started(self) -> ProcessPool:
        with self._lock:
            if self._closed:
                raise SandboxClosed(CLOSED)
            if self._pool is None:
                self._pool = self._new_pool()
            return self._pool

    def _new_pool(self) -> ProcessPool:
        # Never fork: the caller has threads, and perhaps a GPU. The fork server is a clean process that forks.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(self._preloaded)
        return ProcessPool(
            max_workers=self._processes,
            max_tasks=CALLS_PER_PROCESS,
            initializer=_confine,
            initargs=(self._memory_bytes,),
            context=context,
        )

    def _discard(self, pool: ProcessPool) -> None:
        with self._lock:
            if self._pool is not pool:
                return  # another thread saw it first, and ends it
            self._pool = None
        _end(pool)


def _await(future: Future[None], pool: ProcessPool) -> None:
    # A pool that stops or breaks forgets calls that it has not begun; nobody would ever answer them.
    while not wait([future], timeout=WATCH_S).done:
        if not pool.active:
            future.cancel()
            raise BrokenProcessPool("the pool ended")
    future.result()


def _end(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


def _crash(death: ProcessExpired) -> SandboxCrash:
    code = death.exitcode
    how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    return SandboxCrash(f"The process that did the work ended with {how}.")


# --- In the other process ---


def _confine(memory_bytes: int) -> None:
    """Limit this process. RLIMIT_DATA counts what is written to; RLIMIT_AS would also count the libraries' mappings.

    Decoders complain on standard error in the words of the file they read: nobody is to write into our log like that.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), STANDARD_ERROR)
    # Pebble's own handler waits for Python to run, which a hanging decoder never lets it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
