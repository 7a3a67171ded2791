"""Platforms, the people who review for them, and the keys they call with. It knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from argon2 import PasswordHasher
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from moderation.db import transaction
from moderation.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated
from moderation.policy import Thresholds
from moderation.tables import ApiKey, Membership, Policy, Tenant, User
from moderation.vocabulary import Role, Scope

KEY_SCHEME = "tt"
MIN_PASSWORD_LENGTH = 12
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
    """A new platform with the default policy as its version 1. Raises Conflict where the name is taken."""
    if session.scalar(select(Tenant.id).where(Tenant.name == name)):
        raise Conflict(f"There is a tenant {name!r} already.")
    tenant = Tenant(name=name, allow_training=allow_training)
    session.add(tenant)
    session.flush()
    set_policy(session, tenant.id, Thresholds())
    return tenant


def tenant_named(session: Session, name: str) -> Tenant:
    """Raises NotFound."""
    tenant = session.scalar(select(Tenant).where(Tenant.name == name))
    if tenant is None:
        raise NotFound(f"There is no tenant {name!r}; `telltale tenants list` shows them.")
    return tenant


def set_blind_share(tenant: Tenant, share: float) -> None:
    """The share of the tenant's coming reviews that are answered before the verdict is shown. Raises InvalidRequest."""
    if not 0 <= share <= 1:
        raise InvalidRequest("The share of blind reviews lies between 0 and 1.")
    tenant.blind_share = share


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


def create_key(session: Session, tenant_id: UUID, name: str, scopes: Sequence[Scope]) -> tuple[ApiKey, str]:
    """A new key and its token `tt_<prefix>_<secret>`, which is shown once and stored only as a hash."""
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
    return key, f"{KEY_SCHEME}_{prefix}_{secret}"


def revoke_key(session: Session, prefix: str) -> ApiKey:
    """End a key at once. Raises NotFound."""
    key = session.scalar(select(ApiKey).where(ApiKey.prefix == prefix))
    if key is None:
        raise NotFound(f"There is no key {prefix!r}; `telltale keys list` shows the prefixes.")
    key.revoked_at = key.revoked_at or datetime.now(UTC)
    return key


def authenticate(token: str) -> Caller:
    """Who a bearer token belongs to. Raises Unauthenticated, with the same words for every way it can be wrong."""
    scheme, _, rest = token.partition("_")
    prefix, _, secret = rest.partition("_")
    # Postgres would refuse to look for a NUL or for what is not text.
    known_form = scheme == KEY_SCHEME and prefix.isascii() and prefix.isalnum()
    with transaction() as session:
        key = session.scalar(select(ApiKey).where(ApiKey.prefix == prefix)) if known_form else None
        expected = key.secret_sha256 if key else digest("")
        matches = hmac.compare_digest(expected, digest(secret))
        if key is None or not matches or key.revoked_at is not None:
            raise Unauthenticated("The API key is unknown or was revoked; `telltale keys create` makes a new one.")
        _touch(session, key)
        return Caller(key.tenant_id, key.id, frozenset(key.scopes))


def _touch(session: Session, key: ApiKey) -> None:
    stale = datetime.now(UTC) - LAST_USED_GRAIN
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key.id, or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < stale))
        .values(last_used_at=func.now())
        .execution_options(synchronize_session=False)
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


def add_member(session: Session, user: User, tenant: Tenant, role: Role) -> None:
    """Let a user work for a tenant, or change what they may do there."""
    session.merge(Membership(user_id=user.id, tenant_id=tenant.id, role=role))
