"""How far the data of each platform has been gone through for what is too old to be kept."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, func, text
from sqlalchemy.orm import Mapped, mapped_column

from moderation.tables.accounts import Tenant
from moderation.tables.row import Row
from moderation.vocabulary import Kept


class RetentionPass(Row):
    """One pass over a tenant's cases, in small batches: those up to `after_id` have been looked at.

    `gone` and `held` count the cases whose image, verdict or events went, and those past their time that are kept for
    another reason.
    """

    __tablename__ = "retention_passes"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id), primary_key=True)
    kept: Mapped[Kept] = mapped_column(primary_key=True)
    after_id: Mapped[UUID | None]
    gone: Mapped[int] = mapped_column(server_default=text("0"))
    held: Mapped[int] = mapped_column(server_default=text("0"))
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
