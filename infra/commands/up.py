"""`telltale up`: everything on this machine, until Ctrl-C. It starts and shows; `infra/local.py` knows how."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.text import Text

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")
POLL_S = 0.3


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=".telltale",
    show_default=True,
    envvar="TELLTALE_DATA",
    help="Where everything is kept; the next start takes it up again.",
)
@click.option("--port", default=8000, show_default=True, help="The api's port on 127.0.0.1; 0 takes a free one.")
@click.option("--quiet", is_flag=True, help="Do not print the processes' output; it is in DATA/log all the same.")
def up(data: Path, port: int, quiet: bool) -> None:
    """Start everything on this machine and keep it running until Ctrl-C.

    PostgreSQL, Valkey and SeaweedFS are started too, unless TELLTALE_DATABASE_URL, TELLTALE_REDIS_URL or
    TELLTALE_S3_ENDPOINT_URL say where they are. A process that dies is started again.
    """
    from infra.local import Stack

    console = Console(stderr=True, highlight=False)
    stack = Stack(data, port=port)
    with ends_on_signals():
        try:
            follower = Follower(stack.supervisor.logs, console)
            stack.start(say=console.print)
            console.print(f"Ready: {stack.url} · API documentation at {stack.url}/docs · Ctrl-C ends it.")
            while stack.supervisor.alive():
                if not quiet:
                    follower.print_new()
                time.sleep(POLL_S)
            raise click.ClickException(f"supervisord ended; see {stack.supervisor.logs / 'supervisord.log'}")
        except KeyboardInterrupt:
            console.print("\nStopping …")
        finally:
            stack.stop()


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Follower:
    """Prints what is appended to every `*.log` of a folder, each line after its process's name."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        # Per file: how far it was read, and which file that was, for a full log is replaced.
        self._read: dict[Path, tuple[int, int]] = {}
        for file in folder.glob("*.log"):
            self._read[file] = (file.stat().st_size, file.stat().st_ino)

    def print_new(self) -> None:
        """Print the lines that are complete and were not printed yet."""
        for index, file in enumerate(sorted(self.folder.glob("*.log"))):
            style = COLOURS[index % len(COLOURS)]
            for line in self._new_lines(file):
                self.console.print(Text(f"{file.stem:>11} | ", style), Text.from_ansi(line), sep="", soft_wrap=True)

    def _new_lines(self, file: Path) -> list[str]:
        with file.open("rb") as stream:
            inode = file.stat().st_ino
            offset, known = self._read.get(file, (0, inode))
            stream.seek(offset if known == inode else 0)
            start = stream.tell()
            complete, newline, _ = stream.read().rpartition(b"\n")
        self._read[file] = (start + len(complete) + len(newline), inode)
        return complete.decode(errors="replace").splitlines()
