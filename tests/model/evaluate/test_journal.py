"""What a killed run leaves behind, byte by byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.evaluate.journal import Journal

ROWS = [{"id": f"{number}", "text": "ä\u2028\n\ud800"} for number in range(7)]
IDS = [row["id"] for row in ROWS]


def filled(path: Path, batches: list[slice]) -> Journal:
    journal = Journal(path, 3, IDS)
    for batch in batches:
        journal.append(ROWS[batch])
    return journal


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j", [slice(0, 3), slice(3, 6), slice(6, 7)])
    assert (journal.done, journal.rows()) == (7, ROWS)
    assert Journal(tmp_path / "j", 3, IDS).done == 7


@pytest.mark.parametrize("lost", [1, 5, 30, 60])
def test_a_batch_that_was_not_written_whole_is_done_again(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "j"
    filled(path, [slice(0, 3), slice(3, 6)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    again = Journal(path, 3, IDS)
    assert again.done == 3
    again.append(ROWS[3:6])
    assert path.read_bytes() == whole


def test_the_last_short_batch_counts_only_when_it_is_the_last(tmp_path: Path) -> None:
    path = tmp_path / "j"
    filled(path, [slice(0, 3), slice(3, 5)])
    assert Journal(path, 3, IDS).done == 3
    assert len(path.read_bytes().splitlines()) == 3


def test_nothing_there_is_nothing_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", 3, IDS)
    assert (journal.done, journal.rows()) == (0, [])


@pytest.mark.parametrize(
    ("order", "done"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 0, 1], 7),
        ([0, 1, 2, 0, 1, 2, 3, 4, 5], 3),
        ([0, 1, 3, 2, 4, 5, 6], 0),
    ],
)
def test_rows_of_other_samples_and_rows_too_many_are_dropped(tmp_path: Path, order: list[int], done: int) -> None:
    path = tmp_path / "j"
    path.write_text("".join(json.dumps(ROWS[number]) + "\n" for number in order), encoding="utf-8")
    journal = Journal(path, 3, IDS)
    assert (journal.done, journal.rows()) == (done, ROWS[:done])


@pytest.mark.parametrize("line", [b"{ no row\n", b"7\n"])
def test_what_is_no_row_is_dropped(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "j"
    filled(path, [slice(0, 3)])
    with path.open("ab") as file:
        file.write(line * 3)
    assert Journal(path, 3, IDS).done == 3
