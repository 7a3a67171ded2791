"""Pages of long lists, by key: a page begins just below the last id of the page before, so none is missed or repeated.

A cursor grants nothing: what it leads to is looked up among the caller's own rows.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from pydantic import Field

from api.bodies import Sent
from moderation.errors import InvalidRequest

MAX_PAGE = 100


class Identified(Protocol):
    """A row with an id; ids are in order of making."""

    id: UUID


Row = TypeVar("Row", bound=Identified)


def _as_cursors_are(schema: dict[str, Any]) -> None:
    """For the document alone: what is wrong with a cursor is said in our words, not in a pattern's."""
    schema["anyOf"][0]["pattern"] = "^[A-Za-z0-9_-]{22}$"


class Page(Sent):
    """Which page of a list; newest first."""

    limit: int = Field(default=50, ge=1, le=MAX_PAGE, description="how many on a page")
    cursor: str | None = Field(
        default=None, description="`next` of the page before; opaque", json_schema_extra=_as_cursors_are
    )

    @property
    def before(self) -> UUID | None:
        """The id below which the page begins. Raises InvalidRequest for a cursor that is not one of ours."""
        return None if self.cursor is None else _id_in(self.cursor)

    def cut(self, found: Sequence[Row]) -> tuple[Sequence[Row], str | None]:
        """The page, and the next one's cursor, from one row more than the page holds."""
        page = found[: self.limit]
        return page, _cursor(page[-1].id) if len(found) > self.limit else None


def _cursor(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def _id_in(cursor: str) -> UUID:
    try:
        return UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("This cursor is not one of ours: use `next` as it came.", pointer="/cursor") from error
