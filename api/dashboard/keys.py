"""`/dashboard/platforms/{id}/keys`: what a platform's programs sign in with."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from api import problems
from api.auth import requires_role
from api.dashboard.access import person
from moderation import tenants
from moderation.db import transaction
from moderation.errors import InvalidRequest
from moderation.vocabulary import Role, Scope

pages = Blueprint("keys", __name__)

SCOPES = {
    Scope.SUBMISSIONS_WRITE: "send images, and have failed ones tried again",
    Scope.CASES_READ: "read cases and their verdicts",
    Scope.CASES_APPEAL: "appeal decisions",
    Scope.IMAGES_DELETE: "erase images",
    Scope.SETTINGS_MANAGE: "set how long data is kept, and what statements of reasons say of you",
    Scope.WEBHOOKS_MANAGE: "set up endpoints, read and replay deliveries",
}
# What a platform's upload code needs, and no more.
USUAL = (Scope.SUBMISSIONS_WRITE, Scope.CASES_READ)


@pages.get("/dashboard/platforms/<uuid:tenant_id>/keys")
@requires_role(Role.ADMIN)
def page(tenant_id: UUID) -> str:
    """The keys, and a form for a new one."""
    return _page(tenant_id)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/keys")
@requires_role(Role.ADMIN)
def create(tenant_id: UUID) -> AnyResponse | str:
    """A new key: the answer shows it, once."""
    try:
        scopes = [Scope(word) for word in request.form.getlist("scopes") if word in set(Scope)]
        with transaction() as session:
            key, token = tenants.create_key(
                session, tenant_id, request.form.get("name", ""), scopes, actor=person().actor
            )
    except InvalidRequest as error:
        return problems.beside(error, _page(tenant_id, error))
    return render_template("keys/made.html", key=key, token=token)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/keys/<uuid:key_id>/revoke")
@requires_role(Role.ADMIN)
def revoke(tenant_id: UUID, key_id: UUID) -> AnyResponse:
    """End a key at once."""
    with transaction() as session:
        tenants.revoke(session, tenants.key_of(session, tenant_id, key_id), actor=person().actor)
    return redirect(url_for("platforms.keys.page", tenant_id=tenant_id, said="key_revoked"), 303)


def _page(tenant_id: UUID, error: InvalidRequest | None = None) -> str:
    with transaction() as session:
        found = tenants.keys_of(session, tenant_id)
    chosen = request.form.getlist("scopes") if error else [scope.value for scope in USUAL]
    return render_template(
        "keys/page.html", keys=found, scopes=SCOPES, chosen=chosen, error=error, name=request.form.get("name", "")
    )
