"""Inbound webhooks: which platform sent it, whether it really did, and which images it speaks of.

A source describes a webhook that a platform already sends; nothing on the platform's side changes. This module opens no
connection and knows nothing of HTTP; headers come as a plain mapping with lower-case names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_plus
from uuid import UUID

import jsonpointer
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation import events, outbound, sealing, signing, submissions, tenants
from moderation.db import new_id, transaction
from moderation.errors import (
    AddressRefused,
    ConfigurationError,
    Conflict,
    InvalidRequest,
    NotFound,
    SignatureInvalid,
    TelltaleError,
)
from moderation.settings import Settings
from moderation.submissions import Link
from moderation.tables import ReceivedWebhook, Source
from moderation.vocabulary import OPERATOR, EventType, SourceKind, SourceScheme

# Signatures are good for minutes; ids are remembered for as long as any platform retries.
REMEMBERED_FOR = timedelta(days=30)
# Sent once, when notifications are switched on; it has no records.
S3_TEST_EVENT = "s3:TestEvent"
GITHUB_SIGNATURE = "x-hub-signature-256"
# Where each scheme puts the id by which a repeated webhook is known; a source may name another header.
ID_HEADERS = {SourceScheme.STANDARD: "webhook-id", SourceScheme.GITHUB: "x-github-delivery", SourceScheme.BEARER: None}

MAX_WEBHOOK_ID = 255
POINTERS = ("image_url_pointer", "external_id_pointer", "metadata_pointer")
# What a source can be changed in; those in SECRET are never shown again.
EDITABLE = (
    "name",
    "scheme",
    "kind",
    *POINTERS,
    "id_header",
    "s3_endpoint_url",
    "s3_region",
    "s3_access_key",
    "s3_secret_key",
)
SECRET = ("s3_secret_key",)
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


def create_source(
    session: Session,
    source: Source,
    *,
    secret: str | None = None,
    s3_secret_key: str | None = None,
    actor: str = OPERATOR,
) -> Source:
    """Check and store a source; where no `secret` is given one is made, and `secrets_of` opens it to be shown once.

    Raises InvalidRequest for one that could not work, Conflict where the tenant has one of this name.
    """
    secret = secret or signing.new_secret()
    source.id = source.id or new_id()
    source.secrets = [sealing.seal(secret, source.id)]
    source.s3_secret_key = sealing.seal(s3_secret_key, source.id) if s3_secret_key else None
    _check(session, source)
    _check_secret(source.scheme, secret)
    session.add(source)
    session.flush()
    said = {name: value for name, value in _shown(source).items() if value is not None}
    _note(session, EventType.SOURCE_CREATED, source, actor=actor, after=said)
    return source


def secrets_of(source: Source) -> list[str]:
    """What its platform signs with, the newest first: to verify with, and to be shown just after it was made.

    Raises Unreadable for want of its key.
    """
    return [sealing.unseal(stored, source.id) for stored in source.secrets]


def change_source(session: Session, source: Source, wanted: Mapping[str, Any], *, actor: str) -> None:
    """Set columns of a source (EDITABLE); what is not named stays. Raises InvalidRequest, Conflict."""
    before = _shown(source)
    hidden = [name for name in SECRET if name in wanted and wanted[name] != _opened(source, name)]
    for name, value in wanted.items():
        setattr(source, name, sealing.seal(value, source.id) if name in SECRET and value else value)
    with session.no_autoflush:
        _check(session, source)
    after = _shown(source)
    changed = [name for name in after if before[name] != after[name]]
    if changed or hidden:
        was = {name: before[name] for name in changed}
        now = {name: after[name] for name in changed} | dict.fromkeys(hidden, "another one")
        _note(session, EventType.SOURCE_CHANGED, source, actor=actor, before=was, after=now)


def rotate_source_secret(session: Session, source: Source, own: str | None, *, actor: str) -> str:
    """Add a secret in front, the platform's `own` or a new one; what is signed with the one before is still taken.

    Raises InvalidRequest for a secret that cannot sign.
    """
    fresh = own or signing.new_secret()
    _check_secret(source.scheme, fresh)
    # Anew and locked: of two rotations at once, the second keeps what the first made.
    session.refresh(source, with_for_update={"key_share": True})
    source.secrets = [sealing.seal(fresh, source.id), *source.secrets[:1]]
    _note(session, EventType.SOURCE_SECRET_ROTATED, source, actor=actor)
    return fresh


def disable_source(session: Session, source: Source, *, actor: str) -> None:
    """Take no more of its webhooks; harmless where that is so."""
    if source.disabled_at is None:
        source.disabled_at = datetime.now(UTC)
        _note(session, EventType.SOURCE_DISABLED, source, actor=actor)


def enable_source(session: Session, source: Source, *, actor: str) -> None:
    """Take its webhooks again."""
    if source.disabled_at is not None:
        source.disabled_at = None
        _note(session, EventType.SOURCE_ENABLED, source, actor=actor)


def sources_of(session: Session, tenant_id: UUID) -> Sequence[Source]:
    """All of the tenant's sources, by name."""
    return session.scalars(select(Source).where(Source.tenant_id == tenant_id).order_by(Source.name)).all()


def source_of(session: Session, tenant_id: UUID, source_id: UUID) -> Source:
    """One of the tenant's sources, disabled or not. Raises NotFound."""
    source = session.scalar(select(Source).where(Source.id == source_id, Source.tenant_id == tenant_id))
    if source is None:
        raise NotFound("There is no such source.")
    return source


def _note(
    session: Session,
    type_: EventType,
    source: Source,
    *,
    actor: str,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    after = {"source": str(source.id), "name": source.name, **(after or {})}
    events.record(session, type_, tenant_id=source.tenant_id, actor=actor, before=before, after=after)


def _shown(source: Source) -> dict[str, Any]:
    """What the audit trail says of a source: all but its secrets."""
    return {name: getattr(source, name) for name in EDITABLE if name not in SECRET}


def _opened(source: Source, name: str) -> str | None:
    stored = getattr(source, name)
    return None if stored is None else sealing.unseal(stored, source.id)


def _check(session: Session, source: Source) -> None:
    source.name = tenants.checked_name(source.name)
    same = select(Source.id).where(Source.tenant_id == source.tenant_id, Source.name == source.name)
    if session.scalar(same if source.id is None else same.where(Source.id != source.id)):
        raise Conflict(f"There is a source {source.name!r} already; give this one another name.", pointer="/name")
    if source.kind is SourceKind.JSON and not source.image_url_pointer:
        raise InvalidRequest(
            "A JSON source needs image_url_pointer: where in the body the image's link is.",
            pointer="/image_url_pointer",
        )
    for name in ("s3_access_key", "s3_secret_key") if source.kind is SourceKind.S3_EVENT else ():
        if not getattr(source, name):
            raise InvalidRequest(f"An S3 event source needs its own {name} to read the bucket.", pointer=f"/{name}")
    for name in POINTERS:
        if getattr(source, name):
            _check_pointer(getattr(source, name), f"/{name}")
    if source.s3_endpoint_url:
        _check_store(source.s3_endpoint_url)


def _check_pointer(pointer: str, field: str) -> None:
    try:
        jsonpointer.JsonPointer(pointer)
    except jsonpointer.JsonPointerException as error:
        raise InvalidRequest(
            f"{pointer!r} is not a JSON Pointer (RFC 6901), such as /data/image/url.", pointer=field
        ) from error


def _check_store(url: str) -> None:
    """What is no address of the web is refused now; where it leads is found out when an object is read."""
    try:
        outbound.check_link(url)
    except AddressRefused as error:
        raise InvalidRequest(error.message, pointer="/s3_endpoint_url") from error


def _check_secret(scheme: SourceScheme, secret: str) -> None:
    if scheme is not SourceScheme.STANDARD:
        return
    try:
        signing.sign([secret], "try", datetime.now(UTC), b"")
    except ConfigurationError as error:
        raise InvalidRequest(
            "A Standard Webhooks secret is 'whsec_' and base64; leave it out to have one made.", pointer="/secret"
        ) from error


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
        signing.verify_standard(secrets_of(source), headers, body)
    elif source.scheme is SourceScheme.GITHUB:
        signing.verify_github(secrets_of(source), headers.get(GITHUB_SIGNATURE), body)
    else:
        signing.verify_bearer(secrets_of(source), headers.get("authorization"))
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


def signed(source: Source, body: bytes) -> dict[str, str]:
    """The headers that the platform would send with this body now. Those of a bearer source hold its secret."""
    newest = secrets_of(source)[0]
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
