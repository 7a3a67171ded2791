"""A whole Telltale on this machine: the embedded services, and on them the api, the relay, the workers and beat.

`telltale up`, `telltale demo` and the tests start their stack here. Everything it keeps is in one folder, which the
next start takes up again. It knows how processes are started, and nothing of what they do.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Self

from pydantic import Field

from infra import processes
from infra.services import LOOPBACK, Postgres, SeaweedFS, Service, Valkey, free_port, is_free, wait_until
from infra.supervision import Program, Supervisor, environment_with
from moderation.errors import ConfigurationError
from moderation.settings import OF_COMMANDS, PREFIX, SECRET_KEY_BYTES, FromEnvironment

SERVICES = "services"
SECRET_KEYS = "secret-keys"
# Beside the data of a stack that runs: how to reach it. Only the owner can read it.
RUNNING = "running.json"
# Where its processes serve their metrics, for Prometheus.
TARGETS = "metrics.json"
# Loading a 7B model from a cold disk takes minutes; the demo checkpoint takes seconds.
PROCESSES_TIMEOUT_S = 600.0
PING_S = 0.5


class Outside(FromEnvironment):
    """The addresses that are already given by TELLTALE_*; a service whose address is None is started here."""

    # That it is a folder is for Settings to say.
    secrets_dir: Path | None = None
    database_url: str | None = None
    redis_url: str | None = None
    s3_endpoint_url: str | None = None
    public_url: str | None = None
    log_format: str | None = None
    secret_keys: str | None = Field(default=None, repr=False)

    @classmethod
    def nothing(cls) -> Self:
        """No address, whatever the environment says."""
        return cls.model_construct()


def embedded_services(folder: Path, outside: Outside) -> list[Service]:
    """The services to run in `folder`, with the passwords of earlier starts."""
    kinds: dict[type[Service], str | None] = {
        Postgres: outside.database_url,
        Valkey: outside.redis_url,
        SeaweedFS: outside.s3_endpoint_url,
    }
    passwords = kept_passwords(folder / "passwords.json", [kind.name for kind in kinds])
    return [kind(folder / kind.name, passwords[kind.name]) for kind, url in kinds.items() if url is None]


def kept_passwords(file: Path, names: Sequence[str]) -> dict[str, str]:
    """A random password for each name, made at the first start and readable by the owner only."""
    if not file.exists():
        write_secret(file, {name: secrets.token_urlsafe(24) for name in names})
    passwords: dict[str, str] = json.loads(file.read_text())
    return passwords


def write_secret(file: Path, content: Mapping[str, object]) -> None:
    """Write JSON that only the owner can read."""
    _write(file, json.dumps(content, indent=2))


def _write(file: Path, text: str, mode: int = 0o600) -> None:
    """Write a file in one step: who reads it meanwhile, or after a start was cut short, finds all of it or none."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.touch(mode)
    fresh.write_text(text)
    fresh.rename(file)


def kept_secret_keys(file: Path) -> str:
    """What secrets are encrypted with, as TELLTALE_SECRET_KEYS has it: made at the first start, for the owner alone.

    Without this file, the secrets in the database are lost.
    """
    if not file.exists():
        _write(file, base64.b64encode(secrets.token_bytes(SECRET_KEY_BYTES)).decode() + "\n")
    return ",".join(file.read_text().split())


def service_program(service: Service) -> Program:
    """How the supervisor runs an embedded service."""
    return Program(
        name=service.name,
        group=SERVICES,
        command=service.command,
        folder=service.folder,
        user=service.user,
        variables=service.variables,
        stop_signal=service.stop_signal,
        orphan_signal=service.stop_signal,
    )


def start_services(supervisor: Supervisor, services: Sequence[Service]) -> None:
    """Start the embedded services under a supervisor that runs, and return once all of them serve."""
    if not services:
        return
    for service in services:
        service.prepare()
        # Of a supervisor that was killed, a service may still be ending: it would answer for the one that is to start.
        wait_until(partial(is_free, service.port), f"The port {service.port} for {service.name}")
    supervisor.start_group(SERVICES)
    for service in services:
        service.wait_ready()


class Stack:
    """One Telltale on this machine, in one folder.

        with Stack(folder) as stack:  # embedded services, migrated, and every process, ready
            stack.use()               # this process's settings are now the stack's
            requests.get(stack.url + "/v1/cases")

    `environment` is added to what its processes and its users see, such as TELLTALE_ALLOWED_HOSTS. `port` is the
    api's; 0 takes a free one. `outside` are the services that are there already; by default, those of TELLTALE_*.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        outside: Outside | None = None,
    ) -> None:
        outside = outside or Outside()
        self.folder = folder.resolve()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # First, for a stack that runs in this folder most often has the port too.
        self._lock = self._locked()
        if port and not is_free(port):
            self._lock.close()
            raise ConfigurationError(
                f"Something else listens on port {port}; choose another with --port (0: a free one)."
            )
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.services = embedded_services(self.folder, outside)
        self.environment = {name: value for service in self.services for name, value in service.environment.items()}
        self.environment |= {} if outside.public_url else {"TELLTALE_PUBLIC_URL": self.url}
        self.environment["TELLTALE_RETRAIN_FOLDER"] = str(self.folder / "retraining")
        # On one machine people read along.
        self.environment |= {} if outside.log_format else {"TELLTALE_LOG_FORMAT": "text"}
        if not outside.secret_keys:
            self.environment["TELLTALE_SECRET_KEYS"] = kept_secret_keys(self.folder / SECRET_KEYS)
        self.environment |= environment or {}
        self.embedded = [service_program(service) for service in self.services]
        own = processes.processes(self.folder, self.port)
        self.metrics_ports = {program.name: free_port() for program in own}
        programs = [*self.embedded, *(processes.measured(each, self.metrics_ports[each.name]) for each in own)]
        self.supervisor = Supervisor(self.folder, programs, self.environment)

    def start(
        self, say: Callable[[str], None] = lambda line: None, meanwhile: Callable[[], None] = lambda: None
    ) -> Self:
        """Start everything and return once it is ready. `say` hears what is done; `meanwhile` is called while waiting.

        Call it on a thread that lives as long as the stack, such as the main one. Raises ConfigurationError, having
        ended what it had started.
        """

        first_pids: dict[str, int] = {}

        def ready() -> bool:
            meanwhile()
            self._notice_deaths(first_pids)
            return self._ready()

        try:
            say(f"Starting {', '.join(service.name for service in self.services) or 'no service: all are outside'} …")
            self.supervisor.start().wait_started()
            start_services(self.supervisor, self.services)
            say("Preparing the database, the bucket and the model …")
            self._prepare(say)
            say("Starting the api, the relay, the workers and beat …")
            self.supervisor.start_group(processes.GROUP)
            wait_until(ready, f"The stack (its logs are in {self.supervisor.logs})", PROCESSES_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        _write(self.targets, json.dumps(processes.targets(self.metrics_ports), indent=2), 0o644)
        write_secret(self.folder / RUNNING, {"pid": self.supervisor.pid, "environment": self.settings})
        return self

    @property
    def settings(self) -> dict[str, str]:
        """Every setting of its processes, also those that were set before it started: commands must go by the same."""
        given = environment_with(self.environment).items()
        of_commands = {f"{PREFIX}{name.upper()}" for name in OF_COMMANDS}
        return {name: value for name, value in given if name.startswith(PREFIX) and name not in of_commands}

    @property
    def targets(self) -> Path:
        """The file that says where each process serves its metrics; there once it has started."""
        return self.folder / TARGETS

    def use(self) -> None:
        """Make the stack's settings those of this process."""
        adopt(self.environment)

    def stop(self) -> None:
        """End every process: first ours, then the services; nothing is left running. Safe to repeat."""
        for file in (RUNNING, TARGETS):
            (self.folder / file).unlink(missing_ok=True)
        self.supervisor.stop()
        self._lock.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _locked(self) -> IO[str]:
        """One stack per folder; the lock goes when this process does."""
        file = (self.folder / "lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            said = f"Telltale already runs on {self.folder}: commands speak to it. For another one, use another --data."
            raise ConfigurationError(said) from None
        return file

    def _prepare(self, say: Callable[[str], None]) -> None:
        """In a process of its own, for it loads the model; what it says is passed on."""
        said = []
        with subprocess.Popen(
            [sys.executable, "-m", "infra.preparation"],
            cwd=processes.ROOT,
            env=environment_with(self.environment),
            text=True,
            stdout=subprocess.PIPE,
            # Ctrl-C on the terminal is for whoever started this.
            start_new_session=True,
        ) as preparing:
            assert preparing.stdout is not None
            try:
                for line in preparing.stdout:
                    said.append(line.rstrip())
                    say(said[-1])
            except BaseException:
                # Nobody reads what it would still say. What it had begun, the next start does anew.
                preparing.kill()
                raise
        if preparing.returncode:
            raise ConfigurationError(f"The stack could not be prepared: {said[-1] if said else 'it said nothing'}")

    def _notice_deaths(self, first_pids: dict[str, int]) -> None:
        """Remember each process's first pid; one that got another has ended while it started.

        Raises ConfigurationError with its last words, for it would only end again.
        """
        if not self.supervisor.alive():
            raise ConfigurationError(f"supervisord ended; see {self.supervisor.logs / 'supervisord.log'}")
        for name, pid in self.supervisor.pids().items():
            if first_pids.setdefault(name, pid) != pid:
                raise ConfigurationError(f"{name} cannot start: {self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        log = self.supervisor.logs / f"{name}.log"
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'it wrote nothing'} (more in {log})"

    def _ready(self) -> bool:
        """Whether no process is down, the api can serve, and every worker takes tasks, its model loaded."""
        if set(self.supervisor.states().values()) != {"RUNNING"}:
            return False
        return self._api_is_ready() and self._workers_answer()

    def _workers_answer(self) -> bool:
        from celery import Celery
        from kombu import pools
        from kombu.exceptions import OperationalError
        from redis.exceptions import RedisError

        broker_url = environment_with(self.environment)["TELLTALE_REDIS_URL"]
        roles = len(processes.QUEUES)
        try:
            with Celery(broker=broker_url, set_as_current=False) as broker:
                return len(broker.control.ping(timeout=PING_S, limit=roles)) == roles
        except (OperationalError, RedisError, OSError):
            # A connection from before the broker was started again.
            pools.reset()
            return False

    def _api_is_ready(self) -> bool:
        try:
            # Our own address, which begins with http.
            with urllib.request.urlopen(self.url + "/health/ready", timeout=5) as answer:  # nosec B310
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False


def adopt(environment: Mapping[str, str]) -> None:
    """Make these TELLTALE_* variables the settings of this process."""
    from moderation.settings import settings

    os.environ.update(environment)
    settings.cache_clear()


def adopt_running(folder: Path) -> bool:
    """Adopt the settings of the stack that runs in `folder`, if one does and the environment names no database."""
    if Outside().database_url:
        return False
    try:
        running = json.loads((folder / RUNNING).read_text())
    except FileNotFoundError:
        return False
    if not Path(f"/proc/{running['pid']}").exists():
        return False
    adopt(running["environment"])
    return True
