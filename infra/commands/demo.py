"""`telltale demo`: the main job on this machine, from sample images to verified webhooks, with nothing set up before.

It starts the embedded stack, plays a platform against it (`infra/demo`), and shows what came of every image.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.cli import INTERRUPTED

if TYPE_CHECKING:
    from infra.demo.platform import Platform
    from infra.demo.receiver import Receiver
    from infra.demo.samples import Sample
    from infra.demo.shipments import Sender, Shipment
    from infra.local import Stack

ALIVE_POLL_S = 0.3
# In pairs, because real and fake samples alternate.
WAYS: tuple[Literal["REST", "webhook"], ...] = ("REST", "REST", "webhook", "webhook")


@click.command()
@click.option("--once", is_flag=True, help="End after the table instead of staying up until Ctrl-C.")
@click.option("--wide", is_flag=True, help="Show explanations whole.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=".telltale/demo",
    show_default=True,
    help="Where everything is kept; the next run takes it up again.",
)
@click.option("--port", default=0, help="The api's port on 127.0.0.1; by default a free one.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=180,
    show_default=True,
    help="Seconds in which every image must be settled.",
)
def demo(once: bool, wide: bool, data: Path, port: int, timeout_s: float) -> None:
    """Start everything, submit the sample images half by REST and half by signed webhook, show what happens.

    With --once the last line is `demo: N submitted, N settled, N explained, N webhooks verified, 0 failed`. Exits with
    1 if anything failed.
    """
    from infra.commands.up import ends_on_signals
    from infra.demo.report import last_line

    console = _console(wide)
    with ends_on_signals():
        try:
            shipments = _play(console, data, port, timeout_s, once=once, wide=wide)
        except KeyboardInterrupt:
            console.print("Stopped.")
            raise SystemExit(INTERRUPTED) from None
    click.echo(last_line(shipments))
    if not all(shipment.succeeded for shipment in shipments):
        raise SystemExit(1)


def _console(wide: bool) -> Console:
    from infra.demo.report import WIDTH

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 3 * WIDTH if wide else WIDTH
    return console


def _play(console: Console, data: Path, port: int, timeout_s: float, *, once: bool, wide: bool) -> list[Shipment]:
    """The whole run; when it returns or raises, nothing it started is left running."""
    from infra.demo.platform import new_platform
    from infra.demo.receiver import Receiver
    from infra.demo.report import results
    from infra.demo.samples import sample_server, samples
    from infra.demo.shipments import Sender
    from infra.local import kept_passwords
    from moderation.settings import settings

    shipped, receiver = samples(), Receiver()
    with (
        sample_server() as server,
        receiver.server,
        running(console, data, port, _allowing(server.host, receiver.server.host)) as stack,
    ):
        password = kept_passwords(stack.folder / "moderator.json", ["moderator"])["moderator"]
        platform = new_platform(receiver.url, password, settings())
        receiver.trust(platform.endpoint_secret)
        sender = Sender(platform, stack.url, server.url)
        shipments = _ship_and_follow(console, shipped, sender, receiver, timeout_s, stack)
        console.print(results(shipments, columns=console.width, wide=wide))
        _name_the_model(console, shipments)
        if not once:
            _stay(console, stack, platform, password, receiver)
        console.print("Stopping …", style="dim")
    return shipments


def _allowing(*hosts: str) -> dict[str, str]:
    """What lets a stack call exactly these, `host:port` each."""
    return {"TELLTALE_ALLOWED_HOSTS": json.dumps(hosts)}


@contextmanager
def running(console: Console, data: Path, port: int, environment: Mapping[str, str]) -> Iterator[Stack]:
    """A stack wholly of its own, whatever this process's environment names, with `environment` on top."""
    from infra.local import Outside, Stack

    stack = Stack(data, port=port, environment=environment, outside=Outside.nothing())
    started = time.monotonic()
    with console.status("Starting …") as status:
        stack.start(say=lambda line: _say(console, status.update, line))
    try:
        stack.use()
        console.print(f"Telltale is up after {time.monotonic() - started:.1f} s.")
        yield stack
    finally:
        stack.stop()


def _say(console: Console, update: Callable[[str], None], line: str) -> None:
    """In place on a terminal, line by line elsewhere."""
    if console.is_terminal:
        update(line)
    else:
        console.print(line)


def _ship_and_follow(
    console: Console, shipped: Sequence[Sample], sender: Sender, receiver: Receiver, timeout_s: float, stack: Stack
) -> list[Shipment]:
    from infra.demo.shipments import follow

    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks = [progress.add_task(what, total=len(shipped)) for what in ("submitted", "settled", "webhooks verified")]
        shipments: list[Shipment] = []

        def tick() -> None:
            counts = (len(shipments), sum(s.ended for s in shipments), sum(s.verified for s in shipments))
            for task, count in zip(tasks, counts, strict=True):
                progress.update(task, completed=count)

        for sample, way in zip(shipped, cycle(WAYS), strict=False):
            shipments.append(sender.ship(sample, way))
            tick()
        in_time = follow(shipments, sender, receiver, timeout_s, tick)
    if not in_time:
        console.print(f"Not everything was settled within {timeout_s:g} s; see {stack.supervisor.logs}.", style="red")
    if receiver.refused:
        console.print(f"The receiver refused {receiver.refused} deliveries: their signatures do not hold.", style="red")
    return shipments


def _name_the_model(console: Console, shipments: Sequence[Shipment]) -> None:
    """Which model judged, how often rightly, and that it is not FakeVLM where it is not."""
    judged = [shipment for shipment in shipments if shipment.verdict]
    console.print(f"{sum(s.right for s in judged)} of {len(judged)} labels are right.")
    models = {(s.verdict["model"]["version"], s.verdict["model"]["kind"]) for s in judged}
    for name, kind in sorted(models):
        if kind == "demo":
            console.print(f"Judged by {name}: demo model, not FakeVLM.", style="bold yellow")
        else:
            console.print(f"Judged by {name}.")


def _stay(console: Console, stack: Stack, platform: Platform, password: str, receiver: Receiver) -> None:
    """Print the addresses and stay until Ctrl-C. Raises ClickException where the stack ends by itself."""
    for what, value in (
        ("API", stack.url),
        ("documentation", f"{stack.url}/docs"),
        ("API key", platform.key),
        ("inbound webhook", platform.hook_url),
        ("its secret", platform.hook_secret),
        ("receiver", receiver.url),
        ("dashboard", f"{stack.url}/dashboard"),
        ("moderator", f"{platform.moderator}, password {password}"),
        ("operator", f"{platform.operator}, with the same password: everything, training runs too"),
        ("tenant", platform.tenant),
        ("more", f"telltale --data {stack.folder} cases list --tenant {platform.tenant}"),
    ):
        console.print(f"{what:>16}  {value}", soft_wrap=True, markup=False)
    console.print("It stays up until Ctrl-C.")
    try:
        while stack.supervisor.alive():
            time.sleep(ALIVE_POLL_S)
    except KeyboardInterrupt:
        console.print()
        return
    raise click.ClickException(f"supervisord ended; see {stack.supervisor.logs / 'supervisord.log'}")
