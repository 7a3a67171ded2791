"""Taking an image in: from bytes, a finished upload, or a link; one commit makes the case durable.

It knows neither HTTP nor how the image will be judged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from moderation import addresses, capacity, cases, originals
from moderation.db import glance, new_id, transaction, wake
from moderation.errors import AddressRefused, InvalidRequest, NotFound, TelltaleError
from moderation.images import ImageFacts
from moderation.originals import Original
from moderation.settings import Settings
from moderation.storage import Storage, upload_key
from moderation.tables import MAX_SUBJECT, Case, Submission, Upload
from moderation.vocabulary import Priority

MAX_BATCH = 100
MAX_EXTERNAL_ID = 255
MAX_NESTING = 32
UPLOAD_TTL = timedelta(hours=1)

# Runs in the transaction that makes the cases durable, with what was made: stores the answer under its idempotency key.
OnCommit = Callable[[Session, Sequence[Case]], None]


@dataclass(frozen=True)
class Request:
    """What a submission says beside its image. `actor` is who sent it, for the audit trail."""

    tenant_id: UUID
    actor: str
    request_id: str
    external_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    source_id: UUID | None = None


@dataclass(frozen=True)
class Link:
    """Where a worker will read the image: a URL, or an object in a source's own bucket."""

    url: str | None = None
    s3_bucket: str | None = None
    s3_object: str | None = None


def check(request: Request, settings: Settings) -> None:
    """Refuse what cannot be stored or sent on. Raises InvalidRequest."""
    if request.external_id is not None and not 0 < len(request.external_id) <= MAX_EXTERNAL_ID:
        raise InvalidRequest(f"external_id has 1 to {MAX_EXTERNAL_ID} characters.", pointer="/external_id")
    _refuse_unstorable(request.external_id, "/external_id")
    size = _refuse_unstorable(request.metadata, "/metadata")
    if size > settings.max_metadata_bytes:
        raise InvalidRequest(
            f"metadata is {size} bytes as JSON; the limit is {settings.max_metadata_bytes}.", pointer="/metadata"
        )
    if request.source_id is None:
        _refuse_long_subject(request.metadata)


def _refuse_long_subject(metadata: dict[str, Any]) -> None:
    """Not of a webhook: its sender cannot mend what it sends, and the image would be lost. It is stored whole."""
    subject = metadata.get("subject")
    if isinstance(subject, str) and len(subject) > MAX_SUBJECT:
        raise InvalidRequest(
            f"metadata.subject has {len(subject)} characters; the limit is {MAX_SUBJECT}. Name the person by a short "
            "id of yours.",
            pointer="/metadata/subject",
        )


# A NUL as JSON writes it, and not a backslash followed by "u0000".
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _refuse_unstorable(value: Any, pointer: str) -> int:
    """Bytes of the value as JSON. Raises InvalidRequest for what Postgres does not hold: NaN, NUL, half a character.

    And for what is nested so deep that somebody's JSON parser may refuse the event that holds it.
    """
    if _deeper_than(value, MAX_NESTING):
        raise InvalidRequest(f"{pointer[1:]} is nested more than {MAX_NESTING} deep.", pointer=pointer)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{pointer[1:]} cannot be stored as JSON: {error}.", pointer=pointer) from error
    if _NUL.search(text):
        raise InvalidRequest(f"{pointer[1:]} holds a NUL character; leave it out.", pointer=pointer)
    return size


def _deeper_than(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(one, levels - 1) for one in inner)


def fingerprint(request: Request, image: str) -> str:
    """Identity of a request for idempotency: its image (sha256, link or upload id) and its canonical fields."""
    fields = [image, request.external_id, request.metadata, request.priority.value]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def submit_image(
    request: Request,
    data: bytes,
    facts: ImageFacts,
    *,
    storage: Storage,
    settings: Settings,
    on_commit: OnCommit | None = None,
    upload_id: UUID | None = None,
) -> Case:
    """Keep the bytes and open a case for them; `upload_id` is the upload that they came as, which goes with the image.

    Raises InvalidRequest, TooBusy, StorageUnavailable; then nothing has been accepted.
    """
    check(request, settings)
    capacity.refuse_if_full(request.tenant_id, settings)
    original = originals.keep(storage, request.tenant_id, data, facts)
    if original.put and upload_id is None:
        try:
            return _opened_at_once(request, original, on_commit)
        except IntegrityError:
            pass  # somebody sent the same bytes at the same moment
    with transaction(wake=True) as session:
        image = originals.attach(session, original)
        case = cases.open_case(session, _submission(request), image, request.priority, actor=request.actor)
        if upload_id is not None:
            session.execute(update(Upload).where(Upload.id == upload_id).values(image_id=image.id))
        if on_commit:
            on_commit(session, [case])
    originals.discard_duplicate(storage, original, image)
    return case


def _opened_at_once(request: Request, original: Original, on_commit: OnCommit | None) -> Case:
    """The case of an image that is new, both in one statement; a transaction around it only where more is to be done.

    Raises IntegrityError where the image is not new.
    """
    image, row = originals.new(original)
    with transaction() if on_commit else glance() as session:
        case = cases.open_case(session, _submission(request), image, request.priority, actor=request.actor, along=row)
        if on_commit:
            on_commit(session, [case])
    wake()
    return case


def submit_links(
    requests: Sequence[tuple[Request, Link]], *, settings: Settings, on_commit: OnCommit | None = None
) -> list[Case]:
    """Open a case for each link, all or none; workers read the links.

    Raises InvalidRequest or AddressRefused, with a pointer into the list (/0/image_url), and TooBusy.
    """
    if not 0 < len(requests) <= MAX_BATCH:
        raise InvalidRequest(f"A batch has 1 to {MAX_BATCH} links; this one has {len(requests)}.")
    for index, (request, link) in enumerate(requests):
        try:
            check_link(request, link, settings)
        except TelltaleError as error:
            error.pointer = f"/{index}{error.pointer or ''}"
            raise
    capacity.refuse_if_full(requests[0][0].tenant_id, settings)
    with transaction(wake=True) as session:
        opened = [
            cases.open_case(session, _submission(request, link), None, request.priority, actor=request.actor)
            for request, link in requests
        ]
        if on_commit:
            on_commit(session, opened)
    return opened


def check_link(request: Request, link: Link, settings: Settings) -> None:
    """Refuse a link, or what is said with it, that cannot be accepted. Raises InvalidRequest, AddressRefused."""
    check(request, settings)
    for value, pointer in ((link.url, "/image_url"), (link.s3_bucket, "/s3/bucket"), (link.s3_object, "/s3/object")):
        _refuse_unstorable(value, pointer)
    if link.url is not None:
        try:
            addresses.check_link(link.url)
        except AddressRefused as error:
            error.pointer = "/image_url"
            raise


def _submission(request: Request, link: Link | None = None) -> Submission:
    link = link or Link()
    return Submission(
        id=new_id(),
        tenant_id=request.tenant_id,
        source_id=request.source_id,
        external_id=request.external_id,
        details=request.metadata,
        image_url=link.url,
        s3_bucket=link.s3_bucket,
        s3_object=link.s3_object,
        request_id=request.request_id,
    )


def offer_upload(tenant_id: UUID, *, storage: Storage, settings: Settings) -> tuple[Upload, dict[str, Any]]:
    """A presigned POST for a large file: the upload's row, and `{url, fields}` to send it with.

    Raises TooBusy: no file is sent for nothing.
    """
    capacity.refuse_if_full(tenant_id, settings)
    upload_id = new_id()
    upload = Upload(
        id=upload_id,
        tenant_id=tenant_id,
        s3_key=upload_key(tenant_id, upload_id),
        expires_at=datetime.now(UTC) + UPLOAD_TTL,
    )
    form = storage.presigned_post(
        upload.s3_key, max_bytes=settings.max_upload_bytes, seconds=int(UPLOAD_TTL.total_seconds())
    )
    with transaction() as session:
        session.add(upload)
    return upload, form


def read_upload(tenant_id: UUID, upload_id: UUID, *, storage: Storage, settings: Settings) -> bytes:
    """The bytes that arrived for an upload. Raises NotFound where the upload is not the tenant's, expired or empty."""
    with transaction() as session:
        upload = session.scalar(select(Upload).where(Upload.id == upload_id, Upload.tenant_id == tenant_id))
    if upload is None or upload.expires_at <= datetime.now(UTC):
        raise NotFound(
            f"There is no upload {upload_id}, or it expired; ask POST /v1/uploads for a new one.", pointer="/upload_id"
        )
    try:
        return storage.get(upload.s3_key, max_bytes=settings.max_upload_bytes)
    except NotFound:
        raise NotFound(
            f"Nothing has arrived for upload {upload_id} yet; POST the file to the url you were given first.",
            pointer="/upload_id",
        ) from None


def forget_uploads(storage: Storage, limit: int = 100) -> int:
    """Delete expired uploads, with whatever arrived for them; returns how many. Safe to run again."""
    expired = select(Upload).where(Upload.expires_at <= datetime.now(UTC)).limit(limit)
    with transaction() as session:
        doomed = session.scalars(expired).all()
    for upload in doomed:
        storage.delete(upload.s3_key)
        with transaction() as session:
            session.execute(delete(Upload).where(Upload.id == upload.id))
    return len(doomed)
