"""Finetuning: what is refused before the first step, what carries loss, what trains, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator

from model.checkpoint import Checkpoint, load
from model.decode import UndecodableImage, to_rgb
from model.detector import Detector
from model.finetune import adapters, records
from model.finetune.__main__ import main
from model.finetune.arguments import Arguments, InvalidConfiguration, Lora, read
from model.finetune.collator import IGNORED, Collator
from model.finetune.loop import answer_loss, fit, learning_rate
from model.finetune.records import InvalidRecords
from model.finetune.run import finetune
from tests.model import finetune_records


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return finetune_records.write(tmp_path / "data")


def arguments(base: Path, data: Path, output: Path, **changes: Any) -> Arguments:
    values: dict[str, Any] = {
        "base": str(base),
        "data": data,
        "output": output,
        "name": "tiny-2",
        "method": "full",
        "epochs": 6,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "stored_as": "float32",
        "log_every": 2,
    }
    return Arguments.model_validate(values | changes)


def batch_of(data: Path, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return Collator(checkpoint)(records.read(data, data.parent, checkpoint, 1024).rows)


# --- the configuration -----------------------------------------------------------------------------------------------


def test_full_finetuning_with_lora_settings_is_a_contradiction(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="remove one of them"):
        arguments(tmp_path, data, tmp_path / "out", method="full", lora={"rank": 4})


def test_an_output_that_holds_something_is_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="not an empty folder"):
        arguments(tmp_path, data, data.parent)


def test_an_unknown_setting_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"base": "x", "data": "d", "output": "o", "name": "n", "learning_rat": 1}))
    with pytest.raises(InvalidConfiguration, match="learning_rat"):
        read(path)


# --- the data --------------------------------------------------------------------------------------------------------


BAD_ROWS = [
    (finetune_records.row("images/none.png", 0), "does not exist"),
    (finetune_records.row("images/0.png", 0, "This is a real image."), "must begin with 'This is a fake image.'"),
    (finetune_records.row("images/0.png", 0, question="<image>Is it real?"), "prompt is"),
    (finetune_records.row("images/0.png", 0) | {"label": 2}, "label"),
    (finetune_records.row("records.json", 0), "not an image"),
    (finetune_records.row("images/0.png", 0, "This is a fake image." + " waxy" * 1000), "over 1024"),
    ("a string", "not an object"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_bad_row_is_named_with_its_reason(tmp_path: Path, loaded: Checkpoint, row: Any, reason: str) -> None:
    data = finetune_records.write(tmp_path / "data", count=2, extra=[row])
    with pytest.raises(InvalidRecords, match="row 3 ") as refused:
        records.read(data, data.parent, loaded, 1024)
    assert reason in str(refused.value)


def test_every_bad_row_is_named_before_anything_is_trained(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rows = [row for row, _ in BAD_ROWS]
    data = finetune_records.write(tmp_path / "data", extra=rows)
    with pytest.raises(InvalidRecords, match=f"{len(rows)} bad rows") as refused:
        finetune(arguments(tiny_checkpoint, data, tmp_path / "out"))
    assert all(f"row {number} " in str(refused.value) for number in range(9, 9 + len(rows)))
    assert not (tmp_path / "out").exists()


def test_json_lines_read_like_a_json_list(data: Path, loaded: Checkpoint) -> None:
    lines = data.with_suffix(".jsonl")
    lines.write_text("\n".join(json.dumps(row) for row in json.loads(data.read_text())))
    assert records.read(lines, data.parent, loaded, 1024) == records.read(data, data.parent, loaded, 1024)


def test_the_data_hash_changes_with_an_image(data: Path, loaded: Checkpoint) -> None:
    before = records.read(data, data.parent, loaded, 1024).digest
    image = data.parent / "images" / "0.png"
    image.write_bytes((data.parent / "images" / "1.png").read_bytes())
    assert records.read(data, data.parent, loaded, 1024).digest != before


def test_an_image_damaged_after_its_header_is_named(data: Path, loaded: Checkpoint) -> None:
    image = data.parent / "images" / "0.png"
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(UndecodableImage, match=r"0\.png"):
        batch_of(data, loaded)


# --- what carries loss -----------------------------------------------------------------------------------------------


def test_only_the_answer_and_its_end_carry_loss(data: Path, loaded: Checkpoint) -> None:
    batch, tokenizer = batch_of(data, loaded), loaded.processor.tokenizer
    labels = batch["labels"][0]
    carried = labels[labels != IGNORED]
    assert tokenizer.decode(carried) == " This is a fake image. It is red.</s>"
    assert (batch["input_ids"][0][labels != IGNORED] == carried).all()
    assert (labels[: len(loaded.tokens.prompt)] == IGNORED).all()


def test_rows_are_padded_to_the_longest_of_the_batch(data: Path, loaded: Checkpoint) -> None:
    batch = batch_of(data, loaded)
    lengths = batch["attention_mask"].sum(dim=1)
    assert batch["input_ids"].shape[1] == int(lengths.max())
    padded = batch["attention_mask"] == 0
    assert padded.any()
    assert (batch["labels"][padded] == IGNORED).all()


def test_the_loss_is_that_of_the_whole_sequence_with_the_same_labels(data: Path, loaded: Checkpoint) -> None:
    """Leaving out logits that no label needs changes nothing."""
    batch = batch_of(data, loaded)
    with torch.inference_mode():
        assert float(answer_loss(loaded.model, batch)) == pytest.approx(float(loaded.model(**batch).loss), rel=1e-4)


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    shares = [learning_rate(100, 0.1)(update) for update in range(101)]
    assert shares[9] == max(shares) == 1
    assert shares[0] == pytest.approx(0.1)
    assert shares[100] == pytest.approx(0, abs=1e-9)


# --- training --------------------------------------------------------------------------------------------------------


def test_full_finetuning_learns_and_its_checkpoint_judges(tmp_path: Path, tiny_checkpoint: Path, data: Path) -> None:
    folder = finetune(arguments(tiny_checkpoint, data, tmp_path / "out", epochs=20))
    detector = Detector.load(folder, device="cpu")
    losses = detector.manifest.training["losses"]
    assert losses[-1] < losses[0] / 2
    images = [to_rgb(data.parent / "images" / name) for name in ("0.png", "1.png")]
    assert [verdict.label for verdict in detector.judge(images)] == ["fake", "real"]


def test_the_manifest_says_what_it_was_made_from(tmp_path: Path, tiny_checkpoint: Path, data: Path) -> None:
    made = load(finetune(arguments(tiny_checkpoint, data, tmp_path / "out", epochs=1)), device="cpu")
    base = load(tiny_checkpoint, device="cpu")
    assert (made.manifest.name, made.manifest.base) == ("tiny-2", base.manifest.name)
    assert made.manifest.prompt == base.manifest.prompt
    training = made.manifest.training
    assert training["base_digest"] == base.manifest.digest()
    assert training["data_hash"] == records.read(data, data.parent, base, 1024).digest
    assert training["configuration"]["learning_rate"] == 2e-3
    assert made.manifest.golden == ()


def test_the_same_seed_trains_the_same_weights(tmp_path: Path, tiny_checkpoint: Path, data: Path) -> None:
    one, two = (
        load(finetune(arguments(tiny_checkpoint, data, tmp_path / name, epochs=2)), device="cpu").model.state_dict()
        for name in ("one", "two")
    )
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_accumulated_batches_make_one_update(tmp_path: Path, tiny_checkpoint: Path, data: Path) -> None:
    def updates(output: str, **sizes: int) -> int:
        folder = finetune(arguments(tiny_checkpoint, data, tmp_path / output, epochs=2, log_every=1, **sizes))
        return len(load(folder, device="cpu").manifest.training["losses"])

    assert updates("apart", batch_size=2) == 8
    assert updates("together", batch_size=2, accumulate=3) == 4  # the last of an epoch is made of what is left


def test_lora_moves_only_the_language_models_linear_layers(tmp_path: Path, tiny_checkpoint: Path, data: Path) -> None:
    folder = finetune(arguments(tiny_checkpoint, data, tmp_path / "out", method="lora", lora=Lora(rank=4)))
    before = load(tiny_checkpoint, device="cpu").model.state_dict()
    after = load(folder, device="cpu").model.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    linear = {name for name in before if "language_model" in name and "_proj.weight" in name}
    assert moved == linear


def test_lora_trains_nothing_but_adapters(data: Path, loaded: Checkpoint) -> None:
    adapted = adapters.attach(loaded.model, Lora(rank=4))
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name and "language_model" in name for name in trained)


def test_a_merge_that_changes_nothing_is_refused(data: Path, loaded: Checkpoint) -> None:
    """Fresh adapters multiply by zero: merging them is what an adapter loaded under the wrong names does."""
    adapted = adapters.attach(loaded.model, Lora(rank=4))
    with pytest.raises(adapters.MergeFailed, match="changed no output"):
        adapters.merge(adapted, batch_of(data, loaded))


def test_a_merge_unlike_its_adapters_is_refused(
    data: Path, loaded: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = adapters.attach(loaded.model, Lora(rank=4))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.add_(0.05)
    lora = type(adapted.base_model)
    merge = lora.merge_and_unload

    def scaled(self: Any, **options: Any) -> Any:
        merged = merge(self, **options)
        with torch.no_grad():
            merged.lm_head.weight.mul_(1.5)
        return merged

    monkeypatch.setattr(lora, "merge_and_unload", scaled)
    with pytest.raises(adapters.MergeFailed, match="unlike its adapters"):
        adapters.merge(adapted, batch_of(data, loaded))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, data: Path, loaded: Checkpoint) -> None:
    with torch.no_grad():
        loaded.model.lm_head.weight[0, 0] = float("nan")
    rows = records.read(data, data.parent, loaded, 1024)
    with pytest.raises(FloatingPointError, match="learning rate"):
        fit(loaded.model, rows, Collator(loaded), arguments(tmp_path, data, tmp_path / "out"), Accelerator(cpu=True))


# --- the command -----------------------------------------------------------------------------------------------------


def configuration(folder: Path, **values: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({name: str(v) if isinstance(v, Path) else v for name, v in values.items()}))
    return path


def test_the_command_writes_a_checkpoint(
    tmp_path: Path, tiny_checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = configuration(
        tmp_path, base=tiny_checkpoint, data=data, output=tmp_path / "out", name="cli", epochs=1, learning_rate=0.01
    )
    assert main(["--config", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert load(tmp_path / "out", device="cpu").manifest.name == "cli"


def test_the_command_refuses_bad_data_with_a_status(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = finetune_records.write(tmp_path / "data", extra=[finetune_records.row("images/gone.png", 1)])
    run = configuration(tmp_path, base=tiny_checkpoint, data=data, output=tmp_path / "out", name="cli")
    assert main(["--config", str(run)]) == 1
    assert "row 9 (images/gone.png): the image file does not exist" in capsys.readouterr().err
