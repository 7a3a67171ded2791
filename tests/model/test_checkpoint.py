"""A checkpoint loads whole, in any of the key layouts in use, or it does not load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from model import checkpoint
from model.checkpoint import CheckpointError, classic_name, load, locate, save_classic
from model.detector import Detector
from model.manifest import ManifestError
from tests.model import tiny

HASH = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(path: Path) -> None:
    """As an interrupted download leaves it."""
    path.write_bytes(path.read_bytes()[:-100])


def rename_weights(folder: Path, rename: Any) -> None:
    weights = {rename(name): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def logits(model: Any, tokens: checkpoint.prompts.PromptTokens) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens.prefill]), pixel_values=torch.randn(1, 3, 32, 32)).logits


def test_what_is_saved_loads_to_the_same_outputs(tiny_checkpoint: Path) -> None:
    original, _ = tiny.build()
    loaded = load(tiny_checkpoint, device="cpu")
    assert torch.equal(logits(loaded.model, loaded.tokens), logits(original, loaded.tokens))
    assert not loaded.model.training
    assert (loaded.dtype, loaded.device.type) == ("float32", "cpu")


def test_saved_names_are_the_classic_ones(tiny_checkpoint: Path) -> None:
    with safe_open(tiny_checkpoint / WEIGHTS, "pt") as file:
        names = set(file.keys())
    assert {name.split(".layers.")[0].split(".weight")[0] for name in names} >= {
        "vision_tower.vision_model.embeddings.patch_embedding",
        "vision_tower.vision_model.encoder",
        "language_model.model.embed_tokens",
        "language_model.model",
        "language_model.lm_head",
        "multi_modal_projector.linear_1",
    }
    assert all(name.startswith(("vision_tower.vision_model.", "language_model.", "multi_modal_")) for name in names)


def test_the_layout_of_save_pretrained_loads_to_the_same_outputs(folder: Path) -> None:
    original, _ = tiny.build()
    (folder / WEIGHTS).unlink()
    original.save_pretrained(folder)
    with safe_open(folder / WEIGHTS, "pt") as file:
        assert "vision_tower.embeddings.class_embedding" in file.keys()  # noqa: SIM118  (not a dict)
    loaded = load(folder, device="cpu")
    assert torch.equal(logits(loaded.model, loaded.tokens), logits(original, loaded.tokens))


def test_the_layout_of_the_modules_loads_to_the_same_outputs(folder: Path) -> None:
    original, _ = tiny.build()
    state = {name: tensor.contiguous() for name, tensor in original.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    loaded = load(folder, device="cpu")
    assert torch.equal(logits(loaded.model, loaded.tokens), logits(original, loaded.tokens))


def test_weights_stored_in_half_are_computed_in_full(tmp_path: Path) -> None:
    model, processor = tiny.build()
    save_classic(model, processor, tiny.manifest(), tmp_path, torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / WEIGHTS).values()} == {torch.float16}
    assert load(tmp_path, device="cpu").model.dtype == torch.float32


def test_saving_again_leaves_no_old_shard(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    model, processor = tiny.build(seed=3)
    save_classic(model, processor, tiny.manifest(), folder, torch.float32)
    assert [path.name for path in folder.glob("*.safetensors")] == [WEIGHTS]


def test_tied_embeddings_survive(tmp_path: Path) -> None:
    processor = tiny.processor()
    config = tiny.config(processor.tokenizer)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    model = LlavaForConditionalGeneration(config).eval()
    save_classic(model, processor, tiny.manifest(), tmp_path, torch.float32)
    loaded = load(tmp_path, device="cpu")
    assert torch.equal(logits(loaded.model, loaded.tokens), logits(model, loaded.tokens))


@pytest.mark.parametrize("lost", ["lm_head", "embed_tokens", "linear_2.bias", "class_embedding"])
def test_a_missing_weight_is_refused(folder: Path, lost: str) -> None:
    weights = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if lost not in name}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"missing.*{lost}"):
        load(folder, device="cpu")


def test_a_left_over_weight_is_refused(folder: Path) -> None:
    rename_weights(folder, lambda name: name.replace("layers.1.mlp.up_proj", "layers.1.mlp.up"))
    with pytest.raises(CheckpointError, match=r"unexpected.*layers\.1\.mlp\.up"):
        load(folder, device="cpu")


def test_a_weight_of_another_shape_is_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["multi_modal_projector.linear_2.bias"] = torch.zeros(31)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"linear_2\.bias"):
        load(folder, device="cpu")


def test_pickled_weights_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"\.bin.*never loaded"):
        load(folder, device="cpu")


def test_code_in_a_checkpoint_does_not_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (folder / "planted.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nclass Planted: pass\n")
    planted = {"AutoConfig": "planted.Planted", "AutoModel": "planted.Planted", "AutoProcessor": "planted.Planted"}
    edit(folder / "config.json", auto_map=planted)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["planted.Planted", "planted.Planted"]})
    load(folder, device="cpu")
    assert not trace.exists()


def test_a_folder_needs_a_manifest(folder: Path) -> None:
    (folder / "telltale.json").unlink()
    with pytest.raises(ManifestError, match="telltale models register"):
        load(folder, device="cpu")
    assert load(folder, device="cpu", manifest=tiny.manifest()).manifest.name == "tiny"


def test_the_processor_s_own_token_settings_are_overruled(folder: Path) -> None:
    """0 is what LLaVA-1.5's published processor has, and gives one token too few."""
    edit(folder / "processor_config.json", num_additional_image_tokens=0, patch_size=None)
    loaded = load(folder, device="cpu")
    made = loaded.processor(images=tiny_image(), text=loaded.manifest.prompt.text)["input_ids"][0]
    assert tuple(made) == loaded.tokens.prompt
    assert loaded.tokens.prompt.count(loaded.model.config.image_token_id) == 16


def tiny_image() -> Any:
    from PIL import Image

    return Image.new("RGB", (50, 40))


def test_a_processor_of_another_size_is_refused(folder: Path) -> None:
    path = folder / "processor_config.json"
    images = json.loads(path.read_text())["image_processor"]
    edit(path, image_processor=images | {"crop_size": {"height": 40, "width": 40}})
    with pytest.raises(CheckpointError, match="25 image tokens, the network 16"):
        load(folder, device="cpu")


def test_another_image_token_is_refused(folder: Path) -> None:
    edit(folder / "config.json", image_token_index=5)
    with pytest.raises(CheckpointError, match="image token is 3 to the tokenizer, 5 to the network"):
        load(folder, device="cpu")


def test_features_with_cls_are_refused(folder: Path) -> None:
    edit(folder / "config.json", vision_feature_select_strategy="full")
    with pytest.raises(CheckpointError, match="CLS"):
        load(folder, device="cpu")


def test_a_processor_elsewhere_gives_the_tokens_of_its_tokenizer_json(folder: Path, tmp_path: Path) -> None:
    """As Llama's does, this file marks the word after the image; transformers 5 would not, `legacy` being false."""
    llama = Tokenizer(models.BPE({character: index for index, character in enumerate("▁Does")}, []))
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama.add_special_tokens(["<image>"])
    llama.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "legacy": false}')
    shutil.copy(folder / "processor_config.json", tmp_path)
    manifest = tiny.manifest().model_copy(update={"processor": str(tmp_path)})
    config = load(folder, device="cpu").model.config
    tokenizer = checkpoint.load_processor(folder, None, config, manifest).tokenizer
    assert tokenizer.tokenize("<image>Does") == ["<image>", "▁", "D", "o", "e", "s"]


def test_a_checkpoint_without_a_processor_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no processor"):
        load(folder, device="cpu")


@pytest.mark.parametrize(("special", "says"), [([], "BOS"), (["<s>", "$A", "</s>"], "EOS")])
def test_a_prompt_begins_with_bos_and_stays_open(folder: Path, special: list[str], says: str) -> None:
    template = processors.TemplateProcessing(single=special or "$A", special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = template
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=says):
        load(folder, device="cpu")


def test_a_prompt_the_tokenizer_cannot_carry_is_refused(folder: Path) -> None:
    manifest = tiny.manifest()
    manifest = manifest.model_copy(update={"prompt": manifest.prompt.model_copy(update={"fake_word": " synthetic"})})
    with pytest.raises(CheckpointError, match="single token"):
        load(folder, device="cpu", manifest=manifest)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", HASH[:7], HASH.upper()])
def test_a_hub_id_needs_a_full_commit_hash(revision: str | None) -> None:
    with pytest.raises(CheckpointError, match="40-digit commit hash"):
        locate("lingcco/fakeVLM", revision)


def test_a_hub_id_with_its_commit(tmp_path: Path) -> None:
    assert locate("lingcco/fakeVLM", HASH) == ("lingcco/fakeVLM", HASH)
    assert locate(f"lingcco/fakeVLM@{HASH}") == ("lingcco/fakeVLM", HASH)
    assert locate(tmp_path) == (tmp_path, None)
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        locate(tmp_path / "nowhere")


def test_a_demo_checkpoint_that_is_not_there_says_how_to_build_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "DEMO_FOLDER", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="make demo-checkpoint"):
        locate("demo")
    monkeypatch.setattr(checkpoint, "DEMO_FOLDER", tmp_path)
    assert locate("demo") == (tmp_path, None)


def test_a_hub_id_needs_a_manifest() -> None:
    with pytest.raises(CheckpointError, match="telltale models register"):
        load(f"lingcco/fakeVLM@{HASH}")


def test_the_manifest_of_a_published_fakevlm() -> None:
    manifest = checkpoint.fakevlm_manifest("lingcco/fakeVLM", HASH)
    assert (manifest.kind, manifest.revision, manifest.processor) == ("fakevlm", HASH, "llava-hf/llava-1.5-7b-hf")
    assert manifest.prompt.text == "<image>Does the image looks real/fake?"
    assert locate(manifest.processor, manifest.processor_revision)[1] == checkpoint.LLAVA_PROCESSOR_REVISION


def test_fakevlm_s_size_and_names() -> None:
    """On the meta device: no memory, no weights. 7,063,427,072 parameters is what LLaVA-1.5-7B has."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(LlavaConfig(text_config=LlamaConfig(vocab_size=32064)))
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_063_427_072
    assert checkpoint.image_token_count(model.config) == 576
    names = {classic_name(name) for name in model.state_dict()}
    assert len(names) == len(model.state_dict()) == 686
    assert names >= {
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.31.self_attn.q_proj.weight",
        "language_model.model.norm.weight",
        "multi_modal_projector.linear_2.bias",
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.embeddings.position_embedding.weight",
        "vision_tower.vision_model.encoder.layers.23.mlp.fc2.bias",
        "vision_tower.vision_model.post_layernorm.weight",
        "vision_tower.vision_model.pre_layrnorm.weight",
    }


def test_names_that_are_no_weight_of_a_llava_are_refused() -> None:
    for name in ("base_model.model.lm_head.weight", "model.language_model.layers.0.self_attn.q_proj.lora_A.weight"):
        with pytest.raises(CheckpointError, match="merge adapters"):
            classic_name(name)


def test_fakevlm_s_geometry(tmp_path: Path) -> None:
    """336 px in patches of 14: BOS, 576 image tokens and the text, and the network takes them."""
    detector = Detector.load(tiny.save(tmp_path, size=336, patch=14), device="cpu", max_new_tokens=2)
    loaded = load(tmp_path, device="cpu")
    text = len(loaded.processor.tokenizer("Does the image looks real/fake?", add_special_tokens=False)["input_ids"])
    assert len(loaded.tokens.prompt) == 1 + 576 + text
    assert detector.judge([tiny_image()])[0].label in ("real", "fake")


def test_weights_of_an_interrupted_download_are_refused(folder: Path) -> None:
    truncate(folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"damaged or incomplete.*download or copy them again"):
        load(folder, device="cpu")


@pytest.mark.parametrize("image", ["/etc/passwd", "../other/secret.png", "golden/../../secret.png"])
def test_a_golden_image_outside_the_folder_is_refused(folder: Path, image: str) -> None:
    golden = {"image": image, "sha256": "", "label": "fake", "logit": 9, "text": "", "dtype": "", "engine": ""}
    edit(folder / "telltale.json", golden=[golden])
    with pytest.raises(ManifestError, match="must name a file in the manifest's folder"):
        load(folder, device="cpu")
