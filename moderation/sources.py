"""Sources: whose webhooks are taken, what they are signed with, and where in them the images are.

A source describes a webhook that a platform already sends; nothing on the platform's side changes. What is in one, and
whether it is genuine, moderation/inbound.py says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jsonpointer
from sqlalchemy import select
from sqlalchemy.orm import Session

from moderation import addresses, events, sealing, signing, tenants
from moderation.db import new_id, transaction
from moderation.errors import AddressRefused, ConfigurationError, Conflict, InvalidRequest, NotFound
from moderation.tables import Source
from moderation.vocabulary import OPERATOR, EventType, SourceKind, SourceScheme

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


def create(
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


def change(session: Session, source: Source, wanted: Mapping[str, Any], *, actor: str) -> None:
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


def rotate_secret(session: Session, source: Source, own: str | None, *, actor: str) -> str:
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


def disable(session: Session, source: Source, *, actor: str) -> None:
    """Take no more of its webhooks; harmless where that is so."""
    if source.disabled_at is None:
        source.disabled_at = datetime.now(UTC)
        _note(session, EventType.SOURCE_DISABLED, source, actor=actor)


def enable(session: Session, source: Source, *, actor: str) -> None:
    """Take its webhooks again."""
    if source.disabled_at is not None:
        source.disabled_at = None
        _note(session, EventType.SOURCE_ENABLED, source, actor=actor)


def listed(session: Session, tenant_id: UUID) -> Sequence[Source]:
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
        addresses.check_link(url)
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
