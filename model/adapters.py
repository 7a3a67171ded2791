"""LoRA adapters: put on a network, written, read and merged, each with a proof that they did something.

An adapter saved under one key layout can load under another and silently do nothing, in peft as in vLLM. So names are
written that both accept, every key must find its place when it is read, and outputs must differ from the base's.
It knows nothing of checkpoints or manifests: `checkpoint` knows which base an adapter belongs on. peft is imported
where it is used, because whoever serves a full checkpoint need not wait for it.
"""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

# peft imports bitsandbytes, and that says on every machine without a GPU which of its CPU kernels is not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# peft 0.21 calls transformers by a name that 5.23 is about to change: not the user's concern.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)

CONFIGURATION = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# transformers 5 names the vision tower's modules without `vision_model`; vLLM's modules, and every LLaVA-1.5 published,
# have it. peft 0.21 drops it while reading, vLLM (its `hf_to_vllm_mapper`) puts `vision_tower` in place of
# `model.vision_tower` and keeps the rest: with it, both find the module. All other names suit both.
TOWER = "base_model.model.model.vision_tower."
PORTABLE_TOWER = TOWER + "vision_model."

# What an adapter's configuration says of where it was made, and not of what it does.
ORIGINS = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"}

# Above rounding in float32, far below what one update of any use changes.
SMALLEST_CHANGE = 1e-5
# Merging adds the update to the weights before multiplying instead of after; in float32.
MERGE_TOLERANCE = 1e-3
# Weights are rounded once more when they are stored: so much of what the adapters change may be off in the file, hence
# at least three quarters of it remain. On the demo model in bfloat16, an adapter of 12 updates at 2e-4 is off by 0.07
# when stored in bfloat16 (0.003 in float16), a tenth of that update by 0.40, and of a hundredth 6 % are left. On a base
# of more bits the base's own rounding counts too: 0.10 and 1.11 on the demo model as it is, in float16.
STORED_TOLERANCE = 0.25

Inputs = dict[str, torch.Tensor]


class AdapterError(ValueError):
    """These adapters do not fit, or do nothing; they must not be served."""


class MergeFailed(AdapterError):
    """The merged network answers like the base, or unlike the adapters; it must not be used."""


@dataclass(frozen=True)
class Effect:
    """Logits of one network on one input, without its adapters and with them: what merging must keep."""

    inputs: Inputs
    base: torch.Tensor
    adapted: torch.Tensor

    @classmethod
    def of(cls, adapted: Any, inputs: Inputs) -> Effect:
        return cls(inputs, _without(adapted, inputs), _logits(adapted, inputs))

    def require_merged(self, merged: Any) -> None:
        """Compare with the merged network in memory, in float32. Raises MergeFailed."""
        after = _logits(merged, self.inputs)
        change, error = _distance(after, self.base), _distance(after, self.adapted)
        if change <= SMALLEST_CHANGE:
            raise MergeFailed(f"Merging the adapters changed no output (largest change {change:.1e}).")
        if error > MERGE_TOLERANCE * max(1.0, change):
            raise MergeFailed(f"The merged network answers unlike its adapters (logits differ by up to {error:.1e}).")

    def require_stored(self, stored: Any, stored_as: str) -> None:
        """Compare with the network as it was read back from its file, in float32. Raises MergeFailed."""
        after = _logits(stored, self.inputs)
        if _distance(after, self.base) <= SMALLEST_CHANGE:
            raise MergeFailed(f"Stored in {stored_as}, the merged network answers like its base: {_advice(stored_as)}")
        off = float((after - self.adapted).norm() / (self.adapted - self.base).norm())
        if off > STORED_TOLERANCE:
            raise MergeFailed(
                f"Stored in {stored_as}, the merged network is off by {off:.0%} of what the adapters change (at most "
                f"{STORED_TOLERANCE:.0%} will do): {_advice(stored_as)}"
            )


def get_ready() -> None:
    """Load peft, which takes seconds, before a network is stopped for its adapters."""
    import_module("peft")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters instead of a network."""
    return (folder / CONFIGURATION).is_file()


def attach(network: Any, configuration: LoraConfig) -> Any:
    """`network` with fresh adapters, the only weights that train, in float32; they change nothing yet."""
    from peft import get_peft_model

    return get_peft_model(network, configuration)


def save(adapted: Any, folder: Path, base: str, state: dict[str, torch.Tensor] | None = None) -> Path:
    """Write the adapters alone, in float32, under names that peft and vLLM both find.

    `base` is what the file says they belong on, for peft's own loader. `state` is the whole network's state where it
    had to be gathered from several processes.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(adapted, state_dict=state, save_embedding_layers=False)
    named = {portable_name(name): tensor.detach().to("cpu", torch.float32) for name, tensor in weights.items()}
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, folder / WEIGHTS, {"format": "pt"})
    configuration = adapted.peft_config["default"]
    configuration.base_model_name_or_path, configuration.inference_mode = base, True
    configuration.save_pretrained(folder)
    return folder


def portable_name(name: str) -> str:
    """An adapter weight's name in the layout that peft and vLLM both read."""
    if name.startswith(TOWER) and not name.startswith(PORTABLE_TOWER):
        return PORTABLE_TOWER + name.removeprefix(TOWER)
    return name


@dataclass(frozen=True)
class Weights:
    """Adapters as their folder has them, in the CPU's memory; no network has been asked yet whether they fit."""

    folder: Path
    configuration: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def replaces(self, other: Weights) -> bool:
        """Whether these fit where the others are, number for number: same configuration, names and shapes."""
        shapes, theirs = ({name: tensor.shape for name, tensor in one.tensors.items()} for one in (self, other))
        return shapes == theirs and _effective(self.configuration) == _effective(other.configuration)


@dataclass(frozen=True)
class Mounted:
    """Adapters on a network: peft's model around it, and the weights that were put there."""

    adapted: PeftModel
    weights: Weights


def read(folder: Path) -> Weights:
    """The adapters of `folder`. Raises AdapterError where they cannot be read."""
    try:
        configuration = json.loads((folder / CONFIGURATION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{folder / CONFIGURATION} cannot be read: {error}") from error
    return Weights(folder, configuration, _read(folder))


def put_on(network: Any, folder: Path, inputs: Inputs) -> Any:
    """`network` with the adapters of `folder`, not merged, so that others can take their place on the same base.

    `inputs` is any input of the network: its logits must differ with the adapters on. Raises AdapterError where a
    weight is missing, left over, of another shape, or where nothing changed.
    """
    return mount(network, folder, inputs).adapted


def mount(network: Any, folder: Path, inputs: Inputs) -> Mounted:
    """`put_on`, for a network whose adapters are to be exchanged later."""
    weights = read(folder)
    placed = Mounted(_wrapped(network, weights), weights)
    _write(placed.adapted, weights)
    _prove(placed.adapted, folder, inputs)
    return placed


def exchange(network: Any, mounted: Mounted | None, weights: Weights | None, inputs: Inputs) -> Mounted | None:
    """`network` with `weights` (None: bare) instead of what is `mounted` on it, proven on `inputs` as `put_on` says.

    Weights that fit where the others are, as from one night's run to the next, are written into the same memory: it
    takes a copy's time, and what was compiled for the network stays good. Others have the old ones taken off first.
    Raises AdapterError; then the network has neither, or not surely, and `restore` must follow.
    """
    placed = _placed(network, mounted, weights)
    if placed is not None:
        _prove(placed.adapted, placed.weights.folder, inputs)
    return placed


def restore(network: Any, mounted: Mounted | None, tried: Weights | None) -> Mounted | None:
    """Put back what was `mounted` before an exchange for `tried`, to the bit; as it is then mounted.

    Raises AdapterError where that fails: the network must not be used any more.
    """
    if mounted is not None and tried is not None and tried.replaces(mounted.weights):
        _write(mounted.adapted, mounted.weights)
        return mounted
    return _placed(network, None, mounted.weights if mounted else None)


def _placed(network: Any, mounted: Mounted | None, weights: Weights | None) -> Mounted | None:
    if weights is None or mounted is None or not weights.replaces(mounted.weights):
        take_off(network)
        if weights is None:
            return None
        mounted = Mounted(_wrapped(network, weights), weights)
    _write(mounted.adapted, weights)
    return Mounted(mounted.adapted, weights)


def take_off(network: Any) -> None:
    """Leave the network as it was before any adapters, also where putting some on has failed halfway."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    for name, module in list(network.named_modules()):
        if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)):
            parent, _, own = name.rpartition(".")
            base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            setattr(network.get_submodule(parent), own, base)
    if hasattr(network, "peft_config"):
        del network.peft_config  # peft would take the next ones for a second set


def _wrapped(network: Any, weights: Weights) -> PeftModel:
    from peft import PeftConfig, get_peft_model

    try:
        configuration = PeftConfig.from_pretrained(weights.folder)
        configuration.base_model_name_or_path = None  # which base it is has been settled, by more than its name
        return get_peft_model(network, configuration).eval()  # new layers begin with their dropout on
    except (TypeError, ValueError, RuntimeError) as error:
        raise AdapterError(f"The adapters in {weights.folder} do not fit their base: {error}") from error


def _write(adapted: PeftModel, weights: Weights) -> None:
    """Put the numbers where they belong; every one has a place, and every place gets one."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    try:
        outcome = set_peft_model_state_dict(adapted, weights.tensors)
    except KeyError as error:
        file = weights.folder / WEIGHTS
        raise AdapterError(f"The names in {file} do not fit this network: {error} is missing.") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise AdapterError(f"The adapters in {weights.folder} do not fit their base: {error}") from error
    ours = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    _require_complete(weights.folder, ours.keys(), outcome)


def merge(adapted: Any, inputs: Inputs) -> tuple[Any, Effect]:
    """The network, in float32, with its adapters folded into the weights, and what its file must then be held to.

    `inputs` is any input of the network; its logits are compared without, with and after merging the adapters.
    Raises MergeFailed.
    """
    effect = Effect.of(adapted.eval(), inputs)
    merged = adapted.merge_and_unload(safe_merge=True)
    effect.require_merged(merged)
    return merged, effect


def _effective(configuration: dict[str, Any]) -> dict[str, Any]:
    """What decides how adapters act; lists of modules in any order."""
    return {
        name: sorted(value) if isinstance(value, list) else value
        for name, value in configuration.items()
        if name not in ORIGINS
    }


def _read(folder: Path) -> dict[str, torch.Tensor]:
    if not (folder / WEIGHTS).is_file():
        raise AdapterError(f"{folder} has no {WEIGHTS}. Pickled adapters (.bin) can run code and are never loaded.")
    try:
        return load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise AdapterError(
            f"{folder / WEIGHTS} is damaged or incomplete ({error}), as an interrupted download leaves it: download or "
            "copy it again."
        ) from error


def _require_complete(folder: Path, ours: Any, outcome: Any) -> None:
    """Every weight found, none left over. peft reports the whole base as missing, hence the intersection."""
    adapter_names = {name.replace(".default", "") for name in outcome.missing_keys}
    missing, unexpected = sorted(adapter_names.intersection(ours)), sorted(outcome.unexpected_keys)
    if missing or unexpected:
        listed = [f"missing: {', '.join(missing[:3])}"] * bool(missing)
        listed += [f"unexpected: {', '.join(unexpected[:3])}"] * bool(unexpected)
        raise AdapterError(
            f"The names in {folder / WEIGHTS} do not fit this network ({len(missing)} missing, {len(unexpected)} "
            f"unexpected; {'; '.join(listed)}): they would silently do nothing."
        )


def _advice(stored_as: str) -> str:
    if stored_as == "float32":
        return "the adapters change too little to be told from rounding; train them further."
    return "so small a change is lost in rounding; store as float32."


def _prove(adapted: Any, folder: Path, inputs: Inputs) -> None:
    change = _distance(_logits(adapted, inputs), _without(adapted, inputs))
    if change <= SMALLEST_CHANGE:
        raise AdapterError(f"The adapters in {folder} change no output (largest change {change:.1e}): train them.")


def _without(adapted: Any, inputs: Inputs) -> torch.Tensor:
    with adapted.disable_adapter():
        return _logits(adapted, inputs)


@torch.inference_mode()
def _logits(model: Any, inputs: Inputs) -> torch.Tensor:
    logits: torch.Tensor = model(**inputs, logits_to_keep=1).logits
    return logits.float()


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())
