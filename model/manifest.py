"""What a checkpoint says about itself: `telltale.json`, beside the weights.

A manifest names everything that must stay equal between training, serving and evaluation: the base and its revision,
the prompt, the two words the score is read from, the calibration of that score, and golden outputs that prove a loaded
checkpoint is the one that was measured. It knows nothing of how a checkpoint is loaded or run.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FILE_NAME = "telltale.json"

# What a language model's linear layers can be loaded in where memory is short (bitsandbytes).
Quantization = Literal["int8", "nf4"]

# FakeVLM's published evaluation feeds this string raw, typo included; a chat wrapper around it costs it about
# 20 points of accuracy (reported by its users).
FAKEVLM_PROMPT = "<image>Does the image looks real/fake?"


class ManifestError(ValueError):
    """The manifest is missing, or says something this version cannot serve; the message says what to do."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompt(_Frozen):
    """The exact text a model version was trained on.

    `text` is fed raw, without a chat template. `verdict_prefix` starts every answer; the token after it is the verdict,
    one of `real_word` and `fake_word`, each a single token (checked at load).
    """

    text: str = FAKEVLM_PROMPT
    verdict_prefix: str = "This is a"
    real_word: str = " real"
    fake_word: str = " fake"
    verdict_suffix: str = " image."

    def answer_start(self, label: Literal["real", "fake"]) -> str:
        """The opening sentence an explanation continues from, e.g. `This is a fake image.`"""
        word = self.fake_word if label == "fake" else self.real_word
        return f"{self.verdict_prefix}{word}{self.verdict_suffix}"


class Calibration(_Frozen):
    """Platt scaling (Platt 1999): p_fake = sigmoid(scale · logit + bias), where logit = z_fake − z_real.

    A temperature is a scale without a bias. `isotonic` has `knots` instead, each a logit and its p_fake: linear between
    them, and beyond the outermost as they are.
    """

    method: Literal["none", "temperature", "platt", "isotonic"] = "none"
    scale: float = Field(default=1.0, gt=0)
    bias: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    fitted_on: str | None = None

    @model_validator(mode="after")
    def _is_one_curve_that_rises(self) -> Self:
        if (self.method == "isotonic") != bool(self.knots):
            raise ValueError("`knots` belong to isotonic calibration, and it needs them")
        logits, chances = [logit for logit, _ in self.knots], [chance for _, chance in self.knots]
        if logits != sorted(set(logits)) or chances != sorted(chances):
            raise ValueError("`knots` must rise, in their logits strictly")
        if any(not 0 <= chance <= 1 for chance in chances):
            raise ValueError("`knots` must have p_fake from 0 to 1")
        return self


class Golden(_Frozen):
    """One image and what this checkpoint said of it. `image` is a file name below the manifest's folder."""

    image: str
    sha256: str
    label: Literal["real", "fake"]
    logit: float
    text: str
    dtype: str
    engine: str

    @field_validator("image")
    @classmethod
    def _is_below_the_folder(cls, image: str) -> str:
        """A manifest from elsewhere must not have other files read, or copied into a merged checkpoint."""
        path = PurePosixPath(image)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{image} must name a file in the manifest's folder")
        return image


class Adapter(_Frozen):
    """The checkpoint that a LoRA adapter goes on, for a folder that holds only the adapter's weights.

    `base` is a folder, a hub id with its `revision`, or `demo`; `digest` is that of the base's manifest: an adapter put
    on anything else would answer, and be wrong.
    """

    base: str
    revision: str | None = None
    digest: str


class Manifest(_Frozen):
    """Identity of one model version. `name` is what verdicts, the API and the dashboard show."""

    format: Literal[1] = 1
    name: str
    kind: Literal["fakevlm", "demo"]
    base: str = Field(description="hub id or description of what the weights were trained from")
    revision: str | None = Field(default=None, description="full commit hash for a hub checkpoint; None for a folder")
    processor: str | None = Field(default=None, description="hub id of the processor where the checkpoint ships none")
    processor_revision: str | None = None
    quantization: Literal["none", "int8", "nf4"] = Field(
        default="none", description="what the language model's linear layers are loaded in (bitsandbytes)"
    )
    adapter: Adapter | None = Field(
        default=None, description="set where the folder holds a LoRA adapter, not a network"
    )
    prompt: Prompt = Prompt()
    calibration: Calibration = Calibration()
    golden: tuple[Golden, ...] = ()
    training: dict[str, Any] = Field(default_factory=dict, description="configuration, data hash, seeds")
    metrics: dict[str, Any] = Field(default_factory=dict, description="measured, with what they were measured on")

    @property
    def is_demo(self) -> bool:
        return self.kind == "demo"

    def quantized(self, to: Quantization, name: str | None = None) -> Manifest:
        """A version of its own, of the same weights in fewer bits: called `name`, or this name with the bits behind it.

        What was measured of the full weights is not known of these, so it has no metrics and no golden outputs.
        """
        changes = {"quantization": to, "name": name or f"{self.name}-{to}", "golden": (), "metrics": {}}
        return self.model_copy(update=changes)

    def digest(self) -> str:
        """sha256 of the canonical JSON: two versions with equal digests answer alike.

        What is at its default is left out, so that a field added later changes no digest that is already on record.
        """
        stated = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> Path:
        path = folder / FILE_NAME
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path


def read(folder: Path) -> Manifest:
    """Read `telltale.json` from a checkpoint folder.

    Raises ManifestError where it is missing or not valid.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ManifestError(
            f"{folder} has no {FILE_NAME}: run `telltale models register {folder}` to give the checkpoint its manifest."
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ManifestError(f"{path} is not a manifest of this version: {error}") from error
