"""What a detector asks of whatever runs the network: raw scores for a batch, and text for those that want it.

An engine knows a checkpoint's prompt and tokens. It knows nothing of calibration, labels' thresholds, files or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from model.manifest import Manifest
from model.prompt import Label


class EngineError(RuntimeError):
    """The engine ran, but what came out cannot be used."""


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


class Engine(Protocol):
    """`prepare` is safe to call from any thread, `answer` from one thread at a time."""

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
