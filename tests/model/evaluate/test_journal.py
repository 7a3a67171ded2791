"""What a killed run leaves behind, byte by byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.evaluate.journal import Journal

ROWS = [{"n": number, "text": "ä\u2028\n\ud800"} for number in range(7)]


def filled(path: Path, batches: list[slice]) -> Journal:
    journal = Journal(path, 3, 7)
    for batch in batches:
        journal.append(ROWS[batch])
    return journal


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j", [slice(0, 3), slice(3, 6), slice(6, 7)])
    assert (journal.done, journal.rows()) == (7, ROWS)
    assert Journal(tmp_path / "j", 3, 7).done == 7


@pytest.mark.parametrize("lost", [1, 5, 30, 60])
def test_a_batch_that_was_not_written_whole_is_done_again(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "j"
    filled(path, [slice(0, 3), slice(3, 6)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    again = Journal(path, 3, 7)
    assert again.done == 3
    again.append(ROWS[3:6])
    assert path.read_bytes() == whole


def test_the_last_short_batch_counts_only_when_it_is_the_last(tmp_path: Path) -> None:
    path = tmp_path / "j"
    filled(path, [slice(0, 3), slice(3, 5)])
    assert Journal(path, 3, 7).done == 3
    assert len(path.read_bytes().splitlines()) == 3


def test_nothing_there_is_nothing_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", 3, 7)
    assert (journal.done, journal.rows()) == (0, [])
