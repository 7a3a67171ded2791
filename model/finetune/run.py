"""One finetuning run, from arguments to a checkpoint folder with a manifest."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from model.checkpoint import Checkpoint, load, save_classic
from model.finetune import adapters
from model.finetune.arguments import Arguments
from model.finetune.collator import Collator
from model.finetune.loop import fit
from model.finetune.records import Records, read
from model.manifest import Calibration, Manifest

log = logging.getLogger(__name__)

# Of 65,536 rows, the first few are enough to compare outputs on.
PROOF_ROWS = 4


def finetune(arguments: Arguments) -> Path:
    """Run it; the folder of the new checkpoint.

    Raises CheckpointError or ManifestError for the base, InvalidRecords for the data, UndecodableImage for an image
    that turns out damaged, MergeFailed, and FloatingPointError where training diverged.
    """
    set_seed(arguments.seed)
    mixed = "bf16" if arguments.precision == "bfloat16" else "no"
    accelerator = Accelerator(mixed_precision=mixed, gradient_accumulation_steps=arguments.accumulate)
    base = load(arguments.base, revision=arguments.revision, device=accelerator.device, dtype=torch.float32)
    base.model.set_attn_implementation(arguments.attention)
    records = read(arguments.data, arguments.image_folder, base, arguments.max_length)
    log.info("%d rows, data hash %s", len(records), records.digest[:12])
    network = adapters.attach(base.model, arguments.adapters) if arguments.adapters else base.model
    collator = Collator(base)
    losses = fit(network, records, collator, arguments, accelerator)
    if arguments.adapters:
        proof = {name: tensor.to(accelerator.device) for name, tensor in collator(records.rows[:PROOF_ROWS]).items()}
        network = adapters.merge(network, proof)
    if accelerator.is_main_process:
        manifest = describe(arguments, base, records, losses)
        save_classic(network, base.processor, manifest, arguments.output, getattr(torch, arguments.stored_as))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return arguments.output


def describe(arguments: Arguments, base: Checkpoint, records: Records, losses: list[float]) -> Manifest:
    """The new version's manifest: the base's prompt and processor; what was measured of the base must be anew."""
    training: dict[str, Any] = {
        "base_digest": base.manifest.digest(),
        "data_hash": records.digest,
        "rows": len(records),
        "configuration": arguments.model_dump(mode="json", exclude={"base", "output", "data", "images"}),
        "losses": [round(loss, 4) for loss in losses],
    }
    return base.manifest.model_copy(
        update={
            "name": arguments.name,
            "base": base.manifest.name,
            "revision": None,
            "calibration": Calibration(),
            "golden": (),
            "metrics": {},
            "training": training,
        }
    )
