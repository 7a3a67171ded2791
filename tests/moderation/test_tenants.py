"""Tenants, keys and users: every wrong key gets the same words, and secrets are stored only as hashes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Engine, select, text

from moderation import tenants
from moderation.db import transaction
from moderation.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated
from moderation.policy import Thresholds
from moderation.tables import ApiKey, Event, Membership, Policy, Tenant
from moderation.vocabulary import EventType, Role, Scope
from tests.factories import make_key, make_tenant


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        return make_tenant(session, "acme")


@pytest.fixture
def token(tenant: Tenant) -> str:
    with transaction() as session:
        return make_key(session, tenant, [Scope.CASES_READ])


def test_a_key_is_its_tenants_with_its_scopes_and_no_others(tenant: Tenant, token: str) -> None:
    caller = tenants.authenticate(token)
    assert (caller.tenant_id, caller.scopes) == (tenant.id, {"cases:read"})
    assert caller.actor == f"api_key:{caller.key_id}"
    caller.require(Scope.CASES_READ)
    with pytest.raises(Forbidden, match="submissions:write"):
        caller.require(Scope.SUBMISSIONS_WRITE)


def test_every_way_a_key_can_be_wrong_gets_the_same_words(tenant: Tenant, token: str) -> None:
    scheme, prefix, secret = token.split("_", 2)
    with transaction() as session:
        revoked, other = make_key(session, tenant), make_key(session, tenant)
        tenants.revoke_key(session, revoked.split("_", 2)[1])
    wrong = [
        *("", "_", "__", scheme, f"{scheme}_", f"{scheme}__", f"{scheme}_{prefix}", f"{scheme}_{prefix}_"),
        *(secret, f"{prefix}_{secret}", f"xx_{prefix}_{secret}", f"{scheme}_000000000000_{secret}"),
        *(f"{scheme}_{prefix}_{secret}x", f"{scheme}_{prefix}_{secret[:-1]}", f"{scheme}_{prefix.upper()}_{secret}x"),
        *(f"{scheme}_{prefix}_{other.split('_', 2)[2]}", revoked, f" {token}", f"{token} ", token.upper()),
        *(
            f"{scheme}_{prefix}\x00_{secret}",
            f"{scheme}_\ud800_{secret}",
            f"{scheme}_{prefix}_\ud800",
            "tt_%_%",
            "ü" * 99,
        ),
        *(f"{scheme}_' OR 1=1 --_{secret}", "tt_" * 1000),
    ]
    words = set()
    for one in wrong:
        with pytest.raises(Unauthenticated) as refused:
            tenants.authenticate(one)
        words.add((str(refused.value), refused.value.pointer))
    assert len(words) == 1
    assert tenants.authenticate(token).tenant_id == tenant.id


def test_a_secret_with_underscores_is_read_whole(tenant: Tenant) -> None:
    with transaction() as session:
        tokens = [make_key(session, tenant) for _ in range(60)]
    assert any("_" in token.split("_", 2)[2] for token in tokens), "60 tokens of 43 characters hold some"
    for token in tokens:
        tenants.authenticate(token)


def test_a_secret_is_nowhere_in_the_database(token: str) -> None:
    secret = token.split("_", 2)[2]
    with transaction() as session:
        row = session.execute(text("SELECT to_jsonb(api_keys)::text FROM api_keys")).scalar_one()
    assert secret not in row and token not in row


def test_last_use_is_noted_at_most_once_a_minute(token: str) -> None:
    def last_used() -> datetime | None:
        with transaction() as session:
            return session.scalars(select(ApiKey.last_used_at)).one()

    assert last_used() is None
    tenants.authenticate(token)
    first = last_used()
    tenants.authenticate(token)
    assert first is not None and last_used() == first
    with transaction() as session:
        session.scalars(select(ApiKey)).one().last_used_at = datetime.now(UTC) - timedelta(minutes=2)
    tenants.authenticate(token)
    assert (last_used() or first) > first


def test_revoking_is_at_once_and_once(token: str) -> None:
    prefix = token.split("_")[1]
    with transaction() as session:
        first = tenants.revoke_key(session, prefix).revoked_at
    with transaction() as session:
        assert tenants.revoke_key(session, prefix).revoked_at == first
    with pytest.raises(Unauthenticated):
        tenants.authenticate(token)
    with pytest.raises(NotFound), transaction() as session:
        tenants.revoke_key(session, "nobody")


def test_a_tenant_has_a_name_of_its_own_a_policy_and_no_training_unless_it_says_so(tenant: Tenant) -> None:
    with transaction() as session:
        assert not session.get_one(Tenant, tenant.id).allow_training
        assert tenants.tenant_named(session, "acme").id == tenant.id
        rules = tenants.policy_of(session, tenant.id)
        assert (rules.version, rules.fake_from, rules.real_up_to) == (1, 0.85, 0.15)
        with pytest.raises(Conflict):
            tenants.create_tenant(session, "acme")
        with pytest.raises(NotFound):
            tenants.tenant_named(session, "Acme")


def test_policies_are_versioned_per_tenant_and_never_changed(tenant: Tenant) -> None:
    with transaction() as session:
        other = make_tenant(session)
        tenants.set_policy(session, tenant.id, Thresholds(0.9, 0.1))
        tenants.set_policy(session, tenant.id, Thresholds(0.8, 0.2))
        assert tenants.policy_of(session, tenant.id).version == 3
        assert tenants.policy_of(session, other.id).version == 1
        mine = session.scalars(select(Policy.fake_from).where(Policy.tenant_id == tenant.id).order_by(Policy.version))
        assert mine.all() == [0.85, 0.9, 0.8]


NAN = float("nan")


@pytest.mark.parametrize(
    ("fake_from", "real_up_to"), [(0.5, 0.5), (0.4, 0.6), (1.1, 0.1), (0.5, -0.1), (NAN, 0.1), (0.5, NAN)]
)
def test_thresholds_out_of_order_are_refused(tenant: Tenant, fake_from: float, real_up_to: float) -> None:
    with pytest.raises(InvalidRequest), transaction() as session:
        tenants.set_policy(session, tenant.id, Thresholds(fake_from, real_up_to))


def test_users_have_an_address_and_an_argon2id_hash(tenant: Tenant) -> None:
    with transaction() as session:
        user = tenants.create_user(session, " Anna@Example.com ", "correct horse battery")
        assert user.email == "anna@example.com"
        assert user.password_hash.startswith("$argon2id$")
        assert PasswordHasher().verify(user.password_hash, "correct horse battery")
        with pytest.raises(Conflict):
            tenants.create_user(session, "ANNA@example.com", "another password")
        with pytest.raises(InvalidRequest):
            tenants.create_user(session, "bert@example.com", "11character")
        with pytest.raises(InvalidRequest):
            tenants.create_user(session, "bert", "correct horse battery")
        tenants.add_member(session, user, tenant, Role.MODERATOR)
        session.flush()
        tenants.add_member(session, user, tenant, Role.LEAD)
        session.flush()
        assert session.scalars(select(Membership.role)).all() == [Role.LEAD]


# --- What is written down ---


def told(tenant: Tenant, *types: EventType) -> list[tuple[str, object, object]]:
    with transaction() as session:
        query = select(Event).where(Event.tenant_id == tenant.id, Event.type.in_(types)).order_by(Event.id)
        return [(event.actor, event.before, event.after) for event in session.scalars(query)]


def test_a_change_says_what_was_and_what_is_and_only_that(tenant: Tenant) -> None:
    with transaction() as session:
        wanted = {"allow_training": True, "blind_share": 0.1, "audit_share": 0.02}
        assert tenants.change_tenant(session, tenant.id, wanted, actor="user:ada") == {
            "allow_training": True,
            "audit_share": 0.02,
        }
        assert tenants.change_tenant(session, tenant.id, wanted, actor="user:ada") == {}
    was, now = {"allow_training": False, "audit_share": 0.0}, {"allow_training": True, "audit_share": 0.02}
    assert told(tenant, EventType.TENANT_CHANGED) == [("user:ada", was, now)]


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), float("inf")])
@pytest.mark.parametrize("name", tenants.SHARES)
def test_a_share_that_is_none_changes_nothing(tenant: Tenant, name: str, share: float) -> None:
    with pytest.raises(InvalidRequest) as raised, transaction() as session:
        tenants.change_tenant(session, tenant.id, {"allow_training": True, name: share})
    assert raised.value.pointer == f"/{name}"
    assert told(tenant, EventType.TENANT_CHANGED) == []


def test_a_keys_life_is_written_down_without_its_secret(tenant: Tenant) -> None:
    with transaction() as session:
        key, token = tenants.create_key(session, tenant.id, " import ", [Scope.CASES_READ], actor="user:ada")
        for _ in range(2):
            tenants.revoke(session, key, actor="user:eve")
    said = {"key": key.prefix, "name": "import", "scopes": ["cases:read"]}
    assert told(tenant, EventType.KEY_CREATED) == [("user:ada", None, said)]
    assert told(tenant, EventType.KEY_REVOKED) == [("user:eve", said, None)]
    assert token.split("_", 2)[2] not in str(told(tenant, *EventType))


def test_a_key_needs_a_name_and_a_scope(tenant: Tenant) -> None:
    for name, scopes in ((" ", [Scope.CASES_READ]), ("x" * 101, [Scope.CASES_READ]), ("import", [])):
        with pytest.raises(InvalidRequest), transaction() as session:
            tenants.create_key(session, tenant.id, name, scopes)


def test_another_tenants_key_is_not_there(tenant: Tenant) -> None:
    with transaction() as session:
        key, _ = tenants.create_key(session, make_tenant(session).id, "theirs", [Scope.CASES_READ])
        assert tenants.keys_of(session, tenant.id) == []
    with pytest.raises(NotFound), transaction() as session:
        tenants.key_of(session, tenant.id, key.id)


def test_a_member_is_written_down_when_something_changes(tenant: Tenant) -> None:
    with transaction() as session:
        user = tenants.create_user(session, "ada@example.com", "correct horse battery")
        for role in (Role.LEAD, Role.LEAD, Role.ADMIN):
            tenants.add_member(session, user, tenant, role)
    lead, admin = {"user": "ada@example.com", "role": "lead"}, {"user": "ada@example.com", "role": "admin"}
    assert told(tenant, EventType.MEMBER_ADDED) == [("operator", None, lead)]
    assert told(tenant, EventType.MEMBER_CHANGED) == [("operator", lead, admin)]
