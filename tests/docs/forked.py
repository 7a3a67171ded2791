"""`telltale` for scripts that run it often: one process that has imported it, and forks for each call.

`python -m tests.docs.forked SOCKET` serves; `caller(socket)` is the script that stands in its place. What it does, and
the environment, folder and streams it does it with, are the caller's.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

# Isolated and without site-packages: it starts in a few hundredths of a second.
CALLER = """#!{python} -ISs
import json, os, socket, sys
service = socket.socket(socket.AF_UNIX)
service.connect({path!r})
said = [sys.argv[1:], os.getcwd(), dict(os.environ)]
socket.send_fds(service, [json.dumps(said).encode() + b"\\n"], [0, 1, 2])
sys.exit(int(service.recv(8) or b"70"))
"""


def caller(path: Path) -> str:
    """A script that has the process at `path` do what it was called with."""
    return CALLER.format(python=sys.executable, path=str(path))


def serve(path: Path) -> None:
    """Wait for calls until the process is ended."""
    from infra.cli import COMMANDS, telltale

    for name in COMMANDS:
        telltale.get_command(None, name)  # type: ignore[arg-type]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    service = socket.socket(socket.AF_UNIX)
    service.bind(str(path))
    service.listen()
    while True:
        connection, _ = service.accept()
        if os.fork() == 0:
            _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> None:
    """In a process of its own: be the command, and say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    said, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not said.endswith(b"\n"):
        said += connection.recv(1 << 20)
    arguments, folder, environment = json.loads(said)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = 70
    try:
        code = _run(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(str(code).encode())
        os._exit(0)


def _run(arguments: list[str]) -> int:
    from infra.cli import telltale

    try:
        telltale.main(arguments, prog_name="telltale")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
