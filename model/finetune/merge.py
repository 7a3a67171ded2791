"""An adapter folded into its base: a checkpoint that stands alone, for vLLM and for plain transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from model import adapters
from model import manifest as manifests
from model.checkpoint import CheckpointError, base_of, load, probe, put_adapter_on, save_classic
from model.detector import Detector, make_goldens
from model.finetune.results import GOLDEN_FOLDER
from model.manifest import Manifest


def merge(folder: Path, output: Path, stored_as: str, name: str | None = None) -> Path:
    """Write the base of the adapter in `folder`, with the adapter in its weights, to `output`.

    Weights are added in float32 on the CPU (28 GB for FakeVLM) and stored as `stored_as`. Golden outputs are made anew
    on the adapter's golden images. An adapter trained on a base in 4 bits is merged into the same base in full: near to
    what was trained, not equal to it. The new version is called `name`, or the adapter's name with `-merged`.

    Raises CheckpointError where `folder` holds no adapter, its base is not there, or merging changed nothing.
    """
    manifest = manifests.read(folder)
    if output.exists() and any(output.iterdir()):
        raise CheckpointError(f"{output} is not an empty folder: give a new one.")
    _write(folder, manifest, output, stored_as, name or f"{manifest.name}-merged")
    return _with_goldens(folder, manifest, output)


def _write(folder: Path, manifest: Manifest, output: Path, stored_as: str, name: str) -> None:
    place, revision, below = base_of(manifest)
    base = load(place, revision=revision, manifest=below, device="cpu", dtype=torch.float32)
    inputs = probe(base.model, base.tokens)
    try:
        merged = adapters.merge(put_adapter_on(base.model, folder, base.tokens), inputs)
    except adapters.MergeFailed as error:
        raise CheckpointError(str(error)) from error
    changes = {"name": name, "adapter": None, "processor": None, "processor_revision": None, "golden": ()}
    changes["quantization"] = below.quantization
    save_classic(merged, base.processor, manifest.model_copy(update=changes), output, getattr(torch, stored_as))


def _with_goldens(folder: Path, manifest: Manifest, output: Path) -> Path:
    """Loaded as anyone would load it: what cannot be loaded is no result."""
    detector = Detector.load(output)
    (output / GOLDEN_FOLDER).mkdir()
    images = [Path(shutil.copy(folder / golden.image, output / GOLDEN_FOLDER)) for golden in manifest.golden]
    golden = make_goldens(detector, output, images) if images else ()
    detector.manifest.model_copy(update={"golden": golden}).write(output)
    return output
