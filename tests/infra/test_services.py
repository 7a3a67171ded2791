"""The embedded services are the real ones, reachable only with their passwords and only on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys

import boto3
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine, text

from infra.services import LOOPBACK, free_port
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
