"""`telltale export-dataset`: what a training run learned from, as files that our own tools and others' read."""

from __future__ import annotations

from pathlib import Path

import click

from infra.printing import as_json_option, print_record
from moderation.retraining import dataset
from moderation.settings import settings
from moderation.storage import Storage

ACTOR = "operator"


@click.command("export-dataset")
@click.argument("snapshot")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="A new folder, or an empty one.",
)
@as_json_option
def export_dataset(snapshot: str, out: Path, as_json: bool) -> None:
    """Write SNAPSHOT, a run's id or a snapshot's digest, as a FakeClue folder.

    \b
    OUT/train.json   what was trained on     OUT/train/<category>/{fake,real}/…
    OUT/test.json    what was held out       OUT/test/<category>/{fake,real}/…

    `telltale evaluate --data OUT/test.json` and `telltale finetune` read them. A snapshot that no run has divided is
    all.json. Images that were erased since, or that their tenant no longer allows to train on, are left out and
    counted.
    """
    done = dataset.export(Storage(settings()), snapshot, out, actor=ACTOR)
    print_record(
        {"out": str(out), **{f"{file}.json": count for file, count in done.files.items()}, **_left_out(done)},
        as_json=as_json,
    )


def _left_out(done: dataset.Exported) -> dict[str, int]:
    return {f"left out, {reason.replace('_', ' ')}": count for reason, count in done.left_out.items()}
