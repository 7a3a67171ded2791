"""Times as people say them: "3 minutes ago", with the exact time beside it.

The browser keeps them true while the page is open (static/shell.js has the same words).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

STEPS = (("second", 60), ("minute", 60), ("hour", 24), ("day", 30), ("month", 12))


def relative(moment: datetime, now: datetime | None = None) -> str:
    """How long ago, or in how long."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    count, unit = _rounded(abs(seconds))
    if unit == "second" and count < 10:
        return "just now"
    span = f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{span} ago" if seconds >= 0 else f"in {span}"


def exact(moment: datetime) -> str:
    """To the second, in UTC; the browser shows it in its user's own time zone."""
    return f"{moment.astimezone(UTC):%-d %B %Y, %H:%M:%S} UTC"


def hours(span: timedelta) -> str:
    """How long something took, to the minute: "2 h 05 min"."""
    whole, minutes = divmod(int(span.total_seconds()) // 60, 60)
    return f"{whole} h {minutes:02} min" if whole else f"{minutes} min"


def _rounded(amount: float) -> tuple[int, str]:
    for unit, next_unit_from in STEPS:
        if amount < next_unit_from:
            return int(amount), unit
        amount /= next_unit_from
    return int(amount), "year"
