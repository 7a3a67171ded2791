"""What one finetuning run is asked to do. Contradictions are refused here, before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.finetune.complaints import Place, told

Part = Literal["language_model", "projector", "vision_tower"]

# Inside the output folder: what a stopped run goes on from (removed once the run is done), and TensorBoard's files.
WORK = "work"
LOGS = "logs"
# What the Trainer writes last into a state: one without it was being saved when the run was ended.
STATE_FILE = "trainer_state.json"


class InvalidConfiguration(ValueError):
    """The configuration contradicts itself or cannot be read; the message says what to change."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lora(_Strict):
    """Adapters on the linear layers of the parts in `train` (Hu et al. 2021).

    The update is scaled by alpha / rank.
    """

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)


class Arguments(_Strict):
    """One run. Paths are relative to the working directory.

    `base` is a folder, a hub id at a full commit hash, or `demo`; `data` and `validation` are FakeClue-format files
    (JSON list or JSON lines), their images below `images` and `validation_images` (default: the file's folder).
    `full` trains the parts in `train` themselves. `lora` and `qlora` put adapters on them, `qlora` with the base in
    4 bits; a projector among them is trained itself, beside the adapters.

    `batch_size` is per process and step; `accumulate` steps make one update. The learning rate rises over `warmup` of
    all updates and falls as a cosine. In bfloat16 on a CPU, `attention: eager` is twice as fast as `sdpa`; on a GPU it
    is slower. `flash_attention_2` is for GPUs, bfloat16 and the package flash-attn.

    Every `save_every` updates (default: every epoch) the run can be resumed from, and `validation` is measured; the
    weights with the lowest validation loss are the ones that are kept.

    Defaults are FakeVLM's published ones, where 32 rows per process and update are four batches of 8 here; LoRA needs
    about ten times the learning rate of full finetuning.
    """

    base: str
    revision: str | None = None
    data: Path
    images: Path | None = None
    validation: Path | None = None
    validation_images: Path | None = None
    output: Path
    name: str = Field(min_length=1, description="the new model version's name")
    method: Literal["full", "lora", "qlora"] = "lora"
    train: tuple[Part, ...] = Field(default=(), description="default: all for full, the language model for LoRA")
    lora: Lora | None = None
    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=8, ge=1)
    accumulate: int = Field(default=4, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, description="default 2e-5 for full, 2e-4 for LoRA")
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=1024, ge=1, description="tokens of prompt and answer; longer rows are refused")
    gradient_checkpointing: bool = Field(default=False, description="less memory for about a third more time")
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    stored_as: Literal["float32", "bfloat16", "float16"] = Field(
        default="bfloat16", description="of full weights; adapters are small and stored in float32"
    )
    patience: int | None = Field(default=None, ge=1, description="stop after so many validations without improvement")
    save_every: int | None = Field(default=None, ge=1, description="updates; default: every epoch")
    resume: bool | Path = Field(
        default=False, description="true: from the newest state in the output folder, if there is one; or a state"
    )
    workers: int | None = Field(
        default=None, ge=0, description="processes that prepare images; default: 4 beside a GPU, none beside a CPU"
    )
    seed: int = 0
    log_every: int = Field(default=20, ge=1, description="updates between two lines of progress")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.method == "full" and self.lora is not None:
            raise ValueError("`lora` is set, but `method` is `full`: remove one of them.")
        if self.attention == "flash_attention_2" and (self.precision != "bfloat16" or not find_spec("flash_attn")):
            raise ValueError("`attention: flash_attention_2` needs `precision: bfloat16` and the package flash-attn.")
        if len(set(self.train)) < len(self.train):
            raise ValueError("`train` names a part twice.")
        if self.method != "full" and self.trained == {"projector"}:
            raise ValueError("`train` leaves nothing to put adapters on: use `method: full` for the projector alone.")
        if self.validation is None and (self.patience is not None or self.validation_images is not None):
            raise ValueError("`patience` and `validation_images` need a `validation` file.")
        if self.states and not self.resume:
            raise ValueError(
                f"`output` {self.output} holds a run that was stopped: set `resume: true`, or give a new folder."
            )
        if self.output.exists() and (not self.output.is_dir() or any(self._left_in_output())):
            raise ValueError(f"`output` {self.output} is not an empty folder: give a new one.")
        if isinstance(self.resume, Path) and not self.resume.is_dir():
            raise ValueError(f"`resume` {self.resume} is no folder: give one of {self.work}, or `true`.")
        if isinstance(self.resume, Path) and not (self.resume / STATE_FILE).is_file():
            raise ValueError(f"`resume` {self.resume} is no state that was saved whole: give another, or `true`.")
        self._require_files()
        return self

    def _require_files(self) -> None:
        """Before a base is loaded for nothing."""
        for name, file in (("data", self.data), ("validation", self.validation)):
            if file is not None and not file.is_file():
                raise ValueError(f"`{name}` {file} is no file: paths are relative to {Path.cwd()}.")
        for name, folder in (("images", self.images), ("validation_images", self.validation_images)):
            if folder is not None and not folder.is_dir():
                raise ValueError(f"`{name}` {folder} is no folder: paths are relative to {Path.cwd()}.")

    def _left_in_output(self) -> list[Path]:
        """What is in the output folder beside what a stopped run leaves there: its states, logs, half a result."""
        return [] if self.states else [path for path in self.output.iterdir() if path.name not in (WORK, LOGS)]

    @property
    def trained(self) -> frozenset[Part]:
        """The parts that train, or carry adapters."""
        if self.train:
            return frozenset(self.train)
        everything: tuple[Part, ...] = ("language_model", "projector", "vision_tower")
        return frozenset(everything) if self.method == "full" else frozenset(everything[:1])

    @property
    def adapters(self) -> Lora | None:
        return (self.lora or Lora()) if self.method != "full" else None

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or (2e-5 if self.method == "full" else 2e-4)

    @property
    def image_folder(self) -> Path:
        return self.images or self.data.parent

    @property
    def work(self) -> Path:
        return self.output / WORK

    @property
    def logs(self) -> Path:
        return self.output / LOGS

    @property
    def states(self) -> list[Path]:
        """What the run can be resumed from, oldest first; a state that was not saved whole is none."""
        whole = (path.parent for path in self.work.glob(f"checkpoint-*/{STATE_FILE}"))
        return sorted(whole, key=lambda path: int(path.name.rpartition("-")[2]))

    @property
    def state(self) -> Path | None:
        """What the run is to go on from; None: from the beginning."""
        if isinstance(self.resume, Path):
            return self.resume
        return self.states[-1] if self.resume and self.states else None


# What `read` names where a setting is none of these.
SETTINGS: dict[Place, tuple[str, ...]] = {(): tuple(Arguments.model_fields), ("lora",): tuple(Lora.model_fields)}


def read(path: Path) -> Arguments:
    """Arguments from a YAML (or JSON) file.

    Raises InvalidConfiguration.
    """
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise InvalidConfiguration(f"{path}: a mapping of settings is expected, such as `base: demo`.")
        return Arguments.model_validate(values)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfiguration(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InvalidConfiguration(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise InvalidConfiguration(f"{path}: {told(error, SETTINGS)}") from error
