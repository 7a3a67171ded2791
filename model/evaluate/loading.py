"""The detector that is to be measured: in this process, or a client of a vLLM server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from model import checkpoint as checkpoints
from model import manifest as manifests
from model.detector import Detector
from model.manifest import Manifest

EngineName = Literal["transformers", "vllm"]


def load(source: str, revision: str | None, engine: EngineName, url: str | None) -> tuple[Detector, bool]:
    """The detector, and whether the checkpoint had a manifest of its own (else it is taken for a FakeVLM).

    Raises CheckpointError and ManifestError; with vllm also what connecting raises. `url` is the server's.
    """
    place, revision = checkpoints.locate(source, revision)
    given: Manifest | None = None
    if not isinstance(place, Path) or not (place / manifests.FILE_NAME).is_file():
        given = checkpoints.fakevlm_manifest(place, revision)
    if engine == "vllm":
        detector = Detector.connect(str(url), place, revision=revision, manifest=given)
    else:
        detector = Detector.load(place, revision=revision, manifest=given)
    return detector, given is None
