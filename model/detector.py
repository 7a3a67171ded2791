"""The detector: images in, verdicts and explanations out, over whatever engine runs the network.

It turns raw scores into calibrated ones, decides which label an explanation is written under, and proves at start that
a loaded checkpoint answers as it did when it was measured. It knows nothing of policy: which verdicts a person must see
is decided elsewhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from model import checkpoint as checkpoints
from model.decode import to_rgb
from model.engines.engine import Engine, Score, Successor
from model.engines.transformers import TransformersEngine
from model.engines.vllm import VllmEngine
from model.manifest import Calibration, Golden, Manifest, Quantization
from model.prompt import Label

# Dtypes of quantized checkpoints: not roundings of one network but networks of their own.
QUANTIZED = frozenset(("int8", "nf4"))

# How far a golden logit may move, by the coarser of the two dtypes (theirs and ours). Measured on the tiny random LLaVA
# of the tests (CPU, 200 images, logits from -3 to 17) against float32: 0.000002 for float32 in other batches, 0.05 for
# float16, 0.48 for bfloat16. More is allowed, because a deeper network rounds more often, and another GPU or BLAS sums
# in another order. Not yet measured on FakeVLM itself.
LOGIT_TOLERANCE = {"float32": 0.02, "float16": 0.15, "bfloat16": 0.75}
# Quantized layers compute in bfloat16 on a GPU; the same weights quantized again are the same, bit for bit.
LOGIT_TOLERANCE |= dict.fromkeys(QUANTIZED, LOGIT_TOLERANCE["bfloat16"])


class GoldenMismatch(RuntimeError):
    """The loaded checkpoint does not answer as its manifest says it did; it must not be served."""


class DetectorLost(RuntimeError):
    """The network could not be brought back to what it was: nothing it says can be believed any more."""


@dataclass(frozen=True)
class Verdict:
    """One model version's answer for one image.

    `p_fake` is calibrated, 0 to 1; `logit` is raw, z_fake − z_real; `pair_mass` is the probability the network gave to
    the two verdict words together, and a low one (far from 1) means the score should not be trusted.
    """

    label: Label
    p_fake: float
    logit: float
    pair_mass: float
    model_version: str
    engine: str
    dtype: str


@dataclass(frozen=True)
class Detection:
    """A verdict, and the explanation where one was asked for."""

    verdict: Verdict
    explanation: str | None


# Whether an image gets an explanation: said beforehand, or decided once its verdict is known.
Explain = bool | Callable[[Verdict], bool]


class Detector:
    """Judges images with one checkpoint. `prepare` may run in any thread, everything else in one at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        manifest: Manifest | None = None,
        max_new_tokens: int = 256,
        compiled_rows: int = 0,
    ) -> Detector:
        """A detector in this process; arguments and errors are those of `checkpoint.load` and `TransformersEngine`."""
        loaded = checkpoints.load(source, revision=revision, device=device, dtype=dtype, manifest=manifest)
        return cls(TransformersEngine(loaded, max_new_tokens=max_new_tokens, compiled_rows=compiled_rows))

    @classmethod
    def open(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        url: str | None = None,
        quantization: Quantization | None = None,
    ) -> Detector:
        """A detector for whatever somebody names: in this process, or of the vLLM server at `url`.

        A checkpoint without a manifest is taken for a published FakeVLM. With `quantization` it is loaded in so many
        bits and says so in its name and dtype. Raises what `load` and `connect` raise.
        """
        place, revision = checkpoints.locate(source, revision)
        manifest = checkpoints.manifest_of(place, revision)
        if quantization is not None and quantization != manifest.quantization:
            manifest = manifest.quantized(quantization)
        if url is None:
            return cls.load(place, revision=revision, manifest=manifest)
        return cls.connect(url, place, revision=revision, manifest=manifest)

    @classmethod
    def connect(
        cls,
        url: str,
        source: str | Path,
        *,
        revision: str | None = None,
        manifest: Manifest | None = None,
        max_new_tokens: int = 256,
    ) -> Detector:
        """A detector whose network runs on the vLLM server at `url`; no weights are loaded here.

        The other arguments are those of `checkpoint.load`, and so are the errors; where the server does not serve this
        checkpoint as its manifest says, EngineError.
        """
        interface = checkpoints.load_interface(source, revision=revision, manifest=manifest)
        place, _ = checkpoints.locate(source, revision)
        folder = place if isinstance(place, Path) else None
        return cls(VllmEngine(url, interface, folder=folder, max_new_tokens=max_new_tokens))

    @property
    def manifest(self) -> Manifest:
        return self._engine.manifest

    @property
    def engine(self) -> str:
        return self._engine.name

    @property
    def dtype(self) -> str:
        return self._engine.dtype

    def prepare(self, image: Image.Image) -> Any:
        """The part of the work that needs no network, for `detect_prepared`."""
        return self._engine.prepare(image)

    def judge(self, images: Sequence[Image.Image]) -> list[Verdict]:
        """Verdicts alone, for RGB images: one forward pass for the whole batch."""
        return [detection.verdict for detection in self.detect(images, explain=False)]

    def detect(self, images: Sequence[Image.Image], explain: Explain | Sequence[Explain] = True) -> list[Detection]:
        """Verdicts, and explanations for those that `explain` says: one answer for all images, or one for each."""
        return self.detect_prepared([self.prepare(image) for image in images], explain)

    def detect_prepared(self, prepared: Sequence[Any], explain: Explain | Sequence[Explain] = True) -> list[Detection]:
        """`detect` for images that went through `prepare`."""
        wishes = explain if isinstance(explain, Sequence) else [explain] * len(prepared)
        if len(wishes) != len(prepared):
            raise ValueError(f"{len(prepared)} images, but {len(wishes)} answers to whether they are explained.")

        def choose(index: int, score: Score) -> Label | None:
            verdict, wish = self._verdict(score), wishes[index]
            return verdict.label if (wish(verdict) if callable(wish) else wish) else None

        answers = self._engine.answer(prepared, choose)
        return [Detection(self._verdict(answer.score), answer.text) for answer in answers]

    def complete_prepared(self, prepared: Sequence[Any]) -> list[str]:
        """What the model says of images that went through `prepare` when no verdict is put in its mouth.

        For measuring as the paper did (`answer.parse` reads the label); it costs a whole answer and is never served.
        """
        return self._engine.complete(prepared)

    def verify_golden(self, folder: Path) -> None:
        """Judge the manifest's golden images, found below `folder`, and compare with what the manifest says.

        Labels must be equal and logits within `LOGIT_TOLERANCE`; texts are compared only on the same engine and dtype.
        Raises GoldenMismatch, also where the manifest has no goldens: then nothing is proven.
        """
        goldens = self.manifest.golden
        if not goldens:
            raise GoldenMismatch(
                f"{self.manifest.name} has no golden outputs: register it with `telltale models register` first."
            )
        for golden in goldens:
            if golden.dtype != self.dtype and QUANTIZED & {golden.dtype, self.dtype}:
                raise GoldenMismatch(
                    f"The golden outputs of {self.manifest.name} were made in {golden.dtype}, this is {self.dtype}: "
                    "register it anew with `telltale models register`."
                )
        images = [_golden_image(folder, golden) for golden in goldens]
        explain = [self._is_same_setup(golden) for golden in goldens]
        differences = [
            difference
            for golden, detection in zip(goldens, self.detect(images, explain), strict=True)
            for difference in self._differences(golden, detection)
        ]
        if differences:
            raise GoldenMismatch(f"{self.manifest.name} does not answer as measured: {'; '.join(differences)}.")

    def successor(self, source: str | Path, *, revision: str | None, manifest: Manifest) -> Successor:
        """Get another version ready to take this one's place, while this one works; see `Engine.successor`.

        Raises OtherBase where `release` and `load` is the only way, CheckpointError, EngineError.
        """
        return self._engine.successor(source, revision, manifest)

    def succeeded_by(self, successor: Successor, golden: Path) -> Detector:
        """The detector of another version, proven on its golden images below `golden`; for between two batches.

        This one must not be used any more, unless this raises: then the network answers as before, to the bit.
        Raises GoldenMismatch, AdapterError, EngineError, and DetectorLost where it could not be put back.
        """
        try:
            made = Detector(successor.take_over())
            made.verify_golden(golden)
        except Exception:
            self._take_back(successor)
            raise
        return made

    def release(self) -> None:
        """Let go of the network and its memory: this detector must not be used any more."""
        self._engine.release()

    def _take_back(self, successor: Successor) -> None:
        try:
            successor.give_back()
        except Exception as error:
            raise DetectorLost(f"{self.manifest.name} could not be put back on its network: {error}") from error

    def _verdict(self, score: Score) -> Verdict:
        p_fake = calibrate(self.manifest.calibration, score.logit)
        return Verdict(
            label="fake" if p_fake >= 0.5 else "real",
            p_fake=p_fake,
            logit=score.logit,
            pair_mass=score.pair_mass,
            model_version=self.manifest.name,
            engine=self.engine,
            dtype=self.dtype,
        )

    def _is_same_setup(self, golden: Golden) -> bool:
        return (golden.engine, golden.dtype) == (self.engine, self.dtype)

    def _differences(self, golden: Golden, detection: Detection) -> list[str]:
        verdict, found = detection.verdict, []
        tolerance = max(LOGIT_TOLERANCE[golden.dtype], LOGIT_TOLERANCE[self.dtype])
        if verdict.label != golden.label:
            found.append(f"{golden.image} is {verdict.label}, was {golden.label}")
        if abs(verdict.logit - golden.logit) > tolerance:
            found.append(f"{golden.image} has logit {verdict.logit:.4f}, had {golden.logit:.4f} (±{tolerance})")
        if self._is_same_setup(golden) and detection.explanation != golden.text:
            found.append(f"{golden.image} is explained with {detection.explanation!r}, was with {golden.text!r}")
        return found


def calibrate(calibration: Calibration, logit: float) -> float:
    """p_fake as the calibration says: along its knots, or sigmoid(scale · logit + bias), without overflow."""
    if calibration.method == "isotonic":
        logits, chances = zip(*calibration.knots, strict=True)
        return float(np.interp(logit, logits, chances))
    value = calibration.scale * logit + calibration.bias
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def make_goldens(detector: Detector, folder: Path, images: Sequence[Path]) -> tuple[Golden, ...]:
    """What `detector` says now of `images` (below `folder`), to be kept in its manifest.

    Images so near the boundary that rounding in another dtype could flip their label are left out. Raises ValueError
    where none is left, UndecodableImage for a file that is no image.
    """
    pictures = [to_rgb(path) for path in images]
    calibration = detector.manifest.calibration
    kept = [n for n, verdict in enumerate(detector.judge(pictures)) if _is_clear(calibration, verdict.logit)]
    if not kept:
        raise ValueError("Every image is too near the boundary to serve as a golden output: choose clearer ones.")
    # In the batch they will be proven in: in another one, rounding may tip a word that was near a tie.
    detections = detector.detect([pictures[n] for n in kept])
    return tuple(_golden(images[n], folder, detection) for n, detection in zip(kept, detections, strict=True))


def _is_clear(calibration: Calibration, logit: float) -> bool:
    furthest = max(LOGIT_TOLERANCE.values())
    return (calibrate(calibration, logit - furthest) >= 0.5) == (calibrate(calibration, logit + furthest) >= 0.5)


def _golden(path: Path, folder: Path, detection: Detection) -> Golden:
    verdict = detection.verdict
    return Golden(
        image=path.relative_to(folder).as_posix(),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        label=verdict.label,
        logit=verdict.logit,
        text=detection.explanation or "",
        dtype=verdict.dtype,
        engine=verdict.engine,
    )


def _golden_image(folder: Path, golden: Golden) -> Image.Image:
    path = folder / golden.image
    if not path.is_file():
        raise GoldenMismatch(f"{path} is missing: the checkpoint's golden images must lie beside its manifest.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != golden.sha256:
        raise GoldenMismatch(f"{path} is not the image that was measured: its sha256 differs.")
    return to_rgb(data)
