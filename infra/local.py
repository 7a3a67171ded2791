"""A whole Telltale on this machine: the embedded services, and on them the api, the relay, the workers and beat.

`telltale up`, `telltale demo` and the tests start their stack here. Everything it keeps is in one folder, which the
next start takes up again. It knows how processes are started, and nothing of what they do.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.services import Postgres, SeaweedFS, Service, Valkey
from infra.supervision import Program, Supervisor

SERVICES = "services"


class OutsideServices(BaseSettings):
    """The addresses of services that are already there; those that are None are started here."""

    model_config = SettingsConfigDict(env_prefix="TELLTALE_", frozen=True, extra="ignore")

    database_url: str | None = None
    redis_url: str | None = None
    s3_endpoint_url: str | None = None


def embedded_services(folder: Path, outside: OutsideServices) -> list[Service]:
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
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(json.dumps({name: secrets.token_urlsafe(24) for name in names}))
    passwords: dict[str, str] = json.loads(file.read_text())
    return passwords


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
    for service in services:
        service.prepare()
    supervisor.start_group(SERVICES)
    for service in services:
        service.wait_ready()
