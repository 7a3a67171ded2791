"""The embedded services are the real ones, reachable only with their passwords and only on loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine, text

from infra.local import start_services, write_secret
from infra.services import LOOPBACK, Valkey, free_port, is_free
from moderation.settings import settings
from tests.conftest import ServiceRun


def test_postgres_is_new_enough_and_migrated(db: Engine) -> None:
    with db.connect() as connection:
        version = connection.execute(text("SHOW server_version_num")).scalar_one()
        tables = connection.execute(text("SELECT count(*) FROM tenants")).scalar_one()
    assert int(version) >= 180000
    assert tables == 0


def test_postgres_wants_its_password(services: ServiceRun) -> None:
    address = services.postgres.database_url("postgres").replace("+psycopg", "")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(address.replace(services.postgres.password, "guess"))


def test_valkey_wants_its_password(redis_url: str, services: ServiceRun) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("key", "value")
        assert client.get("key") == b"value"
    with (
        redis.Redis(port=services.valkey.port, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_objects_are_kept_and_strangers_refused(bucket: str, services: ServiceRun) -> None:
    store = services.seaweedfs.client()
    store.put_object(Bucket=bucket, Key="a/b", Body=b"bytes")
    assert store.get_object(Bucket=bucket, Key="a/b")["Body"].read() == b"bytes"
    stranger = boto3.client(
        "s3",
        endpoint_url=settings().s3_endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="telltale",
        aws_secret_access_key="guess",
    )
    with pytest.raises(stranger.exceptions.ClientError, match="SignatureDoesNotMatch"):
        stranger.get_object(Bucket=bucket, Key="a/b")


def test_a_port_is_given_to_one_process_alone_which_can_have_a_server_listen_there() -> None:
    given = free_port()
    draws_it_too = f"import random; from infra.services import free_port; random.sample = lambda *_: [{given}]"
    asked = subprocess.run([sys.executable, "-c", f"{draws_it_too}; free_port()"], capture_output=True, text=True)
    assert asked.returncode == 1 and "No free TCP port" in asked.stderr
    socket.create_server((LOOPBACK, given)).close()


def test_a_service_is_not_started_before_the_last_one_at_its_port_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a supervisor which was killed takes a moment to end, and would answer for its successor."""
    service, started = Valkey(tmp_path / "valkey", "password"), []
    monkeypatch.setattr(Valkey, "wait_ready", lambda self: None)
    supervisor: Any = SimpleNamespace(start_group=lambda group: started.append(is_free(service.port)))
    ending = socket.create_server((LOOPBACK, service.port))
    threading.Timer(0.2, ending.close).start()
    start_services(supervisor, [service])
    assert started == [True]


def test_who_reads_what_is_being_written_finds_what_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a command does that looks for the stack that runs."""
    file, found = tmp_path / "running.json", []
    write_secret(file, {"pid": 1})
    write = Path.write_text

    def read_and_write(path: Path, text: str) -> int:
        path.open("w").close()
        found.append(json.loads(file.read_text()))
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", read_and_write)
    write_secret(file, {"pid": 2})
    assert [*found, json.loads(file.read_text())] == [{"pid": 1}, {"pid": 2}]
