"""`telltale detect`: verdict, score and explanation for images at hand, with no service running.

torch is imported when the command runs, not when it is listed. The command knows nothing of tenants, cases or policy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from model.opening import checkpoint_options, open_detector, require_pair

if TYPE_CHECKING:
    from model.batcher import Batcher
    from model.detector import Detection, Detector

STDIN = "-"


@dataclass(frozen=True)
class Judged:
    """One image's outcome: a detection, or the reason there is none."""

    image: str
    detection: Detection | None = None
    first_frame_only: bool = False
    error: str | None = None


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@checkpoint_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of a table.")
@click.option("--explain/--no-explain", default=True, help="Verdicts alone are several times faster.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True)
def detect(
    images: tuple[str, ...],
    source: str,
    revision: str | None,
    engine: str,
    url: str | None,
    as_json: bool,
    explain: bool,
    batch_size: int,
) -> None:
    """Judge images: files, folders (with all that is in them), or - for one image on standard input.

    Exits with 1 if any image could not be judged; the others are judged all the same.
    """
    require_pair(engine, url)
    names = list(_names(images))
    detector = open_detector(source, revision, url)
    with _progress(len(names)) as advance:
        outcomes = (advance(judged) for judged in _judge(detector, names, explain, batch_size))
        failures = _print_lines(outcomes) if as_json else _print_table(outcomes, explain)
    if failures:
        click.echo(f"{failures} of {len(names)} images could not be judged.", err=True)
        raise SystemExit(1)


def _names(arguments: Sequence[str]) -> Iterator[str]:
    """Every file to judge, folders unfolded in name order."""
    from model.decode import SUFFIXES

    for argument in arguments:
        if argument == STDIN or not Path(argument).is_dir():
            yield argument
            continue
        found = sorted(path for path in Path(argument).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise click.ClickException(f"{argument} holds no images ({', '.join(sorted(SUFFIXES))}).")
        yield from map(str, found)


def _judge(detector: Detector, names: Sequence[str], explain: bool, batch_size: int) -> Iterator[Judged]:
    """Outcomes in the order of `names`; two batches' worth of threads decode while the device works."""
    from model.batcher import Batcher

    with Batcher(detector, max_batch=batch_size) as batcher, ThreadPoolExecutor(2 * batch_size) as threads:
        yield from threads.map(lambda name: _judge_one(batcher, name, explain), names)


def _judge_one(batcher: Batcher, name: str, explain: bool) -> Judged:
    from model.decode import UndecodableImage, read_header, to_rgb
    from model.engines.engine import EngineError
    from model.engines.vllm import ServerUnavailable

    try:
        data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
        detection = batcher.submit(to_rgb(data), explain).result()
        return Judged(name, detection, first_frame_only=read_header(data).animated)
    except OSError as error:
        return Judged(name, error=f"It cannot be read ({error.strerror or error}): check the path and its permissions.")
    except ServerUnavailable as error:
        raise click.ClickException(str(error)) from error
    except (UndecodableImage, EngineError) as error:
        return Judged(name, error=str(error))


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar on standard error where that is a terminal; yields a function that counts what passes through it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("judging", total=total)

        def advance(judged: Judged) -> Judged:
            progress.advance(task)
            return judged

        yield advance


def _print_lines(outcomes: Iterator[Judged]) -> int:
    """JSON lines as they come; how many failed."""
    failures = 0
    for judged in outcomes:
        failures += judged.error is not None
        click.echo(json.dumps(_as_object(judged), ensure_ascii=False))
        sys.stdout.flush()
    return failures


def _as_object(judged: Judged) -> dict[str, Any]:
    if judged.detection is None:
        return {"image": judged.image, "error": judged.error}
    return {
        "image": judged.image,
        **asdict(judged.detection.verdict),
        "explanation": judged.detection.explanation,
        "first_frame_only": judged.first_frame_only,
    }


def _print_table(outcomes: Iterator[Judged], explain: bool) -> int:
    """A table once all are judged; how many failed."""
    table = Table(Column("image", overflow="fold"), "verdict", "p_fake")
    table.add_column("explanation" if explain else "", ratio=1)
    failures = 0
    for judged in outcomes:
        failures += judged.error is not None
        table.add_row(*_cells(judged))
    Console().print(table)
    return failures


def _cells(judged: Judged) -> tuple[str, str, str, str]:
    if judged.detection is None:
        return escape(judged.image), "[red]error[/red]", "", escape(str(judged.error))
    verdict = judged.detection.verdict
    color = "red" if verdict.label == "fake" else "green"
    frame = " (first frame)" if judged.first_frame_only else ""
    label = f"[{color}]{verdict.label}[/{color}]{frame}"
    return escape(judged.image), label, f"{verdict.p_fake:.3f}", escape(judged.detection.explanation or "")
