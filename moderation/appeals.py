"""Appeals as they come in: the platform says that a decision is wrong, and somebody else looks at the case.

A case that is quietly looked at again (an audit, a second opinion) is decided for all that the platform knows, so it
can be appealed like any other. What was answered in the last ten seconds is withdrawn, for the appeal is of what the
platform knows; the answer stays written down, and whoever gave it finds it filled in. Whoever is at work on the case
has to begin anew, with the appellant's words in view.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from moderation import cases, claims, reviews, sights
from moderation.tables import Case


def file(session: Session, tenant_id: UUID, case_id: UUID, *, actor: str, message: str | None) -> Case:
    """Send a decided case to a person. Raises NotFound, IllegalTransition."""
    case = cases.case_of(session, tenant_id, case_id, lock=True)
    if cases.is_sampled(case):
        answered = sights.pending(session, case.id)
        if answered is not None:
            reviews.withdraw(session, case, answered, actor=actor)
        claims.withdraw(session, case)
    return cases.appeal(session, tenant_id, case_id, actor=actor, message=message)
