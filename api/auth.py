"""Who is calling, and whether they may: every route says which scope or role it needs, or that it is public.

Scopes are of API keys, which the API takes; roles are of people, who sign in to the dashboard
(api/dashboard/access.py); neither takes the other's. Authentication comes before anything of the request's body is
read. This module does not know how keys are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, current_app, g, request

from moderation import logs, tenants
from moderation.errors import Unauthenticated
from moderation.tenants import Caller
from moderation.vocabulary import Role, Scope

View = TypeVar("View", bound=Callable[..., Any])

SCOPE = "telltale_scope"
ROLE = "telltale_role"
PUBLIC = "telltale_public"
OPERATOR = "telltale_operator"
# Where people work; everything else is for programs.
DASHBOARD = "/dashboard"
# In the OpenAPI document.
API_KEY = "api_key"
SECURITY = [{API_KEY: []}]


def requires(scope: Scope) -> Callable[[View], View]:
    """Mark a view as open to keys with this scope; inside it `caller()` says whose."""

    def mark(view: View) -> View:
        setattr(view, SCOPE, scope)
        return view

    return mark


def requires_role(role: Role) -> Callable[[View], View]:
    """Mark a page or action of the dashboard as open to people who have this role, or one that covers it.

    Where the route has a `tenant_id`, they must have it there; elsewhere for any tenant, and the view, which knows the
    tenant, asks `person().require(role, tenant_id)`.
    """

    def mark(view: View) -> View:
        setattr(view, ROLE, role)
        return view

    return mark


def operators_only(view: View) -> View:
    """Mark a page or action that concerns every tenant at once; beside `requires_role`, and below it."""
    setattr(view, OPERATOR, True)
    return view


def signed_in(view: View) -> View:
    """Mark a page or action of the dashboard as open to everybody who is signed in."""
    setattr(view, ROLE, None)
    return view


def public(view: View) -> View:
    """Mark a view as open to everybody, or as one that authenticates in its own way."""
    setattr(view, PUBLIC, True)
    return view


def caller() -> Caller:
    """Whose key this request came with."""
    found: Caller = g.caller
    return found


def authenticate() -> None:
    """Before every request to the API: refuse who has no key, or one without the scope.

    Raises Unauthenticated, Forbidden.
    """
    view = current_app.view_functions.get(request.endpoint or "")
    if view is None or getattr(view, PUBLIC, False) or hasattr(view, ROLE):
        return
    g.caller = tenants.authenticate(_token())
    logs.add(tenant_id=g.caller.tenant_id)
    g.caller.require(getattr(view, SCOPE))


def _token() -> str:
    header = request.headers.get("Authorization", "")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("Send your API key: Authorization: Bearer tt_…")
    return token.strip()


def refuse_unmarked(app: Flask) -> None:
    """Raise RuntimeError where a route does not say exactly one: what it needs, or that it is public."""
    paths = {rule.endpoint: rule.rule for rule in app.url_map.iter_rules()}
    for name, view in app.view_functions.items():
        needed = ROLE if paths.get(name, "").startswith(DASHBOARD) else SCOPE
        if [mark for mark in (SCOPE, ROLE, PUBLIC) if hasattr(view, mark)] not in ([needed], [PUBLIC]):
            what = "@requires_role(role), @signed_in" if needed == ROLE else "@requires(scope)"
            raise RuntimeError(f"The view {name} needs exactly one of {what} or @public.")
