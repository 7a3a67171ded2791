"""What every answer of the dashboard tells the browser: run only our own files, keep nothing, be shown in no frame.

The policy allows no inline script and no inline style: behaviour is in static/*.js, looks are in static/*.css.
"""

from __future__ import annotations

from flask import Response, request

from api import auth
from api.dashboard import cookies

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
ONE_YEAR_S = 365 * 24 * 3600


def add_headers(response: Response) -> Response:
    """After every request to the dashboard. What a view itself says of caching stands (only static files do)."""
    if request.path.startswith(auth.DASHBOARD):
        own_policy = response.headers.get("Content-Security-Policy")
        response.headers.update(HEADERS)
        if own_policy is not None:  # of a document that is no page of ours: it is stricter in what matters
            response.headers["Content-Security-Policy"] = own_policy
        response.headers.setdefault("Cache-Control", "no-store")
        # A fragment is not the page.
        response.vary.add("HX-Request")
        if cookies.is_https():
            response.headers["Strict-Transport-Security"] = f"max-age={ONE_YEAR_S}"
    return response
