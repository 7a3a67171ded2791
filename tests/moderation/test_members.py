"""Who works for a platform: taken on, given another role, let go; and what they had in hand."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from threading import Barrier
from uuid import UUID

import pytest
from sqlalchemy import Engine, select

from moderation import accounts, claims, members, tenants
from moderation.accounts import Member, Person
from moderation.db import new_id, transaction
from moderation.errors import Conflict, InvalidRequest, LostLease, NotFound
from moderation.members import Returned
from moderation.tables import Case, Claim, Event, Membership, Tenant, User
from moderation.vocabulary import ClaimEnd, EventType, Role
from tests.factories import make_tenant
from tests.reviewing import make_person, make_review_case

ACTOR = "user:ada"


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        return make_tenant(session, "Pixelgram")


@pytest.fixture
def ada(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, tenant, role=Role.ADMIN, email="ada@example.com")


def role_of(tenant: Tenant, user_id: UUID) -> Role | None:
    with transaction() as session:
        found = session.get(Membership, (user_id, tenant.id))
        return found.role if found else None


def told(tenant: Tenant, *types: EventType, actor: str = ACTOR) -> Sequence[Event]:
    with transaction() as session:
        query = select(Event).where(Event.tenant_id == tenant.id, Event.type.in_(types), Event.actor == actor)
        return session.scalars(query.order_by(Event.id)).all()


def add(person: Person, tenant: Tenant, email: str, role: Role = Role.MODERATOR) -> tuple[User, str | None]:
    with transaction() as session:
        return members.add(session, person, tenant.id, email, role)


def test_who_has_no_account_gets_one_with_a_password_that_works(tenant: Tenant, ada: Person) -> None:
    user, password = add(ada, tenant, " Nina@Example.com ", Role.LEAD)
    assert (user.email, role_of(tenant, user.id)) == ("nina@example.com", Role.LEAD)
    assert password is not None and len(password) >= 16
    assert accounts.sign_in("nina@example.com", password, address="127.0.0.1", browser="")
    (event,) = told(tenant, EventType.MEMBER_ADDED, actor=ada.actor)
    assert (event.before, event.after) == (None, {"user": "nina@example.com", "role": "lead"})


def test_who_works_for_another_of_ones_platforms_keeps_their_password(tenant: Tenant) -> None:
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
        ada = make_person(session, tenant, other, role=Role.ADMIN)
        bert = make_person(session, other, email="bert@example.com")
    user, password = add(ada, tenant, "bert@example.com")
    assert (user.id, password) == (bert.user_id, None)
    assert role_of(tenant, bert.user_id) is Role.MODERATOR


def test_an_account_that_others_made_in_advance_is_not_let_in(tenant: Tenant, ada: Person) -> None:
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
        mallory = make_person(session, other, role=Role.ADMIN)
        # Ada works there too, but has no say in who does.
        tenants.add_member(session, session.get_one(User, ada.user_id), other, Role.LEAD)
        ada = replace(ada, memberships=(*ada.memberships, Member(other.id, other.name, Role.LEAD)))
    made, password = add(mallory, other, "victim@example.com")
    with pytest.raises(Conflict, match=r"Ask whoever runs Telltale.*`telltale users grant`") as refused:
        add(ada, tenant, "victim@example.com", Role.ADMIN)
    assert password is not None and role_of(tenant, made.id) is None
    with transaction() as session:
        session.get_one(User, made.id).disabled_at = datetime.now(UTC)
    with pytest.raises(Conflict) as refused_too:
        add(ada, tenant, "victim@example.com")
    assert str(refused.value) == str(refused_too.value), "nor is it told that it is disabled"


def test_who_was_let_go_can_come_back(tenant: Tenant, ada: Person) -> None:
    user, _ = add(ada, tenant, "nina@example.com")
    with transaction() as session:
        members.remove(session, tenant.id, user.id, actor=ACTOR)
        other = make_tenant(session, "Fotoforum")
        olga = make_person(session, other, role=Role.ADMIN)
    with pytest.raises(Conflict, match="not of your platforms"):
        add(olga, other, "nina@example.com")
    again, password = add(ada, tenant, "nina@example.com", Role.LEAD)
    assert (again.id, password) == (user.id, None)
    assert role_of(tenant, user.id) is Role.LEAD and role_of(other, user.id) is None


@pytest.mark.parametrize("email", ["", "nina", "\x00"])
def test_what_is_no_address_is_refused(tenant: Tenant, ada: Person, email: str) -> None:
    with pytest.raises(InvalidRequest):
        add(ada, tenant, email)


def test_nobody_is_added_twice_and_no_disabled_account(tenant: Tenant) -> None:
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
        ada = make_person(session, tenant, other, role=Role.ADMIN)
        gone = make_person(session, other, email="gone@example.com")
        session.get_one(User, gone.user_id).disabled_at = datetime.now(UTC)
    with pytest.raises(Conflict, match="works for this platform already"):
        add(ada, tenant, ada.email)
    assert role_of(tenant, ada.user_id) is Role.ADMIN
    with pytest.raises(Conflict, match="disabled"):
        add(ada, tenant, "gone@example.com")


def test_the_last_administrator_stays_one(tenant: Tenant, ada: Person) -> None:
    with transaction() as session:
        other = make_person(session, tenant, role=Role.ADMIN)
        # One who cannot sign in is no help.
        session.get_one(User, other.user_id).disabled_at = datetime.now(UTC)
    for role in (Role.LEAD, Role.MODERATOR):
        with pytest.raises(Conflict, match="at least one administrator"), transaction() as session:
            members.change_role(session, tenant.id, ada.user_id, role, actor=ACTOR)
    with pytest.raises(Conflict, match="at least one administrator"), transaction() as session:
        members.remove(session, tenant.id, ada.user_id, actor=ACTOR)
    with transaction() as session:
        members.change_role(session, tenant.id, ada.user_id, Role.ADMIN, actor=ACTOR)
    assert told(tenant, EventType.MEMBER_CHANGED, EventType.MEMBER_REMOVED) == [], "nothing changed"


def test_two_administrators_who_remove_each_other_at_once_leave_one(tenant: Tenant, ada: Person) -> None:
    with transaction() as session:
        eve = make_person(session, tenant, role=Role.ADMIN)
    barrier = Barrier(2, timeout=60)

    def remove(user_id: UUID) -> bool:
        barrier.wait()
        try:
            with transaction() as session:
                members.remove(session, tenant.id, user_id, actor=ACTOR)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(remove, [ada.user_id, eve.user_id])) == [False, True]


def test_who_leaves_gives_back_what_they_had_of_this_platform_alone(tenant: Tenant, ada: Person) -> None:
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
        bert = make_person(session, tenant, other)
        held, theirs = make_review_case(session, tenant), make_review_case(session, other)
        assigned, nobodys = make_review_case(session, tenant), make_review_case(session, tenant)
        assigned.assigned_to = theirs.assigned_to = bert.user_id
        claim = claims.claim(session, bert, held.id)
        claims.claim(session, bert, theirs.id)
    with transaction() as session:
        returned = members.remove(session, tenant.id, bert.user_id, actor=ACTOR)
    assert returned == Returned(claims=1, assignments=1)
    assert role_of(tenant, bert.user_id) is None and role_of(other, bert.user_id) is Role.MODERATOR
    with transaction() as session:
        assert session.get_one(Claim, claim.id).end is ClaimEnd.RELEASED
        assert claims.live(session, theirs.id) is not None
        assert session.get_one(Case, assigned.id).assigned_to is None
        assert session.get_one(Case, theirs.id).assigned_to == bert.user_id
    (ended,), (reassigned,) = told(tenant, EventType.CASE_UNCLAIMED), told(tenant, EventType.CASE_REASSIGNED)
    (removed,) = told(tenant, EventType.MEMBER_REMOVED)
    assert (ended.case_id, reassigned.case_id) == (held.id, assigned.id)
    assert nobodys.id not in {ended.case_id, reassigned.case_id}
    assert removed.before == {"user": bert.email, "role": "moderator"}
    with pytest.raises((LostLease, NotFound)), transaction() as session:
        claims.held(session, bert, held.id, claim.fence)
    with transaction() as session:
        assert claims.claim(session, ada, held.id).fence > claim.fence


def test_a_lead_who_becomes_a_moderator_gives_back_what_is_for_leads(tenant: Tenant, ada: Person) -> None:
    with transaction() as session:
        lea = make_person(session, tenant, role=Role.LEAD)
        restricted = make_review_case(session, tenant)
        restricted.restricted = True
        escalated, plain = make_review_case(session, tenant), make_review_case(session, tenant)
        escalated.escalated_at = datetime.now(UTC)
        for case in (restricted, escalated, plain):
            claims.claim(session, lea, case.id)
        assert members.change_role(session, tenant.id, lea.user_id, Role.MODERATOR, actor=ACTOR) == Returned(2, 0)
        assert claims.live(session, plain.id) is not None
        assert claims.live(session, restricted.id) is claims.live(session, escalated.id) is None
    (event,) = told(tenant, EventType.MEMBER_CHANGED)
    assert event.before is not None and event.after is not None
    assert (event.before["role"], event.after["role"]) == ("lead", "moderator")


def test_strangers_are_not_there(tenant: Tenant, ada: Person) -> None:
    with transaction() as session:
        other = make_person(session, make_tenant(session, "Fotoforum"), role=Role.ADMIN)
    for user_id in (other.user_id, new_id()):
        with pytest.raises(NotFound), transaction() as session:
            members.remove(session, tenant.id, user_id, actor=ACTOR)
        with pytest.raises(NotFound), transaction() as session:
            members.change_role(session, tenant.id, user_id, Role.LEAD, actor=ACTOR)


def test_the_list_says_what_is_in_hand(tenant: Tenant, ada: Person) -> None:
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
        bert = make_person(session, tenant, other, email="bert@example.com")
        for owner in (tenant, tenant, other):
            claims.claim(session, bert, make_review_case(session, owner).id)
        found = members.workers_of(session, tenant.id)
    shown = [(worker.user.email, worker.role, worker.in_hand, worker.answered_at) for worker in found]
    assert shown == [("ada@example.com", Role.ADMIN, 0, None), ("bert@example.com", Role.MODERATOR, 2, None)]
