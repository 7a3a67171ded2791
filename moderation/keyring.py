"""Which rows hold sealed secrets, which keys those are sealed with, and sealing them anew with the newest.

It knows no secret: opening and sealing is moderation/sealing.py's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sqlalchemy import func, select, union_all
from sqlalchemy.orm import Session

from moderation import events, sealing
from moderation.errors import Unreadable
from moderation.tables import Endpoint, Source
from moderation.vocabulary import OPERATOR, EventType

KEY_IN_STORED = f"^{sealing.PREFIX}:([0-9a-f]+):"


def use(session: Session) -> dict[str | None, int]:
    """How many stored secrets are sealed with each key, by the key's id; under None, those that are not sealed."""
    stored = union_all(
        select(func.unnest(Endpoint.secrets).label("secret")),
        select(func.unnest(Source.secrets)),
        select(Source.s3_secret_key).where(Source.s3_secret_key.is_not(None)),
    ).subquery()
    key_id = func.substring(stored.c.secret, KEY_IN_STORED)
    counted = session.execute(select(key_id, func.count()).group_by(key_id))
    return {row[0]: row[1] for row in counted}


def check(session: Session) -> None:
    """Raise ConfigurationError where there is no key, and Unreadable where one that stored secrets need is missing."""
    own, used = sealing.key_ids(), use(session)
    lacking = sorted(key for key in used if key is not None and key not in own)
    if lacking:
        raise Unreadable(sealing.missing(lacking))
    if None in used:
        raise Unreadable(f"{used[None]} secrets stand unencrypted in the database: `telltale migrate` encrypts them.")


def open_some(session: Session, most: int) -> int:
    """Open the newest stored secrets, of up to so many endpoints and as many sources; how many secrets that were.

    Raises ConfigurationError where there is no key, Unreadable where one does not open.
    """
    rows: list[Endpoint | Source] = []
    for table in (Endpoint, Source):
        rows += session.scalars(select(table).order_by(table.id.desc()).limit(most))
    stored = [(row, secret) for row in rows for secret in _secrets_of(row)]
    for row, secret in stored:
        sealing.unseal(secret, row.id)
    return len(stored)


def _secrets_of(row: Endpoint | Source) -> list[str]:
    own = row.s3_secret_key if isinstance(row, Source) else None
    return [*row.secrets, *([own] if own is not None else [])]


def seal_plain(session: Session) -> int:
    """Seal what stands in plain text, as before Telltale sealed secrets. Returns how many secrets that were."""
    return _seal_anew(session, lambda stored: sealing.key_of(stored) is None, OPERATOR)


def rotate(session: Session, *, actor: str = OPERATOR) -> int:
    """Seal with the newest key what is sealed with another one. Returns how many secrets that were.

    All of them or none: raises Unreadable where one cannot be opened.
    """
    newest = sealing.key_ids()[0]
    return _seal_anew(session, lambda stored: sealing.key_of(stored) != newest, actor)


def _seal_anew(session: Session, outdated: Callable[[str], bool], actor: str) -> int:
    """Seal the outdated ones; the rows stay locked against other changes until the commit, and can be read."""
    changed: Counter[str] = Counter()
    for endpoint in session.scalars(select(Endpoint).order_by(Endpoint.id).with_for_update(key_share=True)):
        endpoint.secrets = [_anew(endpoint, stored, outdated, changed) for stored in endpoint.secrets]
    for source in session.scalars(select(Source).order_by(Source.id).with_for_update(key_share=True)):
        source.secrets = [_anew(source, stored, outdated, changed) for stored in source.secrets]
        if source.s3_secret_key is not None:
            source.s3_secret_key = _anew(source, source.s3_secret_key, outdated, changed)
    if changed:
        after = {"key": sealing.key_ids()[0], **changed}
        events.record(session, EventType.SECRETS_SEALED, tenant_id=None, actor=actor, after=after)
    return changed.total()


def _anew(row: Endpoint | Source, stored: str, outdated: Callable[[str], bool], changed: Counter[str]) -> str:
    if not outdated(stored):
        return stored
    changed[row.__tablename__] += 1
    plain = stored if sealing.key_of(stored) is None else sealing.unseal(stored, row.id)
    return sealing.seal(plain, row.id)
