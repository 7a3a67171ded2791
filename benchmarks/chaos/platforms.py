"""The platforms that send images: each a tenant with a key, an inbound source and endpoints of its own.

Endpoints are registered through the API, as a platform would; the rest has no other way than the domain's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from benchmarks.chaos.receivers import Receivers
from infra.client import Client, ClientError
from moderation import sources, tenants
from moderation.db import transaction
from moderation.tables import Source
from moderation.vocabulary import Scope, SourceKind, SourceScheme

# Told of everything, and never in a bad mood; in every mood there is; gone one day, and then never called again.
STEADY, MOODY, GONE = "steady", "moody", "gone"
PATIENCE_S = 60.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class Platform:
    """What a platform's own code would hold."""

    name: str
    tenant_id: UUID
    key: str
    hook: str
    hook_secret: str


def new_platform(name: str) -> Platform:
    """A tenant with everything it sends with; its endpoints are `add_endpoint`'s."""
    with transaction() as session:
        tenant = tenants.create_tenant(session, name)
        _, key = tenants.create_key(session, tenant.id, "chaos", list(Scope))
        source = Source(
            tenant_id=tenant.id,
            name="uploads",
            scheme=SourceScheme.STANDARD,
            kind=SourceKind.JSON,
            secrets=[],
            image_url_pointer="/data/url",
            external_id_pointer="/data/id",
            metadata_pointer="/data/metadata",
        )
        sources.create(session, source)
        return Platform(name, tenant.id, key, f"/v1/hooks/{source.id}", sources.secrets_of(source)[0])


def add_endpoint(platform: Platform, api: str, receivers: Receivers, kind: str) -> str:
    """Register an endpoint and trust its secret; its name.

    One whose answer was lost stays registered, and is called in vain until `remove_strays`.
    """

    def register() -> str:
        name = f"{platform.name}.{kind}.{time.time_ns()}"
        endpoint = _client(platform, api).request("POST", "/v1/endpoints", {"url": receivers.url(name)})
        receivers.trust(name, endpoint["secret"])
        return name

    return _until_answered(register)


def remove_strays(platform: Platform, api: str, receivers: Receivers) -> None:
    """Disable the endpoints whose secret was lost with the answer that held it."""

    def remove() -> None:
        client = _client(platform, api)
        for endpoint in client.request("GET", "/v1/endpoints")["endpoints"]:
            if endpoint["disabled_at"] is None and not receivers.trusts(endpoint["url"].rpartition("/")[2]):
                client.request("DELETE", f"/v1/endpoints/{endpoint['id']}")

    _until_answered(remove)


def _client(platform: Platform, api: str) -> Client:
    # One attempt: what is lost is looked after here.
    return Client(api, platform.key, timeout_s=10, retries=0)


def _until_answered(act: Callable[[], Result]) -> Result:
    """Faults may be under way. Raises ClientError when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return act()
        except ClientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
