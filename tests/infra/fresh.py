"""Another database and another bucket on the same services, for what is restored: empty, and gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from moderation import db
from moderation.settings import settings
from tests.conftest import ServiceRun

NAME = "telltale_restored"


def forget_settings() -> None:
    """What is read from now on is what the environment says now."""
    db.engine().dispose()
    db.engine.cache_clear()
    settings.cache_clear()


@contextmanager
def elsewhere(services: ServiceRun, worker: str) -> Iterator[Mapping[str, str]]:
    """In the block, the settings of this process are those of an empty place; gives the variables that say so."""
    database, bucket = f"{NAME}_{worker}", f"restored-{worker}"
    services.postgres.execute(f"CREATE DATABASE {database}")
    variables = {
        "TELLTALE_DATABASE_URL": services.postgres.database_url(database),
        "TELLTALE_S3_BUCKET": bucket,
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            forget_settings()
            yield variables
            db.engine().dispose()
    finally:
        forget_settings()
        services.postgres.execute(f"DROP DATABASE {database} WITH (FORCE)")
        empty(services, bucket)


def empty(services: ServiceRun, bucket: str) -> None:
    """Delete a bucket with all that is in it, if it is there."""
    client = services.seaweedfs.client(patience_s=60)
    if bucket not in {each["Name"] for each in client.list_buckets()["Buckets"]}:
        return
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for each in page.get("Contents", []):
            client.delete_object(Bucket=bucket, Key=each["Key"])
    client.delete_bucket(Bucket=bucket)
