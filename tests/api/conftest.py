"""The api as clients see it: in process for most tests, and on a real port where size, streaming or threads matter."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from api import process
from api.app import Application, create_app
from infra.services import LOOPBACK, free_port, wait_until
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import Tenant
from tests.conftest import ServiceRun
from tests.factories import make_key, make_tenant
from tests.images import png

SERVER_THREADS = 8


@dataclass(frozen=True)
class Client:
    """One tenant's client."""

    tenant: Tenant
    token: str
    http: FlaskClient

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str, **options: Any) -> TestResponse:
        return self._call("GET", path, options)

    def post(self, path: str, **options: Any) -> TestResponse:
        return self._call("POST", path, options)

    def delete(self, path: str, **options: Any) -> TestResponse:
        return self._call("DELETE", path, options)

    def send(self, data: bytes | None = None, path: str = "/v1/submissions", **options: Any) -> TestResponse:
        """Submit a file; `fields` are the form's other fields, `name` is the file's."""
        part = (io.BytesIO(png() if data is None else data), options.pop("name", "picture.png"))
        return self.post(path, data={"image": part, **options.pop("fields", {})}, **options)

    def _call(self, method: str, path: str, options: dict[str, Any]) -> TestResponse:
        headers = {**self.headers, **options.pop("headers", {})}
        return self.http.open(path, method=method, headers=headers, **options)


@pytest.fixture(scope="session")
def app(services: ServiceRun) -> Iterator[Application]:
    """The application as gunicorn would load it."""
    made = create_app(settings())
    yield made
    made.extensions[process.EXTENSION].sandbox.close()


@pytest.fixture
def client(app: Application, db: Engine) -> Client:
    """A tenant whose key may do everything."""
    return new_client(app)


@pytest.fixture
def stranger(app: Application, db: Engine) -> Client:
    """Another one."""
    return new_client(app)


def new_client(app: Application) -> Client:
    """A new tenant's client."""
    with transaction() as session:
        tenant = make_tenant(session)
        return Client(tenant, make_key(session, tenant), app.test_client())


@dataclass(frozen=True)
class Server:
    """Gunicorn with one process: where it listens, and the process that does the work."""

    port: int
    arbiter: int
    metrics_port: int

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def worker(self) -> int:
        """The process that does the work."""
        return int(Path(f"/proc/{self.arbiter}/task/{self.arbiter}/children").read_text().split()[0])

    @property
    def peak_bytes(self) -> int:
        """The most memory the working process ever had."""
        status = Path(f"/proc/{self.worker}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.fixture(scope="module")
def server(services: ServiceRun) -> Iterator[Server]:
    """A real server, ended with the module."""
    port, metrics_port = free_port(), free_port()
    command = [sys.executable, "-m", "gunicorn", "--config", "python:infra.gunicorn", "--workers", "1"]
    running = subprocess.Popen(
        [*command, "--bind", f"{LOOPBACK}:{port}", "api.wsgi:app"],
        env={
            **os.environ,
            "TELLTALE_API_THREADS": str(SERVER_THREADS),
            "TELLTALE_METRICS_HOST": LOOPBACK,
            "TELLTALE_METRICS_PORT": str(metrics_port),
        },
    )
    try:
        wait_until(lambda: _answers(port), "the api")
        yield Server(port, running.pid, metrics_port)
    finally:
        running.terminate()
        running.wait(timeout=90)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/health/live", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
