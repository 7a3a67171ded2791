"""A platform with one of everything that its pages show: key, source, endpoint, deliveries, a failed case."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from moderation import attempts, endpoints, sources, tenants
from moderation.attempts import Outcome
from moderation.tables import ApiKey, Case, Delivery, Endpoint, Source, Tenant
from moderation.vocabulary import CaseStatus, Scope, SourceKind, SourceScheme
from tests.factories import champion_or_new, make_case, make_endpoint

LEASE = timedelta(seconds=30)
USUAL = [Scope.SUBMISSIONS_WRITE, Scope.CASES_READ]


@dataclass(frozen=True)
class Furnished:
    """One platform's things."""

    tenant: Tenant
    key: ApiKey
    source: Source
    endpoint: Endpoint
    delivery: Delivery
    failed: Case

    def path(self, rest: str = "") -> str:
        """A page of it; ids are named in braces, such as /keys/{key}/revoke."""
        ids = {name: getattr(self, name).id for name in ("key", "source", "endpoint", "delivery", "failed")}
        return f"/dashboard/platforms/{self.tenant.id}" + rest.format(**ids)


def furnish(session: Session, tenant: Tenant) -> Furnished:
    """Give a tenant one of everything."""
    champion_or_new(session)
    key, _ = tenants.create_key(session, tenant.id, "upload service", USUAL)
    source = sources.create(session, make_source(tenant))
    endpoint = make_endpoint(session, tenant, "https://pixelgram.example/hooks/telltale")
    failed = make_case(session, tenant, CaseStatus.FAILED, external_id="post-404")
    delivery = endpoints.ping(session, endpoint)
    session.flush()
    attempt(session, delivery.id, Outcome(204, "", None, 38))
    return Furnished(tenant, key, source, endpoint, delivery, failed)


def make_source(tenant: Tenant, scheme: SourceScheme = SourceScheme.STANDARD) -> Source:
    """A source of uploads, not stored yet."""
    return Source(
        tenant_id=tenant.id,
        name="uploads",
        scheme=scheme,
        kind=SourceKind.JSON,
        image_url_pointer="/data/image/url",
        external_id_pointer="/data/id",
        metadata_pointer="/data",
    )


def attempt(session: Session, delivery_id: UUID, outcome: Outcome) -> None:
    """One attempt of a delivery, and what came of it."""
    parcel = attempts.take(session, delivery_id, LEASE)
    assert parcel is not None
    attempts.settle(session, parcel, outcome)
    session.flush()
