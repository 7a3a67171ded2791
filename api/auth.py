"""Who is calling, and whether they may: every route says which scope it needs, or that it is public.

Authentication comes before anything of the request's body is read. This module does not know how keys are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, current_app, g, request

from moderation import tenants
from moderation.errors import Unauthenticated
from moderation.tenants import Caller
from moderation.vocabulary import Scope

View = TypeVar("View", bound=Callable[..., Any])

SCOPE = "telltale_scope"
PUBLIC = "telltale_public"
# In the OpenAPI document.
API_KEY = "api_key"
SECURITY = [{API_KEY: []}]


def requires(scope: Scope) -> Callable[[View], View]:
    """Mark a view as open to keys with this scope; inside it `caller()` says whose."""

    def mark(view: View) -> View:
        setattr(view, SCOPE, scope)
        return view

    return mark


def public(view: View) -> View:
    """Mark a view as open to everybody, or as one that authenticates in its own way."""
    setattr(view, PUBLIC, True)
    return view


def caller() -> Caller:
    """Whose key this request came with."""
    found: Caller = g.caller
    return found


def authenticate() -> None:
    """Before every request: refuse who has no key, or one without the scope.

    Raises Unauthenticated, Forbidden.
    """
    view = current_app.view_functions.get(request.endpoint or "")
    if view is None or getattr(view, PUBLIC, False):
        return
    g.caller = tenants.authenticate(_token())
    g.caller.require(getattr(view, SCOPE))


def _token() -> str:
    header = request.headers.get("Authorization", "")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("Send your API key: Authorization: Bearer tt_…")
    return token.strip()


def refuse_unmarked(app: Flask) -> None:
    """Raise RuntimeError where a route says neither which scope it needs nor that it is public."""
    for name, view in app.view_functions.items():
        if not hasattr(view, SCOPE) and not hasattr(view, PUBLIC):
            raise RuntimeError(f"The view {name} has neither @requires(scope) nor @public.")
