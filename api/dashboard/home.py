"""`/dashboard`: where one arrives, with the platforms one works for."""

from __future__ import annotations

from flask import Blueprint, render_template

from api.auth import signed_in
from api.dashboard.access import person
from moderation.db import transaction
from moderation.retraining import panel
from moderation.vocabulary import Role

pages = Blueprint("home", __name__)


@pages.get("/dashboard")
@signed_in
def page() -> str:
    """The page."""
    drifted = []
    if person().is_somewhere(Role.LEAD):
        with transaction() as session:
            drifted = panel.drifted(session)
    return render_template("home/page.html", drifted=drifted, panel_margin=panel.MARGIN)
