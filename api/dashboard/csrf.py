"""Forms come from our own pages: every request that changes something carries a token that only those pages know.

The token is made from the secret in the browser's cookie, which no other site can read: from the sign-in's own secret,
so it ends with it, or, before anybody is signed in, from that of the visit.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from flask import Response, g, request

from api.dashboard import cookies
from moderation.errors import Forbidden

FIELD = "csrf_token"
HEADER = "X-CSRF-Token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class OutdatedPage(Forbidden):
    """The form is not of a page of this sign-in; its text may be its author's all the same."""


def token() -> str:
    """What this page's forms must send back."""
    return _made_from(_secret())


def check() -> None:
    """Raise OutdatedPage where a request that changes something does not carry its token."""
    if request.method in SAFE_METHODS:
        return
    sent = request.headers.get(HEADER) or request.form.get(FIELD, "")
    if not hmac.compare_digest(_made_from(_secret()).encode(), sent.encode("utf-8", "surrogatepass")):
        raise OutdatedPage("This page is no longer current, so nothing was changed. Reload it and try again.")


def remember_visit(response: Response) -> Response:
    """Have the browser keep the secret of a visit that began with this page."""
    if "visit" in g and cookies.read(cookies.VISIT) != g.visit:
        cookies.write(response, cookies.VISIT, g.visit)
    return response


def _secret() -> str:
    if g.get("person") is not None:
        return str(g.session_token)
    if "visit" not in g:
        g.visit = cookies.read(cookies.VISIT) or secrets.token_urlsafe(32)
    return str(g.visit)


def _made_from(secret: str) -> str:
    return hmac.new(secret.encode("utf-8", "surrogatepass"), b"telltale csrf", hashlib.sha256).hexdigest()
