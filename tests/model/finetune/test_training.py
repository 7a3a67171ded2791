"""What trains and what does not, what an update is, and what a run leaves behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model import manifest as manifests
from model.checkpoint import Checkpoint, CheckpointError, load
from model.decode import to_rgb
from model.detector import Detector, GoldenMismatch
from model.finetune import records
from model.finetune.collator import Collator
from model.finetune.trainer import AnswerTrainer, training_arguments
from tests.model import finetune_records
from tests.model.finetune.conftest import Run, apart, arguments, moved, weights

PREFIXES = {
    "language_model": ("model.language_model.", "lm_head."),
    "projector": ("model.multi_modal_projector.",),
    "vision_tower": ("model.vision_tower.",),
}
# The tiny tower has three layers, and its features come from before the last: like FakeVLM's, it ends in weights that
# nothing depends on.
UNREACHED = ("model.vision_tower.encoder.layers.2.", "model.vision_tower.post_layernorm.")
LINEAR = ("_proj.weight", "fc1.weight", "fc2.weight")
EVERYTHING = ("language_model", "projector", "vision_tower")


def names_of(base: dict[str, torch.Tensor], *parts: str) -> set[str]:
    prefixes = tuple(prefix for part in parts for prefix in PREFIXES[part])
    return {name for name in base if name.startswith(prefixes) and not name.startswith(UNREACHED)}


def linear_of(base: dict[str, torch.Tensor], *parts: str) -> set[str]:
    """Where adapters go: linear layers inside the stacks, not `lm_head` and not the patch embedding."""
    return {name for name in names_of(base, *parts) if ".layers." in name and name.endswith(LINEAR)}


def trainer(loaded: Checkpoint, data: Path, output: Path, **changes: Any) -> AnswerTrainer:
    settings = arguments(Path("unused"), data, output, **changes)
    rows = records.read(data, data.parent, loaded, 1024).rows
    return AnswerTrainer(loaded.model, Collator(loaded), rows, (), settings, training_arguments(settings))


# --- what trains -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "train", [(), ("language_model",), ("projector",), ("vision_tower",), ("projector", "language_model")], ids=str
)
def test_full_moves_every_weight_of_its_parts_and_no_other(
    run: Run, tiny_checkpoint: Path, train: tuple[str, ...]
) -> None:
    base = weights(tiny_checkpoint)
    after = weights(run("out", train=list(train)))
    rows = moved(base, after)
    # Tokens that no row has, and position embeddings aside, every named tensor differs somewhere.
    assert rows == names_of(base, *(train or EVERYTHING)) - {"model.vision_tower.embeddings.position_ids"}


@pytest.mark.parametrize(
    "train",
    [
        (),
        ("vision_tower",),
        ("language_model", "vision_tower"),
        ("language_model", "projector"),
        EVERYTHING,
    ],
    ids=str,
)
def test_lora_moves_linear_layers_and_a_projector_beside_them(
    run: Run, tiny_checkpoint: Path, tmp_path: Path, train: tuple[str, ...]
) -> None:
    from model.finetune.merge import merge

    base = weights(tiny_checkpoint)
    merged = merge(run("out", method="lora", train=list(train), learning_rate=0.02), tmp_path / "merged", "float32")
    chosen = train or ("language_model",)
    projector = names_of(base, "projector") if "projector" in chosen else set()
    adapted = [part for part in chosen if part != "projector"]
    assert moved(base, weights(merged)) == linear_of(base, *adapted) | projector


def test_qlora_trains_adapters_on_a_base_in_four_bits(run: Run, wide_checkpoint: Path) -> None:
    folder = run("out", base=wide_checkpoint, method="qlora", train=["language_model", "projector"], learning_rate=0.02)
    made, base = load(folder, device="cpu"), load(wide_checkpoint, device="cpu")
    assert made.dtype == made.manifest.quantization == "nf4"
    assert base.manifest.quantization == "none"
    layer = made.model.model.language_model.layers[0].self_attn.q_proj
    assert layer.base_layer.weight.dtype == torch.uint8
    assert float(layer.lora_B["default"].weight.detach().abs().max()) > 0
    projector = made.model.model.multi_modal_projector
    assert not torch.equal(
        projector.modules_to_save["default"].linear_1.weight, base.model.model.multi_modal_projector.linear_1.weight
    )


def test_a_run_on_an_adapter_is_refused(run: Run) -> None:
    adapter = run("adapter", method="lora", learning_rate=0.02)
    with pytest.raises(CheckpointError, match="telltale merge"):
        run("again", base=adapter)


# --- one update ------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_whole_sequence_with_the_same_labels(
    tmp_path: Path, data: Path, loaded: Checkpoint
) -> None:
    """Leaving out logits that no label needs changes nothing."""
    ours = trainer(loaded, data, tmp_path / "out")
    batch = ours.data_collator(ours.train_dataset)
    with torch.inference_mode():
        assert float(ours.compute_loss(loaded.model, batch)) == pytest.approx(
            float(loaded.model(**batch).loss), rel=1e-5
        )


def test_logits_are_made_only_where_a_label_is(
    tmp_path: Path, data: Path, loaded: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = trainer(loaded, data, tmp_path / "out")
    batch = ours.data_collator(ours.train_dataset)
    _, outputs = ours.compute_loss(loaded.model, batch, return_outputs=True)
    answers = batch["labels"].shape[1] - len(loaded.tokens.prompt)
    assert outputs.logits.shape[1] == answers + 1


@pytest.mark.parametrize("lengths", ["equal", "different"])
def test_accumulated_batches_make_the_update_of_one_big_batch(run: Run, tmp_path: Path, lengths: str) -> None:
    """Also where their answers differ in length: every token weighs the same."""
    words = (lambda n: " over-smooth" * (n % 4)) if lengths == "different" else (lambda n: "")
    rows = [
        finetune_records.row(f"images/{n}.png", n % 2, f"This is a {'real' if n % 2 else 'fake'} image.{words(n)}")
        for n in range(8)
    ]
    data = finetune_records.write(tmp_path / "mixed", extra=rows)
    one = run("one", data=data, batch_size=8, epochs=2)
    parts = run("parts", data=data, batch_size=2, accumulate=4, epochs=2)
    losses = [manifests.read(folder).training["losses"] for folder in (one, parts)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)
    assert apart(weights(one), weights(parts)) < 1e-4


def test_the_smaller_last_batch_of_an_epoch_is_trained_on(run: Run) -> None:
    """Eight rows in batches of three: three updates, and with two batches an update, two."""
    assert manifests.read(run("apart")).training["updates"] == 3
    assert manifests.read(run("together", accumulate=2, epochs=2)).training["updates"] == 4


def test_the_same_seed_trains_the_same_weights_and_another_does_not(run: Run) -> None:
    def trained(output: str, seed: int) -> dict[str, torch.Tensor]:
        return weights(run(output, method="lora", learning_rate=0.02, seed=seed))

    one, two, other = trained("one", 0), trained("two", 0), trained("other", 1)
    assert not moved(one, two)
    assert moved(one, other)


def test_gradient_checkpointing_trains_the_same_weights(run: Run) -> None:
    one, two = weights(run("kept")), weights(run("recomputed", gradient_checkpointing=True))
    assert all(torch.allclose(tensor, two[name], atol=1e-6) for name, tensor in one.items())


@pytest.mark.parametrize(("method", "rate"), [("full", 5e-3), ("lora", 0.02)])
def test_bfloat16_trains_on_a_cpu(run: Run, method: str, rate: float) -> None:
    folder = run("out", method=method, precision="bfloat16", attention="eager", epochs=8, learning_rate=rate)
    losses = manifests.read(folder).training["losses"]
    assert losses[-1] < 0.7 * losses[0]


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, data: Path, loaded: Checkpoint) -> None:
    with torch.no_grad():
        loaded.model.lm_head.weight[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="learning rate"):
        trainer(loaded, data, tmp_path / "out").train()


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_full_finetuning_learns_and_its_checkpoint_judges(run: Run, data: Path) -> None:
    folder = run("out", epochs=20)
    detector = Detector.load(folder, device="cpu", max_new_tokens=12)
    losses = detector.manifest.training["losses"]
    assert losses[-1] < losses[0] / 2
    images = [to_rgb(data.parent / "images" / name) for name in ("0.png", "1.png")]
    assert [verdict.label for verdict in detector.judge(images)] == ["fake", "real"]


def test_the_manifest_says_what_it_was_made_from(run: Run, tiny_checkpoint: Path, data: Path) -> None:
    made, base = manifests.read(run("out")), load(tiny_checkpoint, device="cpu")
    assert (made.name, made.base, made.adapter) == ("tiny-2", base.manifest.name, None)
    assert made.prompt == base.manifest.prompt
    assert made.training["base_digest"] == base.manifest.digest()
    assert made.training["data_hash"] == records.read(data, data.parent, base, 1024).digest
    assert made.training["configuration"]["learning_rate"] == 2e-3
    assert made.metrics == {"training_loss": made.training["losses"][-1]}
    assert (made.training["processes"], made.training["sharding"]) == (1, "none")


def test_the_manifest_has_every_setting_as_it_took_effect(run: Run) -> None:
    """No null for a default: a later version may have another."""
    rates = {"learning_rate": None}
    full, lora = (manifests.read(run(method, method=method, **rates)).training for method in ("full", "lora"))
    assert None not in (full | lora)["configuration"].values()
    assert full["configuration"]["learning_rate"] == 2e-5
    assert full["configuration"]["train"] == ["language_model", "projector", "vision_tower"]
    assert "lora" not in full["configuration"]
    assert lora["configuration"]["learning_rate"] == 2e-4
    assert lora["configuration"]["train"] == ["language_model"]
    assert lora["configuration"]["lora"] == {"rank": 16, "alpha": 32, "dropout": 0.05}
    assert lora["configuration"]["workers"] == 0


def test_nothing_of_the_run_itself_is_left_but_its_logs(run: Run) -> None:
    """Nor in the configuration: the Trainer turns the network's cache off, and that must not be saved."""
    folder = run("out")
    assert not (folder / "work").exists()
    events = EventAccumulator(str(folder / "logs")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert '"use_cache": false' not in (folder / "config.json").read_text()


def test_what_is_less_than_a_stretch_is_told_too(run: Run) -> None:
    assert len(manifests.read(run("out", epochs=2, log_every=4)).training["losses"]) == 2
    assert len(manifests.read(run("short", log_every=20)).training["losses"]) == 1


def test_progress_is_told_in_lines(run: Run, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("out", validation=data)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "epoch 0.33 of 1, update 1 of 3",
        "epoch 0.67 of 1, update 2 of 3",
        "epoch 1.00 of 1, update 3 of 3",
        "epoch 1.00 of 1, update 3 of 3",
        "update 3 had the lowest validation loss, its weights are kept",
    ]
    assert "loss" in lines[0]
    assert "validation loss" in lines[3]


def test_validation_is_measured_on_what_was_written(run: Run, data: Path) -> None:
    folder = run("out", epochs=10, validation=data)
    detector, rows = Detector.load(folder, device="cpu"), records.read(data, data.parent, load(folder), 1024).rows
    verdicts = detector.judge([to_rgb(row.image) for row in rows])
    right = sum(verdict.label == row.label for verdict, row in zip(verdicts, rows, strict=True))
    metrics = detector.manifest.metrics
    assert (metrics["validation_images"], metrics["validation_accuracy"]) == (8, right / 8)
    assert metrics["validation_auc"] == 1.0
    low, high = metrics["validation_accuracy_95"]
    assert 0 < low < right / 8 <= high <= 1
    low, high = metrics["validation_auc_95"]
    assert 0 < low <= high == 1
    assert metrics["validation_loss"] < metrics["training_loss"] + 0.5


@pytest.mark.parametrize(("method", "rate"), [("full", 0.01), ("lora", 0.05)])
def test_a_run_that_stops_improving_is_stopped_and_keeps_its_best_weights(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, rate: float
) -> None:
    """Validation rows say the opposite of the training rows, which it is soon worse to know."""
    validation = finetune_records.write(tmp_path / "contrary", flipped=True)
    settings = {"method": method, "patience": 2, "save_every": 2, "learning_rate": rate}
    folder = run("out", epochs=30, validation=validation, **settings)
    made = manifests.read(folder)
    losses = [event.value for event in EventAccumulator(str(folder / "logs")).Reload().Scalars("eval/loss")]
    assert made.training["updates"] < 90
    assert len(losses) == made.training["updates"] // 2
    assert losses.index(min(losses)) == len(losses) - 3  # two more were tried
    kept = 2 * (len(losses) - 2)
    assert f"stopped early: update {kept} had the lowest validation loss" in capsys.readouterr().out
    assert made.metrics["validation_loss"] == pytest.approx(min(losses), abs=1e-4)
    written = trainer(load(folder, device="cpu"), validation, tmp_path / "other")
    assert written.evaluate(written.train_dataset)["eval_loss"] == pytest.approx(min(losses), abs=1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_golden_outputs_catch_another_prompt(needs_goldens: None, run: Run, method: str) -> None:
    folder = run("out", method=method, epochs=20, learning_rate=5e-3, lora={"rank": 8} if method == "lora" else None)
    Detector.load(folder, device="cpu").verify_golden(folder)
    manifest = manifests.read(folder)
    assert {golden.image for golden in manifest.golden} == {
        path.relative_to(folder).as_posix() for path in (folder / "golden").iterdir()
    }
    asked = manifest.prompt.model_copy(update={"text": "<image>Is the image real/fake?"})
    manifest.model_copy(update={"prompt": asked}).write(folder)
    with pytest.raises(GoldenMismatch, match="does not answer as measured"):
        Detector.load(folder, device="cpu").verify_golden(folder)
