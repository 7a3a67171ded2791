"""Python processes that start at once: forked off one that has imported what takes seconds, and done nothing else.

`python -m tests.forked SOCKET MODULE…` imports the modules and serves; `Nursery` keeps one of those for a test process.
`Forked` is a process that runs a module, as `python -m` would; `caller` is a script that stands in the place of a
command. Folder, environment and streams are the caller's, and so are signals and the status at the end. A process whose
caller is gone is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from infra.services import wait_until
from infra.tether import PR_SET_PDEATHSIG

ROOT = Path(__file__).parents[1]
WAITS_S = 300

# Isolated and without site-packages: it starts in a few hundredths of a second. A tether looks at who its parent is, so
# it stays a child of its caller.
CALLER = """#!{python} -ISs
import json, os, socket, sys
if "infra.tether" in sys.argv:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
service = socket.socket(socket.AF_UNIX)
service.connect({path!r})
said = [*{words}, os.getcwd(), dict(os.environ)]
socket.send_fds(service, [json.dumps(said).encode() + b"\\n"], [0, 1, 2])
lines = service.makefile()
lines.readline()
sys.exit(int(lines.readline() or 70) & 255)
"""


class Forked:
    """One process; what is asked of it is asked as of `subprocess.Popen`."""

    def __init__(
        self, path: Path, module: str, arguments: Sequence[str], environment: Mapping[str, str], output: int
    ) -> None:
        self._service = socket.socket(socket.AF_UNIX)
        self._service.connect(str(path))
        said = json.dumps([module, list(arguments), str(ROOT), dict(environment)]).encode() + b"\n"
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - no path is opened
            socket.send_fds(self._service, [said], [nothing.fileno(), output, output])
        self._lines = self._service.makefile()
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its status, negative for a signal, if it has ended."""
        if self.returncode is None and select.select([self._service], [], [], 0)[0]:
            self.returncode = int(self._lines.readline())
            self._service.close()
        return self.returncode

    def wait(self, timeout: float = WAITS_S) -> int:
        """Its status, once it has ended. Raises TimeoutExpired."""
        if self.returncode is None and not select.select([self._service], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@dataclass
class Nursery:
    """What processes are forked off, and what it has imported for them."""

    path: Path
    modules: Sequence[str]
    _serving: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def begin(self) -> None:
        """Import the modules, unless that is done."""
        if not self._serving:
            command = [sys.executable, "-m", "tests.forked", self.path, *self.modules]
            self._serving.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **QUIET}))
            wait_until(self.path.exists, "what processes are forked off", WAITS_S)

    def start(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], output: int) -> Forked:
        """A process that runs a module of this repository, or one that is installed; `output` is for both streams."""
        self.begin()
        return Forked(self.path, module, arguments, environment, output)

    def end(self) -> None:
        """Processes that run end with it."""
        for serving in self._serving:
            serving.kill()
            serving.wait()


# Of libraries that would start threads when they are imported; nothing may be forked off those.
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def caller(path: Path, module: str) -> str:
    """A script that has the process at `path` run a module with what it was called with."""
    return CALLER.format(python=sys.executable, path=str(path), words=f"({module!r}, sys.argv[1:])")


def interpreter(path: Path) -> str:
    """A script that stands in the place of Python where that is called as `python [-u] -m MODULE …`."""
    words = "(lambda m: (sys.argv[m], sys.argv[m + 1 :]))(sys.argv.index('-m') + 1)"
    return CALLER.format(python=sys.executable, path=str(path), words=words)


def serve(path: Path) -> Callable[[], None]:
    """Wait for calls until the process is ended; what is returned, in a fork, is what that one is for."""
    service = socket.socket(socket.AF_UNIX)
    service.bind(f"{path}.new")
    service.listen()
    path.with_name(f"{path.name}.new").rename(path)
    callers: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready, _, _ = select.select([service, *callers, *(there for _, there in callers.values())], [], [])
        if service in ready:
            connection, _ = service.accept()
            said, streams = _heard(connection)
            pid = os.fork()
            if pid == 0:
                for each in (service, connection, *(there for _, there in callers.values())):
                    each.close()
                return _become(said, streams)
            for stream in streams:
                os.close(stream)
            callers[os.pidfd_open(pid)] = (pid, connection)
            connection.sendall(f"{pid}\n".encode())
        for ended, (pid, connection) in list(callers.items()):
            if ended in ready:
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(OSError):  # the caller is gone
                    connection.sendall(f"{status}\n".encode())
                connection.close()
                os.close(ended)
                del callers[ended]
            elif connection in ready:
                os.kill(pid, signal.SIGKILL)


def _heard(connection: socket.socket) -> tuple[bytes, list[int]]:
    """What a caller wants, and its streams."""
    said, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not said.endswith(b"\n"):
        said += connection.recv(1 << 20)
    return said, streams


def _become(said: bytes, streams: Sequence[int]) -> Callable[[], None]:
    """Take over what the caller has, and end with what this was forked off; what is wanted is returned."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    module, arguments, folder, environment = json.loads(said)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    return lambda: runpy.run_module(module, run_name="__main__", alter_sys=True) and None


def main() -> None:
    """Import, then serve."""
    path, *modules = sys.argv[1:]
    gc.disable()
    for module in modules:
        import_module(module)
    gc.freeze()
    gc.enable()
    serve(Path(path))()


if __name__ == "__main__":
    main()
