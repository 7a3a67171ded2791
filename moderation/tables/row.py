"""What every row has, and how words and what somebody sent are stored."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

from sqlalchemy import DateTime, Enum, Integer, MetaData, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, make_transient_to_detached, mapped_column

from moderation import vocabulary
from moderation.db import new_id


def _are_words(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, StrEnum) and value is not StrEnum


def _stored(word: type[StrEnum]) -> Enum:
    return Enum(word, native_enum=False, length=40, values_callable=lambda members: [m.value for m in members])


# What somebody sent or was sent, to the letter: JSONB would write 1e308 in 309 digits, and events are under 20 kB.
AsSent = Annotated[dict[str, Any], "as sent"]


class Row(DeclarativeBase):
    """Base of all rows. Enumerations are stored as text and checked in code, so that adding a word is no migration."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        # None is NULL in SQL too, not the JSON value null.
        dict[str, Any]: JSONB(none_as_null=True),
        AsSent: JSON(none_as_null=True),
        list[str]: ARRAY(Text),
        list[int]: ARRAY(Integer),
        str: Text,
        **{words: _stored(words) for words in vars(vocabulary).values() if _are_words(words)},
    }


class Identified:
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Asked:
    """Work on something else's row that somebody asked for: offered and leased as a case is, gone once it is done.

    `failed_at` is set where it cannot be done; it stays then, until somebody asks again.
    """

    asked_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    offered_until: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    failure_detail: Mapped[str | None]


def written(session: Session, row: Row) -> None:
    """Take a row that a statement inserted into the session: what it was not given is read when it is asked for."""
    make_transient_to_detached(row)
    session.add(row)
