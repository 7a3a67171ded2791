"""What pydantic found wrong with a configuration or a record, as one line for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from pydantic import ValidationError

Place = tuple[str | int, ...]


def told(error: ValidationError, known: Mapping[Place, Collection[str]] | None = None) -> str:
    """Every complaint behind its place. `known` are the settings there are, below their section's place."""
    return "; ".join(
        _line(each["loc"], _said(each["loc"], each["type"], each["msg"], known)) for each in error.errors()
    )


def _line(place: Place, said: str) -> str:
    return f"{'.'.join(map(str, place))}: {said}" if place else said


def _said(place: Place, kind: str, message: str, known: Mapping[Place, Collection[str]] | None) -> str:
    if kind == "extra_forbidden" and known is not None:
        return _unknown(str(place[-1]), known[place[:-1]])
    return message.removeprefix("Value error, ")


def _unknown(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, n=1)
    meant = f"did you mean `{near[0]}`? Known" if near else "known"
    return f"no such setting; {meant} are {', '.join(known)}"
