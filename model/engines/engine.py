"""What a detector asks of whatever runs the network: raw scores for a batch, and text for those that want it.

An engine knows a checkpoint's prompt and tokens. It knows nothing of calibration, labels' thresholds, files or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from model.manifest import Manifest
from model.prompt import Label


class EngineError(RuntimeError):
    """The engine ran, but what came out cannot be used."""


class MemoryShort(EngineError):
    """The device has no memory for even one image: something else has taken it, and may give it back."""


class OtherBase(EngineError):
    """That version needs another network than the one that is loaded."""


@dataclass(frozen=True)
class Score:
    """Logits of the two verdict words at the verdict's position, and the softmax mass the pair has there, 0 to 1."""

    real: float
    fake: float
    pair_mass: float

    @property
    def logit(self) -> float:
        return self.fake - self.real


@dataclass(frozen=True)
class Answer:
    """One image's score, and its explanation where one was asked for, opening sentence included."""

    score: Score
    text: str | None


# Asked once the batch is scored: the label that image number so-and-so is to be explained under, None for no text.
# It may be asked again for the same image when a batch has to be run in smaller parts.
Chooser = Callable[[int, Score], Label | None]


class Successor(Protocol):
    """Another version, ready to take an engine's place. While it has it, the earlier engine must not be used."""

    def take_over(self) -> Engine:
        """The engine that runs this version from now on. Raises where it cannot; then `give_back` must follow."""

    def give_back(self) -> None:
        """Leave everything as it was before `take_over`. Raises where that fails: then nothing must be used."""


class Engine(Protocol):
    """`prepare` and `successor` are safe to call from any thread, all else from one thread at a time."""

    @property
    def name(self) -> str:
        """`transformers`, say; texts are only comparable within one engine and dtype."""

    @property
    def dtype(self) -> str:
        """What the network computes in: `float32`, `bfloat16` or `float16`."""

    @property
    def manifest(self) -> Manifest: ...

    def prepare(self, image: Image.Image) -> Any:
        """An RGB image in the form `answer` takes; does the work that needs no network."""

    def answer(self, prepared: Sequence[Any], choose: Chooser) -> list[Answer]:
        """One answer per prepared image, in order.

        Raises EngineError where a score is not a number.
        """

    def complete(self, prepared: Sequence[Any]) -> list[str]:
        """What the model says by itself after the prompt, nothing forced: for measuring as the paper did."""

    def successor(self, source: str | Path, revision: str | None, manifest: Manifest) -> Successor:
        """Get another version ready, as far as that can be done while this engine works.

        Raises OtherBase where `release` and loading anew is the only way, CheckpointError or EngineError where that
        version cannot be run.
        """

    def release(self) -> None:
        """Let go of network and memory; this engine must not be used any more."""
