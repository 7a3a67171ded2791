"""`telltale up`: everything on this machine, until Ctrl-C. It starts and shows; `infra/local.py` knows how."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.text import Text

COLOURS = ("cyan", "green", "yellow", "magenta", "blue")
POLL_S = 0.3


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: click.get_current_context().find_root().params["data"],
    show_default=".telltale",
    help="Where everything is kept; the next start takes it up again.",
)
@click.option("--port", default=8000, show_default=True, help="The api's port on 127.0.0.1; 0 takes a free one.")
@click.option("--verbose", is_flag=True, help="Print what the embedded services say, too.")
@click.option("--quiet", is_flag=True, help="Print no process's output. It is in DATA/log all the same.")
def up(data: Path, port: int, verbose: bool, quiet: bool) -> None:
    """Start everything on this machine and keep it running until Ctrl-C.

    PostgreSQL, Valkey and SeaweedFS are started too, unless TELLTALE_DATABASE_URL, TELLTALE_REDIS_URL or
    TELLTALE_S3_ENDPOINT_URL say where they are. A process that dies is started again.
    """
    from infra.local import Stack

    console = Console(stderr=True, highlight=False)
    with ends_on_signals():
        stack = Stack(data, port=port)
        shown = [program.name for program in stack.supervisor.programs if verbose or program not in stack.embedded]
        follower = Follower([] if quiet else [stack.supervisor.log_of(name) for name in shown], console)
        try:
            stack.start(say=console.print, meanwhile=follower.print_new)
            console.print(f"Ready at {stack.url}, documented at {stack.url}/docs. Ctrl-C ends it.", soft_wrap=True)
            console.print(f"Dashboard: {stack.url}/dashboard; `telltale users create` makes accounts.", soft_wrap=True)
            stack.use()
            console.print(_metrics(stack.metrics_ports, stack.targets), soft_wrap=True)
            console.print(_mail(), soft_wrap=True)
            while True:
                follower.print_new()
                time.sleep(POLL_S)
                if not stack.supervisor.alive():
                    console.print("supervisord ended, and with it every process: starting again.", style="red")
                    stack.start(say=console.print, meanwhile=follower.print_new)
        except KeyboardInterrupt:
            console.print("\nStopping …")
        finally:
            stack.stop()


def _metrics(ports: Mapping[str, int], targets: Path) -> str:
    """Where each process serves what it counts."""
    from infra.services import LOOPBACK

    each = ", ".join(f"{name} {port}" for name, port in ports.items())
    return f"Metrics: http://{LOOPBACK}:PORT/metrics, of {each}. Prometheus finds them in {targets}."


def _mail() -> str:
    """Whether people who must be told something are told by mail."""
    from moderation.settings import settings

    if settings().smtp_url is None:
        return "Notices are on the dashboard alone; TELLTALE_SMTP_URL and TELLTALE_MAIL_FROM have them mailed too."
    return f"Notices are on the dashboard, and mailed from {settings().mail_from}."


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does; so does SIGINT where a shell had it ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Follower:
    """Prints what is appended to log files, each line after its process's name."""

    def __init__(self, files: Sequence[Path], console: Console) -> None:
        self.console = console
        # How far each was read, and which file that was, for a full log is replaced by a new one.
        self._read = {file: (file.stat().st_size, file.stat().st_ino) if file.exists() else (0, 0) for file in files}

    def print_new(self) -> None:
        """Print the lines that are complete and were not printed yet."""
        for file, style in zip(self._read, cycle(COLOURS), strict=False):
            for line in self._new_lines(file):
                self.console.print(Text(f"{file.stem:>10} | ", style), Text.from_ansi(line), sep="", soft_wrap=True)

    def _new_lines(self, file: Path) -> list[str]:
        if not file.exists():
            return []
        with file.open("rb") as stream:
            offset, known = self._read[file]
            inode = os.fstat(stream.fileno()).st_ino
            start = stream.seek(offset if known == inode else 0)
            complete, newline, _ = stream.read().rpartition(b"\n")
        self._read[file] = (start + len(complete) + len(newline), inode)
        return complete.decode(errors="replace").splitlines()
