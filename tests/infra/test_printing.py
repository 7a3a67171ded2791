"""What platforms wrote, on an operator's terminal."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from infra.printing import cell, print_json, print_record, table

# Sets the window's title, wipes the screen (in two ways), and turns the rest of the line around.
TRAP = "post\x1b]0;owned\x07\x1b[2J\x9b2J\u202etxt\t1"
SHOWN = r"post\x1b]0;owned\x07\x1b[2J\x9b2J\u202etxt\t1"


def test_a_terminal_obeys_nothing_that_is_shown_in_a_table() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(table([{"external_id": TRAP, "events": [TRAP, "a"]}]))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert written.count(SHOWN) == 2 and written.replace("\n", "").isprintable()


def test_a_terminal_obeys_nothing_of_a_row_or_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_record({"external_id": TRAP}, as_json=False)
    assert capsys.readouterr().out == f"external id  {SHOWN}\n"
    print_json({"external_id": TRAP})
    written = capsys.readouterr().out
    assert written.replace("\n", "").isprintable() and json.loads(written) == {"external_id": TRAP}


def test_what_is_ordinary_is_shown_as_it_is() -> None:
    for text in ("Grüße, 漢字 and 🖼", "two\nlines", r"a\b"):
        assert cell(text).plain == text
