"""What there is, as rows for a terminal: the read-only queries behind the commands' lists.

They are an operator's: across tenants, or of one. Secrets are never part of a row.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from moderation import cases, tenants
from moderation.errors import NotFound
from moderation.model_versions import versions
from moderation.settings import Settings
from moderation.tables import (
    ApiKey,
    Case,
    Delivery,
    DeliveryAttempt,
    Endpoint,
    Event,
    Membership,
    Policy,
    Source,
    Tenant,
    User,
)
from moderation.vocabulary import CaseStatus, DeliveryStatus, Label

Rows = list[dict[str, Any]]


def all_tenants(session: Session) -> Rows:
    """Every tenant, by name, with how many cases it has."""
    counted = select(func.count()).where(Case.tenant_id == Tenant.id).scalar_subquery()
    return [
        {
            "id": tenant.id,
            "name": tenant.name,
            "allow_training": tenant.allow_training,
            "blind_share": tenant.blind_share,
            "second_opinion_share": tenant.second_opinion_share,
            "audit_share": tenant.audit_share,
            "cases": count,
            "created_at": tenant.created_at,
        }
        for tenant, count in session.execute(select(Tenant, counted).order_by(Tenant.name))
    ]


def keys(session: Session, tenant: str | None) -> Rows:
    """API keys, newest last."""
    query = select(ApiKey, Tenant.name).join(Tenant, Tenant.id == ApiKey.tenant_id).order_by(Tenant.name, ApiKey.id)
    return [
        {
            "prefix": key.prefix,
            "tenant": owner,
            "name": key.name,
            "scopes": key.scopes,
            "created_at": key.created_at,
            "last_used_at": key.last_used_at,
            "revoked_at": key.revoked_at,
        }
        for key, owner in session.execute(_of(session, query, tenant))
    ]


def users(session: Session, tenant: str | None) -> Rows:
    """People and what they may do, one row for each tenant they belong to."""
    query = (
        select(User, Tenant.name, Membership.role)
        .join(Membership, Membership.user_id == User.id)
        .join(Tenant, Tenant.id == Membership.tenant_id)
        .order_by(User.email, Tenant.name)
    )
    return [
        {
            "email": user.email,
            "tenant": owner,
            "role": role.value,
            "operator": user.operator,
            "created_at": user.created_at,
            "disabled_at": user.disabled_at,
        }
        for user, owner, role in session.execute(_of(session, query, tenant))
    ]


def user_with(session: Session, email: str) -> User:
    """Raises NotFound."""
    user = session.scalar(select(User).where(User.email == email.strip().lower()))
    if user is None:
        raise NotFound(f"There is no user {email!r}; `telltale users create` makes one.")
    return user


def sources(session: Session, tenant: str | None, settings: Settings) -> Rows:
    """Inbound webhook sources with the URL that platforms post to."""
    query = select(Source, Tenant.name).join(Tenant, Tenant.id == Source.tenant_id).order_by(Tenant.name, Source.id)
    return [source_row(source, owner, settings) for source, owner in session.execute(_of(session, query, tenant))]


def source_row(source: Source, tenant: str, settings: Settings) -> dict[str, Any]:
    """One source, without its secrets."""
    return {
        "id": source.id,
        "tenant": tenant,
        "name": source.name,
        "scheme": source.scheme.value,
        "kind": source.kind.value,
        "url": f"{settings.public_url.rstrip('/')}/v1/hooks/{source.id}",
        "disabled_at": source.disabled_at,
    }


def endpoints(session: Session, tenant: str | None) -> Rows:
    """Where events are sent, and whether they arrive."""
    query = (
        select(Endpoint, Tenant.name).join(Tenant, Tenant.id == Endpoint.tenant_id).order_by(Tenant.name, Endpoint.id)
    )
    return [endpoint_row(endpoint, owner) for endpoint, owner in session.execute(_of(session, query, tenant))]


def endpoint_row(endpoint: Endpoint, tenant: str) -> dict[str, Any]:
    """One endpoint, without its secrets."""
    return {
        "id": endpoint.id,
        "tenant": tenant,
        "url": endpoint.url,
        "events": endpoint.event_types or ["all"],
        "state": "disabled" if endpoint.disabled_at else "failing" if endpoint.failing_since else "enabled",
        "reason": endpoint.disabled_reason,
    }


def endpoint_with(session: Session, endpoint_id: UUID) -> Endpoint:
    """An endpoint of any tenant. Raises NotFound."""
    endpoint = session.get(Endpoint, endpoint_id)
    if endpoint is None:
        raise NotFound(f"There is no endpoint {endpoint_id}; `telltale endpoints list` shows them.")
    return endpoint


def deliveries(
    session: Session, *, tenant: str | None, endpoint_id: UUID | None, status: DeliveryStatus | None, limit: int
) -> Rows:
    """The newest deliveries, each with what its last attempt got."""
    query = (
        select(Delivery, Event, Endpoint.url)
        .join(Event, Event.id == Delivery.event_id)
        .join(Endpoint, Endpoint.id == Delivery.endpoint_id)
        .join(Tenant, Tenant.id == Endpoint.tenant_id)
        .order_by(Delivery.id.desc())
        .limit(limit)
    )
    if endpoint_id is not None:
        query = query.where(Delivery.endpoint_id == endpoint_id)
    if status is not None:
        query = query.where(Delivery.status == status)
    found = session.execute(_of(session, query, tenant)).all()
    last = _last_attempts(session, [delivery.id for delivery, _, _ in found])
    return [_delivery_row(delivery, event, url, last.get(delivery.id)) for delivery, event, url in found]


def _last_attempts(session: Session, ids: list[UUID]) -> dict[UUID, DeliveryAttempt]:
    query = select(DeliveryAttempt).where(DeliveryAttempt.delivery_id.in_(ids)).order_by(DeliveryAttempt.id)
    return {attempt.delivery_id: attempt for attempt in session.scalars(query)}


def _delivery_row(delivery: Delivery, event: Event, url: str, last: DeliveryAttempt | None) -> dict[str, Any]:
    pending = delivery.status is DeliveryStatus.PENDING
    return {
        "id": delivery.id,
        "event": event.type.value,
        "case": event.case_id,
        "endpoint": url,
        "status": delivery.status.value,
        "attempts": delivery.attempts,
        "last_answer": (last.error or last.response_status) if last else None,
        "next_attempt_at": delivery.next_attempt_at if pending else None,
        "created_at": delivery.created_at,
        "delivered_at": delivery.delivered_at,
    }


def delivery_with(session: Session, delivery_id: UUID) -> Delivery:
    """A delivery of any tenant, locked. Raises NotFound."""
    delivery = session.get(Delivery, delivery_id, with_for_update={"of": Delivery})
    if delivery is None:
        raise NotFound(f"There is no delivery {delivery_id}; `telltale deliveries list` shows them.")
    return delivery


def policy_row(policy: Policy, tenant: str) -> dict[str, Any]:
    """One version of a tenant's policy."""
    return {
        "tenant": tenant,
        "version": policy.version,
        "fake_from": policy.fake_from,
        "real_up_to": policy.real_up_to,
        "min_pair_mass": policy.min_pair_mass,
        "explain": policy.explain.value,
        "created_at": policy.created_at,
    }


def found_cases(
    session: Session,
    tenant: str,
    *,
    status: CaseStatus | None,
    label: Label | None,
    external_id: str | None,
    limit: int,
) -> Rows:
    """A tenant's newest cases."""
    tenant_id = tenants.tenant_named(session, tenant).id
    found = cases.listed(session, tenant_id, limit=limit, status=status, label=label, external_id=external_id)
    return [case_row(case) for case in found]


def case_with(session: Session, case_id: UUID) -> Case:
    """A case of any tenant. Raises NotFound."""
    case = session.get(Case, case_id)
    if case is None:
        raise NotFound(f"There is no case {case_id}; `telltale cases list --tenant NAME` shows a tenant's.")
    return case


def case_row(case: Case) -> dict[str, Any]:
    """A case in one line."""
    return {
        "id": case.id,
        "external_id": case.submission.external_id,
        "status": case.status.value,
        "label": case.label.value if case.label else None,
        "p_fake": round(case.verdict.p_fake, 3) if case.verdict else None,
        "why": _why(case),
        "created_at": case.created_at,
        "ms": milliseconds(case.created_at, case.settled_at),
    }


def _why(case: Case) -> str | None:
    if case.failure_reason is not None:
        return case.failure_reason.value
    if case.status is CaseStatus.IN_REVIEW and case.review_reason is not None:
        return case.review_reason.value
    return case.decided_by.value if case.decided_by else None


def milliseconds(since: datetime, until: datetime | None) -> int | None:
    """How long something took, if it has ended."""
    return None if until is None else round((until - since).total_seconds() * 1000)


def case_events(session: Session, case_id: UUID) -> Rows:
    """A case's history, oldest first."""
    query = select(Event).where(Event.case_id == case_id).order_by(Event.sequence)
    return [
        {
            "sequence": event.sequence,
            "at": event.created_at,
            "event": event.type.value,
            "by": event.actor,
            "status": (event.after or {}).get("status"),
        }
        for event in session.scalars(query)
    ]


def model_versions(session: Session) -> Rows:
    """Every model version, newest first."""
    return [
        {
            "name": version.name,
            "stage": version.stage.value,
            "kind": version.manifest["kind"],
            "checkpoint": version.checkpoint,
            "golden": len(version.manifest.get("golden", ())),
            "created_at": version.created_at,
            "promoted_at": version.promoted_at,
        }
        for version in versions(session)
    ]


def _of(session: Session, query: Any, tenant: str | None) -> Any:
    """Bound to one tenant where one was named. Raises NotFound for a name that is none."""
    return query if tenant is None else query.where(Tenant.id == tenants.tenant_named(session, tenant).id)
