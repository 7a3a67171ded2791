"""The training loop: batches in, a trained network out, progress to the log. Knows nothing of files or formats."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from model.finetune.arguments import Arguments
from model.finetune.collator import IGNORED, Collator
from model.finetune.records import Records

log = logging.getLogger(__name__)


def fit(
    model: Any, records: Records, collator: Collator, arguments: Arguments, accelerator: Accelerator
) -> list[float]:
    """Train `model` in place; the mean loss of each stretch of `log_every` updates.

    The last, smaller batch of an epoch is trained on too. Raises FloatingPointError where the loss is not finite.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=arguments.peak_rate, weight_decay=arguments.weight_decay)
    loader: Any = DataLoader(
        records.rows,  # type: ignore[arg-type]
        batch_size=arguments.batch_size,
        shuffle=True,
        collate_fn=collator,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    updates = arguments.epochs * math.ceil(len(loader) / arguments.accumulate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate(updates, arguments.warmup))
    model.train()
    losses: list[float] = []
    recent: list[torch.Tensor] = []
    done = 0
    for epoch in range(arguments.epochs):
        for batch in loader:
            with accelerator.accumulate(model):
                loss = answer_loss(model, batch)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(trained, arguments.max_gradient_norm)
                optimizer.step()
                optimizer.zero_grad()
            recent.append(loss.detach())
            if accelerator.sync_gradients:
                schedule.step()
                done += 1
                if done % arguments.log_every == 0 or done == updates:
                    losses.append(_mean(recent, accelerator))
                    if accelerator.is_main_process:
                        log.info("epoch %d, update %d of %d: loss %.4f", epoch + 1, done, updates, losses[-1])
                    recent = []
    return losses


def answer_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross entropy over the answers' tokens and their EOS.

    Logits are computed from the last prompt token on, not for the image's hundreds of positions.
    """
    labels = batch["labels"]
    answered = int((labels != IGNORED).any(dim=0).nonzero()[0])
    keep = labels.shape[1] - answered + 1
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, logits_to_keep=keep).logits[:, :-1].float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, answered:].flatten(), ignore_index=IGNORED)


def learning_rate(updates: int, warmup: float) -> Callable[[int], float]:
    """The share of the peak rate at each update: linear over `warmup` of all updates, then a cosine to 0."""
    ramp = math.ceil(updates * warmup)

    def share(update: int) -> float:
        if update < ramp:
            return (update + 1) / ramp
        return 0.5 * (1 + math.cos(math.pi * (update - ramp) / max(1, updates - ramp)))

    return share


def _mean(losses: list[torch.Tensor], accelerator: Accelerator) -> float:
    mean = float(accelerator.gather(torch.stack(losses)).mean())
    if not math.isfinite(mean):
        raise FloatingPointError("The loss is no longer a number: lower the learning rate.")
    return mean
