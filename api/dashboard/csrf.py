"""Forms come from our own pages: every request that changes something carries a token that only those pages know.

The token is made from the secret in the browser's cookie, which no other site can read: from the sign-in's own secret,
so it ends with it, or, before anybody is signed in, from that of the visit.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from flask import Response, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from api.dashboard import cookies
from moderation.errors import Forbidden

FIELD = "csrf_token"
HEADER = "X-CSRF-Token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# A form that the server gathers before a thread has it (infra/connections.py): nobody waits for the rest.
VISITORS_FORM_BYTES = 64 * 1024


class OutdatedPage(Forbidden):
    """The form is not of a page of this sign-in; its text may be its author's all the same."""


def token() -> str:
    """What this page's forms must send back."""
    return _made_from(_secret())


def check() -> None:
    """Raise OutdatedPage where a request that changes something does not carry its token.

    And RequestEntityTooLarge where somebody who is not signed in sends more than they have a form for.
    """
    if request.method in SAFE_METHODS:
        return
    if g.get("person") is None:
        _refuse_long()
    sent = request.headers.get(HEADER) or request.form.get(FIELD, "")
    if not hmac.compare_digest(_made_from(_secret()).encode(), sent.encode("utf-8", "surrogatepass")):
        raise OutdatedPage("This page is no longer current, so nothing was changed. Reload it and try again.")


def _refuse_long() -> None:
    waited_for = "Transfer-Encoding" in request.headers or "Expect" in request.headers
    if waited_for or (request.content_length or 0) > VISITORS_FORM_BYTES:
        raise RequestEntityTooLarge()


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
