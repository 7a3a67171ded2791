"""What one look found: how it stands, what was seen, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from moderation.settings import Settings


class State(StrEnum):
    """How it stands. Only what is broken makes the whole unwell."""

    WELL = "well"
    DOUBTFUL = "doubtful"
    BROKEN = "broken"
    # It cannot be told from here, or not before something else is mended; or it is not set up, and need not be.
    UNKNOWN = "unknown"
    UNUSED = "unused"


@dataclass(frozen=True)
class Finding:
    """`said` is one line for people; `mend` is one on what to do, where something is to be done."""

    state: State
    said: str
    mend: str | None = None


@dataclass(frozen=True)
class Check:
    """One look. What it raises, and no answer in time, are findings too: `mend` says what to do then.

    While something it `needs` (checks by name) is broken, what it found to be broken says nothing.
    """

    name: str
    look: Callable[[Settings], Finding]
    mend: str
    needs: tuple[str, ...] = ()


def well(said: str) -> Finding:
    """All is as it should be."""
    return Finding(State.WELL, said)


def doubtful(said: str, mend: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding(State.DOUBTFUL, said, mend)


def broken(said: str, mend: str | None = None) -> Finding:
    """It does not work. Without `mend`, the check's own is said."""
    return Finding(State.BROKEN, said, mend)


def unknown(said: str) -> Finding:
    """It cannot be told."""
    return Finding(State.UNKNOWN, said)


def unused(said: str) -> Finding:
    """It is not set up, and need not be."""
    return Finding(State.UNUSED, said)
