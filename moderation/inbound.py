"""Inbound webhooks: whether the platform really sent one, which images it speaks of, and whether it was here before.

What a source describes is read from what a platform already sends. This module opens no connection and knows nothing of
HTTP; headers come as a plain mapping with lower-case names.
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
from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation import signing, sources, submissions
from moderation.db import new_id, transaction
from moderation.errors import InvalidRequest, SignatureInvalid, TelltaleError
from moderation.settings import Settings
from moderation.sources import POINTERS
from moderation.submissions import Link
from moderation.tables import ReceivedWebhook, Source
from moderation.vocabulary import SourceKind, SourceScheme

# Signatures are good for minutes; ids are remembered for as long as any platform retries.
REMEMBERED_FOR = timedelta(days=30)
# Sent once, when notifications are switched on; it has no records.
S3_TEST_EVENT = "s3:TestEvent"
GITHUB_SIGNATURE = "x-hub-signature-256"
# Where each scheme puts the id by which a repeated webhook is known. A source may name another header, but where the id
# is signed: whoever captured a webhook could send it again under an id of theirs.
ID_HEADERS = {SourceScheme.STANDARD: "webhook-id", SourceScheme.GITHUB: "x-github-delivery", SourceScheme.BEARER: None}
MAX_WEBHOOK_ID = 255
# Keys of an object that are named where something is missing from it.
NAMED_KEYS = 12


@dataclass(frozen=True)
class Reference:
    """One image a webhook speaks of."""

    link: Link
    external_id: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """One image that a tried webhook speaks of, and why it would be refused, if it would."""

    reference: Reference
    problem: TelltaleError | None


@dataclass(frozen=True)
class Trial:
    """What would become of a webhook: its id, or what is wrong with its signature; its images, or what is wrong there.

    `nearest` is how far the way to the image's link goes in the body, and what is there.
    """

    webhook_id: str | None
    refusal: TelltaleError | None
    images: tuple[Found, ...]
    problem: InvalidRequest | None
    nearest: str | None


def verify(source: Source, headers: Mapping[str, str], body: bytes) -> str:
    """Check the signature and return the webhook's id. Raises SignatureInvalid, whatever is wrong with it."""
    if source.scheme is SourceScheme.STANDARD:
        signing.verify_standard(sources.secrets_of(source), headers, body)
    elif source.scheme is SourceScheme.GITHUB:
        signing.verify_github(sources.secrets_of(source), headers.get(GITHUB_SIGNATURE), body)
    else:
        signing.verify_bearer(sources.secrets_of(source), headers.get("authorization"))
    return _webhook_id(source, headers, body)


def _webhook_id(source: Source, headers: Mapping[str, str], body: bytes) -> str:
    """The sender's id; where it sends none, the body is its own id."""
    own = None if source.scheme is SourceScheme.STANDARD else source.id_header
    name = own or ID_HEADERS[source.scheme]
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


def signed(source: Source, body: bytes) -> dict[str, str]:
    """The headers that the platform would send with this body now. Those of a bearer source hold its secret."""
    newest = sources.secrets_of(source)[0]
    if source.scheme is SourceScheme.STANDARD:
        return signing.sign([newest], f"try_{new_id().hex}", datetime.now(UTC), body)
    if source.scheme is SourceScheme.GITHUB:
        return {GITHUB_SIGNATURE: signing.sign_github(newest, body)}
    return {"authorization": f"Bearer {newest}"}


def try_out(source: Source, headers: Mapping[str, str], body: bytes, settings: Settings) -> Trial:
    """What would become of this webhook; nothing is submitted or remembered."""
    webhook_id, refusal, problem, read = None, None, None, []
    try:
        webhook_id = verify(source, headers, body)
    except (SignatureInvalid, InvalidRequest) as error:
        refusal = error
    try:
        read = references(source, body)
    except InvalidRequest as error:
        problem = error
    images = tuple(Found(reference, _refused(source, reference, settings)) for reference in read)
    return Trial(webhook_id, refusal, images, problem, _nearest(body, problem.pointer if problem else None))


def _refused(source: Source, reference: Reference, settings: Settings) -> TelltaleError | None:
    """Why a submission would not take this image, pointing into the webhook's body."""
    request = submissions.Request(
        source.tenant_id,
        actor="",
        request_id="",
        external_id=reference.external_id,
        metadata=reference.metadata,
        source_id=source.id,
    )
    try:
        submissions.check_link(request, reference.link, settings)
    except TelltaleError as error:
        places = zip(("/image_url", "/external_id", "/metadata"), POINTERS, strict=True)
        error.pointer = next((getattr(source, name) for part, name in places if error.pointer == part), error.pointer)
        return error
    return None


def _nearest(body: bytes, pointer: str | None) -> str | None:
    """The last part of a pointer that the body has, in words; None without a pointer, or where the body is not JSON."""
    if pointer is None:
        return None
    here, way = json.loads(body), ""
    for part in jsonpointer.JsonPointer(pointer).parts:
        try:
            here = jsonpointer.JsonPointer.from_parts([part]).resolve(here)
        except jsonpointer.JsonPointerException:
            break
        way += jsonpointer.JsonPointer.from_parts([part]).path
    return f"At {way or 'the top'} there is {_in_words(here)}."


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        names = ", ".join(list(value)[:NAMED_KEYS]) + (", …" if len(value) > NAMED_KEYS else "")
        return f"an object with {names}" if value else "an object with nothing in it"
    if isinstance(value, list):
        return f"a list of {len(value)}; name one by its number, such as /0"
    return {str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


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
