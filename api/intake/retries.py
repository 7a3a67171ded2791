"""`POST /v1/cases/{id}/retry`: a failed case is tried again, because somebody asked."""

from __future__ import annotations

from http import HTTPStatus

from flask_openapi3 import APIBlueprint, Tag

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, CasePath, CaseShown
from moderation import cases, descriptions
from moderation.db import transaction
from moderation.vocabulary import Scope

api = APIBlueprint("retries", __name__, abp_tags=[Tag(name="Cases")], abp_security=SECURITY)


@api.post(
    "/v1/cases/<uuid:case_id>/retry",
    operation_id="retryCase",
    summary="Retry a failed case",
    responses={202: CaseShown} | problems.declared(401, 403, 404, 409),
)
@requires(Scope.SUBMISSIONS_WRITE)
def retry(path: CasePath) -> Answer:
    """Its attempts count from the start again: its link is read anew, or its image judged anew."""
    with transaction(wake=True) as session:
        who = caller()
        case = cases.retry(session, who.tenant_id, path.case_id, actor=who.actor)
        return descriptions.describe(case), HTTPStatus.ACCEPTED
