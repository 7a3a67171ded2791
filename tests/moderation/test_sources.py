"""Sources: who may have one, what can be changed in it, and its secrets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from moderation import inbound, sealing, signing, sources
from moderation.db import new_id, transaction
from moderation.errors import Conflict, InvalidRequest, NotFound, SignatureInvalid
from moderation.tables import Event, Source, Tenant
from moderation.vocabulary import EventType, SourceKind, SourceScheme
from tests.factories import make_tenant

URL = "https://example.com/picture.png"
POINTERS = {
    "image_url_pointer": "/data/image/url",
    "external_id_pointer": "/data/id",
    "metadata_pointer": "/data/about",
}


def source(scheme: SourceScheme = SourceScheme.STANDARD, kind: SourceKind = SourceKind.JSON, **fields: Any) -> Source:
    """A source outside any database."""
    secrets = fields.pop("secrets", ["s3cret"])
    given: dict[str, Any] = {**(POINTERS if kind is SourceKind.JSON else {}), **fields}
    made = Source(**{"id": new_id(), "name": "uploads", "scheme": scheme, "kind": kind, **given})
    made.secrets = [sealing.seal(secret, made.id) for secret in secrets]
    return made


def stored(tenant: Tenant, **fields: Any) -> Source:
    with transaction() as session:
        secrets = {name: fields.pop(name, None) for name in ("secret", "s3_secret_key")}
        made = source(**fields)
        made.tenant_id = tenant.id
        return sources.create(session, made, **secrets)


# --- Making one ---


def test_a_source_gets_a_secret_where_none_is_given(tenant: Tenant) -> None:
    made = stored(tenant)
    (secret,) = sources.secrets_of(made)
    assert secret.startswith("whsec_") and secret not in str(made.secrets)
    assert sources.source_with(made.id).id == made.id


@pytest.mark.parametrize(
    "fields",
    [
        {"image_url_pointer": None},
        {"image_url_pointer": ""},
        {"image_url_pointer": "data/url"},
        {"image_url_pointer": "/data/~2"},
        {"external_id_pointer": "id"},
        {"kind": SourceKind.S3_EVENT},
        {"kind": SourceKind.S3_EVENT, "s3_access_key": "a"},
    ],
)
def test_a_source_that_could_not_work_is_refused(tenant: Tenant, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        stored(tenant, **fields)


def test_a_disabled_or_unknown_source_takes_nothing(tenant: Tenant) -> None:
    made = stored(tenant)
    with transaction() as session:
        session.get_one(Source, made.id).disabled_at = datetime.now(UTC)
    for source_id in (made.id, new_id()):
        with pytest.raises(NotFound, match=str(source_id)):
            sources.source_with(source_id)


# --- Changing one ---


def told(tenant: Tenant) -> list[tuple[EventType, object, object]]:
    with transaction() as session:
        query = select(Event).where(Event.tenant_id == tenant.id, Event.actor == "user:ada").order_by(Event.id)
        return [(event.type, event.before, event.after) for event in session.scalars(query)]


def test_a_change_says_what_was_and_what_is(tenant: Tenant) -> None:
    made = stored(tenant)
    with transaction() as session:
        row = sources.source_of(session, tenant.id, made.id)
        wanted = {"name": " photos ", "image_url_pointer": "/data/image/url", "s3_secret_key": "hush"}
        sources.change(session, row, wanted, actor="user:ada")
        sources.change(session, row, wanted, actor="user:ada")
    ((type_, was, now),) = told(tenant)
    assert (type_, was) == (EventType.SOURCE_CHANGED, {"name": "uploads"})
    assert now == {"source": str(made.id), "name": "photos", "s3_secret_key": "another one"}


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"image_url_pointer": None}, "/image_url_pointer"),
        ({"metadata_pointer": "data"}, "/metadata_pointer"),
        ({"kind": SourceKind.S3_EVENT}, "/s3_access_key"),
        ({"kind": SourceKind.S3_EVENT, "s3_access_key": "a"}, "/s3_secret_key"),
    ],
)
def test_a_change_that_could_not_work_is_pointed_at_and_not_made(
    tenant: Tenant, wanted: dict[str, Any], pointer: str
) -> None:
    made = stored(tenant)
    with pytest.raises(InvalidRequest) as raised, transaction() as session:
        sources.change(session, sources.source_of(session, tenant.id, made.id), wanted, actor="user:ada")
    assert raised.value.pointer == pointer
    assert sources.source_with(made.id).image_url_pointer == "/data/image/url" and told(tenant) == []


def test_a_name_is_its_tenants_once(tenant: Tenant) -> None:
    stored(tenant)
    other = stored(tenant, name="photos")
    with pytest.raises(Conflict):
        stored(tenant)
    with pytest.raises(Conflict), transaction() as session:
        row = sources.source_of(session, tenant.id, other.id)
        sources.change(session, row, {"name": "uploads"}, actor="user:ada")
    with transaction() as session:
        elsewhere = make_tenant(session)
    assert stored(elsewhere).name == "uploads"


def test_a_rotated_secret_leaves_the_one_before_valid(tenant: Tenant) -> None:
    made, body = stored(tenant), b"{}"
    before = inbound.signed(made, body)
    with transaction() as session:
        row = sources.source_of(session, tenant.id, made.id)
        fresh = sources.rotate_secret(session, row, None, actor="user:ada")
        own = signing.new_secret()
        assert inbound.verify(row, before, body)
        sources.rotate_secret(session, row, own, actor="user:ada")
        assert sources.secrets_of(row) == [own, fresh]
        with pytest.raises(SignatureInvalid):
            inbound.verify(row, before, body)
        with pytest.raises(InvalidRequest):
            sources.rotate_secret(session, row, "not base64!", actor="user:ada")
    assert [type_ for type_, _, _ in told(tenant)] == [EventType.SOURCE_SECRET_ROTATED] * 2
    assert fresh not in str(told(tenant)) and own not in str(told(tenant))


def test_of_two_rotations_at_once_both_secrets_are_taken(tenant: Tenant) -> None:
    made, both_have_read = stored(tenant), threading.Barrier(2, timeout=60)

    def rotated(_: int) -> str:
        with transaction() as session:
            row = sources.source_of(session, tenant.id, made.id)
            both_have_read.wait()
            return sources.rotate_secret(session, row, None, actor="user:ada")

    with ThreadPoolExecutor(2) as pool:
        fresh = list(pool.map(rotated, range(2)))
    with transaction() as session:
        assert sorted(sources.secrets_of(session.get_one(Source, made.id))) == sorted(fresh)


def test_a_source_is_disabled_and_enabled_and_says_so_once(tenant: Tenant) -> None:
    made = stored(tenant)
    with transaction() as session:
        row = sources.source_of(session, tenant.id, made.id)
        for _ in range(2):
            sources.disable(session, row, actor="user:ada")
    with pytest.raises(NotFound):
        sources.source_with(made.id)
    with transaction() as session:
        row = sources.source_of(session, tenant.id, made.id)
        for _ in range(2):
            sources.enable(session, row, actor="user:ada")
    assert sources.source_with(made.id)
    assert [type_ for type_, _, _ in told(tenant)] == [EventType.SOURCE_DISABLED, EventType.SOURCE_ENABLED]


def test_another_tenants_source_is_not_there(tenant: Tenant) -> None:
    with transaction() as session:
        other = make_tenant(session)
        assert sources.listed(session, other.id) == []
    with pytest.raises(NotFound), transaction() as session:
        sources.source_of(session, other.id, stored(tenant).id)
