"""`/dashboard/insight`: what has become of the cases, how long it took, and how often it was right; for leads.

What its parts show is api/dashboard/insight_parts.py's; the table of each is a file too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, render_template, request

from api.auth import requires_role
from api.dashboard.access import person
from api.dashboard.insight_parts import PARTS, Found
from moderation import insight, model_versions
from moderation.db import transaction
from moderation.errors import InvalidRequest, NotFound
from moderation.insight import Selection
from moderation.vocabulary import Role

pages = Blueprint("insight", __name__)

SPANS = (7, 30, 90)
USUAL_SPAN = 30


@pages.get("/dashboard/insight")
@requires_role(Role.LEAD)
def page() -> str:
    """The page."""
    selection = _selection()
    with transaction() as session:
        found = Found(session, selection)
        return render_template(
            "insight/page.html",
            parts={name: part(found) for name, part in PARTS.items()},
            selection=selection,
            days=len(selection.days),
            spans=SPANS,
            query=request.args.to_dict(),
            led=_led(),
            chosen=_chosen(),
            categories=insight.categories(session, selection),
            versions=model_versions.versions(session),
        )


@pages.get("/dashboard/insight/<name>.csv")
@requires_role(Role.LEAD)
def table(name: str) -> Response:
    """The numbers of one part of the page, for the same selection."""
    if name not in PARTS:
        raise NotFound(f"There is no table {name}; there are {', '.join(PARTS)}.")
    selection = _selection()
    with transaction() as session:
        part = PARTS[name](Found(session, selection))
    response = Response(part.table.csv(), mimetype="text/csv")
    file = f"telltale-{name}-{selection.first}-{selection.last}.csv"
    response.headers["Content-Disposition"] = f'attachment; filename="{file}"'
    return response


def _led() -> list[Any]:
    """The platforms whose figures this person may see."""
    led = person().tenant_ids_as(Role.LEAD)
    return [member for member in person().memberships if member.tenant_id in led]


def _chosen() -> UUID | None:
    """The one platform that was asked for. Raises NotFound for one that is not theirs to see."""
    chosen = _id("tenant")
    if chosen is not None and chosen not in person().tenant_ids_as(Role.LEAD):
        raise NotFound(f"There is no platform {chosen}.")
    return chosen


def _id(name: str) -> UUID | None:
    try:
        return UUID(request.args[name]) if request.args.get(name) else None
    except ValueError as error:
        raise InvalidRequest(f"{name} is not an id: choose it from the list.") from error


def _selection() -> Selection:
    """Raises InvalidRequest, NotFound."""
    days = request.args.get("days", USUAL_SPAN, type=int)
    if days not in SPANS or request.args.get("days", str(days)) != str(days):
        raise InvalidRequest(f"Choose {', '.join(map(str, SPANS[:-1]))} or {SPANS[-1]} days.")
    chosen, today = _chosen(), datetime.now(UTC).date()
    return Selection(
        tenant_ids=(chosen,) if chosen else tuple(sorted(person().tenant_ids_as(Role.LEAD))),
        first=today - timedelta(days=days - 1),
        last=today,
        category=request.args.get("category", "").replace("\x00", "") or None,
        model_version_id=_id("version"),
    )
