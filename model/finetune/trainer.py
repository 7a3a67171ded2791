"""The transformers Trainer, taught three things: loss on answers only, rows of like length together, safe resuming.

Everything else is the Trainer's: accumulation, mixed precision, processes (DDP, FSDP, DeepSpeed), saving, resuming,
early stopping, TensorBoard. It knows nothing of records, manifests or checkpoints.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import TrainerCallback
from transformers.utils import SAFE_WEIGHTS_NAME

from model.finetune.arguments import Arguments, InvalidConfiguration
from model.finetune.collator import IGNORED, Collator
from model.finetune.order import LengthGrouped
from model.finetune.records import Row

# Seconds that processes wait for one another: the first of them reads and checks all records meanwhile.
PATIENCE_OF_PROCESSES = 6 * 3600
WORKERS_BESIDE_A_GPU = 4
# What prepares images is not forked off the trainer, whose threads (TensorBoard's, NCCL's, the tokenizer's) may hold
# locks that a copy of them waits for for ever, but off a process that has only imported what it takes.
APART = "forkserver"


class AnswerTrainer(Trainer):  # type: ignore[misc]
    """Trains on the answers of rows. Raises FloatingPointError where the loss is no longer a number."""

    loss_is_scaled_for_ga = True  # by the number of answer tokens in the whole update

    def __init__(
        self,
        network: Any,
        collator: Collator,
        rows: Sequence[Row],
        validation: Sequence[Row],
        arguments: Arguments,
        settings: TrainingArguments,
    ) -> None:
        update = settings.train_batch_size * settings.gradient_accumulation_steps * settings.world_size
        lengths = [collator.prompt_length + len(row.answer) for row in rows]
        self._order = LengthGrouped(lengths, update, arguments.seed)
        callbacks: list[TrainerCallback] = [_Epochs(self._order)]
        if settings.should_save:
            callbacks.append(TensorBoardCallback(_summary_writer(arguments.logs)))
        if arguments.patience is not None:
            callbacks.append(EarlyStoppingCallback(arguments.patience))
        super().__init__(
            model=network,
            args=settings,
            data_collator=collator,
            train_dataset=list(rows),
            eval_dataset=list(validation) or None,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(Progress())

    @property
    def losses(self) -> list[float]:
        """Mean training loss of each stretch of `log_every` updates."""
        return [entry["loss"] for entry in self.state.log_history if "loss" in entry]

    @property
    def best_loss(self) -> float | None:
        """The lowest validation loss; its weights are the ones that are kept."""
        found: float | None = self.state.best_metric
        return found

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Cross entropy over the answers' tokens and their EOS; logits from the last prompt token on, and no others.

        `num_items_in_batch` is how many such tokens the whole update has, in all accumulated steps and processes: the
        loss is the share of their mean that these rows make, as one big batch would weigh them.
        """
        labels = inputs["labels"]
        start = self.data_collator.prompt_length
        features = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        outputs = model(**features, logits_to_keep=labels.shape[1] - start + 1, use_cache=False)
        logits, targets = outputs.logits[:, :-1].float().flatten(0, 1), labels[:, start:].flatten()
        if num_items_in_batch is None:
            loss = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED)
        else:
            total = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
            loss = total * self.accelerator.num_processes / num_items_in_batch  # gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            raise FloatingPointError("The loss is no longer a number: lower the learning rate.")
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:
        return self._order

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Full weights under the modules' own names: those of `save_pretrained` do not load again, with a warning."""
        if hasattr(self.model, "peft_config"):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            tied = self._tied_names()
            weights = state_dict or self.model.state_dict()
            kept = {name: tensor.contiguous() for name, tensor in weights.items() if name not in tied}
            save_file(kept, folder / SAFE_WEIGHTS_NAME, {"format": "pt"})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A state that half matches must not be gone on from. Raises InvalidConfiguration."""
        missing = set(load_result.missing_keys) - self._tied_names()
        if missing or load_result.unexpected_keys:
            raise InvalidConfiguration(
                f"The state does not fit the network: {len(missing)} weights are missing, "
                f"{len(load_result.unexpected_keys)} are left over. Start anew in another output folder."
            )

    def _tied_names(self) -> set[str]:
        return {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()


def training_arguments(arguments: Arguments) -> TrainingArguments:
    """Our settings in the Trainer's words. Made before the network is loaded: it also finds device and processes."""
    cuda = torch.cuda.is_available()
    workers = arguments.workers if arguments.workers is not None else WORKERS_BESIDE_A_GPU * cuda
    if workers:
        multiprocessing.get_context(APART).set_forkserver_preload([Collator.__module__])
    measured = "no" if arguments.validation is None else ("steps" if arguments.save_every else "epoch")
    return TrainingArguments(
        output_dir=str(arguments.work),
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=arguments.batch_size,
        per_device_eval_batch_size=arguments.batch_size,
        gradient_accumulation_steps=arguments.accumulate,
        learning_rate=arguments.peak_rate,
        lr_scheduler_type="cosine",
        warmup_steps=arguments.warmup,
        weight_decay=arguments.weight_decay,
        max_grad_norm=arguments.max_gradient_norm,
        activation_checkpointing=arguments.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=arguments.precision == "bfloat16",
        use_cpu=not cuda,
        seed=arguments.seed,
        save_strategy="steps" if arguments.save_every else "epoch",
        save_steps=arguments.save_every or 500,
        save_total_limit=1,
        eval_strategy=measured,
        eval_steps=arguments.save_every,
        load_best_model_at_end=arguments.validation is not None,
        prediction_loss_only=True,
        logging_steps=arguments.log_every,
        logging_nan_inf_filter=False,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        remove_unused_columns=False,
        dataloader_num_workers=workers,
        dataloader_multiprocessing_context=APART if workers else None,
        ddp_find_unused_parameters=False,
        ddp_timeout=PATIENCE_OF_PROCESSES,
    )


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells the order which epoch begins, also where accelerate's wrappers around a resumed loader would not."""

    def __init__(self, order: LengthGrouped) -> None:
        self._order = order

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **unused: Any) -> None:
        self._order.epoch = state.global_step * state.num_train_epochs // state.max_steps


class Progress(ProgressCallback):  # type: ignore[misc]
    """A bar with the time left on standard error where that is a terminal, and lines on standard output."""

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **unused: Any) -> None:
        self.current_step = state.global_step
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="training",
                unit=" updates",
                dynamic_ncols=True,
                disable=args.disable_tqdm,
            )

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **unused: Any) -> None:
        super().on_step_end(args, state, control, **unused)
        if state.global_step == state.max_steps:
            control.should_log = True  # also what is less than `log_every` updates

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **unused: Any) -> None:
        super().on_train_end(args, state, control, **unused)
        if state.is_world_process_zero and state.best_global_step:
            early = "stopped early: " if state.global_step < state.max_steps else ""
            tqdm.write(f"{early}update {state.best_global_step} had the lowest validation loss, its weights are kept")

    def on_prediction_step(self, args: TrainingArguments, *others: Any, **unused: Any) -> None:
        if not args.disable_tqdm:
            super().on_prediction_step(args, *others, **unused)

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **unused: Any) -> None:
        if state.is_world_process_zero and (line := _line(state, logs)):
            tqdm.write(line)


def _line(state: Any, logs: dict[str, float]) -> str:
    """One log entry for people; empty for the Trainer's closing statistics."""
    where = f"epoch {state.epoch:.2f} of {state.num_train_epochs}, update {state.global_step} of {state.max_steps}"
    if "loss" in logs:
        return f"{where}: loss {logs['loss']:.4f}, learning rate {logs['learning_rate']:.2g}"
    return f"{where}: validation loss {logs['eval_loss']:.4f}" if "eval_loss" in logs else ""


def _summary_writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
