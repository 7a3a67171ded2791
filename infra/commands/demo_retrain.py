"""`telltale demo-retrain`: the nightly job on this machine, from reviews in the dashboard to a model that is better.

It starts the embedded stack, sends it pictures of a type that the model has never seen among ordinary ones, has
scripted moderators answer them in the dashboard, asks for a training run, and shows what the model learned.
"""

from __future__ import annotations

import json
import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.cli import INTERRUPTED
from moderation.errors import ConfigurationError
from moderation.vocabulary import CaseStatus

if TYPE_CHECKING:
    from uuid import UUID

    from infra.client import Client
    from infra.demo.halftones import Picture, Pictures
    from infra.demo.lesson import Marks
    from infra.local import Stack
    from moderation.tables import ModelVersion, TrainingRun

MODERATORS = tuple(f"{name}@demo.example" for name in ("ada", "ben", "cleo"))
LEAD = "dora@demo.example"
POLL_S = 0.5
TIMEOUT_S = 300.0
LIVE_WITHIN_S = 60.0
LINES_OF_TRAINING = 10
# Adapters on every linear layer, because what is new is to be seen and not only to be said.
RECIPE: Mapping[str, Any] = {
    "method": "lora",
    "train": ["language_model", "projector", "vision_tower"],
    "lora": {"rank": 16, "alpha": 32, "dropout": 0.0},
    "batch_size": 24,
    "accumulate": 1,
    "learning_rate": 2e-3,
    "warmup": 0.1,
    "precision": "bfloat16",
    "attention": "eager",  # in bfloat16 on a CPU, the fastest
}


@click.command()
@click.option("--once", is_flag=True, help="End after the table instead of staying up until Ctrl-C.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="A new or empty folder to keep everything in; by default it is thrown away in the end.",
)
@click.option("--port", default=0, help="The api's port on 127.0.0.1; by default a free one.")
@click.option("--cases", default=200, show_default=True, type=click.IntRange(min=20), help="How many are reviewed.")
@click.option("--passes", default=8, show_default=True, type=click.IntRange(min=1), help="How often each is shown.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Another one draws other pictures: which arrive, in what order, and how their dots lie.",
)
def demo_retrain(once: bool, data: Path | None, port: int, cases: int, passes: int, seed: int) -> None:
    """Have moderators teach the model a type of fake it has never seen, and see whether it did.

    The last line is JSON: balanced accuracies (new, old), the area under the curve (new_auc) and the share of real
    pictures called real (reals), before and after, on photos that nothing else was done with. Exits with 1 where the
    new version was not promoted.
    """
    from infra.commands.up import ends_on_signals
    from infra.demo.halftones import Amounts, draw

    logging.basicConfig(level=logging.ERROR)  # what matters is said here
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100
    with ends_on_signals():
        try:
            with _folder(data) as folder:
                pictures = draw(folder / "pictures", Amounts(arriving=cases), console.print, seed)
                found = _play(console, folder, port, pictures, passes, once=once)
        except KeyboardInterrupt:
            console.print("Stopped.")
            raise SystemExit(INTERRUPTED) from None
    click.echo(json.dumps(found))
    if not found["promoted"]:
        raise SystemExit(1)


@contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    """Every run begins with nothing: what was learned once is not new any more."""
    if data is None:
        with tempfile.TemporaryDirectory(prefix="telltale-") as folder:
            yield Path(folder)
        return
    if data.exists() and any(data.iterdir()):
        raise ConfigurationError(f"{data} is not empty, and every run begins anew: give another folder.")
    yield data


def _play(
    console: Console, folder: Path, port: int, pictures: Pictures, passes: int, *, once: bool
) -> dict[str, float | bool]:
    """The whole of it; when it returns or raises, nothing it started is left running."""
    from infra.commands.demo import running
    from infra.demo import lesson

    with running(console, folder / "stack", port, _environment(folder, pictures, passes)) as stack:
        password = secrets.token_urlsafe(18)
        client = _reviewed(console, stack, pictures.arriving, password)
        before = _examined(console, pictures.measured)
        run = _trained(console)
        after = _examined(console, pictures.measured, run)
        _show_gate(console, run)
        promoted = run.status == "promoted" and _is_live(console, client, pictures, run)
        photos = len({picture.photo for picture in pictures.measured})
        console.print(f"On {len(pictures.measured)} pictures of {photos} photos that nothing else was done with:")
        console.print(lesson.table(before, after))
        if not once:
            _stay(console, stack, password)
        console.print("Stopping …", style="dim")
    return lesson.summary(before, after, promoted=promoted)


def _environment(folder: Path, pictures: Pictures, passes: int) -> dict[str, str]:
    """The settings of the retraining worker."""
    import yaml

    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(dict(RECIPE)))
    settings = {
        "recipe": recipe.resolve(),
        "replay_set": pictures.replay.resolve(),
        "old_set": pictures.old.resolve(),
        "holdout_share": 0.45,  # few pictures: the gate wants twenty of each class, and so does calibration
        "passes": passes,
        "replay_share": 0.8,
        "burst_s": 0,  # all of them arrive in one
        "min_reviews": 10,
        "hour": "never",
    }
    return {f"TELLTALE_RETRAIN_{name.upper()}": str(value) for name, value in settings.items()}


def _reviewed(console: Console, stack: Stack, arriving: Sequence[Picture], password: str) -> Client:
    """Pictures sent, judged, and answered by moderators in the dashboard; the platform's client."""
    from infra.client import Client
    from infra.demo.moderators import Moderator
    from infra.demo.platform import new_school

    _, key = new_school(MODERATORS, LEAD, password)
    client = Client(stack.url, key)
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tick = _ticks(progress, "submitted", len(arriving))
        sent = {client.submit_file(each.path)["id"]: each for each in arriving if tick()}
        _wait_for(client, sent, CaseStatus.IN_REVIEW, _ticks(progress, "judged", len(sent)))
        tick = _ticks(progress, "answered", len(sent))
        people = [Moderator(stack.url, email, password, sent) for email in MODERATORS]
        with ThreadPoolExecutor(len(people)) as pool:
            shares = list(pool.map(lambda person: person.work(tick), people))
        _wait_for(client, sent, CaseStatus.DECIDED, _ticks(progress, "in effect", len(sent)))
    told = ", ".join(f"{email} {share}" for email, share in zip(MODERATORS, shares, strict=True))
    console.print(f"{sum(shares)} cases were answered in the dashboard ({told}).")
    return client


def _ticks(progress: Progress, what: str, total: int) -> Callable[[], bool]:
    """Called once for each that is done; always true."""
    task = progress.add_task(what, total=total)

    def tick() -> bool:
        progress.advance(task)
        return True

    return tick


def _wait_for(client: Client, cases: Mapping[str, Picture], status: CaseStatus, tick: Callable[[], bool]) -> None:
    """Until every case has this status. Raises ClickException where the time runs out, or one has failed."""
    deadline = time.monotonic() + TIMEOUT_S
    for case_id in cases:
        while (found := client.case(case_id)["status"]) != status:
            if found == CaseStatus.FAILED or time.monotonic() > deadline:
                raise click.ClickException(f"Case {case_id} is {found}, and was expected to be {status.value}.")
            time.sleep(POLL_S)
        tick()


def _examined(console: Console, pictures: Sequence[Picture], run: TrainingRun | None = None) -> Marks:
    """How well the champion does, or the version that a run has made."""
    from transformers.utils import logging as transformers_logging

    from infra.demo import lesson
    from model.detector import Detector
    from moderation.settings import settings
    from moderation.storage import Storage
    from workers.champion import manifest_of, place_of

    version = _version(run)
    console.print(f"{version.name} (demo model, not FakeVLM) is asked about {len(pictures)} pictures …")
    transformers_logging.disable_progress_bar()
    detector = Detector.load(place_of(version, Storage(settings())), manifest=manifest_of(version))
    return lesson.examined(detector, pictures)


def _version(run: TrainingRun | None) -> ModelVersion:
    from moderation import model_versions
    from moderation.db import transaction
    from moderation.tables import ModelVersion

    with transaction() as session:
        version = model_versions.champion(session) if run is None else session.get(ModelVersion, run.model_version_id)
    if version is None:
        raise click.ClickException("There is no such model version.")
    return version


def _trained(console: Console) -> TrainingRun:
    """A run asked for and followed to its end. Raises ClickException where it came to no new version."""
    from infra.commands.retrain import ACTOR, line, looks
    from moderation.db import transaction
    from moderation.retraining import runs

    with transaction() as session:
        run_id: UUID = runs.ask(session, actor=ACTOR).id
    started, said = time.monotonic(), None
    for run in looks(run_id):
        if (now := _moment(run)) != said:
            console.print(f"{time.monotonic() - started:5.0f} s  {line(run)}", soft_wrap=True)
            said = now
    if run.model_version_id is None:
        raise click.ClickException(f"The run came to nothing: it is {line(run)}")
    return run


def _moment(run: TrainingRun) -> tuple[object, ...]:
    """What is worth a line: another stage, or another tenth of the training."""
    progress = run.progress if run.stage == "train" and run.progress else {"update": 0, "updates": 1}
    return run.status, run.stage, LINES_OF_TRAINING * progress["update"] // progress["updates"]


def _show_gate(console: Console, run: TrainingRun) -> None:
    from model.gate import table
    from model.gate.judgement import Judgement

    table.show(Judgement.model_validate(run.numbers["gate"]), console)


def _is_live(console: Console, client: Client, pictures: Pictures, run: TrainingRun) -> bool:
    """Whether a new submission is judged by the new version, within a minute."""
    name = _version(run).name
    deadline = time.monotonic() + LIVE_WITHIN_S
    for picture in pictures.measured:
        case_id = client.submit_file(picture.path)["id"]
        while not (verdict := client.case(case_id).get("verdict")) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if verdict and verdict["model"]["version"] == name:
            console.print(f"A new submission was judged by [bold]{name}[/bold]: it is live.")
            return True
        if time.monotonic() > deadline:
            break
    console.print(f"{name} judges nothing yet.", style="red")
    return False


def _stay(console: Console, stack: Stack, password: str) -> None:
    console.print(f"Dashboard: {stack.url}/dashboard/runs as {LEAD}, password {password}", soft_wrap=True)
    console.print("It stays up until Ctrl-C.")
    try:
        while stack.supervisor.alive():
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        console.print()
