"""What is refused before the first step, what carries loss, and in which order rows come."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import Checkpoint
from model.decode import UndecodableImage
from model.finetune import records
from model.finetune.collator import IGNORED, Collator
from model.finetune.order import LengthGrouped
from model.finetune.records import InvalidRecords
from model.finetune.run import finetune
from tests.model import finetune_records
from tests.model.finetune.conftest import arguments

ROW = finetune_records.row("images/0.png", 0)
TURNS = ROW["conversations"]

BAD_ROWS = [
    (finetune_records.row("images/none.png", 0), "does not exist"),
    (finetune_records.row("images/0.png", 0, "This is a real image."), "must begin with 'This is a fake image.'"),
    (finetune_records.row("images/0.png", 0, question="<image>Is it real?"), "prompt is"),
    (ROW | {"label": 2}, "label"),
    (finetune_records.row("records.json", 0), "not an image"),
    (finetune_records.row("images/0.png", 0, "This is a fake image." + " waxy" * 1000), "over 1024"),
    ("a string", "not an object"),
    ({"conversations": TURNS, "label": 0}, "has no image"),
    (ROW | {"image": ["images/0.png", "images/1.png"]}, "a list of images (2)"),
    (ROW | {"conversations": TURNS * 2}, "has 4 turns"),
    (ROW | {"conversations": TURNS[::-1]}, "one turn of `human`, then one of `gpt`"),
    (finetune_records.row("images/0.png", 0, "Hard to say.") | {"label": None}, "has no `label`"),
    (finetune_records.row("images/0.png", 0, "This is a fake image. \ud83d"), "half a character"),
    (finetune_records.row("images/\ud83d.png", 0), "half a character"),
    (finetune_records.row("images/" + "ü" * 126 + ".png", 0), "longer than the 255 bytes"),
    (finetune_records.row("/images/0.png", 0), "relative to the images folder"),
    (finetune_records.row("images/../../data/images/0.png", 0), "relative to the images folder"),
]


def read(data: Path, checkpoint: Checkpoint) -> records.Records:
    return records.read(data, data.parent, checkpoint, 1024)


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_bad_row_is_named_with_its_reason(tmp_path: Path, loaded: Checkpoint, row: Any, reason: str) -> None:
    data = finetune_records.write(tmp_path / "data", count=2, extra=[row])
    with pytest.raises(InvalidRecords, match="row 3 ") as refused:
        read(data, loaded)
    assert reason in str(refused.value)


def test_every_bad_row_is_named_before_anything_is_trained(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rows = [row for row, _ in BAD_ROWS]
    data = finetune_records.write(tmp_path / "data", extra=rows)
    with pytest.raises(InvalidRecords, match=f"{len(rows)} bad rows") as refused:
        finetune(arguments(tiny_checkpoint, data, tmp_path / "out"))
    assert all(f"row {number} " in str(refused.value) for number in range(9, 9 + len(rows)))
    assert not (tmp_path / "out").exists()


def test_bad_rows_are_told_before_weights_are_loaded(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are 14 GB where it matters."""
    data = finetune_records.write(tmp_path / "data", extra=[BAD_ROWS[0][0]])
    monkeypatch.setattr("model.finetune.run.load", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(InvalidRecords, match="1 bad row, "):
        finetune(arguments(tiny_checkpoint, data, tmp_path / "out"))


def test_json_lines_read_like_a_json_list(data: Path, loaded: Checkpoint) -> None:
    lines = data.with_suffix(".jsonl")
    lines.write_text("\n".join(json.dumps(row) for row in json.loads(data.read_text())))
    assert read(lines, loaded) == read(data, loaded)


def test_a_line_that_is_no_json_is_named(data: Path, loaded: Checkpoint) -> None:
    rows = json.loads(data.read_text())
    lines = [json.dumps(rows[0]), "", '{"image": ', json.dumps(rows[1])]
    data.write_text("\n".join(lines))
    with pytest.raises(InvalidRecords, match=r"nor JSON lines: Expecting value: line 3 column 11"):
        read(data, loaded)


def test_a_byte_order_mark_is_no_part_of_the_text(data: Path, loaded: Checkpoint) -> None:
    expected = read(data, loaded).digest
    data.write_text("\ufeff" + data.read_text())
    assert read(data, loaded).digest == expected


def test_an_image_may_be_named_in_a_roundabout_way(tmp_path: Path, loaded: Checkpoint) -> None:
    data = finetune_records.write(tmp_path / "data", extra=[finetune_records.row("images/../images/0.png", 0)])
    assert len(read(data, loaded)) == 9


def test_a_line_of_json_ends_where_the_line_ends(data: Path, loaded: Checkpoint) -> None:
    """Not at a line separator (U+2028) inside an answer, which JSON lets stand as it is."""
    row = finetune_records.row("images/0.png", 0, "This is a fake image. It is\u2028red.")
    lines = data.with_suffix(".jsonl")
    lines.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert len(read(lines, loaded)) == 1


def test_a_file_that_is_gone_or_no_text_is_refused(data: Path, loaded: Checkpoint) -> None:
    with pytest.raises(InvalidRecords, match=r"none\.json cannot be read"):
        read(data.with_name("none.json"), loaded)
    data.write_bytes(data.read_bytes().replace(b"red", "röt".encode("latin-1")))
    with pytest.raises(InvalidRecords, match=r"records\.json cannot be read as UTF-8"):
        read(data, loaded)


def test_rows_of_llava_s_format_have_the_label_their_answer_says(data: Path, loaded: Checkpoint) -> None:
    before = read(data, loaded)
    data.write_text(
        json.dumps([{k: v for k, v in row.items() if k != "label"} for row in json.loads(data.read_text())])
    )
    assert read(data, loaded) == before
    assert [row.label for row in before.rows[:2]] == ["fake", "real"]


def test_the_data_hash_changes_with_an_image(data: Path, loaded: Checkpoint) -> None:
    before = read(data, loaded).digest
    image = data.parent / "images" / "0.png"
    image.write_bytes((data.parent / "images" / "1.png").read_bytes())
    assert read(data, loaded).digest != before


def test_an_image_damaged_after_its_header_is_named(data: Path, loaded: Checkpoint) -> None:
    image = data.parent / "images" / "0.png"
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(UndecodableImage, match=r"0\.png"):
        Collator(loaded)(read(data, loaded).rows)


# --- what carries loss -----------------------------------------------------------------------------------------------

# BOS, 16 image tokens and `Does the image looks real/fake?`; a space mark and `This is a fake image. It is red.`,
# with EOS (1); padding is 2. From the tokenizer that `tiny` trains, looked up once and written down.
PROMPT = [0, *[3] * 16, 297, 301, 267, 302, 278, 18, 277, 34]
LONG = [224, 276, 266, 274, 293, 267, 17, 224, 44, 87, 266, 275, 71, 17, 1]
SHORT = [224, 276, 266, 274, 278, 267, 17, 1]
FILL = len(LONG) - len(SHORT)


def test_exactly_the_answers_tokens_and_their_end_carry_loss(tmp_path: Path, loaded: Checkpoint) -> None:
    data = finetune_records.write(
        tmp_path / "data", count=1, extra=[finetune_records.row("images/0.png", 1, "This is a real image.")]
    )
    batch = Collator(loaded)(read(data, loaded).rows)
    assert batch["input_ids"].tolist() == [PROMPT + LONG, PROMPT + SHORT + [2] * FILL]
    assert batch["labels"].tolist() == [
        [IGNORED] * len(PROMPT) + LONG,
        [IGNORED] * len(PROMPT) + SHORT + [IGNORED] * FILL,
    ]
    assert batch["attention_mask"].tolist() == [
        [1] * len(PROMPT + LONG),
        [1] * len(PROMPT + SHORT) + [0] * FILL,
    ]
    assert batch["pixel_values"].shape == (2, 3, 32, 32)


def test_each_image_is_preprocessed_once(data: Path, loaded: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.finetune import collator

    seen: list[int] = []
    to_pixels = collator.to_pixels
    monkeypatch.setattr(collator, "to_pixels", lambda p, images: seen.append(len(images)) or to_pixels(p, images))
    Collator(loaded)(read(data, loaded).rows)
    assert seen == [8]


# --- order -----------------------------------------------------------------------------------------------------------


def order(lengths: list[int], update: int, epoch: int = 0, seed: int = 0) -> list[int]:
    sampler = LengthGrouped(lengths, update, seed)
    sampler.epoch = epoch
    return list(sampler)


def test_an_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    lengths = torch.randint(5, 200, (103,), generator=torch.Generator().manual_seed(1)).tolist()
    epochs = [order(lengths, 4, epoch) for epoch in (0, 1)]
    assert all(sorted(epoch) == list(range(103)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] == order(lengths, 4)
    assert epochs[0] != order(lengths, 4, seed=1)


def test_grouping_by_length_leaves_little_padding() -> None:
    lengths = torch.randint(50, 200, (512,), generator=torch.Generator().manual_seed(1)).tolist()

    def padding(rows: list[int]) -> int:
        batches = [[lengths[row] for row in rows[at : at + 8]] for at in range(0, len(rows), 8)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    assert padding(order(lengths, 8)) < padding(torch.randperm(512).tolist()) / 4


def test_updates_do_not_come_sorted_by_length() -> None:
    lengths = list(range(320))
    rows = order(lengths, 4)
    means = [sum(lengths[row] for row in rows[at : at + 4]) / 4 for at in range(0, 320, 4)]
    falling = sum(one > other for one, other in pairwise(means))
    assert 20 < falling < 60


def test_rows_of_nearly_one_length_are_only_shuffled() -> None:
    """Two kinds of answer, a little different in length: no update is of one kind alone."""
    lengths = [200] * 480 + [206] * 480
    rows = order(lengths, 24)
    updates = [rows[at : at + 24] for at in range(0, 960, 24)]
    assert all(4 <= sum(row < 480 for row in update) <= 20 for update in updates)


def test_the_smaller_last_update_comes_last() -> None:
    rows = order([9] * 10, 4)
    assert len(rows) == 10
    assert sorted(rows) == list(range(10))
