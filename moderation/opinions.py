"""Further opinions of a case that somebody has answered: when one is asked for, and whose it is to give.

Of first answers that decide a case, a share is asked of somebody else too, who does not see the first one. An appeal is
answered by somebody else than decided before. Where there is nobody else, no second opinion is asked for, and whoever
there is answers an appeal. It does not know what a moderator sees of a case (moderation/sights.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from moderation import cases
from moderation.tables import Case, Membership, Review, Tenant, User
from moderation.vocabulary import ReviewReason, Role

# Nobody has answered, or decided, the case before.
FIRST = frozenset({ReviewReason.UNCERTAIN, ReviewReason.UNPARSABLE})
# Somebody has: now it is somebody else's.
AGAIN = frozenset({ReviewReason.SECOND_OPINION, ReviewReason.APPEAL})
_LEADS = [role for role in Role if role.covers(Role.LEAD)]


def ask_another(session: Session, case: Case, review: Review) -> None:
    """Draw, once for each case, whether somebody else is asked too; the share is kept as probability.

    It is drawn of first answers that decided the case, where there is somebody to ask; not of what was handed to a
    lead, whose word is the last, nor of restricted images, which nobody has to see twice. The decision stands while the
    second opinion is waited for.
    """
    is_first = review.reason in FIRST and case.second is None and case.escalated_at is None
    if not is_first or case.restricted or not _is(session, case, _somebody_besides(review.user_id)):
        return
    share = session.get_one(Tenant, case.tenant_id).second_opinion_share
    case.second_probability = share
    case.second = random.random() < share
    if case.second:
        cases.reopen(session, case, ReviewReason.SECOND_OPINION)


def is_anothers(session: Session, user_id: UUID, case: Case) -> bool:
    """Whether this person has said what they think of the case, and it is somebody else's turn."""
    return case.review_reason in AGAIN and _is(session, case, anothers(user_id))


def anothers(user_id: UUID) -> ColumnElement[bool]:
    """The same of the cases of a query."""
    again = Case.review_reason.in_(sorted(AGAIN))
    return and_(again, _has_answered(user_id), _somebody_besides(user_id))


def are_two(case: Case, given: Iterable[Review]) -> bool:
    """Whether a second opinion was given and settled nothing: then a lead decides, with both in view.

    `given` are the case's reviews.
    """
    if case.review_reason is not ReviewReason.SECOND_OPINION:
        return False
    return any(review.reason is ReviewReason.SECOND_OPINION and review.settled_at is not None for review in given)


def _is(session: Session, case: Case, condition: ColumnElement[bool]) -> bool:
    return bool(session.scalar(select(condition).where(Case.id == case.id)))


def _has_answered(user_id: object) -> ColumnElement[bool]:
    given = select(Review.id).where(Review.case_id == Case.id, Review.user_id == user_id)
    return given.where(Review.settled_at.is_not(None)).correlate(Case, Membership).exists()


def _somebody_besides(user_id: UUID) -> ColumnElement[bool]:
    """Somebody else may work on the case and has not answered it yet."""
    for_all = and_(Case.restricted.is_(False), Case.escalated_at.is_(None))
    able = select(Membership.user_id).join(User, User.id == Membership.user_id).where(User.disabled_at.is_(None))
    able = able.where(Membership.tenant_id == Case.tenant_id, or_(for_all, Membership.role.in_(_LEADS)))
    return able.where(Membership.user_id != user_id, ~_has_answered(Membership.user_id)).correlate(Case).exists()
