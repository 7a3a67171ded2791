"""Real processes of the service, started by a test against its own database, broker and bucket, and ended by it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.forked import Forked, Nursery
from tests.leases import lapse

# A screening worker that does to itself what plain images of these colours ask for.
MISBEHAVING = "tests.e2e.misbehaving_worker"
COLOURS = {"kills": (255, 0, 255), "hangs": (0, 255, 255), "takes until the end": (255, 255, 0)}
# For anything that happens at all.
PATIENCE_S = 150


class Process:
    """One process; its output goes to a file that a failing test can show."""

    def __init__(
        self, nursery: Nursery, name: str, module: list[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._nursery = nursery
        self._module = module
        self._log = log
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **environment}
        self.starts = 0
        self.popen = self._start()

    def _start(self) -> Forked:
        self.starts += 1
        module, *arguments = self._module
        with self._log.open("ab") as output:
            return self._nursery.start(module, arguments, self._environment, output.fileno())

    def restart(self) -> None:
        """Start it again; it must have ended."""
        self.popen.wait()
        self.popen = self._start()

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory is out."""
        self.popen.kill()
        self.popen.wait()

    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")


class Stage:
    """The processes of one test."""

    def __init__(self, nursery: Nursery, folder: Path, environment: Mapping[str, str]) -> None:
        self._nursery = nursery
        self._folder = folder
        self._environment = environment
        self.processes: list[Process] = []

    def relay(self) -> Process:
        """Start a relay."""
        return self._add("relay", ["workers.relay"], {})

    def screening(self, app: str = "workers.celery_app", **environment: str) -> Process:
        """Start a screening worker; `app` may be one that behaves badly."""
        return self._worker("screening", app, "screening", **environment)

    def fetching(self) -> Process:
        """Start a fetching worker."""
        return self._worker("fetching", "workers.celery_app", "fetching")

    def delivery(self) -> Process:
        """Start a worker that delivers webhooks."""
        return self._worker("delivery", "workers.celery_app", "delivery")

    def api(self, port: int) -> Process:
        """Start the api on a port of this machine."""
        command = ["gunicorn", "--config", "python:infra.gunicorn", "--workers", "1", "--bind", f"127.0.0.1:{port}"]
        return self._add("api", [*command, "api.wsgi:app"], {})

    def _worker(self, role: str, app: str, queues: str, **environment: str) -> Process:
        name = f"{role}{len(self.processes)}"
        command = ["celery", "-A", app, "worker", "--pool", "threads", "-Q", queues, "-n", f"{name}@%h", "-l", "INFO"]
        command += ["--without-gossip", "--without-mingle"]
        return self._add(name, command, {"TELLTALE_WORKER_ROLE": role, **environment})

    def _add(self, name: str, module: list[str], environment: Mapping[str, str]) -> Process:
        log = self._folder / f"{name}.log"
        process = Process(self._nursery, name, module, log, {**self._environment, **environment})
        self.processes.append(process)
        return process

    def end(self) -> None:
        """End every process, at once: what it would still do is thrown away, and takes seconds."""
        for process in self.processes:
            process.kill()

    def report(self) -> str:
        """The end of every log."""
        return "\n".join(f"--- {p.name} (started {p.starts}×)\n{p.output()[-4000:]}" for p in self.processes)


@contextlib.contextmanager
def kept_alive(process: Process) -> Iterator[None]:
    """Start the process again whenever it dies, as the supervisor does in `telltale up`; it is the only worker."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            if process.popen.poll() is not None:
                lapse()
                process.restart()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def wait_for(condition: Callable[[], object], what: str, stage: Stage, timeout_s: float = PATIENCE_S) -> None:
    """Return once `condition` holds; fails with every log otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s\n{stage.report()}")
        time.sleep(0.1)
