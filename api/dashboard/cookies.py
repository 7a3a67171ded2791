"""The dashboard's cookies: which browser this is, and who is signed in with it.

Where the public URL is https, their names begin with `__Host-`: a browser then takes them only over https, for this
host alone, and no subdomain can plant another. On loopback without https they could not be set like that.
"""

from __future__ import annotations

from flask import request
from werkzeug.wrappers import Response

from api.process import current

SESSION = "telltale_session"
# Before anybody is signed in: only what the sign-in form's CSRF token is bound to.
VISIT = "telltale_visit"
# Set by the page's own switch (static/shell.js); "light", "dark", or none for what the system prefers.
THEME = "telltale_theme"
THEMES = ("light", "dark")


def is_https() -> bool:
    """Whether the dashboard is reached by https."""
    return current().settings.public_url.startswith("https:")


def read(name: str) -> str | None:
    """A cookie's value."""
    return request.cookies.get(_full(name)) or None


def write(response: Response, name: str, value: str) -> None:
    """Set a cookie that scripts cannot read, until the browser ends; what it stands for ends earlier on the server."""
    response.set_cookie(_full(name), value, path="/", secure=is_https(), httponly=True, samesite="Lax")


def remove(response: Response, name: str) -> None:
    """Have the browser forget a cookie."""
    response.delete_cookie(_full(name), path="/", secure=is_https(), httponly=True, samesite="Lax")


def theme() -> str | None:
    """The colours this browser's user chose; None for what their system prefers."""
    chosen = request.cookies.get(THEME)
    return chosen if chosen in THEMES else None


def _full(name: str) -> str:
    return f"__Host-{name}" if is_https() else name
