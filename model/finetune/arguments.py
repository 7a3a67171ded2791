"""What one finetuning run is asked to do. Contradictions are refused here, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class InvalidConfiguration(ValueError):
    """The configuration contradicts itself or cannot be read; the message says what to change."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lora(_Strict):
    """Adapters on the language model's linear layers (Hu et al. 2021); vision tower and projector stay as they are.

    The update is scaled by alpha / rank.
    """

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)


class Arguments(_Strict):
    """One run. Paths are relative to the working directory.

    `base` is a folder with a manifest, a hub id at a full commit hash, or `demo`; `data` a FakeClue-format file (JSON
    list or JSON lines), its images below `images` (default: the file's folder). `batch_size` is per process and step;
    `accumulate` steps make one update. The learning rate rises over `warmup` of all updates and falls as a cosine.
    In bfloat16 on a CPU, `attention: eager` is twice as fast as `sdpa`; on a GPU it is slower.
    Defaults for `full` are FakeVLM's published ones; LoRA needs about ten times the learning rate.
    """

    base: str
    revision: str | None = None
    data: Path
    images: Path | None = None
    output: Path
    name: str = Field(min_length=1, description="the new model version's name")
    method: Literal["full", "lora"] = "lora"
    lora: Lora | None = None
    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=8, ge=1)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, description="default 2e-5 for full, 2e-4 for LoRA")
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=1024, ge=1, description="tokens of prompt and answer; longer rows are refused")
    precision: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    stored_as: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    seed: int = 0
    log_every: int = Field(default=20, ge=1, description="updates between two lines of progress")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.method == "full" and self.lora is not None:
            raise ValueError("`lora` is set, but `method` is `full`: remove one of them.")
        if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise ValueError(f"`output` {self.output} is not an empty folder: give a new one.")
        return self

    @property
    def adapters(self) -> Lora | None:
        return (self.lora or Lora()) if self.method == "lora" else None

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or (2e-5 if self.method == "full" else 2e-4)

    @property
    def image_folder(self) -> Path:
        return self.images or self.data.parent


def read(path: Path) -> Arguments:
    """Arguments from a YAML (or JSON) file.

    Raises InvalidConfiguration.
    """
    try:
        values: Any = yaml.safe_load(path.read_text())
        return Arguments.model_validate(values)
    except OSError as error:
        raise InvalidConfiguration(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InvalidConfiguration(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        complaints = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'configuration'}: {each['msg']}" for each in error.errors()
        )
        raise InvalidConfiguration(f"{path}: {complaints}") from error
