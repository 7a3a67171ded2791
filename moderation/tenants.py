"""Platforms, the people who review for them, and the keys they call with. It knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from argon2 import PasswordHasher
from sqlalchemy import Connection, bindparam, delete, func, or_, select, update
from sqlalchemy.orm import Session

from moderation import events
from moderation.db import autonomous, storable
from moderation.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated
from moderation.policy import Thresholds
from moderation.tables import ApiKey, Membership, Policy, SignIn, Tenant, User
from moderation.vocabulary import OPERATOR, EventType, Role, Scope

KEY_SCHEME = "tt"
MIN_PASSWORD_LENGTH = 12
MAX_NAME = 100  # characters of a tenant's, key's or source's name
SHARES = ("blind_share", "second_opinion_share", "audit_share")
LAST_USED_GRAIN = timedelta(minutes=1)


@dataclass(frozen=True)
class Caller:
    """Who is calling: a tenant, through one of its keys."""

    tenant_id: UUID
    key_id: UUID
    scopes: frozenset[str]

    @property
    def actor(self) -> str:
        return f"api_key:{self.key_id}"

    def require(self, scope: Scope) -> None:
        """Raise Forbidden without this scope."""
        if scope.value not in self.scopes:
            raise Forbidden(f"This key lacks the scope {scope.value}; use a key that has it.")


def create_tenant(session: Session, name: str, *, allow_training: bool = False) -> Tenant:
    """A new platform with the default policy as its version 1.

    Raises InvalidRequest for a name that is none, Conflict where it is taken.
    """
    name = checked_name(name)
    if session.scalar(select(Tenant.id).where(Tenant.name == name)):
        raise Conflict(f"There is a tenant {name!r} already.", pointer="/name")
    tenant = Tenant(name=name, allow_training=allow_training)
    session.add(tenant)
    session.flush()
    set_policy(session, tenant.id, Thresholds())
    after = {"name": name, "allow_training": allow_training}
    events.record(session, EventType.TENANT_CREATED, tenant_id=tenant.id, actor=OPERATOR, after=after)
    return tenant


def checked_name(name: str) -> str:
    """A name as it is kept: without space around it. Raises InvalidRequest for none, or one that is too long."""
    name = storable(name.strip())
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidRequest(f"A name has 1 to {MAX_NAME} characters.", pointer="/name")
    return name


def tenants_with(session: Session, ids: Collection[UUID]) -> Sequence[Tenant]:
    """These tenants, by name."""
    return session.scalars(select(Tenant).where(Tenant.id.in_(ids)).order_by(Tenant.name)).all()


def change_tenant(
    session: Session, tenant_id: UUID, wanted: Mapping[str, bool | float], *, actor: str = OPERATOR
) -> dict[str, Any]:
    """Set `allow_training` and shares (SHARES, 0 to 1) of the tenant's coming cases; returns what differs now.

    Raises InvalidRequest for a share that is none.
    """
    for share in SHARES:
        if not 0 <= wanted.get(share, 0) <= 1:
            raise InvalidRequest("A share lies between 0 and 1, which is 0 % and 100 %.", pointer=f"/{share}")
    tenant = session.get_one(Tenant, tenant_id, with_for_update=True)
    before = {name: getattr(tenant, name) for name, value in wanted.items() if getattr(tenant, name) != value}
    after = {name: wanted[name] for name in before}
    for name, value in after.items():
        setattr(tenant, name, value)
    if after:
        changed = EventType.TENANT_CHANGED
        events.record(session, changed, tenant_id=tenant_id, actor=actor, before=before, after=after)
    return after


def tenant_named(session: Session, name: str) -> Tenant:
    """Raises NotFound."""
    tenant = session.scalar(select(Tenant).where(Tenant.name == name))
    if tenant is None:
        raise NotFound(f"There is no tenant {name!r}; `telltale tenants list` shows them.")
    return tenant


def set_policy(session: Session, tenant_id: UUID, thresholds: Thresholds) -> Policy:
    """A new version of the tenant's policy; cases in flight keep to the one they are judged under."""
    if not 0 <= thresholds.real_up_to < thresholds.fake_from <= 1:
        raise InvalidRequest("A policy needs 0 ≤ real_up_to < fake_from ≤ 1.")
    newest = session.scalar(select(func.max(Policy.version)).where(Policy.tenant_id == tenant_id)) or 0
    policy = Policy(
        tenant_id=tenant_id,
        version=newest + 1,
        fake_from=thresholds.fake_from,
        real_up_to=thresholds.real_up_to,
        min_pair_mass=thresholds.min_pair_mass,
        explain=thresholds.explain,
    )
    session.add(policy)
    session.flush()
    return policy


def policy_of(session: Session, tenant_id: UUID) -> Policy:
    """The newest version."""
    return session.scalars(
        select(Policy).where(Policy.tenant_id == tenant_id).order_by(Policy.version.desc()).limit(1)
    ).one()


def create_key(
    session: Session, tenant_id: UUID, name: str, scopes: Sequence[Scope], *, actor: str = OPERATOR
) -> tuple[ApiKey, str]:
    """A new key and its token `tt_<prefix>_<secret>`, which is shown once and stored only as a hash.

    Raises InvalidRequest for a name that is none, or no scope.
    """
    name = checked_name(name)
    if not scopes:
        raise InvalidRequest("A key without a scope can do nothing: choose at least one.", pointer="/scopes")
    prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = ApiKey(
        tenant_id=tenant_id,
        name=name,
        prefix=prefix,
        secret_sha256=digest(secret),
        scopes=[scope.value for scope in scopes],
    )
    session.add(key)
    session.flush()
    after = {"key": prefix, "name": name, "scopes": key.scopes}
    events.record(session, EventType.KEY_CREATED, tenant_id=tenant_id, actor=actor, after=after)
    return key, f"{KEY_SCHEME}_{prefix}_{secret}"


def keys_of(session: Session, tenant_id: UUID) -> Sequence[ApiKey]:
    """The tenant's keys, those that can be used first, and of each kind the newest."""
    order = (ApiKey.revoked_at.is_not(None), ApiKey.id.desc())
    return session.scalars(select(ApiKey).where(ApiKey.tenant_id == tenant_id).order_by(*order)).all()


def key_of(session: Session, tenant_id: UUID, key_id: UUID) -> ApiKey:
    """One of the tenant's keys. Raises NotFound."""
    key = session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id).with_for_update())
    if key is None:
        raise NotFound("There is no such key.")
    return key


def revoke_key(session: Session, prefix: str) -> ApiKey:
    """End a key at once. Raises NotFound."""
    key = session.scalar(select(ApiKey).where(ApiKey.prefix == prefix).with_for_update())
    if key is None:
        raise NotFound(f"There is no key {prefix!r}; `telltale keys list` shows the prefixes.")
    return revoke(session, key, actor=OPERATOR)


def revoke(session: Session, key: ApiKey, *, actor: str) -> ApiKey:
    """End this key at once; harmless where it has ended."""
    if key.revoked_at is None:
        key.revoked_at = datetime.now(UTC)
        before = {"key": key.prefix, "name": key.name, "scopes": key.scopes}
        events.record(session, EventType.KEY_REVOKED, tenant_id=key.tenant_id, actor=actor, before=before)
    return key


def authenticate(token: str) -> Caller:
    """Who a bearer token belongs to. Raises Unauthenticated, with the same words for every way it can be wrong."""
    scheme, _, rest = token.partition("_")
    prefix, _, secret = rest.partition("_")
    # Postgres would refuse to look for a NUL or for what is not text.
    known_form = scheme == KEY_SCHEME and prefix.isascii() and prefix.isalnum()
    with autonomous() as connection:
        key = connection.execute(_KEY, {"prefix": prefix}).one_or_none() if known_form else None
        expected = key.secret_sha256 if key else digest("")
        matches = hmac.compare_digest(expected, digest(secret))
        if key is None or not matches or key.revoked_at is not None:
            raise Unauthenticated("The API key is unknown or was revoked; `telltale keys create` makes a new one.")
        stale = datetime.now(UTC) - LAST_USED_GRAIN
        if key.last_used_at is None or key.last_used_at < stale:
            _touch(connection, key.id, stale)
        return Caller(key.tenant_id, key.id, frozenset(key.scopes))


# Made once, and of columns: every request asks.
_KEY = select(
    *(ApiKey.id, ApiKey.tenant_id, ApiKey.secret_sha256, ApiKey.scopes, ApiKey.revoked_at, ApiKey.last_used_at)
).where(ApiKey.prefix == bindparam("prefix"))


def _touch(connection: Connection, key_id: UUID, stale: datetime) -> None:
    connection.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < stale))
        .values(last_used_at=func.now())
    )


def digest(secret: str) -> str:
    """What is stored of a secret that is long and random, or of what is only ever compared."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create_user(session: Session, email: str, password: str) -> User:
    """A person who can sign in; argon2id. Raises InvalidRequest for a short password, Conflict for a known address."""
    email = email.strip().lower()
    if "@" not in email:
        raise InvalidRequest(f"{email!r} is not an e-mail address.")
    if len(password) < MIN_PASSWORD_LENGTH:
        raise InvalidRequest(f"A password has at least {MIN_PASSWORD_LENGTH} characters.")
    if session.scalar(select(User.id).where(User.email == email)):
        raise Conflict(f"There is a user {email} already.")
    user = User(email=email, password_hash=PasswordHasher().hash(password))
    session.add(user)
    session.flush()
    return user


def end_sign_ins(session: Session, user: User, *, actor: str) -> int:
    """Sign somebody out wherever they are signed in. Returns how many sign-ins that were."""
    ended = session.scalars(delete(SignIn).where(SignIn.user_id == user.id).returning(SignIn.id)).all()
    if ended:
        before = {"user": f"user:{user.id}", "sign_ins": len(ended)}
        events.record(session, EventType.USER_SIGNED_OUT, tenant_id=None, actor=actor, before=before)
    return len(ended)


def add_member(session: Session, user: User, tenant: Tenant, role: Role, *, actor: str = OPERATOR) -> None:
    """Let a user work for a tenant, or change what they may do there.

    A higher role ends their sign-ins: a cookie that was stolen before does not rise with it. (OWASP, Session Management
    Cheat Sheet: renew the session id after any privilege level change.)
    """
    known = session.get(Membership, (user.id, tenant.id))
    if known is None:
        session.add(Membership(user_id=user.id, tenant_id=tenant.id, role=role))
        type_, before = EventType.MEMBER_ADDED, None
    else:
        type_, before = EventType.MEMBER_CHANGED, {"user": user.email, "role": known.role.value}
        if role.covers(known.role) and role is not known.role:
            end_sign_ins(session, user, actor=actor)
        known.role = role
    after = {"user": user.email, "role": role.value}
    if before != after:
        events.record(session, type_, tenant_id=tenant.id, actor=actor, before=before, after=after)
