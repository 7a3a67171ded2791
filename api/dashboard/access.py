"""Who is signed in, and whether they may: before every request to the dashboard.

Which role a page needs is said at its view, with the marks of api/auth.py. This module does not know how sign-ins are
stored.
"""

from __future__ import annotations

from urllib.parse import quote
from uuid import UUID

from flask import current_app, g, redirect, request, url_for
from werkzeug.wrappers import Response

from api import auth
from api.dashboard import cookies, csrf
from moderation import accounts
from moderation.accounts import Person
from moderation.errors import Forbidden, Unauthenticated
from moderation.vocabulary import Role

# What an open page asks by itself: nobody may be there.
BY_ITSELF = frozenset({"review.heartbeat", "why.part"})
# Pages that follow what they show: opened by somebody, and asked for again, through htmx, by themselves.
FOLLOWING = frozenset({"platforms.deliveries.page_of"})


def person() -> Person:
    """Who is signed in, in a view that is not public."""
    found: Person = g.person
    return found


def person_or_none() -> Person | None:
    """Who is signed in, if anybody, on any page."""
    found: Person | None = g.get("person")
    return found


def authenticate() -> Response | None:
    """Send who is not signed in to where they can be; refuse whose role or token does not suffice.

    Raises Unauthenticated, Forbidden (OutdatedPage where it is the token), NotFound.
    """
    if not _is_dashboard():
        return None
    view = current_app.view_functions.get(request.endpoint or "")
    public = view is None or hasattr(view, auth.PUBLIC)
    error = _adopt_person(quick=request.endpoint == "assets.asset")
    if not public and error is not None:
        return _to_sign_in(error)
    csrf.check()
    if not public:
        _require(getattr(view, auth.ROLE))
        if hasattr(view, auth.OPERATOR):
            person().require_operator()
    return None


def _is_dashboard() -> bool:
    return request.path == auth.DASHBOARD or request.path.startswith(f"{auth.DASHBOARD}/")


def _adopt_person(*, quick: bool) -> Unauthenticated | None:
    """Find out who is signed in; returns why nobody is. `quick` is for what is the same for everybody."""
    token = None if quick else cookies.read(cookies.SESSION)
    if token is None:
        return Unauthenticated("You are not signed in. Sign in and try again.")
    try:
        g.person, g.session_token = accounts.person_with(token, touch=not _is_by_itself()), token
    except Unauthenticated as error:
        return error
    return None


def _is_by_itself() -> bool:
    follows = request.endpoint in FOLLOWING and "HX-Request" in request.headers
    return request.endpoint in BY_ITSELF or follows


def _to_sign_in(error: Unauthenticated) -> Response:
    """To the sign-in page and back; but never away from a form that somebody has filled in."""
    if request.method not in csrf.SAFE_METHODS or "HX-Request" in request.headers:
        raise error
    path = request.full_path.rstrip("?")
    return redirect(f"{url_for('sign_in.form')}?next={quote(path, safe='/')}", 303)


def _require(role: Role | None) -> None:
    if role is None:
        return
    tenant_id = (request.view_args or {}).get("tenant_id")
    if isinstance(tenant_id, UUID):
        person().require(role, tenant_id)
    elif not person().is_somewhere(role):
        raise Forbidden(f"Only a {role.value} may open this. Ask an administrator of your platform for that role.")
