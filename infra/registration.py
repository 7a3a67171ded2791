"""From a checkpoint to a model version: its manifest read or made, its answers proven, its row written.

A checkpoint with a manifest brings its golden outputs along; one without (a hub id, a downloaded folder) is taken for a
published FakeVLM and judged on the shipped samples. torch is imported only where the network must be run.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

import model.demo
from infra.demo.samples import FOLDER as SAMPLES
from infra.demo.samples import samples
from model import manifest as manifests
from model.manifest import Manifest, ManifestError, Quantization
from moderation import checkpoints, model_versions
from moderation.errors import ConfigurationError
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import ModelVersion

if TYPE_CHECKING:
    from model.detector import Detector

DEMO = "demo"
GOLDEN = "golden"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is: a folder, or a hub id with (perhaps) its commit. `text` is what a version's row keeps."""

    text: str
    folder: Path | None
    revision: str | None = None

    @classmethod
    def of(cls, given: str, revision: str | None = None) -> Source:
        """Raises ConfigurationError for what is neither."""
        if given == DEMO:
            return cls(DEMO, Path(model.demo.__file__).parent / "checkpoint")
        if Path(given).is_dir():
            return cls(str(Path(given).resolve()), Path(given).resolve())
        name, _, at = given.partition("@")
        if not HUB_ID.fullmatch(name):
            raise ConfigurationError(f"{given} is neither a checkpoint folder nor a hub id (owner/name).")
        return cls(name, None, revision or at or None)

    def place(self, manifest: Manifest) -> str:
        """What the version's row is to say of where it is: an adapter is in the object store, by its digest."""
        if manifest.adapter is None or self.folder is None:
            return self.text
        return checkpoints.place_of(self.folder)

    def manifest(self) -> Manifest | None:
        """The manifest that comes with it. Raises ConfigurationError where there is one that cannot be read."""
        if self.folder is None or not (self.folder / manifests.FILE_NAME).is_file():
            return None
        with explained():
            return manifests.read(self.folder)


@contextmanager
def explained() -> Iterator[None]:
    """What is wrong with a checkpoint, as an error of the service."""
    try:
        yield
    except ManifestError as error:
        raise ConfigurationError(str(error)) from error


def prepared(source: Source, name: str | None, say: Say, quantization: Quantization | None = None) -> Manifest:
    """The manifest of a checkpoint that was loaded and answers as its golden outputs say, or has been given them now.

    A folder's new manifest is written into it, unless it is the one of a quantized version: the folder's weights stay
    what they are, and `quantization` is how this version loads them. Raises ConfigurationError.
    """
    manifest = source.manifest()
    if manifest is None:
        source = pinned(source, say)
    if quantization is not None:
        return _quantized(source, manifest, quantization, name, say)
    say(f"Loading {source.text} …")
    detector = _loaded(source, manifest)
    manifest = _renamed(detector.manifest, name)
    if manifest.golden:
        say("Comparing its answers with its golden outputs …")
        _verify(detector, source)
        return manifest
    say("Making golden outputs on the shipped samples …")
    manifest = _with_goldens(detector, manifest, *_golden_images(source, manifest))
    if source.folder is not None:
        manifest.write(source.folder)
    return manifest


def _quantized(
    source: Source, manifest: Manifest | None, quantization: Quantization, name: str | None, say: Say
) -> Manifest:
    """A version of its own: what was measured of the full weights is not known of these, so only goldens are made."""
    plain = manifest or _fakevlm(source)
    say(f"Loading {source.text} in {quantization} …")
    detector = _loaded(source, plain.quantized(quantization, name))
    say("Making golden outputs …")
    return _with_goldens(detector, detector.manifest, *_golden_images(source, plain))


def pinned(source: Source, say: Say) -> Source:
    """A hub id at a full commit hash, asked of the hub where none was given. Raises ConfigurationError."""
    if source.folder is not None or source.revision is not None:
        return source
    from huggingface_hub import HfApi

    say(f"Asking the hub for the newest commit of {source.text} …")
    try:
        revision = HfApi().model_info(source.text, timeout=20).sha
    except Exception as error:  # what it raises is its HTTP library's, which differs from version to version
        raise ConfigurationError(
            f"The hub did not say which commit of {source.text} is newest ({type(error).__name__}). Pass the full "
            "40-digit hash that it shows under 'Files and versions': --revision HASH."
        ) from error
    return Source(source.text, None, revision)


def stored(source: Source, manifest: Manifest, say: Say) -> str:
    """Where the workers find it, to be written into the version's row: an adapter's folder is stored for them now.

    Raises InvalidRequest for a folder that cannot be, StorageUnavailable.
    """
    if manifest.adapter is None or source.folder is None:
        return source.text
    say("Storing the adapter where workers find it …")
    return checkpoints.store(Storage(settings()), source.folder)


def write(session: Session, place: str, manifest: Manifest) -> ModelVersion:
    """The version's row; registering the same manifest again is the same version. Raises Conflict for a taken name."""
    described = manifest.model_dump(mode="json")
    return model_versions.register(session, checkpoint=place, manifest=described, digest=manifest.digest())


def unambiguous(session: Session, manifest: Manifest) -> Manifest:
    """The manifest, renamed by its digest where another version has its name (a checkpoint that was built anew)."""
    taken = select(ModelVersion.id).where(ModelVersion.name == manifest.name, ModelVersion.digest != manifest.digest())
    return _renamed(manifest, f"{manifest.name}-{manifest.digest()[:7]}") if session.scalar(taken) else manifest


def _renamed(manifest: Manifest, name: str | None) -> Manifest:
    return manifest.model_copy(update={"name": name}) if name else manifest


def _loaded(source: Source, manifest: Manifest | None) -> Detector:
    from model import checkpoint
    from model.detector import Detector

    try:
        given = manifest or _fakevlm(source)
        return Detector.load(source.folder or source.text, revision=source.revision, manifest=given)
    except checkpoint.CheckpointError as error:
        raise ConfigurationError(str(error)) from error


def _fakevlm(source: Source) -> Manifest:
    from model import checkpoint

    return checkpoint.fakevlm_manifest(source.folder or source.text, source.revision)


def _verify(detector: Detector, source: Source) -> None:
    from model.detector import GoldenMismatch

    try:
        detector.verify_golden(source.folder or SAMPLES)
    except GoldenMismatch as error:
        raise ConfigurationError(str(error)) from error


def _golden_images(source: Source, manifest: Manifest) -> tuple[Path, list[Path]]:
    """The images a version is to be proven on, and the folder they are below: those its checkpoint brought along, or
    the shipped samples, of which a folder gets copies, for it may travel alone.
    """
    images = [sample.path for sample in samples()]
    if source.folder is None:
        return SAMPLES, images
    if manifest.golden:
        return source.folder, [source.folder / golden.image for golden in manifest.golden]
    return source.folder, [_copied(image, source.folder / GOLDEN) for image in images]


def _with_goldens(detector: Detector, manifest: Manifest, folder: Path, images: list[Path]) -> Manifest:
    from model.detector import make_goldens

    try:
        return manifest.model_copy(update={"golden": make_goldens(detector, folder, images)})
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _copied(image: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(image, folder))
