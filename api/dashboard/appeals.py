"""`/dashboard/appeals`: decisions that platforms say are wrong, with what they say, for whoever did not decide them."""

from __future__ import annotations

from flask import Blueprint, render_template

from api.auth import requires_role
from api.dashboard.access import person
from api.dashboard.queue import platforms
from moderation import queue
from moderation.db import transaction
from moderation.queue import Filter
from moderation.vocabulary import ReviewReason, Role

pages = Blueprint("appealed", __name__)


@pages.get("/dashboard/appeals")
@requires_role(Role.MODERATOR)
def page() -> str:
    """The first of them, in the queue's order, and how many there are."""
    filter_ = Filter(reason=ReviewReason.APPEAL)
    with transaction() as session:
        return render_template(
            "cases/appeals.html",
            entries=queue.page(session, person(), filter_),
            totals=queue.totals(session, person(), filter_),
            platforms=platforms(),
        )
