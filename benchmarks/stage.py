"""Where a benchmark of the whole service takes place: services, the api and the workers, all of its own.

The processes are those of `telltale up`, started by the same supervisor, but in two groups, so that the api can be
measured while no worker takes what it accepts. Services that TELLTALE_* names are used as they are.
"""

from __future__ import annotations

import base64
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import migrations
from infra import processes
from infra.local import Outside, adopt, embedded_services, service_program, start_services
from infra.services import LOOPBACK, free_port, wait_until
from infra.supervision import Supervisor, environment_with
from moderation import db, endpoints, tenants
from moderation.db import transaction
from moderation.policy import Thresholds
from moderation.settings import settings
from moderation.storage import Storage
from moderation.vocabulary import EventType, ExplainMode, Scope

API, WORKERS = "api", "workers"
# Of what runs, the part that is not ours: named apart where CPU and memory are shown.
SERVICES = ("postgres", "valkey", "seaweedfs")


@dataclass(frozen=True)
class Customer:
    """A platform that sends images and is told of them: its key and its endpoint."""

    tenant_id: UUID
    token: str
    endpoint_id: UUID


@dataclass(frozen=True)
class Stage:
    """What runs: the api at `port`, and who runs it all."""

    port: int
    supervisor: Supervisor

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each program that runs now, and of supervisord itself."""
        return self.supervisor.pids()

    def start_workers(self) -> None:
        """Start the relay, the workers and beat; when they are ready, images are judged."""
        self.supervisor.start_group(WORKERS)

    def stop_workers(self) -> None:
        """End them again; what waits stays."""
        self.supervisor.stop_group(WORKERS)


@contextmanager
def stage(environment: Mapping[str, str], first: Callable[[], None] = lambda: None) -> Iterator[Stage]:
    """Everything up to the api, in a folder that goes with the block; this process's settings are the stage's.

    `first` is called once the schema is there, before a model is registered.
    """
    # Not below the home of whoever runs this: PostgreSQL may run as another user.
    folder = Path(tempfile.mkdtemp(prefix="telltale-bench-"))
    services = embedded_services(folder, Outside())
    port = free_port()
    variables = {name: value for service in services for name, value in service.environment.items()}
    variables["TELLTALE_PUBLIC_URL"] = f"http://{LOOPBACK}:{port}"
    variables["TELLTALE_RETRAIN_FOLDER"] = str(folder / "retraining")
    variables["TELLTALE_SECRET_KEYS"] = base64.b64encode(secrets.token_bytes(32)).decode()
    variables |= environment
    if "TELLTALE_MODEL" in variables:
        # A copy: preparing a champion adds golden outputs to its folder.
        variables["TELLTALE_MODEL"] = shutil.copytree(variables["TELLTALE_MODEL"], str(folder / "model"))
    programs = [
        replace(program, group=API if program.name == "api" else WORKERS)
        for program in processes.processes(folder, port)
    ]
    supervisor = Supervisor(folder, [*map(service_program, services), *programs], variables)
    try:
        supervisor.start().wait_started()
        start_services(supervisor, services)
        adopt(variables)
        prepare(first)
        supervisor.start_group(API)
        wait_until(lambda: _alive(port), f"The api (its log is in {supervisor.logs})")
        yield Stage(port, supervisor)
        db.engine().dispose()
    finally:
        db.engine.cache_clear()  # the next stage is elsewhere
        supervisor.stop()
        shutil.rmtree(folder, ignore_errors=True)


def prepare(first: Callable[[], None]) -> None:
    """The schema and the bucket, and a champion where the settings name a model."""
    migrations.upgrade(settings().database_url)
    first()
    Storage(settings()).ensure_bucket()
    if settings().model is not None:
        subprocess.run([sys.executable, "-m", "infra.preparation"], env=environment_with({}), check=True)


def new_customer(
    name: str, endpoint_url: str, events: Sequence[EventType] = (), explain: ExplainMode = ExplainMode.ALWAYS
) -> Customer:
    """A tenant with a key, and an endpoint that is told of these events, or of all."""
    with transaction() as session:
        tenant = tenants.create_tenant(session, name)
        tenants.set_policy(session, tenant.id, Thresholds(explain=explain))
        _, token = tenants.create_key(session, tenant.id, "benchmark", list(Scope))
        endpoint = endpoints.create(session, tenant.id, endpoint_url, [event.value for event in events], settings())
        return Customer(tenant.id, token, endpoint.id)


def _alive(port: int) -> bool:
    try:
        # Our own address, which begins with http.
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/health/live", timeout=5) as answer:  # nosec B310
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
