"""What the form above a list says: words, times and places in the list, as they stand in an address.

Nothing in them grants anything: what they lead to is looked up among what the person may see.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from moderation.errors import InvalidRequest

Word = TypeVar("Word", bound=StrEnum)

# As <input type="datetime-local"> has them; in UTC, which the forms say.
MOMENT = "%Y-%m-%dT%H:%M"


def word_in(sent: Mapping[str, str], name: str, words: type[Word]) -> Word | None:
    """One of the words, if one was chosen. Raises InvalidRequest for what is none of them."""
    value = sent.get(name)
    try:
        return words(value) if value else None
    except ValueError as error:
        raise InvalidRequest(f"{value!r} is nothing to filter by: choose from the list.", pointer=f"/{name}") from error


def moment_in(sent: Mapping[str, str], name: str) -> datetime | None:
    """A time, if one was given; one without a zone is UTC. Raises InvalidRequest for what is none."""
    value = sent.get(name)
    if not value:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"{value!r} is no time: give one such as 2026-01-31T08:30, in UTC.", pointer=f"/{name}"
        ) from error


def field_value(moment: datetime | None) -> str:
    """A time as its form field holds it."""
    return moment.astimezone(UTC).strftime(MOMENT) if moment else ""


def as_query(**said: object) -> dict[str, str]:
    """A filter as parameters of an address; what is None or empty is left out."""
    shown = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in said.items()}
    return {name: str(value) for name, value in shown.items() if value not in (None, "")}
