"""Our trainer against one with the published recipe's waste: same network, same rows, same order, same loss.

The network has the token geometry of FakeVLM (336 px, patches of 14, 576 image tokens), a large language model beside a
small tower, a five-hundredth of its weights, and random ones: speed does not depend on what they know. The waste is
what is reported of the published trainer: every row padded to 1024 tokens, those of its image among them; every image
preprocessed twice; logits in float32 at every position; activations always computed again. Runs of both kinds
alternate, and the fastest of each counts: other work on the machine only ever makes a run slower.

`python -m benchmarks.finetune` prints a table, and last a line of JSON: `ratio` of samples per second, ours to theirs,
and `loss_gap`, the largest difference between the losses of one update.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.utils import logging as transformers_logging

from benchmarks import small
from benchmarks.pictures import pictures
from model.checkpoint import Interface, load_interface, save_classic
from model.decode import to_rgb
from model.finetune.arguments import Arguments
from model.finetune.collator import IGNORED, Collator
from model.finetune.records import Row, read
from model.finetune.trainer import AnswerTrainer, Progress, training_arguments
from model.manifest import Manifest
from model.preprocess import to_pixels

ROUNDS, ROWS, BATCH = 3, 16, 8
PADDED_TO = 1024
WIDTH, LAYERS, HEADS = 512, 4, 8
VISION_WIDTH, VISION_LAYERS, VISION_HEADS = 128, 4, 4
MANIFEST = Manifest(name="benchmark", kind="demo", base="random weights of benchmarks.finetune (not FakeVLM)")


class PaddedCollator(Collator):
    """Every row to 1024 tokens, and every image through the processor once for its size and once for its pixels."""

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        to_pixels(self.checkpoint.processor, [to_rgb(row.image) for row in rows])
        batch = super().__call__(rows)
        missing = PADDED_TO - batch["input_ids"].shape[1]
        fills = {"input_ids": self.checkpoint.processor.tokenizer.pad_token_id, "labels": IGNORED, "attention_mask": 0}
        padded = {name: nn.functional.pad(batch[name], (0, missing), value=fill) for name, fill in fills.items()}
        return batch | padded


class WastefulTrainer(AnswerTrainer):
    """The same loss from logits at every position."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        labels = inputs["labels"]
        features = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        logits = model(**features, use_cache=False).logits.float()[:, :-1]
        total = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / num_items_in_batch


class Stopwatch(TrainerCallback):
    """Seconds from the first batch to the last update."""

    def on_epoch_begin(self, *unused: Any, **named: Any) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, *unused: Any, **named: Any) -> None:
        self.seconds = time.perf_counter() - self.start


@dataclass
class Kind:
    """One of the two trainers, and what was measured of it."""

    name: str
    trainer: type[AnswerTrainer]
    collator: type[Collator]
    checkpointing: bool
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def samples_per_second(self, rows: int) -> float:
        return rows / min(self.seconds)


def main() -> None:
    transformers_logging.set_verbosity_error()
    console = Console()
    kinds = [
        Kind("published", WastefulTrainer, PaddedCollator, checkpointing=True),
        Kind("ours", AnswerTrainer, Collator, checkpointing=False),
    ]
    with tempfile.TemporaryDirectory() as folder, console.status("") as status:
        base, data = write_base(Path(folder) / "base"), write_data(Path(folder) / "data")
        interface = load_interface(base)
        rows = read(data, data.parent, interface, PADDED_TO).rows
        for number in range(ROUNDS):
            for kind in kinds:
                status.update(f"round {number + 1} of {ROUNDS}: {kind.name}")
                run(kind, interface, rows, base, data, Path(folder) / f"{kind.name}-{number}")
    report(console, kinds, rows, interface)


def run(kind: Kind, interface: Interface, rows: Sequence[Row], base: Path, data: Path, output: Path) -> None:
    """One epoch from the same weights; loading, setting up and saving are not timed."""
    asked = Arguments(
        base=str(base),
        data=data,
        output=output,
        name=kind.name,
        method="full",
        epochs=1,
        batch_size=BATCH,
        accumulate=1,
        learning_rate=1e-4,
        precision="float32",
        gradient_checkpointing=kind.checkpointing,
        save_every=10**6,
        log_every=1,
    )
    trainer = kind.trainer(network(interface), kind.collator(interface), rows, (), asked, training_arguments(asked))
    for callback in (Progress, TensorBoardCallback):
        trainer.remove_callback(callback)
    trainer._save_checkpoint = lambda *unused: None
    watch = Stopwatch()
    trainer.add_callback(watch)
    trainer.train()
    kind.seconds.append(watch.seconds)
    kind.losses = trainer.losses


def report(console: Console, kinds: Sequence[Kind], rows: Sequence[Row], interface: Interface) -> None:
    prompt = len(interface.tokens.prompt)
    lengths = [prompt + len(row.answer) for row in rows]
    table = Table("trainer", "samples/s", "tokens a row", "last loss", title=f"{len(rows)} rows, batches of {BATCH}")
    published, ours = kinds
    for kind, tokens in ((published, f"{PADDED_TO}"), (ours, f"{min(lengths)} to {max(lengths)}")):
        table.add_row(kind.name, f"{kind.samples_per_second(len(rows)):.2f}", tokens, f"{kind.losses[-1]:.6f}")
    console.print(table)
    gap = max(abs(one - other) for one, other in zip(published.losses, ours.losses, strict=True))
    ratio = ours.samples_per_second(len(rows)) / published.samples_per_second(len(rows))
    console.file.write(json.dumps({"ratio": round(ratio, 2), "loss_gap": float(f"{gap:.2g}")}) + "\n")


def write_base(folder: Path) -> Path:
    """Configuration, processor and manifest; the weights beside them are those of `network`."""
    made = small.processor(MANIFEST.prompt.text, small.SIDE)
    return save_classic(_network(made.tokenizer), made, MANIFEST, folder, torch.float32)


def write_data(folder: Path) -> Path:
    """Drawn pictures and their answers as FakeClue's records."""
    folder.mkdir()
    records = []
    for number, picture in enumerate(pictures(ROWS, 1, small.SIDE)):
        (folder / f"{number}.jpg").write_bytes(picture.jpeg)
        question = {"from": "human", "value": MANIFEST.prompt.text}
        said = [question, {"from": "gpt", "value": picture.answer}]
        records.append({"image": f"{number}.jpg", "label": int(picture.label == "real"), "conversations": said})
    path = folder / "records.json"
    path.write_text(json.dumps(records))
    return path


def network(interface: Interface) -> LlavaForConditionalGeneration:
    return _network(interface.processor.tokenizer)


def _network(words: Any) -> LlavaForConditionalGeneration:
    """Random weights, the same ones every time."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=small.SIDE,
        patch_size=small.PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=8 * WIDTH // 3,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=2048,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    image = words.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_index=image)
    return LlavaForConditionalGeneration(config)


if __name__ == "__main__":
    main()
