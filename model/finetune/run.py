"""One finetuning run, from arguments to a checkpoint or adapter folder with a manifest.

With several processes every one of them runs this; the first alone reads the records and writes the result.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list, set_seed
from transformers import TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config
from transformers.integrations.fsdp import is_fsdp_enabled

from model import adapters
from model.checkpoint import (
    DEMO,
    Checkpoint,
    CheckpointError,
    Interface,
    load,
    load_interface,
    locate,
    manifest_of,
    save_classic,
)
from model.finetune import parts, results
from model.finetune.arguments import Arguments, InvalidConfiguration
from model.finetune.collator import Collator
from model.finetune.records import InvalidRecords, Records, read
from model.finetune.trainer import AnswerTrainer, training_arguments
from model.manifest import Adapter, Calibration, Manifest

log = logging.getLogger(__name__)

# In the work folder: what a run that goes on must share with the run that was stopped.
CONFIGURATION = "configuration.json"
# Settings that may change in between: they change no weight.
FREE = {"resume", "log_every", "workers", "images", "validation_images", "data", "validation", "output"}

# What several processes share out between them; in all others each has the whole network and some of the rows (DDP).
SHARDING = {DistributedType.NO: "none", DistributedType.DEEPSPEED: "deepspeed", DistributedType.FSDP: "fsdp"}


@dataclass(frozen=True)
class Data:
    """What is trained on, and what is measured meanwhile and afterwards."""

    training: Records
    validation: Records | None

    @property
    def digests(self) -> dict[str, str | None]:
        validation = self.validation.digest if self.validation else None
        return {"data_hash": self.training.digest, "validation_hash": validation}


def finetune(arguments: Arguments) -> Path:
    """Run it; the folder of the new checkpoint, or of the adapter.

    Raises CheckpointError or ManifestError for the base, InvalidRecords for the data, InvalidConfiguration for a state
    of another run, UndecodableImage for an image that turns out damaged, CheckpointError where adapters changed
    nothing, and FloatingPointError where training diverged.
    """
    set_seed(arguments.seed)
    settings = training_arguments(arguments)
    if settings.process_index > 0:
        logging.getLogger("model").setLevel(logging.ERROR)  # one process speaks for all
    data = _train(arguments, settings)
    if settings.process_index == 0:
        results.complete(arguments.output, data.training, data.validation, arguments.batch_size)
        shutil.rmtree(arguments.work, ignore_errors=True)
    return arguments.output


def _train(arguments: Arguments, settings: TrainingArguments) -> Data:
    """Train and write the weights; nothing of the network is left in memory afterwards."""
    manifest = _base_manifest(arguments)
    interface = load_interface(arguments.base, revision=arguments.revision, manifest=manifest)
    data = _read_data(arguments, interface)  # a bad row is told before weights are loaded, which may take minutes
    _check_state(arguments, settings, data)
    base = _load_base(arguments, settings, manifest)
    network, configuration = _prepare(base.model, arguments), copy.deepcopy(base.model.config)
    validation = data.validation.rows if data.validation else ()
    trainer = AnswerTrainer(network, Collator(interface), data.training.rows, validation, arguments, settings)
    trainer.train(resume_from_checkpoint=str(arguments.state) if arguments.state else None)
    base.model.config = configuration  # the Trainer turns the cache off in it, and would have it saved so
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if settings.process_index == 0:
        _write(arguments, base, network, state, describe(arguments, base, data, trainer))
    trainer.accelerator.wait_for_everyone()
    PartialState().destroy_process_group()
    unset_hf_deepspeed_config()  # under ZeRO-3 whatever is loaded from here on would be shared out again
    return data


def _base_manifest(arguments: Arguments) -> Manifest:
    """What the base is loaded as. Raises CheckpointError for one that cannot be trained on in this way."""
    manifest = manifest_of(arguments.base, arguments.revision)
    if manifest.adapter is not None:
        raise CheckpointError(f"{arguments.base} is an adapter: `telltale merge` it, and train on what comes out.")
    if arguments.method == "qlora":
        return manifest.model_copy(update={"quantization": "nf4"})
    if manifest.quantization != "none":
        raise CheckpointError(
            f"{arguments.base} is quantized ({manifest.quantization}): only `method: qlora` can use it."
        )
    return manifest


def _load_base(arguments: Arguments, settings: TrainingArguments, manifest: Manifest) -> Checkpoint:
    """The base, in what it trains in; where processes share out the weights, they start from the CPU."""
    shared = is_deepspeed_zero3_enabled() or is_fsdp_enabled()
    if shared and arguments.method == "qlora":
        raise InvalidConfiguration("qlora keeps its base whole on every GPU: run it with --accelerate single or ddp.")
    in_half = arguments.precision == "bfloat16" and arguments.method != "full"
    base = load(
        arguments.base,
        revision=arguments.revision,
        device="cpu" if shared else settings.device,
        dtype=torch.bfloat16 if in_half else torch.float32,
        manifest=manifest,
    )
    base.model.set_attn_implementation(arguments.attention)
    return base


def _prepare(network: Any, arguments: Arguments) -> Any:
    """The network with the weights that are to train, and no others, open."""
    if arguments.adapters is None:
        parts.freeze_all_but(network, arguments.trained)
        return network
    adapted = adapters.attach(network, parts.adapters(network, arguments.adapters, arguments.trained))
    parts.train_in_full_precision(adapted)
    return adapted


def _read_data(arguments: Arguments, interface: Interface) -> Data:
    """All records, read and checked by the first process for all of them. Raises InvalidRecords."""
    shared: list[Data | InvalidRecords | None] = [None]
    if PartialState().is_main_process:
        try:
            shared[0] = _read_all(arguments, interface)
        except InvalidRecords as error:
            shared[0] = error
    broadcast_object_list(shared)
    (outcome,) = shared
    if isinstance(outcome, Data):
        log.info("%d rows, data hash %s", len(outcome.training), outcome.training.digest[:12])
        return outcome
    if outcome is not None and PartialState().is_main_process:
        raise outcome
    raise SystemExit(1)  # the first process says why


def _read_all(arguments: Arguments, interface: Interface) -> Data:
    training = read(arguments.data, arguments.image_folder, interface, arguments.max_length)
    if arguments.validation is None:
        return Data(training, None)
    folder = arguments.validation_images or arguments.validation.parent
    return Data(training, read(arguments.validation, folder, interface, arguments.max_length))


def _check_state(arguments: Arguments, settings: TrainingArguments, data: Data) -> None:
    """Leave word of what this run is, or compare with what a stopped one left. Raises InvalidConfiguration."""
    ours = arguments.model_dump(mode="json", exclude=FREE) | data.digests | {"processes": settings.world_size}
    state = arguments.state
    if state is None:
        arguments.work.mkdir(parents=True, exist_ok=True)
        (arguments.work / CONFIGURATION).write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
        return
    left = state.parent / CONFIGURATION
    if not left.is_file():
        raise InvalidConfiguration(f"{state} is no state of a finetuning run: {left} is missing.")
    theirs = json.loads(left.read_text(encoding="utf-8"))
    if changed := sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name)):
        raise InvalidConfiguration(
            f"The run in {state.parent} was started with other settings ({', '.join(changed)}): put those back, or "
            "start anew in another output folder."
        )


def _write(arguments: Arguments, base: Checkpoint, network: Any, state: dict[str, Any], manifest: Manifest) -> None:
    if arguments.adapters is None:
        dtype = getattr(torch, arguments.stored_as)
        save_classic(base.model, base.processor, manifest, arguments.output, dtype, state)
    elif manifest.adapter is not None:
        adapters.save(network, arguments.output, manifest.adapter.base, state)
        manifest.write(arguments.output)


def describe(arguments: Arguments, base: Checkpoint, data: Data, trainer: AnswerTrainer) -> Manifest:
    """The new version's manifest: the base's prompt and processor; what was measured of the base must be anew."""
    untouched = manifest_of(arguments.base, arguments.revision)
    training: dict[str, Any] = {
        "base_digest": untouched.digest(),
        **data.digests,
        "rows": len(data.training),
        "configuration": _settings(arguments, trainer),
        "processes": trainer.args.world_size,
        "sharding": SHARDING.get(trainer.accelerator.distributed_type, "ddp"),
        "updates": trainer.state.global_step,
        "losses": [round(loss, 4) for loss in trainer.losses],
    }
    metrics = {"training_loss": trainer.losses[-1] if trainer.losses else None, "validation_loss": trainer.best_loss}
    return base.manifest.model_copy(
        update={
            "name": arguments.name,
            "base": base.manifest.name,
            "revision": None,
            **_place(arguments, untouched),
            "calibration": Calibration(),
            "golden": (),
            "metrics": {name: round(value, 4) for name, value in metrics.items() if value is not None},
            "training": training,
        }
    )


def _settings(arguments: Arguments, trainer: AnswerTrainer) -> dict[str, Any]:
    """Every setting as it took effect; those that are left out played no part."""
    effective = {
        "learning_rate": arguments.peak_rate,
        "train": tuple(sorted(arguments.trained)),
        "lora": arguments.adapters,
        "workers": trainer.args.dataloader_num_workers,
    }
    paths = {"base", "output", "data", "images", "validation", "validation_images", "resume"}
    return arguments.model_copy(update=effective).model_dump(mode="json", exclude=paths, exclude_none=True)


def _place(arguments: Arguments, base: Manifest) -> dict[str, Any]:
    """Where the rest of the new version is: all of it in its folder, or at the base its adapter belongs on."""
    if arguments.adapters is None:
        return {"processor": None, "processor_revision": None}
    place, revision = locate(arguments.base, arguments.revision)
    named = DEMO if arguments.base == DEMO else str(place.resolve() if isinstance(place, Path) else place)
    return {"adapter": Adapter(base=named, revision=revision, digest=base.digest())}
