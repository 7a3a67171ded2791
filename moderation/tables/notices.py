"""What people must be told, and the mail that it is sent by."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from moderation.tables.accounts import User
from moderation.tables.row import Asked, Identified, Row
from moderation.tables.training import TrainingRun
from moderation.vocabulary import NoticeKind


class Notice(Identified, Row):
    """One thing that one person is told (moderation/notices.py); `subject` says which, so that it is told once.

    `run_id`: it leads to that run. `for_operators`: shown and mailed only as long as the person is one.
    """

    __tablename__ = "notices"
    __table_args__ = (
        UniqueConstraint("user_id", "subject"),
        Index("ix_notices_listed", "user_id", "id"),
        Index("ix_notices_unread", "user_id", postgresql_where=text("read_at IS NULL")),
    )

    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"))
    kind: Mapped[NoticeKind]
    subject: Mapped[str]
    title: Mapped[str]
    text: Mapped[str]
    for_operators: Mapped[bool]
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey(TrainingRun.id))
    read_at: Mapped[datetime | None]
    mailed_at: Mapped[datetime | None]

    mail: Mapped[NoticeMail | None] = relationship()


class NoticeMail(Asked, Row):
    """A notice that is to be mailed (moderation/mail.py). `failure_detail` is what the last attempt came to."""

    __tablename__ = "notice_mails"
    __table_args__ = (Index("ix_notice_mails_due", "next_attempt_at", postgresql_where=text("failed_at IS NULL")),)

    notice_id: Mapped[UUID] = mapped_column(ForeignKey(Notice.id, ondelete="CASCADE"), primary_key=True)
