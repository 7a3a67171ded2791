"""`/dashboard/cases/{id}/explanation`: the part of the case page that asks the model why, and shows what it says."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, render_template, request
from werkzeug.datastructures import MultiDict

from api.auth import requires_role
from api.dashboard.access import person
from moderation import explanations, sights
from moderation.db import transaction
from moderation.errors import Conflict
from moderation.sights import Sight
from moderation.vocabulary import Grade, Hidden, Role

pages = Blueprint("why", __name__)


@pages.post("/dashboard/cases/<uuid:case_id>/explanation")
@requires_role(Role.MODERATOR)
def ask(case_id: UUID) -> str:
    """Ask why. Raises Conflict while the verdict is hidden from who asks."""
    with transaction(wake=True) as session:
        seen = sights.sight(session, person(), case_id)
        if Hidden.VERDICT in seen.hidden:
            raise Conflict("The verdict is shown after your answer, and so is why.")
        explanations.ask(session, seen.case.tenant_id, case_id, actor=person().actor)
    return part(case_id)


@pages.get("/dashboard/cases/<uuid:case_id>/explanation")
@requires_role(Role.MODERATOR)
def part(case_id: UUID) -> str:
    """How far it is. Under `?editing=1`, in the midst of an answer, the sentences come into its form to be graded."""
    with transaction() as session:
        seen = sights.sight(session, person(), case_id)
        return _rendered(seen, editing=request.args.get("editing") == "1")


def _rendered(seen: Sight, *, editing: bool) -> str:
    return render_template(
        "cases/explain.html",
        seen=seen,
        case=seen.case,
        editing=editing,
        arrives=True,
        grades=list(Grade),
        typed=MultiDict(),
    )
