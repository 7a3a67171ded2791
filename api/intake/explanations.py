"""`POST /v1/cases/{id}/explanation`: a verdict is explained, because somebody asked; `GET` says how far that is."""

from __future__ import annotations

from http import HTTPStatus

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, CasePath, Shown
from moderation import cases, explanations
from moderation.db import transaction
from moderation.explanations import Progress, State
from moderation.vocabulary import Scope

api = APIBlueprint("explanations", __name__, abp_tags=[Tag(name="Cases")], abp_security=SECURITY)


class ExplanationShown(Shown):
    """How far the words of a verdict are."""

    state: State = Field(description="`none`: nobody asked, and the policy had skipped them; `failed`: ask again")
    text: str | None = Field(description="once `ready`; the case's `verdict.explanation` has it too")
    detail: str | None = Field(description="why it `failed`")


@api.post(
    "/v1/cases/<uuid:case_id>/explanation",
    operation_id="explainCase",
    summary="Have a verdict explained",
    responses={202: ExplanationShown} | problems.declared(401, 403, 404, 409),
)
@requires(Scope.SUBMISSIONS_WRITE)
def ask(path: CasePath) -> Answer:
    """For verdicts whose policy had skipped the words. Asking twice is the same as once."""
    with transaction(wake=True) as session:
        who = caller()
        asked = explanations.ask(session, who.tenant_id, path.case_id, actor=who.actor)
    return _shown(asked), HTTPStatus.ACCEPTED


@api.get(
    "/v1/cases/<uuid:case_id>/explanation",
    operation_id="getExplanation",
    summary="How far an explanation is",
    responses={200: ExplanationShown} | problems.declared(401, 403, 404),
)
@requires(Scope.CASES_READ)
def get_explanation(path: CasePath) -> Answer:
    """The words once they are there, or why there are none."""
    with transaction() as session:
        return _shown(explanations.progress(cases.case_of(session, caller().tenant_id, path.case_id).verdict))


def _shown(progress: Progress) -> dict[str, str | None]:
    return {"state": progress.state.value, "text": progress.text, "detail": progress.detail}
