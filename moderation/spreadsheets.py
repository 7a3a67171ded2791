"""Cells of tables that people open in a spreadsheet: what somebody else wrote stays text. It knows no tables."""

from __future__ import annotations

# With these a spreadsheet begins a formula: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def inert(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
