"""`POST /v1/cases/{id}/appeal`: a decided case goes to a person."""

from __future__ import annotations

from flask_openapi3 import APIBlueprint, Tag
from pydantic import ConfigDict, Field

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, CasePath, CaseShown, Sent, Text
from moderation import appeals, descriptions
from moderation.db import transaction
from moderation.vocabulary import Scope

api = APIBlueprint("appeals", __name__, abp_tags=[Tag(name="Cases")], abp_security=SECURITY)

MAX_MESSAGE = 2000


class AppealBody(Sent):
    """What the moderator should know."""

    # All of it may be left out, so the whole body may.
    model_config = ConfigDict(openapi_extra={"required": False})

    message: Text | None = Field(
        default=None,
        max_length=MAX_MESSAGE,
        description="shown to the moderator",
        examples=["The uploader sent the raw file."],
    )


@api.post(
    "/v1/cases/<uuid:case_id>/appeal",
    operation_id="appealCase",
    summary="Appeal a decision",
    responses={200: CaseShown} | problems.declared(401, 403, 404, 409, 413, 415),
)
@requires(Scope.CASES_APPEAL)
def appeal(path: CasePath, body: AppealBody) -> Answer:
    """Only a decided case can be appealed; it is `in_review` until a moderator has answered.

    One that is looked at again of our own accord (`review_reason` `audit` or `second_opinion`) is decided too.
    After the days that `/v1/retention` has for `appeals`, and once the image is erased, it is a 409.
    """
    with transaction(wake=True) as session:
        who = caller()
        return descriptions.describe(
            appeals.file(session, who.tenant_id, path.case_id, actor=who.actor, message=body.message)
        )
