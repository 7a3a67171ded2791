"""`/dashboard/notices`: what this person has been told, the newest first, and what became of its mail.

A notice is read when somebody says so, or looks at the run, or the models, that it leads to.
"""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from api import process
from api.auth import requires_role
from api.dashboard.access import person
from api.dashboard.queue import id_in
from moderation import mail, notices
from moderation.accounts import Person
from moderation.db import transaction
from moderation.vocabulary import NoticeKind, Role

pages = Blueprint("notices", __name__)

PAGE = 50
# Of each kind, its icon and its tone.
LOOKS = {
    NoticeKind.RUN_KEPT: ("hand", "warn"),
    NoticeKind.RUN_REJECTED: ("x", "plain"),
    NoticeKind.RUN_FAILED: ("circle-alert", "bad"),
    NoticeKind.MODEL_PROMOTED: ("circle-check", "good"),
    NoticeKind.MODEL_ROLLED_BACK: ("undo-2", "info"),
    NoticeKind.MODEL_DRIFTED: ("triangle-alert", "bad"),
}


@pages.get("/dashboard/notices")
@requires_role(Role.LEAD)
def page() -> str:
    """The page."""
    before = id_in(request.args, "before")
    with transaction() as session:
        found = notices.notices_of(session, person().user_id, operator=person().operator, limit=PAGE + 1, before=before)
        not_read = notices.unread(session, person().user_id, operator=person().operator)
    shown = found[:PAGE]
    return render_template(
        "notices/page.html",
        notices=shown,
        paths={notice.id: notices.path(notice) for notice in shown},
        looks=LOOKS,
        not_read=not_read,
        mailed=process.current().settings.smtp_url is not None,
        first=before is None,
        following=shown[-1].id if len(found) > PAGE else None,
    )


@pages.post("/dashboard/notices/<uuid:notice_id>/read")
@requires_role(Role.LEAD)
def read(notice_id: UUID) -> Response:
    """This person has read one."""
    with transaction() as session:
        notices.read(session, person().user_id, notice_id)
    return redirect(url_for("notices.page"), 303)


@pages.post("/dashboard/notices/<uuid:notice_id>/mail")
@requires_role(Role.LEAD)
def mail_again(notice_id: UUID) -> Response:
    """Send the mail of one after all, which was given up."""
    with transaction(wake=True) as session:
        mail.send_again(session, person().user_id, notice_id, actor=person().actor)
    return redirect(url_for("notices.page", said="notice_mailed"), 303)


@pages.post("/dashboard/notices/read")
@requires_role(Role.LEAD)
def read_all() -> Response:
    """This person has read all of them."""
    with transaction() as session:
        notices.read_all(session, person().user_id)
    return redirect(url_for("notices.page"), 303)


def unread(reader: Person) -> int:
    """How many this person has not read: the mark in the navigation."""
    with transaction() as session:
        return notices.unread(session, reader.user_id, operator=reader.operator)
