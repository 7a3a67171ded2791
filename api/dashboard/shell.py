"""What surrounds every page: the pages there are, the navigation between them, headers, problems, and template names.

To add pages: a module beside this one with a Blueprint `pages`, a line in PAGES and, where it is to be found from
everywhere, one in NAVIGATION.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, render_template, request, url_for

from api import problems
from api.auth import DASHBOARD
from api.dashboard import (
    access,
    account,
    appeals,
    assets,
    cases,
    cookies,
    csrf,
    explanations,
    home,
    insight,
    models,
    notices,
    pictures,
    platforms,
    queue,
    runs,
    security,
    sign_in,
    statements,
    times,
)
from api.dashboard.access import person_or_none
from moderation import model_versions
from moderation.accounts import Person
from moderation.db import transaction
from moderation.vocabulary import Role

PAGES = (
    home.pages,
    queue.pages,
    appeals.pages,
    cases.pages,
    pictures.pages,
    sign_in.pages,
    account.pages,
    assets.pages,
    platforms.pages,
    explanations.pages,
    statements.pages,
    insight.pages,
    models.pages,
    runs.pages,
    notices.pages,
)
# What a page says after something was done on the one before (`?said=…`).
SAYINGS = {
    "queue_done": "Nothing more waits for you here.",
    "case_skipped": "Skipped: it is not offered to you again for an hour.",
    "case_held": "Put aside: it comes back when its time has come.",
    "case_escalated": "Handed to the leads.",
    "case_reassigned": "Handed on.",
    "case_reported": "Reported: only leads see it now.",
    "case_lifted": "The case is everybody's again.",
    "answer_undone": "Undone: nobody was told.",
    "platform_changed": "Saved: it holds for cases to come.",
    "retention_changed": "Saved: what is too old goes within a day.",
    "platform_unchanged": "Nothing was different, so nothing was changed.",
    "key_revoked": "Revoked: whoever uses the key is refused from now on.",
    "source_created": "The source is made: try it.",
    "source_changed": "Saved: try it.",
    "source_secret_set": "The secret is set, and the one before is still taken.",
    "source_disabled": "Disabled: its webhooks are refused.",
    "source_enabled": "Enabled: its webhooks are taken.",
    "endpoint_changed": "Saved: it holds for events to come.",
    "endpoint_enabled": "Enabled: what was pending is sent now.",
    "endpoint_disabled": "Disabled: nothing more is sent there.",
    "delivery_replayed": "It is sent again, under the same id.",
    "deliveries_replayed": "They are sent again, each under its own id.",
    "case_retried": "The case is tried again.",
    "cases_retried": "The cases are tried again.",
    "nothing_retried": "There was nothing left to try again.",
    "member_added": "Added. They had an account: their password is the one they have.",
    "member_changed": "The role is changed. Who may do more than before signs in again.",
    "member_changed_back": "The role is changed, and what is for leads went back to the queue.",
    "member_removed": "Removed.",
    "member_removed_back": "Removed, and what they had in hand went back to the queue.",
    "policy_saved": "Saved: cases judged from now on follow it.",
    "policy_kept": "These are in force already: nothing was changed.",
    "model_promoted": "It is champion: workers change over between two batches.",
    "model_rolled_back": "Rolled back: workers change over between two batches.",
    "rejudging_asked": "Asked for: workers judge them again when no new case waits.",
    "rejudging_none": "Every case in review has the champion’s verdict already.",
    "run_asked": "Asked for: a retraining worker takes it.",
    "run_there": "This run was under way already.",
    "run_cancelled": "Cancelled.",
    "run_rejected": "Rejected: the champion goes on as it is.",
    "notice_mailed": "The mail is sent again.",
    "signed_out": "You are signed out.",
    "signed_out_elsewhere": "You are signed out everywhere else.",
    "password_changed": "Your password is changed, and you are signed out everywhere else.",
}


@dataclass(frozen=True)
class Entry:
    """One line of the navigation; `role` is what its page needs, None for everybody who is signed in.

    `operator`: and only operators have it. `count` is how much of what is there somebody has not read.
    """

    label: str
    endpoint: str
    icon: str
    role: Role | None = None
    operator: bool = False
    count: Callable[[Person], int] | None = None


NAVIGATION = (
    Entry("Overview", "home.page", "layout-dashboard"),
    Entry("Notices", "notices.page", "bell", Role.LEAD, count=notices.unread),
    Entry("Queue", "queue.page", "inbox", Role.MODERATOR),
    Entry("Appeals", "appealed.page", "scale", Role.MODERATOR),
    Entry("Platforms", "platforms.page", "building-2", Role.LEAD),
    Entry("Insight", "insight.page", "chart-column", Role.LEAD),
    Entry("Models", "models.page", "cpu", Role.LEAD),
    Entry("Training", "runs.page", "rotate-cw", Role.LEAD, operator=True),
)


def install(app: Flask) -> None:
    """Add the dashboard to an application."""
    app.before_request(access.authenticate)
    app.after_request(csrf.remember_visit)
    app.after_request(security.add_headers)
    for blueprint in PAGES:
        blueprint.template_folder = "templates"
        app.register_blueprint(blueprint)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.context_processor(_names)
    app.add_template_filter(times.relative, "relative")
    app.add_template_filter(times.exact, "exact")
    app.add_template_filter(times.hours, "hours")
    problems.shown_below(app, DASHBOARD, _problem)


def _names() -> dict[str, Any]:
    """What every template knows."""
    return {
        "person": person_or_none(),
        "csrf_token": csrf.token,
        "asset": assets.address,
        "theme": cookies.theme(),
        "navigation": _navigation,
        "demo_model": _demo_model,
        "said": SAYINGS.get(request.args.get("said", "")),
    }


def _navigation() -> list[dict[str, Any]]:
    person = person_or_none()
    return [
        {
            "label": entry.label,
            "icon": entry.icon,
            "url": url_for(entry.endpoint),
            "current": _is_current(entry),
            "count": entry.count(person) if entry.count else 0,
        }
        for entry in NAVIGATION
        if person
        and (entry.role is None or person.is_somewhere(entry.role))
        and (person.operator or not entry.operator)
    ]


def _is_current(entry: Entry) -> bool:
    return (request.endpoint or "").partition(".")[0] == entry.endpoint.partition(".")[0]


def _demo_model() -> str | None:
    """The name of the model that judges, where it is a demo model: then every page says so."""
    with transaction() as session:
        champion = model_versions.champion(session)
    return champion.name if champion is not None and champion.manifest.get("kind") == "demo" else None


def _problem(problem: Mapping[str, Any]) -> Response:
    """A problem as a page, or, for what htmx asked, as the words of a toast."""
    template = "problem_fragment.html" if "HX-Request" in request.headers else "problem.html"
    return Response(render_template(template, problem=problem), mimetype="text/html")
