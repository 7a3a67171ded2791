"""`/dashboard/sign-in` and `/dashboard/sign-out`."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from api import auth, problems
from api.auth import public, signed_in
from api.dashboard import cookies
from api.dashboard.access import person, person_or_none
from moderation import accounts
from moderation.accounts import Person
from moderation.errors import TooManyAttempts, Unauthenticated
from moderation.vocabulary import Role

pages = Blueprint("sign_in", __name__)


@pages.get("/dashboard/sign-in")
@public
def form() -> Response | str:
    """The form, or onward for who is signed in already."""
    before = person_or_none()
    return redirect(_onward(before), 303) if before else _form()


@pages.post("/dashboard/sign-in")
@public
def sign_in() -> Response:
    """A new sign-in, whatever this browser had before; or the form again, which says what is wrong."""
    try:
        token = accounts.sign_in(
            request.form.get("email", ""),
            request.form.get("password", ""),
            address=request.remote_addr or "",
            browser=request.user_agent.string,
        )
    except (Unauthenticated, TooManyAttempts) as error:
        return problems.beside(error, _form(error.message))
    before = person_or_none()
    if before is not None:
        accounts.sign_out(before)
    response = redirect(_onward(accounts.person_with(token)), 303)
    cookies.write(response, cookies.SESSION, token)
    cookies.remove(response, cookies.VISIT)
    return response


@pages.post("/dashboard/sign-out")
@signed_in
def sign_out() -> Response:
    """End this browser's sign-in."""
    accounts.sign_out(person())
    response = redirect(url_for("sign_in.form", said="signed_out"), 303)
    cookies.remove(response, cookies.SESSION)
    return response


def _form(error: str | None = None) -> str:
    return render_template("sign_in/form.html", error=error, email=request.form.get("email", ""), onward=_wanted())


def _wanted() -> str | None:
    """Where they wanted to go: a page below the dashboard's front door, and nothing that leads anywhere else."""
    wanted = request.values.get("next", "")
    # A header holds no control character.
    return wanted if wanted.startswith(f"{auth.DASHBOARD}/") and wanted.isprintable() else None


def _onward(who: Person) -> str:
    """To the page they wanted, else to their work: the queue, where there is one for them."""
    return _wanted() or url_for("queue.page" if who.is_somewhere(Role.MODERATOR) else "home.page")
