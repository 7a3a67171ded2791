"""Inbound webhooks: which platform sent it, whether it really did, and which images it speaks of.

A source describes a webhook that a platform already sends; nothing on the platform's side changes. This module opens no
connection and knows nothing of HTTP; headers come as a plain mapping with lower-case names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_plus
from uuid import UUID

import jsonpointer
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation import signing
from moderation.db import transaction
from moderation.errors import ConfigurationError, InvalidRequest, NotFound
from moderation.submissions import Link
from moderation.tables import ReceivedWebhook, Source
from moderation.vocabulary import SourceKind, SourceScheme

# Signatures are good for minutes; ids are remembered for as long as any platform retries.
REMEMBERED_FOR = timedelta(days=30)
# Sent once, when notifications are switched on; it has no records.
S3_TEST_EVENT = "s3:TestEvent"
GITHUB_SIGNATURE = "x-hub-signature-256"
# Where each scheme puts the id by which a repeated webhook is known; a source may name another header.
ID_HEADERS = {SourceScheme.STANDARD: "webhook-id", SourceScheme.GITHUB: "x-github-delivery", SourceScheme.BEARER: None}

MAX_WEBHOOK_ID = 255


@dataclass(frozen=True)
class Reference:
    """One image a webhook speaks of."""

    link: Link
    external_id: str | None
    metadata: dict[str, Any]


def create_source(session: Session, source: Source) -> Source:
    """Check and store a source; a secret is made where none was given. Raises ConfigurationError."""
    if source.kind is SourceKind.JSON and not source.image_url_pointer:
        raise ConfigurationError("A JSON source needs image_url_pointer: where in the body the image's link is.")
    if source.kind is SourceKind.S3_EVENT and not (source.s3_access_key and source.s3_secret_key):
        raise ConfigurationError("An S3 event source needs its own s3_access_key and s3_secret_key to read the bucket.")
    for pointer in (source.image_url_pointer, source.external_id_pointer, source.metadata_pointer):
        if pointer:
            _check_pointer(pointer)
    source.secrets = source.secrets or [signing.new_secret()]
    session.add(source)
    session.flush()
    return source


def _check_pointer(pointer: str) -> None:
    try:
        jsonpointer.JsonPointer(pointer)
    except jsonpointer.JsonPointerException as error:
        raise ConfigurationError(f"{pointer!r} is not a JSON Pointer (RFC 6901), such as /data/image/url.") from error


def source_with(source_id: UUID) -> Source:
    """A source that takes webhooks. Raises NotFound."""
    with transaction() as session:
        source = session.scalar(select(Source).where(Source.id == source_id, Source.disabled_at.is_(None)))
    if source is None:
        raise NotFound(f"There is no webhook source {source_id}.")
    return source


def verify(source: Source, headers: Mapping[str, str], body: bytes) -> str:
    """Check the signature and return the webhook's id. Raises SignatureInvalid, whatever is wrong with it."""
    if source.scheme is SourceScheme.STANDARD:
        signing.verify_standard(source.secrets, headers, body)
    elif source.scheme is SourceScheme.GITHUB:
        signing.verify_github(source.secrets, headers.get(GITHUB_SIGNATURE), body)
    else:
        signing.verify_bearer(source.secrets, headers.get("authorization"))
    return _webhook_id(source, headers, body)


def _webhook_id(source: Source, headers: Mapping[str, str], body: bytes) -> str:
    """The sender's id; where it sends none, the body is its own id."""
    name = source.id_header or ID_HEADERS[source.scheme]
    sent = headers.get(name.lower()) if name else None
    if sent and len(sent) > MAX_WEBHOOK_ID:
        raise InvalidRequest(f"A webhook's id ({name}) has at most {MAX_WEBHOOK_ID} characters.")
    return sent or hashlib.sha256(body).hexdigest()


def references(source: Source, body: bytes) -> list[Reference]:
    """The images a webhook speaks of, perhaps none.

    Raises InvalidRequest where they are not where the source says they are.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The webhook's body is not JSON.") from error
    if source.kind is SourceKind.S3_EVENT:
        return _s3_records(document)
    return [_pointed_at(source, document)]


def _pointed_at(source: Source, document: Any) -> Reference:
    url = _resolve(document, source.image_url_pointer)
    if not isinstance(url, str):
        raise InvalidRequest(
            f"There is no image link at {source.image_url_pointer} in the webhook's body.",
            pointer=source.image_url_pointer,
        )
    external_id = _resolve(document, source.external_id_pointer)
    metadata = _resolve(document, source.metadata_pointer)
    return Reference(
        Link(url=url),
        None if external_id is None else str(external_id),
        metadata if isinstance(metadata, dict) else {},
    )


def _resolve(document: Any, pointer: str | None) -> Any:
    if not pointer:
        return None
    try:
        return jsonpointer.resolve_pointer(document, pointer, None)
    except (jsonpointer.JsonPointerException, TypeError):
        return None


def _s3_records(document: Any) -> list[Reference]:
    """What was put into a bucket; nothing for S3's own test event and for objects that were removed."""
    if isinstance(document, dict) and document.get("Event") == S3_TEST_EVENT:
        return []
    records = document.get("Records") if isinstance(document, dict) else None
    if not isinstance(records, list) or not records:
        raise InvalidRequest("An S3 event has a list `Records` with at least one entry.", pointer="/Records")
    return [_s3_record(record, index) for index, record in enumerate(records) if _is_creation(record)]


def _is_creation(record: Any) -> bool:
    name = _resolve(record, "/eventName")
    return not isinstance(name, str) or "ObjectCreated" in name


def _s3_record(record: Any, index: int) -> Reference:
    bucket = _resolve(record, "/s3/bucket/name")
    key = _resolve(record, "/s3/object/key")
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise InvalidRequest("The record has no s3.bucket.name and s3.object.key.", pointer=f"/Records/{index}/s3")
    # Keys are URL-encoded in event notifications, with + for a space.
    name = unquote_plus(key)
    return Reference(Link(s3_bucket=bucket, s3_object=name), name[:255], {"bucket": bucket, "key": name})


def answer_of(source_id: UUID, webhook_id: str) -> dict[str, Any] | None:
    """The answer this webhook got the first time, if it was here before."""
    with transaction() as session:
        known = session.get(ReceivedWebhook, (source_id, webhook_id))
        return known.answer if known else None


def remember(session: Session, source_id: UUID, webhook_id: str, answer: dict[str, Any]) -> bool:
    """Store a webhook's answer in the commit that makes it true; False where the same id got there first."""
    statement = insert(ReceivedWebhook).values(source_id=source_id, webhook_id=webhook_id, answer=answer)
    return session.scalar(statement.on_conflict_do_nothing().returning(ReceivedWebhook.webhook_id)) is not None


def forget_received(session: Session) -> int:
    """Delete ids far older than any signature's tolerance; returns how many."""
    old = delete(ReceivedWebhook).where(ReceivedWebhook.received_at < datetime.now(UTC) - REMEMBERED_FOR)
    return len(session.scalars(old.returning(ReceivedWebhook.webhook_id)).all())
