"""`GET /v1/cases/{id}` and `GET /v1/cases`: what became of a submission."""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api import problems, traffic
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, CasePath, CaseShown, CasesShown, ExternalId
from api.paging import Page
from api.process import current
from moderation import cases, descriptions
from moderation.db import transaction
from moderation.vocabulary import SETTLED, CaseStatus, Label, Scope

log = logging.getLogger(__name__)

api = APIBlueprint("cases", __name__, abp_tags=[Tag(name="Cases")], abp_security=SECURITY)

# How often a long poll looks: soon at first, for a verdict takes well under a second when nothing is waiting.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5


class CaseFilter(Page):
    """Which cases, and which page of them."""

    status: CaseStatus | None = Field(default=None, description="as it is now")
    label: Label | None = Field(default=None, description="of the decision")
    external_id: ExternalId | None = Field(default=None, description="your own id, exactly")


@api.get(
    "/v1/cases/<uuid:case_id>",
    operation_id="getCase",
    summary="One case",
    responses={200: CaseShown} | problems.declared(401, 403, 404),
)
@requires(Scope.CASES_READ)
def get_case(path: CasePath) -> Answer:
    """Its status, verdict, explanation and decision, as far as they have come."""
    with transaction() as session:
        return descriptions.describe(cases.case_of(session, caller().tenant_id, path.case_id))


@api.get(
    "/v1/cases",
    operation_id="listCases",
    summary="List cases",
    responses={200: CasesShown} | problems.declared(401, 403),
)
@requires(Scope.CASES_READ)
def list_cases(query: CaseFilter) -> Answer:
    """Newest first. A page stays the same while new cases come in; follow `next` until it is null."""
    with transaction() as session:
        found = cases.listed(
            session,
            caller().tenant_id,
            before=query.before,
            limit=query.limit + 1,
            status=query.status,
            label=query.label,
            external_id=query.external_id,
        )
        page, following = query.cut(found)
        return {"cases": [descriptions.describe(case) for case in page], "next": following}


def case_url(case_id: object) -> str:
    """Where a case is found, as a path."""
    return f"/v1/cases/{case_id}"


@traffic.waiting()
def settled_within(case_id: UUID, seconds: float) -> dict[str, Any] | None:
    """The caller's case once it is settled; None if that takes longer, or if too many are waiting already.

    None too where the database goes away meanwhile: the case was accepted, which an error would deny.
    """
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE_S
    with current().seat() as seated:
        while seated:
            try:
                with transaction() as session:
                    case = cases.case_of(session, caller().tenant_id, case_id)
                    if case.status in SETTLED:
                        return descriptions.describe(case)
            except (OperationalError, PoolTimeout) as error:
                log.warning("a long poll ends early: %s", error)
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_PAUSE_S)
    return None
