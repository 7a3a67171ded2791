"""The platforms that send images: each a tenant with a key, an inbound source and endpoints of its own.

Endpoints are registered through the API, as a platform would; the rest has no other way than the domain's.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from uuid import UUID

import urllib3

from benchmarks.chaos.receivers import Receivers
from moderation import sources, tenants
from moderation.db import transaction
from moderation.tables import Source
from moderation.vocabulary import Scope, SourceKind, SourceScheme

# Told of everything, and never in a bad mood; in every mood there is; gone one day, and then never called again.
STEADY, MOODY, GONE = "steady", "moody", "gone"
PATIENCE_S = 60.0


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
        sources.create_source(session, source)
        return Platform(name, tenant.id, key, f"/v1/hooks/{source.id}", sources.secrets_of(source)[0])


def add_endpoint(platform: Platform, api: str, receivers: Receivers, kind: str) -> str:
    """Register an endpoint and trust its secret; its name. Tries until the API answers, for faults may be under way.

    One whose answer was lost stays registered beside it, as it would for any platform: its webhooks are refused with
    503 by a receiver that has no secret for it, so it has a path of its own.
    """
    deadline = time.monotonic() + PATIENCE_S
    pool = urllib3.PoolManager(timeout=10, retries=False)
    headers = {"authorization": f"Bearer {platform.key}", "content-type": "application/json"}
    while True:
        name = f"{platform.name}.{kind}.{time.time_ns()}"
        body = json.dumps({"url": receivers.url(name)}).encode()
        try:
            answer = pool.request("POST", f"{api}/v1/endpoints", body=body, headers=headers)
            if answer.status == 201:
                receivers.trust(name, json.loads(answer.data)["secret"])
                return name
        except urllib3.exceptions.HTTPError:
            answer = None
        if time.monotonic() > deadline:
            said = answer.data.decode(errors="replace") if answer else "nothing"
            raise RuntimeError(f"{platform.name} could not register an endpoint within {PATIENCE_S:.0f} s: {said}")
        time.sleep(0.5)
