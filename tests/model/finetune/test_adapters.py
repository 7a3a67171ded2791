"""An adapter does what it did when it was trained, wherever it is read, or it is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from infra import registration
from infra.commands.detect import detect
from model import adapters, checkpoint
from model import manifest as manifests
from model.checkpoint import Checkpoint, CheckpointError, classic_name, load
from model.detector import Detector
from model.finetune import parts, results
from model.finetune.arguments import Lora
from model.finetune.command import merge as merge_command
from model.finetune.merge import merge
from tests.model.finetune.conftest import Run

EVERYTHING = ["language_model", "vision_tower", "projector"]
# What vLLM does to the names of a LLaVA's adapter once `base_model.model.` is cut off (`hf_to_vllm_mapper` of its
# LlavaForConditionalGeneration). Its modules are called as in the classic layout.
VLLM_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}


@pytest.fixture
def adapter(run: Run) -> Path:
    return run("adapter", method="lora", train=EVERYTHING, learning_rate=0.02, lora={"rank": 4})


@pytest.fixture
def plain(run: Run) -> Path:
    """One without a projector beside it, as vLLM takes them."""
    return run("plain", method="lora", train=["language_model", "vision_tower"], learning_rate=0.02)


def rename(folder: Path, rule: Callable[[str], str]) -> None:
    path = folder / adapters.WEIGHTS
    save_file({rule(name): tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})


@torch.inference_mode()
def logits(network: Any, loaded: Checkpoint) -> torch.Tensor:
    torch.manual_seed(1)
    answer: torch.Tensor = network(
        input_ids=torch.tensor([loaded.tokens.prefill]), pixel_values=torch.randn(1, 3, 32, 32)
    ).logits
    return answer


# --- names -----------------------------------------------------------------------------------------------------------


def test_the_names_that_are_written(adapter: Path) -> None:
    names = set(load_file(adapter / adapters.WEIGHTS))
    assert names >= {
        "base_model.model.model.language_model.layers.1.mlp.down_proj.lora_A.weight",
        "base_model.model.model.vision_tower.vision_model.encoder.layers.1.self_attn.out_proj.lora_B.weight",
        "base_model.model.model.multi_modal_projector.linear_2.bias",
    }
    assert len(names) == 2 * (2 * 7 + 2 * 6) + 4
    assert not any(".layers.2." in name for name in names if "vision" in name)  # nothing depends on that layer


def test_peft_reads_it_on_plain_transformers(adapter: Path, tiny_checkpoint: Path) -> None:
    ours = load(adapter, device="cpu")
    base = LlavaForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    before = logits(base.eval(), ours)
    theirs = logits(PeftModel.from_pretrained(base, adapter).eval(), ours)
    assert torch.equal(theirs, logits(ours.model, ours))
    assert float((theirs - before).abs().max()) > 0.1


def test_vllm_finds_every_module_by_its_rules(plain: Path, loaded: Checkpoint) -> None:
    modules = {classic_name(name).rpartition(".")[0] for name, _ in loaded.model.named_parameters()}
    for name in load_file(plain / adapters.WEIGHTS):
        module = name.removeprefix("base_model.model.").rpartition(".lora_")[0]
        old, new = next((old, new) for old, new in VLLM_PREFIXES.items() if module.startswith(old))
        assert new + module.removeprefix(old) in modules


def test_vllm_s_other_conditions_hold(plain: Path) -> None:
    """It takes no `modules_to_save`, no DoRA and no bias, and reads rank and alpha from the configuration."""
    configuration = json.loads((plain / adapters.CONFIGURATION).read_text())
    assert configuration["modules_to_save"] is None
    assert (configuration["use_dora"], configuration["bias"]) == (False, "none")
    assert (configuration["r"], configuration["lora_alpha"]) == (16, 32)


def test_the_layout_of_older_transformers_is_read_too(plain: Path) -> None:
    """`language_model.model.layers…`, as adapters of FakeVLM's own trainer have it."""
    ours = load(plain, device="cpu")
    expected = logits(ours.model, ours)
    swaps = [("model.language_model.", "language_model.model."), ("model.vision_tower.", "vision_tower.")]
    for new, old in swaps:
        rename(plain, lambda name, new=new, old=old: name.replace(f"base_model.model.{new}", f"base_model.model.{old}"))
    assert torch.equal(logits(load(plain, device="cpu").model, ours), expected)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (lambda name: name.replace(".layers.", ".blocks."), "silently do nothing"),
        (lambda name: name.replace("base_model.model.", "network."), "do not fit this network"),
        (lambda name: name.replace("layers.0.mlp.up_proj", "layers.9.mlp.up_proj"), "2 missing, 2 unexpected"),
        (
            lambda name: name.replace("multi_modal_projector.linear_1.weight", "projector.weight"),
            "do not fit this network.*missing",
        ),
    ],
    ids=["blocks", "prefix", "one layer", "projector"],
)
def test_other_names_are_refused(adapter: Path, rule: Callable[[str], str], says: str) -> None:
    rename(adapter, rule)
    with pytest.raises(CheckpointError, match=says):
        load(adapter, device="cpu")


def test_weights_of_another_shape_are_refused(adapter: Path) -> None:
    path = adapter / adapters.WEIGHTS
    weights = load_file(path)
    weights = {name: tensor[:2] if "lora_A" in name else tensor for name, tensor in weights.items()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="do not fit their base"):
        load(adapter, device="cpu")


def test_an_adapter_that_changes_nothing_is_refused(plain: Path) -> None:
    path = plain / adapters.WEIGHTS
    weights = {name: tensor * ("lora_B" not in name) for name, tensor in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="change no output"):
        load(plain, device="cpu")


def test_a_run_that_changes_nothing_is_an_error(run: Run) -> None:
    with pytest.raises(CheckpointError, match="change no output"):
        run("out", method="lora", learning_rate=1e-30)


def test_pickled_adapters_are_refused(adapter: Path) -> None:
    torch.save(load_file(adapter / adapters.WEIGHTS), adapter / "adapter_model.bin")
    (adapter / adapters.WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"\.bin.*never loaded"):
        load(adapter, device="cpu")


def test_adapters_of_an_interrupted_download_are_refused(adapter: Path) -> None:
    path = adapter / adapters.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"damaged or incomplete.*download or copy it again"):
        load(adapter, device="cpu")


# --- the base --------------------------------------------------------------------------------------------------------


def test_the_manifest_names_the_base(adapter: Path, tiny_checkpoint: Path) -> None:
    named = manifests.read(adapter).adapter
    assert named == manifests.Adapter(base=str(tiny_checkpoint), digest=manifests.read(tiny_checkpoint).digest())


def test_an_adapter_on_the_demo_checkpoint_names_it_so(run: Run) -> None:
    folder = run("out", base="demo", method="lora", learning_rate=0.02)
    named = manifests.read(folder).adapter
    assert named is not None
    assert named.base == "demo"
    assert load(folder, device="cpu").manifest.name == "tiny-2"


def rebase(folder: Path, base: Path) -> None:
    manifest = manifests.read(folder)
    assert manifest.adapter is not None
    changed = manifest.adapter.model_copy(update={"base": str(base)})
    manifest.model_copy(update={"adapter": changed}).write(folder)


def test_a_base_that_moved_is_found_where_the_manifest_says(
    adapter: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(tiny_checkpoint, tmp_path / "moved"))
    expected = load(adapter, device="cpu")
    rebase(adapter, tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"write where to into `adapter\.base`"):
        load(adapter, device="cpu")
    rebase(adapter, moved)
    assert torch.equal(logits(load(adapter, device="cpu").model, expected), logits(expected.model, expected))


def test_another_base_is_refused(adapter: Path, wide_checkpoint: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_checkpoint, tmp_path / "other"))
    manifests.read(other).model_copy(update={"name": "other"}).write(other)
    rebase(adapter, other)
    with pytest.raises(CheckpointError, match="an adapter for another base"):
        load(adapter, device="cpu")


def test_an_adapter_without_a_base_in_its_manifest_is_refused(adapter: Path) -> None:
    manifests.read(adapter).model_copy(update={"adapter": None}).write(adapter)
    with pytest.raises(CheckpointError, match="its manifest names no base"):
        load(adapter, device="cpu")


def test_the_interface_of_an_adapter_is_its_base_s(adapter: Path, tiny_checkpoint: Path) -> None:
    assert checkpoint.load_interface(adapter).tokens == checkpoint.load_interface(tiny_checkpoint).tokens
    assert checkpoint.load_interface(adapter).manifest.name == "tiny-2"


# --- merging ---------------------------------------------------------------------------------------------------------


def test_a_merged_checkpoint_loads_in_plain_transformers(needs_goldens: None, adapter: Path, tmp_path: Path) -> None:
    with_adapter = load(adapter, device="cpu")
    folder = merge(adapter, tmp_path / "merged", "float32")
    network, loading = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    difference = logits(network.eval(), with_adapter) - logits(with_adapter.model, with_adapter)
    assert float(difference.abs().max()) < 1e-3
    manifest = manifests.read(folder)
    assert (manifest.name, manifest.adapter) == ("tiny-2-merged", None)
    assert "vision_tower.vision_model.embeddings.class_embedding" in load_file(folder / "model.safetensors")


def test_a_merged_checkpoint_has_golden_outputs_of_its_own(needs_goldens: None, run: Run, tmp_path: Path) -> None:
    adapter = run("sure", method="lora", epochs=12, learning_rate=0.02)
    folder = merge(adapter, tmp_path / "merged", "float32")
    before, after = manifests.read(adapter).golden, manifests.read(folder).golden
    assert before
    assert [golden.sha256 for golden in after] == [golden.sha256 for golden in before]
    Detector.load(folder, device="cpu").verify_golden(folder)


def test_a_merge_whose_answers_are_not_clear_has_no_golden_outputs(
    needs_goldens: None, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = run("sure", method="lora", epochs=12, learning_rate=0.02)
    assert manifests.read(adapter).golden
    monkeypatch.setattr("model.detector.LOGIT_TOLERANCE", {"float32": 1e9})
    folder = merge(adapter, tmp_path / "merged", "float32")
    assert manifests.read(folder).golden == ()
    assert not (folder / "golden").exists()
    assert "No answer is clear enough" in caplog.text


def test_a_golden_image_that_is_gone_is_told_before_anything_is_merged(
    needs_goldens: None, run: Run, tmp_path: Path
) -> None:
    adapter = run("sure", method="lora", epochs=12, learning_rate=0.02)
    image = adapter / manifests.read(adapter).golden[0].image
    image.unlink()
    with pytest.raises(CheckpointError, match=r"is missing.*put it back") as refused:
        merge(adapter, tmp_path / "merged", "float32")
    assert str(image) in str(refused.value)
    assert not (tmp_path / "merged").exists()


def scale(folder: Path, by: float) -> None:
    """The same adapter with so much of its effect."""
    path = folder / adapters.WEIGHTS
    weights = {name: tensor * (by if "lora_B" in name else 1) for name, tensor in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})


@pytest.fixture
def on_bfloat16(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """An adapter on a base that is stored in bfloat16, as FakeVLM is: storing it so again rounds the update alone."""
    base = load(tiny_checkpoint, device="cpu")
    half = checkpoint.save_classic(base.model, base.processor, base.manifest, tmp_path / "half", torch.bfloat16)
    return run("on-half", base=half, method="lora", learning_rate=0.02)


def test_a_merge_keeps_what_it_does_when_it_is_stored(on_bfloat16: Path, tmp_path: Path) -> None:
    adapted, base = load(on_bfloat16, device="cpu"), load(tmp_path / "half", device="cpu")
    stored = load(merge(on_bfloat16, tmp_path / "merged", "bfloat16"), device="cpu")
    change = logits(adapted.model, adapted) - logits(base.model, base)
    assert float((logits(stored.model, stored) - logits(adapted.model, adapted)).norm() / change.norm()) < 0.25


def test_a_small_update_that_storing_rounds_away_is_refused(on_bfloat16: Path, tmp_path: Path) -> None:
    scale(on_bfloat16, 1e-3)
    with pytest.raises(CheckpointError, match=r"is off by \d+% .*; store as float32"):
        merge(on_bfloat16, tmp_path / "merged", "bfloat16")
    assert not (tmp_path / "merged").exists()
    assert merge(on_bfloat16, tmp_path / "merged", "float32").is_dir()


def test_a_file_that_answers_like_the_base_is_refused(on_bfloat16: Path, tmp_path: Path) -> None:
    base = load(tmp_path / "half", device="cpu")
    adapted = checkpoint.put_adapter_on(base.model, on_bfloat16, base.tokens)
    _, effect = adapters.merge(adapted, checkpoint.probe(base.model, base.tokens))
    untouched = load(tmp_path / "half", device="cpu").model
    with pytest.raises(adapters.MergeFailed, match=r"answers like its base: .* store as float32"):
        effect.require_stored(untouched, "bfloat16")


def test_what_a_merge_leaves_half_done_is_in_nobody_s_way(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(results, "clear", lambda *unused: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merge(adapter, tmp_path / "merged", "float32")
    assert set(tmp_path.iterdir()) == before
    (tmp_path / "merged").mkdir()  # an empty folder is as good as none
    (tmp_path / ".merged-unfinished").mkdir()  # of one that was killed
    (tmp_path / ".merged-unfinished" / "model.safetensors").touch()
    merge(adapter, tmp_path / "merged", "float32")
    assert set(tmp_path.iterdir()) == before | {tmp_path / "merged"}


def test_qlora_merges_into_the_base_in_full(run: Run, wide_checkpoint: Path, tmp_path: Path) -> None:
    adapter = run("four-bits", base=wide_checkpoint, method="qlora", learning_rate=0.02)
    merged = load(merge(adapter, tmp_path / "merged", "float32"), device="cpu")
    assert (merged.dtype, merged.manifest.quantization) == ("float32", "none")


def test_merging_what_is_no_adapter_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no adapter.*give the output folder of a `telltale finetune`"):
        merge(tiny_checkpoint, tmp_path / "merged", "float32")


def attach(loaded: Checkpoint) -> Any:
    return adapters.attach(loaded.model, parts.adapters(loaded.model, Lora(rank=4), {"language_model"}))


def test_lora_trains_nothing_but_adapters(loaded: Checkpoint) -> None:
    trained = {name for name, weight in attach(loaded).named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name and "language_model" in name for name in trained)


def test_a_merge_that_changes_nothing_is_refused(loaded: Checkpoint) -> None:
    """Fresh adapters multiply by zero: merging them is what an adapter loaded under the wrong names does."""
    adapted = attach(loaded)
    with pytest.raises(adapters.MergeFailed, match="changed no output"):
        adapters.merge(adapted, checkpoint.probe(loaded.model, loaded.tokens))


def test_a_merge_unlike_its_adapters_is_refused(loaded: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = attach(loaded)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.add_(0.05)
    lora = type(adapted.base_model)
    merging = lora.merge_and_unload

    def scaled(self: Any, **options: Any) -> Any:
        merged = merging(self, **options)
        with torch.no_grad():
            merged.lm_head.weight.mul_(1.5)
        return merged

    monkeypatch.setattr(lora, "merge_and_unload", scaled)
    with pytest.raises(adapters.MergeFailed, match="unlike its adapters"):
        adapters.merge(adapted, checkpoint.probe(loaded.model, loaded.tokens))


# --- where adapters are used -----------------------------------------------------------------------------------------


def test_detect_takes_an_adapter(run: Run, data: Path) -> None:
    adapter = run("adapter", method="lora", epochs=12, learning_rate=0.02)
    images = [str(data.parent / "images" / name) for name in ("0.png", "1.png")]
    result = CliRunner().invoke(detect, [*images, "--checkpoint", str(adapter), "--json", "--no-explain"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["label"], line["model_version"]) for line in lines] == [("fake", "tiny-2"), ("real", "tiny-2")]


def test_nothing_but_the_answer_is_printed(adapter: Path, data: Path) -> None:
    """No library's warning, with a path of its own, where an adapter is put on."""
    image = data.parent / "images" / "0.png"
    command = [Path(sys.executable).with_name("telltale"), "detect", image, "--checkpoint", adapter, "--json"]
    ended = subprocess.run([*command, "--no-explain"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "Warning" not in ended.stderr


def test_register_proves_an_adapter_by_its_golden_outputs(needs_goldens: None, run: Run) -> None:
    adapter = run("adapter", method="lora", epochs=12, learning_rate=0.02)
    said: list[str] = []
    manifest = registration.prepared(registration.Source.of(str(adapter)), None, said.append)
    assert manifest == manifests.read(adapter)
    assert said[-1].startswith("Comparing its answers with its golden outputs")


def test_the_merge_command(adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    result = CliRunner().invoke(merge_command, [str(adapter), str(output), "--name", "alone", "--stored-as", "float32"])
    assert result.stdout == f"{output}\n"
    assert load(output, device="cpu").manifest.name == "alone"
    again = CliRunner().invoke(merge_command, [str(adapter), str(output)])
    assert again.exit_code == 1
    assert "not an empty folder" in again.output


def test_adapters_are_configured_as_asked(loaded: Checkpoint) -> None:
    configuration = parts.adapters(loaded.model, Lora(rank=3, alpha=7, dropout=0.5), {"language_model", "projector"})
    assert isinstance(configuration, LoraConfig)
    assert (configuration.r, configuration.lora_alpha, configuration.lora_dropout) == (3, 7, 0.5)
    assert configuration.modules_to_save == ["multi_modal_projector"]
