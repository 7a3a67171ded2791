"""`GET /v1/cases/{id}` and `GET /v1/cases`: what became of a submission."""

from __future__ import annotations

import base64
import binascii
import time
from typing import Any
from uuid import UUID

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, CasePath, CaseShown, CasesShown, ExternalId, Sent
from api.process import current
from moderation import cases
from moderation.db import transaction
from moderation.errors import InvalidRequest
from moderation.vocabulary import SETTLED, CaseStatus, Label, Scope

api = APIBlueprint("cases", __name__, abp_tags=[Tag(name="Cases")], abp_security=SECURITY)

MAX_PAGE = 100
# How often a long poll looks: soon at first, for a verdict takes well under a second when nothing is waiting.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5


class CaseFilter(Sent):
    """Which cases, and which page of them."""

    status: CaseStatus | None = None
    label: Label | None = Field(default=None, description="of the decision")
    external_id: ExternalId | None = None
    limit: int = Field(default=50, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(default=None, description="`next` of the page before; opaque")


@api.get("/v1/cases/<uuid:case_id>", summary="One case", responses={200: CaseShown} | problems.declared(401, 403, 404))
@requires(Scope.CASES_READ)
def get_case(path: CasePath) -> Answer:
    """Its status, verdict, explanation and decision, as far as they have come."""
    with transaction() as session:
        return cases.describe(cases.case_of(session, caller().tenant_id, path.case_id))


@api.get("/v1/cases", summary="List cases", responses={200: CasesShown} | problems.declared(401, 403))
@requires(Scope.CASES_READ)
def list_cases(query: CaseFilter) -> Answer:
    """Newest first. A page stays the same while new cases come in; follow `next` until it is null."""
    with transaction() as session:
        found = cases.listed(
            session,
            caller().tenant_id,
            before=read_cursor(query.cursor),
            limit=query.limit + 1,
            status=query.status,
            label=query.label,
            external_id=query.external_id,
        )
        page = found[: query.limit]
        following = make_cursor(page[-1].id) if len(found) > query.limit else None
        return {"cases": [cases.describe(case) for case in page], "next": following}


def make_cursor(last: UUID) -> str:
    """Where the next page begins: just below `last`."""
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def read_cursor(cursor: str | None) -> UUID | None:
    """The id in a cursor. It grants nothing: what it leads to is looked up among the caller's own rows.

    Raises InvalidRequest.
    """
    if cursor is None:
        return None
    try:
        return UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("This cursor is not one of ours: use `next` as it came.", pointer="/cursor") from error


def case_url(case_id: object) -> str:
    """Where a case is found, as a path."""
    return f"/v1/cases/{case_id}"


def settled_within(case_id: UUID, seconds: float) -> dict[str, Any] | None:
    """The caller's case once it is settled; None if that takes longer, or if too many are waiting already."""
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE_S
    with current().seat() as seated:
        while seated:
            with transaction() as session:
                case = cases.case_of(session, caller().tenant_id, case_id)
                if case.status in SETTLED:
                    return cases.describe(case)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_PAUSE_S)
    return None
