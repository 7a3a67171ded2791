"""`/dashboard/cases/{id}/statement-of-reasons`: the statement of a decision, as a file, for leads."""

from __future__ import annotations

import json
from uuid import UUID

from flask import Blueprint, Response

from api.auth import requires_role
from api.dashboard.access import person
from moderation import claims, sights, statements
from moderation.db import transaction
from moderation.errors import Conflict
from moderation.sights import Sight
from moderation.vocabulary import Hidden, Role

pages = Blueprint("reasons", __name__)


@pages.get("/dashboard/cases/<uuid:case_id>/statement-of-reasons")
@requires_role(Role.LEAD)
def download(case_id: UUID) -> Response:
    """What the api gives too; not to whoever is to look at the case again without knowing how it was decided."""
    with transaction() as session:
        case = claims.case_for(session, person(), case_id)
        person().require(Role.LEAD, case.tenant_id)
        if sights.hidden_from(session, person(), case):
            raise Conflict("This case waits for your answer: its statement would tell how it was decided.")
        said = statements.statement_of(session, case.tenant_id, case_id).describe()
    response = Response(json.dumps(said, ensure_ascii=False, indent=2) + "\n", mimetype="application/json")
    response.headers["Content-Disposition"] = f'attachment; filename="statement-of-reasons-{case_id}.json"'
    return response


def is_there(seen: Sight, *, is_lead: bool) -> bool:
    """Whether a case's page offers it: something was restricted, and may be known to be."""
    return is_lead and statements.restricts(seen.case) and not seen.hidden & frozenset(Hidden)
