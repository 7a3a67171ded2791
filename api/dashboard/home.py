"""`/dashboard`: where one arrives: what waits, and the platforms one works for."""

from __future__ import annotations

from flask import Blueprint, render_template

from api.auth import signed_in
from api.dashboard.access import person
from moderation import queue
from moderation.db import transaction
from moderation.queue import Filter
from moderation.retraining import panel
from moderation.vocabulary import ReviewReason, Role

pages = Blueprint("home", __name__)


@pages.get("/dashboard")
@signed_in
def page() -> str:
    """The page."""
    with transaction() as session:
        return render_template(
            "home/page.html",
            drifted=panel.drifted(session) if person().is_somewhere(Role.LEAD) else [],
            panel_margin=panel.MARGIN,
            waiting=queue.totals(session, person(), Filter()),
            appeals=queue.totals(session, person(), Filter(reason=ReviewReason.APPEAL)),
        )
