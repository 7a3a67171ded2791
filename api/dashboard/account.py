"""`/dashboard/account`: one's own password, where one is signed in, and what one's work asked of oneself."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from api import problems
from api.auth import signed_in
from api.dashboard.access import person
from moderation import accounts, wellness
from moderation.db import transaction
from moderation.errors import InvalidRequest, TooManyAttempts
from moderation.tenants import MIN_PASSWORD_LENGTH

pages = Blueprint("account", __name__)

BROWSERS = {"Edg/": "Edge", "OPR/": "Opera", "Firefox/": "Firefox", "Chrome/": "Chrome", "Safari/": "Safari"}
SYSTEMS = {"Android": "Android", "iPhone": "iPhone", "iPad": "iPad", "Windows": "Windows", "Mac OS": "macOS"}


@pages.get("/dashboard/account")
@signed_in
def page() -> str:
    """The page."""
    return _page()


@pages.post("/dashboard/account/password")
@signed_in
def change_password() -> Response:
    """A new password; everywhere else this person is signed out."""
    new = request.form.get("new_password", "")
    try:
        if new != request.form.get("new_password_again", ""):
            raise InvalidRequest("The two new passwords are not the same.", pointer="/new_password_again")
        old = request.form.get("old_password", "")
        accounts.change_password(person(), old, new, address=request.remote_addr or "")
    except (InvalidRequest, TooManyAttempts) as error:
        return problems.beside(error, _page(error))
    return redirect(url_for("account.page", said="password_changed"), 303)


@pages.post("/dashboard/account/sign-out-elsewhere")
@signed_in
def sign_out_elsewhere() -> Response:
    """End every other sign-in of this person."""
    accounts.sign_out_elsewhere(person())
    return redirect(url_for("account.page", said="signed_out_elsewhere"), 303)


def _page(error: InvalidRequest | TooManyAttempts | None = None) -> str:
    with transaction() as session:
        found = accounts.sign_ins(session, person())
        spans = {"Last 24 hours": wellness.DAY, "Last 7 days": wellness.WEEK}
        works = {words: wellness.work(session, person(), span) for words, span in spans.items()}
        stretch = wellness.stretch(session, person())
    return render_template(
        "account/page.html",
        sign_ins=[(row, _browser(row.browser)) for row in found],
        works=works,
        stretch=stretch,
        long_stretch=wellness.LONG_STRETCH,
        error=error,
        at_fault=(error.pointer or "/old_password").removeprefix("/") if error else None,
        min_password_length=MIN_PASSWORD_LENGTH,
    )


def _browser(user_agent: str) -> str:
    """A browser's name for its user, such as "Firefox on Linux"."""
    name = next((name for mark, name in BROWSERS.items() if mark in user_agent), "A browser")
    system = next((system for mark, system in SYSTEMS.items() if mark in user_agent), None)
    return f"{name} on {system or 'Linux'}" if system or "Linux" in user_agent else name
