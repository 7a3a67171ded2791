"""An adapter folded into its base: a checkpoint that stands alone, for vLLM and for plain transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from model import adapters
from model import manifest as manifests
from model.adapters import Effect
from model.checkpoint import CheckpointError, base_of, load, probe, put_adapter_on, save_classic
from model.detector import Detector
from model.finetune import results
from model.manifest import Manifest


def merge(folder: Path, output: Path, stored_as: str, name: str | None = None) -> Path:
    """Write the base of the adapter in `folder`, with the adapter in its weights, to `output`.

    Weights are added in float32 on the CPU (28 GB for FakeVLM) and stored as `stored_as`; what was stored is read again
    and must answer as the adapter does. Golden outputs are made anew on the adapter's golden images. An adapter trained
    on a base in 4 bits is merged into the same base in full: near to what was trained, not equal to it. The new version
    is called `name`, or the adapter's name with `-merged`. `output` is there once all of this is done, or not at all.

    Raises CheckpointError where `folder` holds no adapter or not its golden images, its base is not there, merging
    changed nothing, or storing lost what it changed.
    """
    manifest = _manifest(folder)
    target = _free(output)
    unfinished = target.with_name(f".{target.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a merge that was killed
    try:
        effect = _write(folder, manifest, unfinished, stored_as, name or f"{manifest.name}-merged")
        _prove(unfinished, effect, stored_as)
        _add_goldens(folder, manifest, unfinished)
        unfinished.replace(target)
    except adapters.MergeFailed as error:
        raise CheckpointError(str(error)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return output


def _manifest(folder: Path) -> Manifest:
    if not adapters.is_adapter(folder):
        raise CheckpointError(
            f"{folder} holds no adapter ({adapters.CONFIGURATION} is missing): give the output folder of a "
            "`telltale finetune` with `method: lora` or `qlora`. A checkpoint of its own needs no merging."
        )
    manifest = manifests.read(folder)
    for golden in manifest.golden:
        if not (folder / golden.image).is_file():
            raise CheckpointError(
                f"{folder / golden.image} is missing, and the adapter's golden outputs were made on it: put it back, "
                f"or take it out of `golden` in {folder / manifests.FILE_NAME}."
            )
    return manifest


def _free(output: Path) -> Path:
    """Where the result goes, by its full name: a folder that is not there yet, or is empty."""
    target = output.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{output} is not an empty folder: give a new one.")
    if target.is_mount():
        raise CheckpointError(f"{output} is where something is mounted: give a new folder inside it.")
    return target


def _write(folder: Path, manifest: Manifest, output: Path, stored_as: str, name: str) -> Effect:
    place, revision, below = base_of(manifest)
    base = load(place, revision=revision, manifest=below, device="cpu", dtype=torch.float32)
    inputs = probe(base.model, base.tokens)
    merged, effect = adapters.merge(put_adapter_on(base.model, folder, base.tokens), inputs)
    changes = {"name": name, "adapter": None, "processor": None, "processor_revision": None, "golden": ()}
    changes["quantization"] = below.quantization
    save_classic(merged, base.processor, manifest.model_copy(update=changes), output, getattr(torch, stored_as))
    return effect


def _prove(output: Path, effect: Effect, stored_as: str) -> None:
    """What is in the file, computed in float32, so that nothing but storing is measured."""
    effect.require_stored(load(output, device="cpu", dtype=torch.float32).model, stored_as)


def _add_goldens(folder: Path, manifest: Manifest, output: Path) -> None:
    """Loaded as anyone would load it: what cannot be loaded is no result."""
    detector = Detector.load(output)
    copies = [
        results.copied(folder / golden.image, output, f"{golden.label}-{n}") for n, golden in enumerate(manifest.golden)
    ]
    golden = results.settled(output, results.clear(detector, output, copies))
    detector.manifest.model_copy(update={"golden": golden}).write(output)
