"""Appeals as they come in: the platform says that a decision is wrong, and somebody else looks at the case.

A case that is quietly looked at again (an audit, a second opinion) is decided for all that the platform knows, so it
can be appealed like any other. What was answered in the last ten seconds is withdrawn, for the appeal is of what the
platform knows; the answer stays written down, and whoever gave it finds it filled in. Whoever is at work on the case
has to begin anew, with the appellant's words in view. What is appealed too late, or of which the image is gone, nobody
could look into: it is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from moderation import cases, claims, retention, reviews, sights
from moderation.errors import Conflict
from moderation.tables import Case, Tenant
from moderation.vocabulary import CaseStatus


def file(session: Session, tenant_id: UUID, case_id: UUID, *, actor: str, message: str | None) -> Case:
    """Send a decided case to a person.

    Raises NotFound, IllegalTransition, and Conflict where the time for appeals is over or the image is erased.
    """
    case = cases.case_of(session, tenant_id, case_id, lock=True)
    if case.status is CaseStatus.DECIDED or cases.is_sampled(case):
        _refuse_late(session, case)
    if cases.is_sampled(case):
        answered = sights.pending(session, case.id)
        if answered is not None:
            reviews.withdraw(session, case, answered, actor=actor)
        claims.withdraw(session, case)
    return cases.appeal(session, tenant_id, case_id, actor=actor, message=message)


def _refuse_late(session: Session, case: Case) -> None:
    """The case is decided, and locked: its image cannot go between this and the appeal."""
    days = retention.periods_of(session.get_one(Tenant, case.tenant_id)).appeals
    settled = case.settled_at
    if days is not None and settled is not None and settled < datetime.now(UTC) - timedelta(days=days):
        raise Conflict(
            f"Case {case.id} was decided on {settled.astimezone(UTC):%Y-%m-%d}, and decisions can be appealed "
            f"for {days} days: it is too late. `appeals` in PUT /v1/retention says for how long."
        )
    if case.image is not None and case.image.erased_at is not None:
        raise Conflict(f"The image of case {case.id} is erased: nobody could look at it again.")
