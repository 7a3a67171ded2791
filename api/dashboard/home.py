"""`/dashboard`: where one arrives, with the platforms one works for."""

from __future__ import annotations

from flask import Blueprint, render_template

from api.auth import signed_in

pages = Blueprint("home", __name__)


@pages.get("/dashboard")
@signed_in
def page() -> str:
    """The page."""
    return render_template("home/page.html")
