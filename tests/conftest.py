"""Real services for the tests: PostgreSQL, Valkey and S3, started once per run and only if a test asks for them.

The pytest process that was started (with xdist: the controller) keeps an idle supervisor from its first to its last
moment; the first test that needs a service, in whatever process it runs, has it start them. So they end with the run,
however the run ends, and `pytest tests/model` starts nothing. Every worker process has its own database, Redis
database and bucket; its TELLTALE_* variables are set before anything reads them.
"""

from __future__ import annotations

import base64
import fcntl
import gc
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis
from psycopg.errors import DeadlockDetected
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

import migrations
from infra.local import Outside, embedded_services, service_program, start_services
from infra.services import Postgres, SeaweedFS, Service, Valkey
from infra.supervision import Supervisor
from moderation import db as db_module
from moderation.settings import settings
from moderation.tables import Row
from tests import packaged
from tests.forked import Nursery

# What is imported stays: looking through it for garbage, again and again, took a third of the imports' own time.
gc.disable()

# The same examples in every run, and as long for each as the machine takes: a change alone turns a test red.
hypothesis.settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")

TESTS = Path(__file__).parent
LONGEST = ("benchmarks", "browser", "docs", "e2e", "infra", "workers/retraining")
TEMPLATE = "telltale_template"
# What secrets are sealed with in these tests' databases: any 32 bytes.
SECRET_KEY = base64.b64encode(bytes(range(32))).decode()
RUN = pytest.StashKey["ServiceRun"]()
KEEPER = pytest.StashKey[Supervisor]()


@dataclass
class ServiceRun:
    """The services of one pytest run, as every one of its processes sees them."""

    folder: Path
    postgres: Postgres
    valkey: Valkey
    seaweedfs: SeaweedFS
    supervisor_pid: int | None = None

    @property
    def services(self) -> list[Service]:
        """All three."""
        return [self.postgres, self.valkey, self.seaweedfs]

    def supervisor(self) -> Supervisor:
        """The run's supervisor, as seen from any process."""
        programs = [service_program(self.postgres), service_program(self.valkey)]
        # SeaweedFS takes two seconds to end cleanly, and its data is thrown away.
        programs.append(replace(service_program(self.seaweedfs), stop_signal="KILL"))
        return Supervisor(self.folder, programs, pid=self.supervisor_pid)

    def environment(self, worker: str) -> dict[str, str]:
        """The settings of one test process: its own database, Redis database and bucket."""
        number = int(worker.removeprefix("gw")) if worker.startswith("gw") else 0
        return {
            **self.seaweedfs.environment,
            "TELLTALE_DATABASE_URL": self.postgres.database_url(f"telltale_{worker}"),
            "TELLTALE_REDIS_URL": self.valkey.database_url(number),
            "TELLTALE_S3_BUCKET": f"telltale-{worker}",
            "TELLTALE_SECRET_KEYS": SECRET_KEY,
        }

    def start(self) -> None:
        """Start the services unless another process of this run already has; return once they serve."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            marker = self.folder / "started"
            if not marker.exists():
                supervisor = self.supervisor()
                supervisor.wait_started()
                start_services(supervisor, self.services)
                self.postgres.execute(f"CREATE DATABASE {TEMPLATE}")
                migrations.upgrade(self.postgres.database_url(TEMPLATE))
                marker.touch()

    def make_own(self, worker: str) -> None:
        """Make the database (migrated) and the bucket of one test process."""
        self.postgres.execute(f"CREATE DATABASE telltale_{worker} TEMPLATE {TEMPLATE}")
        self.seaweedfs.client(patience_s=60).create_bucket(Bucket=f"telltale-{worker}")


def new_run() -> ServiceRun:
    """A fresh run in a folder of its own, its supervisor started, its services not."""
    # Not pytest's own temporary folder: its path may be closed to the user PostgreSQL runs as.
    folder = Path(tempfile.mkdtemp(prefix="telltale-tests-"))
    postgres, valkey, seaweedfs = embedded_services(folder, Outside.nothing())
    assert isinstance(postgres, Postgres) and isinstance(valkey, Valkey) and isinstance(seaweedfs, SeaweedFS)
    return ServiceRun(folder, replace(postgres, durable=False), valkey, seaweedfs)


def pytest_configure(config: pytest.Config) -> None:
    """Know where the services are, or will be, and say so in TELLTALE_* before any test module is imported."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        run = new_run()
        keeper = run.supervisor().start()
        run.supervisor_pid = keeper.pid
        config.stash[KEEPER] = keeper
    else:
        run = pickle.loads(workerinput["services"])
    config.stash[RUN] = run
    os.environ.update(run.environment(worker_of(config)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest is done first, so that at the end no process has much to do while the others wait for it."""
    items.sort(key=lambda item: not any(item.path.is_relative_to(TESTS / name) for name in LONGEST))


def pytest_collection_finish() -> None:
    """From here on garbage is collected, and every test module and library left out of the search for it."""
    gc.freeze()
    gc.enable()


def worker_of(config: pytest.Config) -> str:
    """The name of this test process: gw0, gw1, … under xdist, else main."""
    return getattr(config, "workerinput", {}).get("workerid", "main")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where the services are."""
    node.workerinput["services"] = pickle.dumps(node.config.stash[RUN])


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the services, in the process that keeps them."""
    if KEEPER in config.stash:
        config.stash[KEEPER].stop()
        shutil.rmtree(config.stash[RUN].folder, ignore_errors=True)


@pytest.fixture(scope="session")
def services(request: pytest.FixtureRequest) -> ServiceRun:
    """The three services, started, with this process's own migrated database and bucket made."""
    run: ServiceRun = request.config.stash[RUN]
    run.start()
    run.make_own(worker_of(request.config))
    return run


@pytest.fixture(scope="session")
def database_url(services: ServiceRun) -> str:
    """This process's migrated database."""
    return settings().database_url


@pytest.fixture(scope="session")
def engine(services: ServiceRun) -> Iterator[Engine]:
    """The engine that the code under test uses too."""
    yield db_module.engine()
    db_module.engine().dispose()


@pytest.fixture
def db(engine: Engine) -> Engine:
    """This process's database, with every table empty."""
    empty(engine)
    return engine


def empty(engine: Engine) -> None:
    """Empty every table.

    Deleting, not rolling back: tests use several connections, threads and processes. Not truncating: most tables are
    empty, and for those a DELETE costs next to nothing.
    """
    deletes = "; ".join(f'DELETE FROM "{table.name}"' for table in Row.metadata.sorted_tables)
    while True:
        try:
            with engine.begin() as connection:
                # No foreign keys and no triggers meanwhile (events are append only).
                connection.exec_driver_sql(f"SET LOCAL session_replication_role = replica; {deletes}")
            return
        except OperationalError as error:
            # A page that was closed says good-bye to its server, which is at work on that: each waits for the other.
            if not isinstance(error.orig, DeadlockDetected):
                raise


@pytest.fixture
def redis_url(services: ServiceRun) -> str:
    """This process's Redis database, emptied."""
    url = settings().redis_url
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def bucket(services: ServiceRun) -> str:
    """This process's bucket. Keys are content or ids, so it is not emptied between tests."""
    return settings().s3_bucket


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """What processes of the service are forked off, for tests that start many of them."""
    made = Nursery(
        tmp_path_factory.mktemp("nursery") / "socket", ("model.detector", "celery.bin.celery", "gunicorn.app.wsgiapp")
    )
    yield made
    made.end()


@pytest.fixture(scope="session")
def wheel(request: pytest.FixtureRequest) -> Path:
    """Telltale's wheel, built once per run."""
    folder = request.config.stash[RUN].folder
    with (folder / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return next((folder / "wheel" / "dist").glob("*.whl"), None) or packaged.build(folder / "wheel")
