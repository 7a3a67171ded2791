"""What people must be told: a run waits for them or came to nothing, another version judges, the champion got worse.

A notice is a row for each person, written in the transaction of what it tells of, and told once: `subject` names it.
What only operators may see is told to operators who lead a platform, everything else to all who lead one; nobody is
told of what they did themselves. How notices are mailed is moderation/mail.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Update, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, selectinload

from moderation.db import new_id, storable
from moderation.errors import NotFound
from moderation.settings import settings
from moderation.tables import Membership, Notice, NoticeMail, User
from moderation.vocabulary import OPERATOR, NoticeKind, Role

LEADERS = tuple(role for role in Role if role.covers(Role.LEAD))
MOST_TEXT = 2000  # characters
# Who acts without having signed in, as notices say it.
SAID = {OPERATOR: "a command", "retraining": "the gate"}


def tell(
    session: Session,
    kind: NoticeKind,
    subject: str,
    title: str,
    text: str,
    *,
    actor: str,
    run_id: UUID | None = None,
    for_operators: bool = True,
) -> None:
    """Tell everybody whom this concerns, once for each `subject`; where a mail server is set, by mail too.

    `actor` did what it tells of. Only operators may open runs, so a notice with `run_id` is for operators.
    """
    told = storable(text[:MOST_TEXT])
    rows = [
        {
            "id": new_id(),
            "user_id": user_id,
            "kind": kind,
            "subject": subject,
            "title": storable(title),
            "text": told,
            "run_id": run_id,
            "for_operators": for_operators,
        }
        for user_id in session.scalars(select(User.id).where(_concerned(for_operators)))
        if actor != f"user:{user_id}"
    ]
    if not rows:
        return
    written = insert(Notice).values(rows).on_conflict_do_nothing(index_elements=["user_id", "subject"])
    fresh = session.scalars(written.returning(Notice.id)).all()
    if settings().smtp_url is not None:
        session.add_all(NoticeMail(notice_id=notice_id, asked_by=actor) for notice_id in fresh)
        session.flush()


def _concerned(for_operators: bool) -> ColumnElement[bool]:
    leads = exists().where(Membership.user_id == User.id, Membership.role.in_(LEADERS))
    return User.disabled_at.is_(None) & leads & (User.operator if for_operators else User.operator.is_not(None))


def concerns(session: Session, notice: Notice) -> bool:
    """Whether the person may still be told: they may have left, or be no operator any more."""
    query = select(User.id).where(User.id == notice.user_id, _concerned(notice.for_operators))
    return session.scalar(query) is not None


def by(session: Session, actor: str) -> str:
    """Who did it, as a notice says it."""
    if not actor.startswith("user:"):
        return SAID.get(actor, actor)
    email = session.scalar(select(User.email).where(User.id == UUID(actor.removeprefix("user:"))))
    return email or "somebody who has left"


def withdraw(session: Session, subject: str) -> None:
    """What was told is settled: for nobody is it unread any more, and no mail of it is sent."""
    told = select(Notice.id).where(Notice.subject == subject)
    session.execute(delete(NoticeMail).where(NoticeMail.notice_id.in_(told), NoticeMail.failed_at.is_(None)))
    session.execute(_reading(Notice.subject == subject))


def notices_of(
    session: Session, user_id: UUID, *, operator: bool, limit: int, before: UUID | None = None
) -> Sequence[Notice]:
    """A person's notices with their mail, the newest first, from just before the notice `before` on."""
    query = select(Notice).where(_theirs(user_id, operator)).order_by(Notice.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Notice.id < before)
    return session.scalars(query.options(selectinload(Notice.mail))).all()


def unread(session: Session, user_id: UUID, *, operator: bool) -> int:
    """How many of a person's notices they have not read."""
    query = select(func.count()).select_from(Notice).where(_theirs(user_id, operator), Notice.read_at.is_(None))
    return session.scalar(query) or 0


def read(session: Session, user_id: UUID, notice_id: UUID) -> None:
    """The person has read this one. Raises NotFound for what is not theirs."""
    mine = (Notice.id == notice_id, Notice.user_id == user_id)
    if session.scalar(select(Notice.id).where(*mine)) is None:
        raise NotFound("There is no such notice of yours.")
    session.execute(_reading(*mine))


def read_all(session: Session, user_id: UUID) -> None:
    """The person has read everything they were told."""
    session.execute(_reading(Notice.user_id == user_id))


def seen(session: Session, user_id: UUID, run_id: UUID | None) -> None:
    """The person looks at what these notices lead to: the run, or with None the models."""
    leads_there = Notice.run_id == run_id if run_id else Notice.run_id.is_(None)
    session.execute(_reading(Notice.user_id == user_id, leads_there))


def path(notice: Notice) -> str:
    """Where the dashboard shows what the notice tells of."""
    return f"/dashboard/runs/{notice.run_id}" if notice.run_id else "/dashboard/models"


def _theirs(user_id: UUID, operator: bool) -> ColumnElement[bool]:
    mine = Notice.user_id == user_id
    return mine if operator else mine & ~Notice.for_operators


def _reading(*which: ColumnElement[bool]) -> Update:
    return update(Notice).where(*which, Notice.read_at.is_(None)).values(read_at=func.now())
