"""`/dashboard/platforms/{id}/endpoints`: where a platform's events are sent, and whether they arrive."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from api import problems
from api.auth import requires_role
from api.dashboard import filters
from api.dashboard.access import person
from api.process import current
from moderation import deliveries, endpoints
from moderation.db import transaction
from moderation.errors import AddressRefused, InvalidRequest
from moderation.tables import Endpoint
from moderation.vocabulary import OUTBOUND, EventType, Role

pages = Blueprint("endpoints", __name__)

# A ping goes to its endpoint alone, whatever that has chosen.
TYPES = [type_ for type_ in EventType if type_ in OUTBOUND and type_ is not EventType.ENDPOINT_PING]
REMOVED = "Disabled on its page."
REPLAYED_AT_FIRST = timedelta(days=1)


@pages.get("/dashboard/platforms/<uuid:tenant_id>/endpoints")
@requires_role(Role.ADMIN)
def page(tenant_id: UUID) -> str:
    """All of the platform's endpoints."""
    with transaction() as session:
        found = endpoints.listed(session, tenant_id)
    return render_template("endpoints/page.html", endpoints=found, now=datetime.now(UTC))


@pages.get("/dashboard/platforms/<uuid:tenant_id>/endpoints/new")
@requires_role(Role.ADMIN)
def new(tenant_id: UUID) -> str:
    """The form for a new one."""
    return _new()


@pages.post("/dashboard/platforms/<uuid:tenant_id>/endpoints")
@requires_role(Role.ADMIN)
def create(tenant_id: UUID) -> AnyResponse | str:
    """A new endpoint: the answer shows its secret, once."""
    url = request.form.get("url", "").strip()
    try:
        with transaction() as session:
            endpoint = endpoints.create(session, tenant_id, url, _types(), current().settings, actor=person().actor)
    except (AddressRefused, InvalidRequest) as error:
        return problems.beside(error, _new(error))
    return _secret_page(endpoint, "The endpoint is made")


@pages.get("/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>")
@requires_role(Role.ADMIN)
def page_of(tenant_id: UUID, endpoint_id: UUID) -> str:
    """One endpoint: its health, what it is sent, and what can be done with it."""
    return _page_of(tenant_id, endpoint_id)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>")
@requires_role(Role.ADMIN)
def change(tenant_id: UUID, endpoint_id: UUID) -> AnyResponse:
    """Send it other types of events from now on."""
    with transaction() as session:
        endpoint = endpoints.endpoint_of(session, tenant_id, endpoint_id)
        endpoints.change(session, endpoint, _types(), actor=person().actor)
    return _back(tenant_id, endpoint_id, "endpoint_changed")


@pages.post("/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/secret")
@requires_role(Role.ADMIN)
def rotate(tenant_id: UUID, endpoint_id: UUID) -> str:
    """A new secret, shown once; the one before signs too, until the next is made."""
    with transaction() as session:
        endpoint = endpoints.endpoint_of(session, tenant_id, endpoint_id)
        endpoints.rotate_secret(session, endpoint, actor=person().actor)
    return _secret_page(endpoint, "The secret is new")


@pages.post("/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/enable")
@requires_role(Role.ADMIN)
def enable(tenant_id: UUID, endpoint_id: UUID) -> AnyResponse:
    """Send to it again, at once."""
    with transaction(wake=True) as session:
        endpoints.enable(session, endpoints.endpoint_of(session, tenant_id, endpoint_id), actor=person().actor)
    return _back(tenant_id, endpoint_id, "endpoint_enabled")


@pages.post("/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/disable")
@requires_role(Role.ADMIN)
def disable(tenant_id: UUID, endpoint_id: UUID) -> AnyResponse:
    """Send nothing more to it, and tell the platform's other endpoints."""
    with transaction(wake=True) as session:
        endpoint = endpoints.endpoint_of(session, tenant_id, endpoint_id)
        if endpoint.disabled_at is None:
            endpoints.disable(session, endpoint, REMOVED, actor=person().actor)
    return _back(tenant_id, endpoint_id, "endpoint_disabled")


@pages.post("/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/ping")
@requires_role(Role.ADMIN)
def ping(tenant_id: UUID, endpoint_id: UUID) -> AnyResponse:
    """Send a test event, and on to its delivery, whose page follows what becomes of it."""
    with transaction(wake=True) as session:
        endpoint = endpoints.endpoint_of(session, tenant_id, endpoint_id)
        delivery = endpoints.ping(session, endpoint, actor=person().actor)
    return redirect(url_for("platforms.deliveries.page_of", tenant_id=tenant_id, delivery_id=delivery.id), 303)


@pages.get("/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/replay")
@requires_role(Role.ADMIN)
def ask_replay(tenant_id: UUID, endpoint_id: UUID) -> AnyResponse | str:
    """How many deliveries a range of time has, before they are sent again."""
    try:
        since, until = _range()
    except InvalidRequest as error:
        return problems.beside(error, _page_of(tenant_id, endpoint_id, error=error))
    with transaction() as session:
        endpoint = endpoints.endpoint_of(session, tenant_id, endpoint_id)
        count = deliveries.count_range(session, endpoint, since, until)
    return render_template("endpoints/replay.html", endpoint=endpoint, since=since, until=until, count=count)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/replay")
@requires_role(Role.ADMIN)
def replay(tenant_id: UUID, endpoint_id: UUID) -> AnyResponse:
    """Send all of the range again."""
    since, until = _range()
    with transaction(wake=True) as session:
        endpoint = endpoints.endpoint_of(session, tenant_id, endpoint_id)
        deliveries.replay_range(session, endpoint, since, until, actor=person().actor)
    log = url_for("platforms.deliveries.page", tenant_id=tenant_id, to=endpoint_id, said="deliveries_replayed")
    return redirect(log, 303)


def _range() -> tuple[datetime, datetime]:
    """The range of time in the request; its end is now where none is given. Raises InvalidRequest."""
    since = filters.moment_in(request.values, "since")
    until = filters.moment_in(request.values, "until") or datetime.now(UTC)
    if since is None:
        raise InvalidRequest("Say from when on events are sent again.", pointer="/since")
    if until <= since:
        raise InvalidRequest("The end of the range lies after its beginning.", pointer="/until")
    return since, until


def _types() -> list[str]:
    return request.form.getlist("event_types")


def _back(tenant_id: UUID, endpoint_id: UUID, said: str) -> AnyResponse:
    address = url_for("platforms.endpoints.page_of", tenant_id=tenant_id, endpoint_id=endpoint_id, said=said)
    return redirect(address, 303)


def _new(error: AddressRefused | InvalidRequest | None = None) -> str:
    return render_template(
        "endpoints/new.html", types=TYPES, chosen=_types(), url=request.form.get("url", ""), error=error
    )


def _page_of(tenant_id: UUID, endpoint_id: UUID, *, error: InvalidRequest | None = None) -> str:
    with transaction() as session:
        endpoint = endpoints.endpoint_of(session, tenant_id, endpoint_id)
        latest = deliveries.listed(session, tenant_id, endpoint_id=endpoint_id, limit=5)
        attempts = deliveries.attempts_of(session, latest)
    shown: dict[str, Any] = {"endpoint": endpoint, "latest": latest, "attempts": attempts, "types": TYPES}
    since = request.args.get("since") or filters.field_value(datetime.now(UTC) - REPLAYED_AT_FIRST)
    at_fault = (error.pointer or "").removeprefix("/") if error else None
    return render_template(
        "endpoints/endpoint.html",
        since=since,
        until=request.args.get("until", ""),
        error=error,
        at_fault=at_fault,
        now=datetime.now(UTC),
        **shown,
    )


def _secret_page(endpoint: Endpoint, title: str) -> str:
    return render_template(
        "endpoints/secret.html", endpoint=endpoint, secret=endpoints.secrets_of(endpoint)[0], heading=title
    )
