"""`/dashboard/platforms/{id}/people`: who works for a platform, and as what."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from api import problems
from api.auth import requires_role
from api.dashboard import filters
from api.dashboard.access import person
from api.process import current
from moderation import members
from moderation.db import transaction
from moderation.errors import Conflict, InvalidRequest
from moderation.members import Returned
from moderation.vocabulary import Role

pages = Blueprint("people", __name__)

ROLES = {
    Role.MODERATOR: "reviews cases",
    Role.LEAD: "reviews, and decides what moderators hand on; sees restricted cases, failed cases and the audit log",
    Role.ADMIN: "all of that, and these pages",
}


@pages.get("/dashboard/platforms/<uuid:tenant_id>/people")
@requires_role(Role.ADMIN)
def page(tenant_id: UUID) -> str:
    """Everybody, and a form for one more."""
    return _page(tenant_id)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/people")
@requires_role(Role.ADMIN)
def add(tenant_id: UUID) -> AnyResponse | str:
    """Somebody more. Who has no account gets one: the answer shows its first password, once."""
    try:
        role = _role()
        with transaction() as session:
            user, password = members.add(session, person(), tenant_id, request.form.get("email", ""), role)
    except (InvalidRequest, Conflict) as error:
        return problems.beside(error, _page(tenant_id, error))
    if password is None:
        return _back(tenant_id, "member_added")
    address = current().settings.public_url.rstrip("/") + url_for("sign_in.form")
    return render_template("people/made.html", user=user, role=role, password=password, address=address)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/people/<uuid:user_id>/role")
@requires_role(Role.ADMIN)
def change_role(tenant_id: UUID, user_id: UUID) -> AnyResponse:
    """Another role for somebody."""
    try:
        with transaction() as session:
            returned = members.change_role(session, tenant_id, user_id, _role(), actor=person().actor)
    except (InvalidRequest, Conflict) as error:
        return problems.beside(error, _page(tenant_id, error))
    if user_id == person().user_id:
        # Who is no administrator any more may not see these pages.
        return redirect(url_for("home.page", said="member_changed"), 303)
    return _back(tenant_id, "member_changed", returned)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/people/<uuid:user_id>/remove")
@requires_role(Role.ADMIN)
def remove(tenant_id: UUID, user_id: UUID) -> AnyResponse:
    """Let somebody go; what they had in hand goes back to the others."""
    try:
        with transaction() as session:
            returned = members.remove(session, tenant_id, user_id, actor=person().actor)
    except Conflict as error:
        return problems.beside(error, _page(tenant_id, error))
    if user_id == person().user_id:
        return redirect(url_for("home.page", said="member_removed"), 303)
    return _back(tenant_id, "member_removed", returned)


def _role() -> Role:
    role = filters.word_in(request.form, "role", Role)
    if role is None:
        raise InvalidRequest("Choose a role.", pointer="/role")
    return role


def _back(tenant_id: UUID, said: str, returned: Returned | None = None) -> AnyResponse:
    gave_back = returned is not None and (returned.claims or returned.assignments)
    return redirect(
        url_for("platforms.people.page", tenant_id=tenant_id, said=f"{said}_back" if gave_back else said), 303
    )


def _page(tenant_id: UUID, error: InvalidRequest | Conflict | None = None) -> str:
    with transaction() as session:
        found = members.workers_of(session, tenant_id)
    return render_template("people/page.html", workers=found, roles=ROLES, error=error, typed=request.form)
