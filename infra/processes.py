"""The processes of one Telltale on one machine: how each is started. It knows command lines, not what they do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import infra
from infra.services import LOOPBACK
from infra.supervision import Program

GROUP = "processes"
# Where the packages are: the root of a checkout, or site-packages.
ROOT = Path(infra.__file__).resolve().parents[1]
# Which queues a worker role consumes; tests/architecture holds this against the routes of workers/celery_app.py.
QUEUES = {"screening": ("screening",), "fetching": ("fetching",), "delivery": ("delivery", "reviews", "housekeeping")}


def processes(folder: Path, port: int) -> list[Program]:
    """Api, relay, the workers of each role and of retraining, and beat; the api listens on `port` at loopback."""
    return [
        _program(
            "api", ["gunicorn", "--config", "python:infra.gunicorn", "--bind", f"{LOOPBACK}:{port}", "api.wsgi:app"]
        ),
        _program("relay", ["workers.relay"]),
        *(worker(role) for role in QUEUES),
        _program("retraining", ["workers.retraining"]),
        _program(
            "beat", ["celery", "--quiet", "-A", "workers.celery_app", "beat", "--schedule", str(folder / "beat.db")]
        ),
    ]


def worker(role: str) -> Program:
    """The Celery worker of one role. Threads, because its work is waiting: for the GPU, for S3, for other servers."""
    command = [
        *("celery", "--quiet", "-A", "workers.celery_app", "worker", "--pool", "threads", "--hostname", f"{role}@%h"),
        *("--queues", ",".join(QUEUES[role]), "--without-gossip", "--without-mingle"),
    ]
    return _program(role, command, role)


def measured(program: Program, port: int) -> Program:
    """The same, serving its metrics at loopback."""
    where = {"TELLTALE_METRICS_HOST": LOOPBACK, "TELLTALE_METRICS_PORT": str(port)}
    return replace(program, variables={**program.variables, **where})


def targets(ports: Mapping[str, int]) -> list[dict[str, Any]]:
    """Where the metrics of each process are, by its name, as Prometheus reads it from a file (file_sd_configs)."""
    return [{"targets": [f"{LOOPBACK}:{port}"], "labels": {"job": name}} for name, port in ports.items()]


def _program(name: str, module: list[str], role: str | None = None) -> Program:
    variables = {"PYTHONUNBUFFERED": "1"} | ({"TELLTALE_WORKER_ROLE": role} if role else {})
    return Program(name, GROUP, [sys.executable, "-m", *module], ROOT, variables=variables)
