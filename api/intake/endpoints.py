"""`/v1/endpoints`: where a tenant wants its events sent, and with which secret they are signed."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from uuid import UUID

from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, Field

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, Moment, Sent, Shown, Url
from api.process import current
from moderation import deliveries, endpoints
from moderation.db import transaction
from moderation.errors import AddressRefused, InvalidRequest
from moderation.tables import Endpoint
from moderation.vocabulary import OUTBOUND, EventType, Scope

api = APIBlueprint("endpoints", __name__, abp_tags=[Tag(name="Webhooks out")], abp_security=SECURITY)

REMOVED = "Removed through the API."


class EndpointBody(Sent):
    """An endpoint to be."""

    url: Url = Field(
        description="http(s), public; see docs/api.md for ports", examples=["https://example.com/hooks/telltale"]
    )
    event_types: list[EventType] = Field(
        default_factory=list,
        max_length=len(OUTBOUND),
        description="empty: all that are sent",
        json_schema_extra={"items": {"type": "string", "enum": sorted(OUTBOUND)}},
        examples=[["verdict.completed", "verdict.failed", "decision.created"]],
    )


class EndpointPath(BaseModel):
    """Where an endpoint is named in the path."""

    endpoint_id: UUID = Field(description="as the answer to its registration has it")


class EndpointShown(Shown):
    """An endpoint. A disabled one is sent nothing; what was pending for it goes out when it is enabled."""

    id: UUID
    url: str = Field(description="where its events are sent")
    event_types: list[str] = Field(description="those it is sent; empty: all that are sent")
    created_at: datetime
    failing_since: datetime | None = Field(description="since when every attempt failed")
    disabled_at: datetime | None = Field(description="since when nothing is sent to it")
    disabled_reason: str | None = Field(description="what it answered, or who disabled it")


class NewEndpointShown(EndpointShown):
    """An endpoint with its newest secret, which is shown this once."""

    secret: str = Field(description="for your verifier", examples=["whsec_…"])


class EndpointsShown(Shown):
    """All of a tenant's endpoints, oldest first."""

    endpoints: list[EndpointShown] = Field(description="with the disabled ones")


class QueuedShown(Shown):
    """How many deliveries will be sent."""

    queued: int = Field(description="deliveries that go out now")


class ReplayBody(Sent):
    """Which events to send again: those made from `since` on and before `until`."""

    since: Moment = Field(description="from this moment on", examples=["2026-01-01T00:00:00Z"])
    until: Moment | None = Field(default=None, description="now, if left out")


@api.post(
    "/v1/endpoints",
    operation_id="createEndpoint",
    summary="Register an endpoint",
    responses={201: NewEndpointShown} | problems.declared(401, 403, 413, 415),
)
@requires(Scope.WEBHOOKS_MANAGE)
def create_endpoint(body: EndpointBody) -> Answer:
    """The answer holds the secret, once."""
    types = [type_.value for type_ in body.event_types]
    who = caller()
    with transaction() as session:
        try:
            endpoint = endpoints.create(session, who.tenant_id, body.url, types, current().settings, actor=who.actor)
        except AddressRefused as error:
            error.pointer = "/url"
            raise
        return _with_secret(endpoint, endpoints.secrets_of(endpoint)[0]), HTTPStatus.CREATED


@api.get(
    "/v1/endpoints",
    operation_id="listEndpoints",
    summary="List endpoints",
    responses={200: EndpointsShown} | problems.declared(401, 403),
)
@requires(Scope.WEBHOOKS_MANAGE)
def list_endpoints() -> Answer:
    """With the disabled ones."""
    with transaction() as session:
        return {"endpoints": [_shown(endpoint) for endpoint in endpoints.listed(session, caller().tenant_id)]}


@api.get(
    "/v1/endpoints/<uuid:endpoint_id>",
    operation_id="getEndpoint",
    summary="One endpoint",
    responses={200: EndpointShown} | problems.declared(401, 403, 404),
)
@requires(Scope.WEBHOOKS_MANAGE)
def get_endpoint(path: EndpointPath) -> Answer:
    """Its secret is not shown again; rotate it if it is lost."""
    with transaction() as session:
        return _shown(endpoints.endpoint_of(session, caller().tenant_id, path.endpoint_id))


@api.delete(
    "/v1/endpoints/<uuid:endpoint_id>",
    operation_id="disableEndpoint",
    summary="Disable an endpoint",
    responses={204: None} | problems.declared(401, 403, 404),
)
@requires(Scope.WEBHOOKS_MANAGE)
def disable_endpoint(path: EndpointPath) -> Answer:
    """Nothing more is sent to it. It stays in the list with its deliveries, and can be enabled again."""
    with transaction(wake=True) as session:
        who = caller()
        endpoint = endpoints.endpoint_of(session, who.tenant_id, path.endpoint_id)
        if endpoint.disabled_at is None:
            endpoints.disable(session, endpoint, REMOVED, actor=who.actor)
        return "", HTTPStatus.NO_CONTENT


@api.post(
    "/v1/endpoints/<uuid:endpoint_id>/enable",
    operation_id="enableEndpoint",
    summary="Enable an endpoint",
    responses={200: EndpointShown} | problems.declared(401, 403, 404),
)
@requires(Scope.WEBHOOKS_MANAGE)
def enable_endpoint(path: EndpointPath) -> Answer:
    """What is pending goes out at once; events from while it was disabled were not kept for it."""
    with transaction(wake=True) as session:
        who = caller()
        endpoint = endpoints.endpoint_of(session, who.tenant_id, path.endpoint_id)
        endpoints.enable(session, endpoint, actor=who.actor)
        return _shown(endpoint)


@api.post(
    "/v1/endpoints/<uuid:endpoint_id>/rotate-secret",
    operation_id="rotateEndpointSecret",
    summary="Rotate the secret",
    responses={200: NewEndpointShown} | problems.declared(401, 403, 404),
)
@requires(Scope.WEBHOOKS_MANAGE)
def rotate_secret(path: EndpointPath) -> Answer:
    """Deliveries are signed with the new secret and with the one before, so receivers change over in peace."""
    with transaction() as session:
        who = caller()
        endpoint = endpoints.endpoint_of(session, who.tenant_id, path.endpoint_id)
        return _with_secret(endpoint, endpoints.rotate_secret(session, endpoint, actor=who.actor))


@api.post(
    "/v1/endpoints/<uuid:endpoint_id>/ping",
    operation_id="pingEndpoint",
    summary="Send a test event",
    responses={202: QueuedShown} | problems.declared(401, 403, 404),
)
@requires(Scope.WEBHOOKS_MANAGE)
def ping(path: EndpointPath) -> Answer:
    """An `endpoint.ping` to this endpoint alone; its fate is in GET /v1/deliveries."""
    with transaction(wake=True) as session:
        who = caller()
        endpoints.ping(session, endpoints.endpoint_of(session, who.tenant_id, path.endpoint_id), actor=who.actor)
    return {"queued": 1}, HTTPStatus.ACCEPTED


@api.post(
    "/v1/endpoints/<uuid:endpoint_id>/replay",
    operation_id="replayEndpoint",
    summary="Send a time range again",
    responses={202: QueuedShown} | problems.declared(401, 403, 404, 413, 415),
)
@requires(Scope.WEBHOOKS_MANAGE)
def replay(path: EndpointPath, body: ReplayBody) -> Answer:
    """Delivered or not, each goes out again under its own `webhook-id`, by which receivers know what they have."""
    until = body.until or datetime.now(UTC)
    if until <= body.since:
        raise InvalidRequest("until must be later than since.", pointer="/until")
    with transaction(wake=True) as session:
        who = caller()
        endpoint = endpoints.endpoint_of(session, who.tenant_id, path.endpoint_id)
        queued = deliveries.replay_range(session, endpoint, body.since, until, actor=who.actor)
    return {"queued": queued}, HTTPStatus.ACCEPTED


def _shown(endpoint: Endpoint) -> dict[str, object]:
    return EndpointShown.model_validate(endpoint).model_dump(mode="json")


def _with_secret(endpoint: Endpoint, secret: str) -> dict[str, object]:
    return _shown(endpoint) | {"secret": secret}
