"""The demo's platform: a tenant of its own with a key, an inbound source, an endpoint and a moderator.

Every run is a new tenant, because an image that a tenant sent before has its verdict already, and there would be
nothing to see. The moderator is one person, who works for all of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from moderation import accounts, endpoints, sources, tenants
from moderation.db import transaction
from moderation.policy import Thresholds
from moderation.settings import Settings
from moderation.tables import Endpoint, Source, Tenant, User
from moderation.vocabulary import Role, Scope, SourceKind, SourceScheme

PREFIX = "demo-"
EVERYTHING_REVIEWED = Thresholds(fake_from=1, real_up_to=0)
MODERATOR = "moderator@demo.example"
OPERATOR = "operator@demo.example"
ACTOR = "operator"


@dataclass(frozen=True)
class Platform:
    """What the platform's own code would hold: where to send, and the secrets to do it with."""

    tenant: str
    key: str
    hook_url: str
    hook_secret: str
    endpoint_secret: str
    moderator: str = MODERATOR
    operator: str = OPERATOR


def new_platform(receiver_url: str, moderator_password: str, settings: Settings) -> Platform:
    """Create the platform of this run; those of earlier runs are told nothing any more, for nobody listens."""
    name = f"{PREFIX}{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    with transaction() as session:
        _retire_endpoints(session)
        tenant = tenants.create_tenant(session, name)
        _, key = tenants.create_key(session, tenant.id, "demo", list(Scope))
        source = _source(session, tenant)
        endpoint = endpoints.create(session, tenant.id, receiver_url, [], settings)
        tenants.add_member(session, _person(session, MODERATOR, moderator_password), tenant, Role.MODERATOR)
        operator = _person(session, OPERATOR, moderator_password)
        tenants.add_member(session, operator, tenant, Role.ADMIN)
        accounts.make_first_operator(session, operator, actor=ACTOR)
        return Platform(
            tenant=name,
            key=key,
            hook_url=f"{settings.public_url.rstrip('/')}/v1/hooks/{source.id}",
            hook_secret=sources.secrets_of(source)[0],
            endpoint_secret=endpoints.secrets_of(endpoint)[0],
        )


def new_school(moderators: Sequence[str], lead: str, password: str) -> tuple[str, str]:
    """A platform that allows training and has a person look at everything; its name and its key.

    `moderators` are the addresses of those who work for it, and `lead` of who leads it and sees to training, which
    takes an operator; all have the same password.
    """
    with transaction() as session:
        tenant = tenants.create_tenant(session, f"{PREFIX}school", allow_training=True)
        tenants.set_policy(session, tenant.id, EVERYTHING_REVIEWED)
        _, key = tenants.create_key(session, tenant.id, "demo", list(Scope))
        for email in moderators:
            tenants.add_member(session, tenants.create_user(session, email, password), tenant, Role.MODERATOR)
        leader = tenants.create_user(session, lead, password)
        tenants.add_member(session, leader, tenant, Role.LEAD)
        accounts.set_operator(session, leader, True, actor=ACTOR)
        return tenant.name, key


def _retire_endpoints(session: Session) -> None:
    query = select(Endpoint).join(Tenant, Tenant.id == Endpoint.tenant_id)
    for endpoint in session.scalars(query.where(Tenant.name.startswith(PREFIX), Endpoint.disabled_at.is_(None))):
        endpoints.disable(session, endpoint, "The demo that listened here has ended.")


def _source(session: Session, tenant: Tenant) -> Source:
    source = Source(
        tenant_id=tenant.id,
        name="uploads",
        scheme=SourceScheme.STANDARD,
        kind=SourceKind.JSON,
        image_url_pointer="/data/image/url",
        external_id_pointer="/data/image/id",
    )
    return sources.create(session, source)


def _person(session: Session, email: str, password: str) -> User:
    known = session.scalar(select(User).where(User.email == email))
    return known or tenants.create_user(session, email, password)
