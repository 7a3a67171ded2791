"""The floor under intake: the same bytes put into the same store, and the same rows committed, by nothing but that.

What remains of accepting an image when there is no HTTP, no key, no look at the bytes and no Python between them and
the two stores: one PUT over an open connection, with a link that was signed beforehand, and one statement, prepared,
that writes the rows of one accepted case and commits them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from urllib.parse import urlsplit

import boto3
import psycopg
from botocore.config import Config

from benchmarks.stage import Customer
from benchmarks.wire import Line
from moderation import cases
from moderation.db import CONNECTION, engine, new_id, transaction
from moderation.settings import settings
from moderation.storage import original_key
from moderation.tables import Case

LINK_S = 3600
# One round trip and one commit: the rows that moderation/submissions.py writes for an image that was not sent before.
ACCEPT = """
WITH image AS (
    INSERT INTO images (id, tenant_id, sha256, s3_key, media_type, width, height, frames, bytes)
    VALUES (%(image)s, %(tenant)s, %(sha256)s, %(s3_key)s, 'image/jpeg', 1024, 768, 1, %(bytes)s)
), submission AS (
    INSERT INTO submissions (id, tenant_id, metadata, request_id)
    VALUES (%(submission)s, %(tenant)s, '{}', %(request)s)
), opened AS (
    INSERT INTO cases (id, tenant_id, submission_id, image_id, status, priority, sequence)
    VALUES (%(case)s, %(tenant)s, %(submission)s, %(image)s, 'queued', 1, 1)
), told AS (
    INSERT INTO events (id, tenant_id, case_id, sequence, type, actor, after, data, request_id)
    VALUES (%(event)s, %(tenant)s, %(case)s, 1, 'submission.accepted', 'benchmark',
            '{"status": "queued", "attempt": 0}', %(data)s, %(request)s)
)
INSERT INTO deliveries (id, event_id, endpoint_id) VALUES (%(delivery)s, %(event)s, %(endpoint)s)
"""


class Floor:
    """One thread's open connections to both stores."""

    def __init__(self, customer: Customer, example: str) -> None:
        """`example` is an event's data as the service writes it, so that the rows are as large."""
        store = urlsplit(settings().s3_endpoint_url or "")
        assert store.hostname is not None and store.port is not None
        self._customer = customer
        self._example = example
        self._host = f"{store.hostname}:{store.port}"
        self._line = Line(store.hostname, store.port)
        url = engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._database = psycopg.connect(url, autocommit=True, prepare_threshold=0, **CONNECTION)

    def accept(self, link: str, parts: Sequence[bytes]) -> None:
        """Put the bytes and commit the rows. Raises AssertionError where the store refuses."""
        address = urlsplit(link)
        size = sum(map(len, parts))
        head = f"PUT {address.path}?{address.query} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {size}\r\n\r\n"
        status, said = self._line.exchange(head.encode(), *parts)
        if status != 200:
            raise AssertionError(f"the store answered {status}: {said[:200]!r}")
        self._database.execute(ACCEPT, self._row(address.path, size))

    def close(self) -> None:
        """Let go of both."""
        self._line.close()
        self._database.close()

    def _row(self, path: str, size: int) -> dict[str, object]:
        names = ("image", "submission", "case", "event", "delivery")
        return {
            **{name: new_id() for name in names},
            "tenant": self._customer.tenant_id,
            "endpoint": self._customer.endpoint_id,
            "sha256": uuid.uuid4().hex * 2,
            "s3_key": path[1:],
            "bytes": size,
            "request": str(new_id()),
            "data": self._example,
        }


def links(customer: Customer, count: int) -> list[str]:
    """So many links to PUT to, each at a key of its own: signed before anything is timed, as a floor may."""
    rules = settings()
    client = boto3.client(
        "s3",
        endpoint_url=rules.s3_endpoint_url,
        region_name=rules.s3_region,
        aws_access_key_id=rules.s3_access_key,
        aws_secret_access_key=rules.s3_secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    keys = [original_key(customer.tenant_id, new_id()) for _ in range(count)]
    parameters = [{"Bucket": rules.s3_bucket, "Key": key} for key in keys]
    return [client.generate_presigned_url("put_object", Params=one, ExpiresIn=LINK_S) for one in parameters]


def example_of(case_id: uuid.UUID) -> str:
    """The data of the event that says the case was accepted, as the service wrote it."""
    with transaction() as session:
        return json.dumps(cases.describe(session.get_one(Case, case_id)))
