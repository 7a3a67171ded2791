"""The floor under intake: the same bytes put into the same store, and the same rows committed, by nothing but that.

What remains of accepting an image when there is no HTTP, no key and no look at the bytes: the very PUT that the service
makes (moderation/storage.py), and one statement, prepared, that writes the rows of one accepted case and commits them.
"""

from __future__ import annotations

import json
import uuid

import psycopg

from benchmarks.stage import Customer
from moderation import descriptions
from moderation.db import CONNECTION, engine, new_id, transaction
from moderation.storage import Storage, original_key
from moderation.tables import Case

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
    """One thread's connection to the database, and the store as all of them share it."""

    def __init__(self, customer: Customer, example: str, storage: Storage) -> None:
        """`example` is an event's data as the service writes it, so that the rows are as large."""
        self._customer = customer
        self._example = example
        self._storage = storage
        url = engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._database = psycopg.connect(url, autocommit=True, prepare_threshold=0, **CONNECTION)

    def accept(self, data: bytes) -> None:
        """Put the bytes and commit the rows."""
        key = original_key(self._customer.tenant_id, new_id())
        self._storage.put(key, data, "image/jpeg")
        self._database.execute(ACCEPT, self._row(key, len(data)))

    def close(self) -> None:
        """Let go of it."""
        self._database.close()

    def _row(self, key: str, size: int) -> dict[str, object]:
        names = ("image", "submission", "case", "event", "delivery")
        return {
            **{name: new_id() for name in names},
            "tenant": self._customer.tenant_id,
            "endpoint": self._customer.endpoint_id,
            "sha256": uuid.uuid4().hex * 2,
            "s3_key": key,
            "bytes": size,
            "request": str(new_id()),
            "data": self._example,
        }


def example_of(case_id: uuid.UUID) -> str:
    """The data of the event that says the case was accepted, as the service wrote it."""
    with transaction() as session:
        return json.dumps(descriptions.describe(session.get_one(Case, case_id)))
