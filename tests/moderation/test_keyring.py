"""Stored secrets under their keys: counted, checked, sealed where they stood in plain text, changed to a new key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select, text

from moderation import endpoints, keyring, sealing, sources
from moderation.db import transaction
from moderation.errors import Unreadable
from moderation.settings import settings
from moderation.tables import Endpoint, Event, Row, Source, Tenant
from moderation.vocabulary import EventType, SourceKind, SourceScheme
from tests.factories import make_endpoint
from tests.moderation.test_sealing import key, with_keys

__all__ = ["with_keys"]
PLAIN = ["whsec_bmV3", "whsec_b2xk"]


def furnish(tenant: Tenant) -> None:
    """An endpoint whose secret rotates, and a source with a bucket: four secrets."""
    with transaction() as session:
        make_endpoint(session, tenant, secrets=PLAIN)
        bucket = Source(
            tenant_id=tenant.id,
            name="bucket",
            scheme=SourceScheme.BEARER,
            kind=SourceKind.S3_EVENT,
            s3_access_key="AKIA",
        )
        sources.create(session, bucket, secret="token", s3_secret_key="hush")


def opened() -> tuple[list[str], list[str], str]:
    """All of them, in plain text."""
    with transaction() as session:
        endpoint, source = session.scalars(select(Endpoint)).one(), session.scalars(select(Source)).one()
    assert source.s3_secret_key is not None
    s3_key = sealing.unseal(source.s3_secret_key, source.id)
    return endpoints.secrets_of(endpoint), sources.secrets_of(source), s3_key


def everything_stored() -> list[str]:
    """Every row of every table, as text."""
    with transaction() as session:
        return [
            row
            for table in Row.metadata.sorted_tables
            for row in session.scalars(text(f'SELECT row_to_json(a_row)::text FROM "{table.name}" AS a_row'))
        ]


def in_use() -> dict[str | None, int]:
    with transaction() as session:
        return keyring.use(session)


def check() -> None:
    with transaction() as session:
        keyring.check(session)


def test_changing_over_to_a_new_key(tenant: Tenant, with_keys: Callable[[str], None]) -> None:
    with_keys(key(1))
    furnish(tenant)
    (old,) = sealing.key_ids()
    with_keys(f"{key(2)},{key(1)}")
    new = sealing.key_ids()[0]
    check()
    assert in_use() == {old: 4}
    with transaction() as session:
        assert keyring.rotate(session, actor="user:ada") == 4
    with transaction() as session:
        assert keyring.rotate(session, actor="user:ada") == 0, "it is safe to repeat"
        (event,) = session.scalars(select(Event).where(Event.type == EventType.SECRETS_SEALED))
    assert (event.actor, event.after) == ("user:ada", {"key": new, "endpoints": 2, "sources": 2})
    with_keys(key(2))
    check()
    assert in_use() == {new: 4}
    assert opened() == (PLAIN, ["token"], "hush")


def test_a_key_that_is_missing_is_named_and_nothing_is_changed(
    tenant: Tenant, with_keys: Callable[[str], None]
) -> None:
    with_keys(key(1))
    furnish(tenant)
    (old,) = sealing.key_ids()
    with_keys(key(2))
    for attempt in (keyring.check, keyring.rotate):
        with pytest.raises(Unreadable, match=f"{old}, which TELLTALE_SECRET_KEYS"), transaction() as session:
            attempt(session)
    with_keys(key(1))
    assert opened() == (PLAIN, ["token"], "hush")


def test_what_stands_in_plain_text_is_refused_and_can_be_sealed(tenant: Tenant) -> None:
    furnish(tenant)
    with transaction() as session:
        session.execute(text("UPDATE endpoints SET secrets = ARRAY['whsec_bmV3', 'whsec_b2xk']"))
        session.execute(text("UPDATE sources SET s3_secret_key = 'hush'"))
    with pytest.raises(Unreadable, match=r"3 secrets stand unencrypted.*telltale migrate"):
        check()
    with transaction() as session:
        assert keyring.seal_plain(session) == 3
    check()
    assert opened() == (PLAIN, ["token"], "hush")
    with transaction() as session:
        assert keyring.seal_plain(session) == 0


def test_where_there_is_no_secret_any_key_will_do(db: Engine) -> None:
    check()
    assert in_use() == {}


def test_no_secret_is_anywhere_in_the_database(tenant: Tenant) -> None:
    """Of the rows, and of the events that tell of them."""
    furnish(tenant)
    with transaction() as session:
        endpoint = endpoints.create(session, tenant.id, "https://93.184.215.14/", [], settings())
        secrets = [*endpoints.secrets_of(endpoint), endpoints.rotate_secret(session, endpoint)]
        source = session.scalars(select(Source)).one()
        secrets.append(sources.rotate_secret(session, source, None, actor="user:ada"))
    secrets += [*PLAIN, "hush"]
    dump = "\n".join(everything_stored())
    assert "sealed:" in dump
    assert [secret for secret in secrets if secret in dump] == []
