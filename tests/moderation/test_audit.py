"""Reading the audit trail: whose it is, filters, pages, and names instead of ids."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from moderation import audit, tenants
from moderation.accounts import Member, Person
from moderation.audit import Change, Entry, Filter, Place
from moderation.db import new_id, transaction
from moderation.tables import Event, Tenant
from moderation.vocabulary import EventType, Role, Scope
from tests.factories import make_case, make_tenant
from tests.platforms import furnish
from tests.reviewing import make_person


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        return make_tenant(session, "Pixelgram")


@pytest.fixture
def ada(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, email="ada@example.com")


def lead_of(tenant: Tenant) -> Person:
    return Person(new_id(), "lea@example.com", new_id(), (Member(tenant.id, tenant.name, Role.LEAD),))


def found(tenant: Tenant, **wanted: object) -> list[Entry]:
    with transaction() as session:
        return audit.page(session, lead_of(tenant), tenant.id, Filter(**wanted), limit=100)  # type: ignore[arg-type]


def types(entries: list[Entry]) -> list[str]:
    return [entry.event.type.value for entry in entries]


def test_it_is_one_tenants_newest_first(tenant: Tenant, ada: Person) -> None:
    with transaction() as session:
        furnish(session, make_tenant(session, "Fotoforum"))
    with transaction() as session:
        tenants.change_tenant(session, tenant.id, {"blind_share": 0.5}, actor=ada.actor)
    assert types(found(tenant)) == ["tenant.changed", "tenant.created"]


def test_people_keys_and_sources_are_named(tenant: Tenant, ada: Person) -> None:
    with transaction() as session:
        ours = furnish(session, tenant)
        tenants.change_tenant(session, tenant.id, {"audit_share": 0.25}, actor=ada.actor)
        for actor in (f"api_key:{ours.key.id}", f"source:{ours.source.id}", f"user:{new_id()}", "user:x"):
            session.add(
                Event(tenant_id=tenant.id, type=EventType.CASE_SKIPPED, actor=actor, after={"claimed_by": ada.actor})
            )
    entries = found(tenant, type_=EventType.CASE_SKIPPED)
    assert {entry.actor for entry in entries} >= {f"key upload service ({ours.key.prefix})", "source uploads", "user:x"}
    assert {entry.changes for entry in entries} == {(Change("claimed_by", None, "ada@example.com"),)}
    (changed,) = found(tenant, type_=EventType.TENANT_CHANGED)
    assert (changed.actor, changed.changes) == ("ada@example.com", (Change("audit_share", 0.0, 0.25),))


def test_what_somebody_typed_names_nobody(tenant: Tenant, ada: Person) -> None:
    with transaction() as session:
        tenants.create_key(session, tenant.id, ada.actor, [Scope.CASES_READ])
    (entry,) = found(tenant, type_=EventType.KEY_CREATED)
    assert Change("name", None, ada.actor) in entry.changes


@pytest.mark.parametrize("term", ["ada@example.com", "ADA@example.com", "import", "uploads", "worker"])
def test_whom_a_name_means_is_found(tenant: Tenant, ada: Person, term: str) -> None:
    with transaction() as session:
        ours = furnish(session, tenant)
        key, _ = tenants.create_key(session, tenant.id, "import", [Scope.CASES_READ], actor=ada.actor)
        for actor in (f"api_key:{key.id}", f"source:{ours.source.id}"):
            session.add(Event(tenant_id=tenant.id, type=EventType.CASE_TAKEN, actor=actor))
    meant = {"ada@example.com": ada.actor, "import": f"api_key:{key.id}", "uploads": f"source:{ours.source.id}"}
    entries = found(tenant, actor=term)
    assert {entry.event.actor for entry in entries} == {meant.get(term.lower(), term)}


def test_another_tenants_key_of_that_name_is_not_meant(tenant: Tenant) -> None:
    with transaction() as session:
        key, _ = tenants.create_key(session, make_tenant(session).id, "import", [Scope.CASES_READ])
        session.add(Event(tenant_id=tenant.id, type=EventType.CASE_TAKEN, actor=f"api_key:{key.id}"))
    assert found(tenant, actor="import") == []


def test_filters_by_type_case_and_time(tenant: Tenant) -> None:
    with transaction() as session:
        case = make_case(session, tenant)
        make_case(session, tenant)
        ids = case.id
    now = datetime.now(UTC)
    assert types(found(tenant, case_id=ids)) == ["submission.accepted"]
    assert len(found(tenant, type_=EventType.SUBMISSION_ACCEPTED)) == 2
    assert found(tenant, until=now - timedelta(hours=1)) == []
    assert len(found(tenant, since=now - timedelta(hours=1), until=now + timedelta(hours=1))) == 3
    assert found(tenant, actor="nobody\x00") == []


@pytest.fixture
def many(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenant]:
    """A tenant with 23 events, several at the very same time."""
    monkeypatch.setattr(audit, "BATCH", 5)
    with transaction() as session:
        for _ in range(22):
            make_case_event(session, tenant)
    yield tenant


def make_case_event(session: Session, tenant: Tenant) -> None:
    session.add(Event(tenant_id=tenant.id, type=EventType.CASE_TAKEN, actor="worker"))


def test_pages_miss_and_repeat_nothing_at_one_time(many: Tenant) -> None:
    seen: list[Entry] = []
    after: Place | None = None
    while True:
        with transaction() as session:
            page = audit.page(session, lead_of(many), many.id, Filter(), after=after, limit=7)
        if not page:
            break
        seen += page
        after = page[-1].place
    assert len(seen) == len({entry.event.id for entry in seen}) == 23


def test_all_are_read_in_batches_while_more_come(many: Tenant) -> None:
    entries = audit.every(lead_of(many), many.id, Filter())
    first = next(entries)
    with transaction() as session:
        make_case_event(session, many)
    rest = list(entries)
    assert len({first.event.id, *(entry.event.id for entry in rest)}) == 23


def test_a_full_last_batch_is_the_last(many: Tenant) -> None:
    with transaction() as session:
        make_case_event(session, many)
        make_case_event(session, many)
    assert len(list(audit.every(lead_of(many), many.id, Filter()))) == 25
