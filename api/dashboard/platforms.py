"""`/dashboard/platforms`: the platforms one leads or administers, and how each one's cases are looked at.

The pages below a platform (keys, sources, endpoints, …) are in the modules of those names. A new one is made by whoever
runs Telltale (`telltale tenants create`): names are unique, and here one that is taken would tell whose the others are.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from api import problems
from api.auth import requires_role
from api.dashboard import audit, deliveries, endpoints, failures, keys, people, sources, thresholds
from api.dashboard.access import person
from moderation import retention, tenants
from moderation.db import transaction
from moderation.errors import InvalidRequest
from moderation.retention import Periods
from moderation.tables import Tenant
from moderation.tenants import SHARES
from moderation.vocabulary import Role

pages = Blueprint("platforms", __name__)
for below in (keys, sources, endpoints, deliveries, failures, thresholds, people, audit):
    pages.register_blueprint(below.pages)


@pages.get("/dashboard/platforms")
@requires_role(Role.LEAD)
def page() -> str:
    """The platforms that one leads or administers."""
    with transaction() as session:
        found = tenants.tenants_with(session, person().tenant_ids_as(Role.LEAD))
    return render_template("platforms/page.html", tenants=found)


@pages.get("/dashboard/platforms/<uuid:tenant_id>")
@requires_role(Role.ADMIN)
def settings(tenant_id: UUID) -> str:
    """How the platform's cases are looked at, and whether they may be trained on."""
    return _settings(tenant_id)


@pages.post("/dashboard/platforms/<uuid:tenant_id>")
@requires_role(Role.ADMIN)
def change(tenant_id: UUID) -> Response:
    """Other settings, for cases to come."""
    try:
        wanted = _wanted(request.form)
        with transaction() as session:
            changed = tenants.change_tenant(session, tenant_id, wanted, actor=person().actor)
    except InvalidRequest as error:
        return problems.beside(error, _settings(tenant_id, error))
    said = "platform_changed" if changed else "platform_unchanged"
    return redirect(url_for("platforms.settings", tenant_id=tenant_id, said=said), 303)


def _wanted(form: Mapping[str, str]) -> dict[str, bool | float]:
    """What the form says; its shares are in per cent. Raises InvalidRequest for what is no number."""
    return {"allow_training": form.get("allow_training") == "1", **{name: _share(form, name) for name in SHARES}}


def _share(form: Mapping[str, str], name: str) -> float:
    try:
        # Of what people type, six digits: 33.3 / 100 is 0.33299999999999996.
        return round(float(form.get(name, "")) / 100, 6)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest("A share is a number from 0 to 100, in per cent.", pointer=f"/{name}") from error


@pages.post("/dashboard/platforms/<uuid:tenant_id>/retention")
@requires_role(Role.ADMIN)
def keep(tenant_id: UUID) -> Response:
    """How long the platform's data is kept from now on."""
    try:
        with transaction() as session:
            periods = Periods(**{name: _days(request.form, name) for name in retention.LEAST_DAYS})
            changed = retention.set_periods(session, tenant_id, periods, actor=person().actor)
    except InvalidRequest as error:
        return problems.beside(error, _settings(tenant_id, error))
    said = "retention_changed" if changed else "platform_unchanged"
    return redirect(url_for("platforms.settings", tenant_id=tenant_id, said=said), 303)


def _days(form: Mapping[str, str], name: str) -> int | None:
    """A number of days; None where the field is empty."""
    typed = form.get(name, "").strip()
    try:
        return int(typed) if typed else None
    except ValueError as error:
        raise InvalidRequest("A number of days, or nothing: then it is kept for ever.", pointer=f"/{name}") from error


def _settings(tenant_id: UUID, error: InvalidRequest | None = None) -> str:
    with transaction() as session:
        tenant = session.get_one(Tenant, tenant_id)
    return render_template(
        "platforms/settings.html",
        tenant=tenant,
        periods=retention.periods_of(tenant),
        least=retention.LEAST_DAYS,
        most=retention.MOST_DAYS,
        error=error,
        typed=request.form if error else None,
        at_fault=_at(error),
    )


def _at(error: InvalidRequest | None) -> str | None:
    return (error.pointer or "").removeprefix("/") if error else None
