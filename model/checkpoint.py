"""Loading a LLaVA checkpoint so that it is surely the one that was trained, and writing one that others can load.

A checkpoint is a folder with `telltale.json` beside its weights, or a hub id at a full commit hash with a manifest
given by the caller. A folder may hold a LoRA adapter instead of a network; then its manifest names the base, which is
loaded, and the adapter put on it. Only safetensors are read, no code from a checkpoint is ever run, and a key that is
missing or left over fails the load. It knows nothing of images or verdicts.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from transformers import (
    AutoImageProcessor,
    BitsAndBytesConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.image_processing_backends import PilBackend

from model import adapters
from model import manifest as manifests
from model import prompt as prompts
from model.manifest import Manifest

log = logging.getLogger(__name__)

# The demo checkpoint that ships with the package.
DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo" / "checkpoint"
SAMPLES_FOLDER = DEMO_FOLDER.with_name("samples")

# FakeVLM's own scripts take their processor from here.
LLAVA_PROCESSOR = "llava-hf/llava-1.5-7b-hf"
LLAVA_PROCESSOR_REVISION = "a272c74b2481d8aff3aa6fc2c4bf891fe57334fb"

COMMIT_HASH = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

# Name prefixes: transformers 5's own, and the layout of 4.45 that vLLM and every published LLaVA-1.5 use.
CLASSIC_PREFIXES = (
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)


# What stays in full precision beside quantized layers: the beginnings of module names in the network.
UNQUANTIZED = ("model.vision_tower", "model.multi_modal_projector", "lm_head")


_TELL_BASE = (
    f"train it with `telltale finetune`, or write `adapter` (base, revision, digest) into {manifests.FILE_NAME}."
)


class CheckpointError(ValueError):
    """This checkpoint cannot be served as it is; the message says why and what to do."""


@dataclass(frozen=True)
class Interface:
    """All of a checkpoint but its weights: its processor, its manifest, and the prompt as this tokenizer's ids."""

    processor: Any
    manifest: Manifest
    tokens: prompts.PromptTokens


@dataclass(frozen=True)
class Ground:
    """What of a version is loaded once: a network, its processor and its precision. Adapters on it come and go.

    `digest` is that of the network's own manifest: another one at the same place is another network.
    """

    place: str
    revision: str | None
    digest: str
    processor: str | None
    processor_revision: str | None
    quantization: str


@dataclass(frozen=True)
class Checkpoint(Interface):
    """A network ready to run, and its interface.

    An adapter is on the network, but not merged into it: merging would round the weights and could not be undone, and
    the same base can carry the next adapter. `ground` and `mounted` say what it would be exchanged on, and with what.
    """

    model: Any
    ground: Ground | None = None
    mounted: adapters.Mounted | None = None

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def dtype(self) -> str:
        """What it computes in: `float32`, `bfloat16` or `float16`, and `int8` or `nf4` where it is quantized."""
        if self.manifest.quantization != "none":
            return self.manifest.quantization
        return str(self.model.dtype).removeprefix("torch.")


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    manifest: Manifest | None = None,
) -> Checkpoint:
    """Load a checkpoint from a folder, a hub id (`owner/name` with `revision`, or `owner/name@revision`), or `demo`.

    `manifest` is for a source that ships none; a hub id always needs one. `device` defaults to CUDA where there is one,
    else CPU; `dtype` to bfloat16 on CUDA, else float32. The network is in evaluation mode.

    Raises CheckpointError, and ManifestError where a folder has no manifest and none is given.
    """
    place, revision = locate(source, revision)
    manifest = manifest or _own_manifest(place)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    below = _below(place, revision, manifest)
    model = _load_network(*below, device, dtype, manifest)
    interface = _interface(*below, model.config, manifest)
    mounted = _mounted(model, place, interface.tokens) if manifest.adapter is not None else None
    log.info("loaded %s from %s (%s on %s)", manifest.name, place, dtype, device)
    if manifest.is_demo:
        log.warning("%s is a demo model, not FakeVLM", manifest.name)
    ground = ground_of(place, revision, manifest)
    return Checkpoint(interface.processor, manifest, interface.tokens, model, ground, mounted)


def ground_of(place: Path | str, revision: str | None, manifest: Manifest) -> Ground:
    """What a version at `place` stands on: itself, or the base of its adapter.

    Raises CheckpointError where that is not there.
    """
    if manifest.adapter is None:
        below, commit, found = place, revision, manifest_of(place, revision)
    else:
        below, commit, found = base_of(manifest)
    return Ground(
        place=str(below.resolve() if isinstance(below, Path) else below),
        revision=commit,
        digest=found.digest(),
        processor=manifest.processor,
        processor_revision=manifest.processor_revision,
        quantization=manifest.quantization,
    )


def load_interface(source: str | Path, *, revision: str | None = None, manifest: Manifest | None = None) -> Interface:
    """What `load` gives, without loading weights: for an engine that runs them elsewhere.

    Raises CheckpointError and ManifestError as `load` does.
    """
    place, revision = locate(source, revision)
    manifest = manifest or _own_manifest(place)
    place, revision = _below(place, revision, manifest)
    try:
        config = LlavaConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{place} has no configuration that can be read: {error}") from error
    return _interface(place, revision, config, manifest)


def locate(source: str | Path, revision: str | None = None) -> tuple[Path | str, str | None]:
    """A folder, or a hub id with the commit it is pinned to.

    Raises CheckpointError where it is neither, or the commit is not a full hash: a branch or tag may move.
    """
    folder = DEMO_FOLDER if source == DEMO else Path(source)
    if folder.is_dir():
        return folder, None
    if source == DEMO:
        raise CheckpointError("The demo checkpoint is not installed: build it with `make demo-checkpoint`.")
    name, _, at = str(source).partition("@")
    revision = revision or at or None
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(f"{source} is neither a folder nor a hub id (owner/name).")
    if revision is None or not COMMIT_HASH.fullmatch(revision):
        raise CheckpointError(
            f"{name} is taken for a hub id, and needs its full 40-digit commit hash, as in {name}@HASH, because "
            "branches and tags move: the hub shows it under 'Files and versions'. (There is no folder of that name.)"
        )
    return name, revision


def golden_folder(source: str | Path) -> Path:
    """Where a checkpoint's golden images are: beside its manifest, or for a hub id the samples that ship with us."""
    folder = DEMO_FOLDER if source == DEMO else Path(source)
    return folder if folder.is_dir() else SAMPLES_FOLDER


def manifest_of(source: str | Path, revision: str | None = None) -> Manifest:
    """A checkpoint's own manifest, or, where it has none, that of a published FakeVLM.

    Raises CheckpointError as `locate` does, and ManifestError for one that cannot be read.
    """
    place, revision = locate(source, revision)
    if isinstance(place, Path) and has_manifest(place):
        return manifests.read(place)
    return fakevlm_manifest(place, revision)


def has_manifest(source: str | Path, revision: str | None = None) -> bool:
    """Whether a checkpoint says what it is; one that does not is taken for a published FakeVLM (`manifest_of`).

    Raises CheckpointError as `locate` does.
    """
    place, _ = locate(source, revision)
    return isinstance(place, Path) and (place / manifests.FILE_NAME).is_file()


def base_of(manifest: Manifest) -> tuple[Path | str, str | None, Manifest]:
    """Where the base of an adapter is, its revision, and its manifest.

    Raises CheckpointError where there is none, or another than the adapter was trained on.
    """
    adapter = manifest.adapter
    if adapter is None:
        raise CheckpointError(f"{manifest.name} is a checkpoint of its own, not an adapter.")
    try:
        place, revision = locate(adapter.base, adapter.revision)
    except CheckpointError as error:
        raise CheckpointError(
            f"{manifest.name} is an adapter on {adapter.base}, which is not there. If that moved, write where to into "
            f"`adapter.base` of its {manifests.FILE_NAME}."
        ) from error
    found = manifest_of(place, revision)
    if found.digest() != adapter.digest:
        raise CheckpointError(
            f"{manifest.name} is an adapter for another base than the one at {place} ({found.name}): their manifests "
            "differ. Put back the base it was trained on, or train it anew."
        )
    return place, revision, found


def put_adapter_on(network: Any, folder: Path | str, tokens: prompts.PromptTokens) -> Any:
    """`network` with the adapter in `folder`, as peft's model around it, proven on an image of one colour.

    Raises CheckpointError.
    """
    return _mounted(network, folder, tokens).adapted


def _mounted(network: Any, folder: Path | str, tokens: prompts.PromptTokens) -> adapters.Mounted:
    try:
        return adapters.mount(network, Path(folder), probe(network, tokens))
    except adapters.AdapterError as error:
        raise CheckpointError(str(error)) from error


def probe(network: Any, tokens: prompts.PromptTokens) -> dict[str, torch.Tensor]:
    """Inputs on which two networks can be compared: the prompt, with an image of one colour."""
    side = network.config.vision_config.image_size
    return {
        "input_ids": torch.tensor([tokens.prefill], device=network.device),
        "pixel_values": torch.zeros(1, 3, side, side, device=network.device, dtype=network.dtype),
    }


def fakevlm_manifest(source: str | Path, revision: str | None = None) -> Manifest:
    """The manifest of a published FakeVLM checkpoint: raw prompt, LLaVA-1.5's processor, no calibration, no goldens.

    Raises CheckpointError as `locate` does.
    """
    place, revision = locate(source, revision)
    name = place.name if isinstance(place, Path) else f"{place}@{str(revision)[:7]}"
    return Manifest(
        name=name,
        kind="fakevlm",
        base="llava-hf/llava-1.5-7b-hf, as finetuned by the FakeVLM authors (arXiv 2503.14905)",
        revision=revision,
        processor=LLAVA_PROCESSOR,
        processor_revision=LLAVA_PROCESSOR_REVISION,
    )


def save_classic(
    model: Any,
    processor: Any,
    manifest: Manifest,
    folder: Path,
    dtype: torch.dtype,
    state: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write a checkpoint that `load`, older transformers and vLLM all read, in the key layout of transformers 4.45.

    transformers' own `save_pretrained` drops `vision_model` from the vision tower's names, and vLLM 0.32 refuses that.
    `dtype` is what the weights are stored in. `state` is the network's state where it had to be gathered from several
    processes. An adapter must have been merged before.

    Raises CheckpointError for a weight whose name has no place in the classic layout.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = state or model.state_dict()
    weights = {classic_name(name): tensor.detach().to("cpu", dtype) for name, tensor in state.items()}
    if model.config.tie_word_embeddings:
        del weights["language_model.lm_head.weight"]
    _remove_weights(folder)
    save_torch_state_dict({name: tensor.contiguous() for name, tensor in weights.items()}, folder)
    _save_config(model, folder, dtype)
    processor.save_pretrained(folder)
    manifest.write(folder)
    return folder


def classic_name(name: str) -> str:
    """A weight's name in the key layout of transformers 4.45.

    Raises CheckpointError for a name that is no part of a LLaVA (an unmerged adapter, say).
    """
    for ours, classic in CLASSIC_PREFIXES:
        if name.startswith(ours) and "lora_" not in name:
            return classic + name.removeprefix(ours)
    raise CheckpointError(f"{name} is no weight of a LLaVA: merge adapters before saving.")


def load_processor(place: Path | str, revision: str | None, config: Any, manifest: Manifest) -> Any:
    """The processor of a checkpoint, or the one its manifest names, with every setting that the token count hangs on.

    `tokenizer.json` is taken as it stands, as transformers 4.45 took it. AutoTokenizer of transformers 5 does so only
    beside a LLaVA's config.json; elsewhere it rebuilds a LlamaTokenizer from `legacy`, and the word after the image
    becomes `Does` instead of `▁Does`, another token (seen on 5.23 with Llama 2's vocabulary).
    Raises CheckpointError.
    """
    if manifest.processor is not None:
        place, revision = locate(manifest.processor, manifest.processor_revision)
    try:
        images = AutoImageProcessor.from_pretrained(place, backend="pil", revision=revision, trust_remote_code=False)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{place} has no processor that can be loaded: {error}") from error
    if not isinstance(images, PilBackend):
        raise CheckpointError(f"{place} has an image processor without a Pillow backend: {type(images).__name__}.")
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLS, which the strategy then drops; the default of 0 gives one token too few
    )


def image_token_count(config: Any) -> int:
    """How many features, hence tokens, one image has: (size / patch)², 576 for FakeVLM."""
    return int((config.vision_config.image_size // config.vision_config.patch_size) ** 2)


def _own_manifest(place: Path | str) -> Manifest:
    if isinstance(place, Path):
        return manifests.read(place)
    raise CheckpointError(
        f"{place} is on a hub and has no manifest of ours: run `telltale models register {place}`, or give one."
    )


def _below(place: Path | str, revision: str | None, manifest: Manifest) -> tuple[Path | str, str | None]:
    """Where network and processor are: at `place` itself, or at the base of the adapter there."""
    if manifest.adapter is not None:
        return base_of(manifest)[:2]
    if isinstance(place, Path) and adapters.is_adapter(place):
        raise CheckpointError(f"{place} holds an adapter, but its manifest names no base: {_TELL_BASE}")
    return place, revision


def _interface(place: Path | str, revision: str | None, config: Any, manifest: Manifest) -> Interface:
    processor = load_processor(place, revision, config, manifest)
    return Interface(processor, manifest, _check_agreement(config, processor, manifest))


def _load_network(
    place: Path | str, revision: str | None, device: torch.device, dtype: torch.dtype, manifest: Manifest
) -> Any:
    if isinstance(place, Path):
        _require_safetensors(place)
    quantized = _quantization(manifest, dtype)
    try:
        model, loading = LlavaForConditionalGeneration.from_pretrained(
            place,
            revision=revision,
            dtype=dtype,
            # transformers allows no map where processes share out the weights, which starts from the CPU.
            device_map=None if device.type == "cpu" and quantized is None else {"": device},
            quantization_config=quantized,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below by name
        )
    except torch.OutOfMemoryError as error:
        raise CheckpointError(
            f"{place} does not fit the memory of {device} in {dtype}: end what else uses it, or take fewer "
            "bits: --quantization nf4 or int8 of `telltale detect`, `evaluate` and `models register`, and `method: "
            f"qlora` to train. ({error})"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{place} could not be loaded: {error}") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"The weights in {place} are damaged or incomplete ({error}), as an interrupted download leaves them: "
            "download or copy them again."
        ) from error
    _require_complete(place, loading)
    return model.eval()


def _quantization(manifest: Manifest, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How the language model's linear layers are loaded; tower, projector and the verdict's row keep their precision.

    NF4 with double quantization is QLoRA's (Dettmers et al. 2023), int8 is LLM.int8() (Dettmers et al. 2022).
    """
    if manifest.quantization == "none":
        return None
    if find_spec("bitsandbytes") is None:
        raise CheckpointError(
            f"{manifest.name} is quantized ({manifest.quantization}): `pip install '.[quantized]'` in a clone."
        )
    return BitsAndBytesConfig(
        load_in_8bit=manifest.quantization == "int8",
        load_in_4bit=manifest.quantization == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(UNQUANTIZED),
    )


def _require_safetensors(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json: it is not a checkpoint folder.")
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} has no .safetensors file. Pickled weights (.bin, .pt) can run code and are never loaded: "
            "convert them in a place you can afford to lose."
        )


def _require_complete(place: Path | str, loading: dict[str, Any]) -> None:
    """Every weight found, none left over: a key layout that half matches would answer with random weights."""
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
    if wrong:
        listed = "; ".join(f"{kind}: {', '.join(keys[:5])} ({len(keys)} in all)" for kind, keys in wrong.items())
        raise CheckpointError(f"The weights in {place} do not fit its configuration. {listed}")


def _check_agreement(config: Any, processor: Any, manifest: Manifest) -> prompts.PromptTokens:
    """Network, processor and prompt must mean the same tokens; each rule is one that a published setup has broken."""
    expected = image_token_count(config)
    crop = processor.image_processor.crop_size
    made = (crop["height"] // processor.patch_size) * (crop["width"] // processor.patch_size)
    checks = [
        (config.vision_feature_select_strategy == "default", "the network keeps CLS as a feature (strategy `full`)"),
        (made == expected, f"the processor makes {made} image tokens, the network {expected} features"),
        (
            processor.image_token_id == config.image_token_id,
            f"the image token is {processor.image_token_id} to the tokenizer, {config.image_token_id} to the network",
        ),
        (len(processor.tokenizer) <= config.text_config.vocab_size, "the tokenizer has more tokens than the network"),
        (processor.tokenizer.eos_token_id is not None, "the tokenizer has no end-of-sequence token"),
    ]
    complaints = [complaint for holds, complaint in checks if not holds]
    if complaints:
        raise CheckpointError(f"{manifest.name}: network and processor do not fit: {'; '.join(complaints)}.")
    try:
        tokens = prompts.encode(
            processor.tokenizer, manifest.prompt, image_token=processor.image_token, image_tokens=expected
        )
    except prompts.PromptError as error:
        raise CheckpointError(f"{manifest.name}: {error}") from error
    if tokens.prompt.count(config.image_token_id) != expected:
        raise CheckpointError(f"{manifest.name}: the prompt does not hold {expected} image tokens.")
    if tokens.prompt[0] != processor.tokenizer.bos_token_id:
        raise CheckpointError(f"{manifest.name}: the tokenizer does not begin the prompt with its BOS.")
    if tokens.prompt[-1] == processor.tokenizer.eos_token_id:
        raise CheckpointError(
            f"{manifest.name}: the tokenizer ends the prompt with EOS, and an answer could not follow."
        )
    return tokens


def _remove_weights(folder: Path) -> None:
    """An older save's shards beside the new ones would be read as one checkpoint."""
    for old in [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]:
        old.unlink()


def _save_config(model: Any, folder: Path, dtype: torch.dtype) -> None:
    config = type(model.config).from_dict(model.config.to_dict())
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = dtype
    config.save_pretrained(folder)
