"""`telltale detect`: verdict, score and explanation for images at hand, with no service running.

torch is imported when the command runs, not when it is listed. The command knows nothing of tenants, cases or policy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from model.opening import INTERRUPTED, checkpoint_options, open_detector, require_agreement

if TYPE_CHECKING:
    from model.batcher import Batcher
    from model.detector import Detection, Detector
    from model.manifest import Quantization

STDIN = "-"
PIPE_WIDTH = 120  # a pipe or a file has no width


@dataclass(frozen=True)
class Judged:
    """One image's outcome: a detection, or the reason there is none."""

    image: str
    detection: Detection | None = None
    first_frame_only: bool = False
    error: str | None = None


@dataclass
class Tally:
    """How many images there are, how many were judged, and how many could not be."""

    images: int
    judged: int = 0
    failures: int = 0

    def count(self, judged: Judged) -> None:
        """One more."""
        self.judged += judged.error is None
        self.failures += judged.error is not None


Show = Callable[[Judged], None]


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
    quantization: Quantization | None,
    as_json: bool,
    explain: bool,
    batch_size: int,
) -> None:
    """Judge images: files, folders (with all that is in them), or - for one image on standard input.

    Exits with 1 if any image could not be judged; the others are judged all the same. Ctrl-C ends it (130) with what
    was judged until then.
    """
    require_agreement(engine, url, quantization)
    names = list(_names(images))
    _require_any(names)
    detector = open_detector(source, revision, url, quantization)
    tally = Tally(len(names))
    with (
        _told(tally),
        _lines() if as_json else _table(explain) as show,
        _progress(len(names), beside_lines=as_json) as advance,
        closing(_judge(detector, names, explain, batch_size)) as found,
    ):
        for judged in found:
            tally.count(judged)
            show(judged)
            advance()


@contextmanager
def _told(tally: Tally) -> Iterator[None]:
    """What did not go well is said last, and is the exit status."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"Stopped: {tally.judged:,} of {tally.images:,} images were judged.", err=True)
        raise SystemExit(INTERRUPTED) from None
    if tally.failures:
        click.echo(f"{tally.failures:,} of {tally.images:,} images could not be judged.", err=True)
        raise SystemExit(1)


def _names(arguments: Sequence[str]) -> Iterator[str]:
    """Every file to judge, folders unfolded in name order."""
    from model.decode import SUFFIXES

    for argument in arguments:
        if argument == STDIN or not (_exists(argument) and Path(argument).is_dir()):
            yield argument
            continue
        found = sorted(path for path in Path(argument).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise click.ClickException(f"{argument} holds no images ({', '.join(sorted(SUFFIXES))}).")
        yield from map(str, found)


def _require_any(names: Sequence[str]) -> None:
    """Before a checkpoint is loaded for nothing, which may take minutes. Raises ClickException."""
    if any(name == STDIN or _exists(name) for name in names):
        return
    raise click.ClickException(f"{names[0]} cannot be found{', and no other can' if len(names) > 1 else ''}.")


def _exists(name: str) -> bool:
    """Whether it leads anywhere; a name that is too long, or beyond a folder that may not be entered, does not."""
    try:
        return Path(name).exists()
    except OSError:
        return False


def _judge(detector: Detector, names: Sequence[str], explain: bool, batch_size: int) -> Generator[Judged, None, None]:
    """Outcomes in the order of `names`; two batches' worth of threads decode while the device works."""
    from model.batcher import Batcher

    # Left in this order, so that what waits in the batcher is given up first where the command is stopped.
    with ThreadPoolExecutor(2 * batch_size) as threads, Batcher(detector, max_batch=batch_size) as batcher:
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
def _progress(total: int, *, beside_lines: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error where that is a terminal that nothing else is printed to; yields what to call for each.

    Lines on the same terminal say by themselves how far it is, and would stand in the bar's.
    """
    console = Console(stderr=True)
    shown = console.is_terminal and not (beside_lines and sys.stdout.isatty())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("judging", total=total)
        yield lambda: progress.advance(task)


@contextmanager
def _lines() -> Iterator[Show]:
    """A line of JSON for each, as they come."""

    def show(judged: Judged) -> None:
        click.echo(json.dumps(_as_object(judged), ensure_ascii=False))
        sys.stdout.flush()

    yield show


def _as_object(judged: Judged) -> dict[str, Any]:
    if judged.detection is None:
        return {"image": judged.image, "error": judged.error}
    return {
        "image": judged.image,
        **asdict(judged.detection.verdict),
        "explanation": judged.detection.explanation,
        "first_frame_only": judged.first_frame_only,
    }


@contextmanager
def _table(explain: bool) -> Iterator[Show]:
    """A table once all are judged, or of what was judged until somebody or something ended it."""
    table = Table(Column("image", overflow="fold"), "verdict", "p_fake", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("explanation" if explain else "", ratio=1)
    try:
        yield lambda judged: table.add_row(*_cells(judged))
    finally:
        if table.row_count:
            console = Console()
            console.print(table, width=None if console.is_terminal else PIPE_WIDTH)


def _cells(judged: Judged) -> tuple[str, str, str, str]:
    if judged.detection is None:
        return escape(judged.image), "[red]error[/red]", "", escape(str(judged.error))
    verdict = judged.detection.verdict
    color = "red" if verdict.label == "fake" else "green"
    frame = " (first frame)" if judged.first_frame_only else ""
    label = f"[{color}]{verdict.label}[/{color}]{frame}"
    return escape(judged.image), label, f"{verdict.p_fake:.3f}", escape(judged.detection.explanation or "")
