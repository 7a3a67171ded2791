"""Connections that take their time: whoever says half a request, or does not hang up, holds up nobody else."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import connections
from infra.connections import GATHERED_BYTES, PacedUnreader
from infra.services import LOOPBACK, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
THREADS = 2
GET = b"GET / HTTP/1.1\r\nHost: telltale\r\n"
POST = GET.replace(b"GET", b"POST")
DEAF = POST.replace(b"/ ", b"/deaf ")
# An answer takes a few ms; whatever holds a thread does for 10 s.
AT_ONCE_S = 2.0


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where a server listens, which has one process of few threads."""
    at = free_port()
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "infra.connections.Worker", "--no-control-socket"]
    options = ["--threads", str(THREADS), "--bind", f"{LOOPBACK}:{at}", "tests.infra.echo:application"]
    running = subprocess.Popen([*command, *options], cwd=ROOT)
    try:
        wait_until(lambda: _takes_connections(at), "the server")
        yield at
    finally:
        running.terminate()
        running.wait(timeout=30)


def _takes_connections(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((LOOPBACK, port)).close()
        return True
    return False


def connected(port: int, said: bytes) -> socket.socket:
    connection = socket.create_connection((LOOPBACK, port), timeout=20)
    connection.sendall(said)
    return connection


@contextlib.contextmanager
def crowd(port: int, said: bytes) -> Iterator[list[socket.socket]]:
    """Four times as many connections as there are threads, all of which said this."""
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(connected(port, said)) for _ in range(4 * THREADS)]


def status(connection: socket.socket) -> int:
    """The answer's, past an invitation to go on."""
    with connection.makefile("rb") as answer:
        first = answer.readline()
        while first == b"HTTP/1.1 100 Continue\r\n" and answer.readline():
            first = answer.readline()
        return int(first.split()[1])


def answers_at_once(port: int) -> bool:
    began = time.monotonic()
    with connected(port, GET + b"\r\n") as connection:
        return status(connection) == 200 and time.monotonic() - began < AT_ONCE_S


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"G",
        GET,
        GET + b"\r\n" + GET,
        POST + b"Content-Length: 60000\r\n\r\nemail=",
        GET + b"X-Long: " + b"a" * (GATHERED_BYTES // 2),
    ],
    ids=["nothing", "a letter", "half a head", "half a second request", "half a form", "a head without end"],
)
def test_half_a_request_holds_no_thread(port: int, said: bytes) -> None:
    with crowd(port, said):
        assert answers_at_once(port)


@pytest.mark.parametrize(
    "length",
    [
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 70000\r\n",
        b"Content-Length: 60\r\nExpect: 100-continue\r\n",
    ],
    ids=["chunks", "long", "asks first"],
)
def test_a_body_that_nobody_reads_is_not_waited_for(port: int, length: bytes) -> None:
    began = time.monotonic()
    with crowd(port, DEAF + length + b"\r\n") as waiting:
        assert {status(connection) for connection in waiting} == {200}
    assert time.monotonic() - began < AT_ONCE_S


def test_who_does_not_hang_up_is_not_waited_for(port: int) -> None:
    with crowd(port, GET + b"Connection: close\r\n\r\n") as waiting:
        assert {status(connection) for connection in waiting} == {200}
        assert answers_at_once(port)


@pytest.mark.parametrize("size", [0, 10, GATHERED_BYTES - 10, GATHERED_BYTES + 10, 3_000_000])
def test_a_body_comes_whole_and_the_next_one_behind_it(port: int, size: int) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
    for body, said in ((b"a" * size, {}), (iter([b"abc"] * 5), {"Transfer-Encoding": "chunked"}), (b"b" * size, {})):
        connection.request("POST", "/", body=body, headers=said, encode_chunked=bool(said))
        assert int(connection.getresponse().read()) == (15 if said else size)
    connection.close()


def test_requests_are_gathered_from_pieces(port: int) -> None:
    asked = POST + b"Content-Length: 5\r\n\r\nhello" + GET + b"Connection: close\r\n\r\n"
    with connected(port, asked[:20]) as connection, connection.makefile("rb") as answers:
        for start in range(20, len(asked), 9):
            connection.sendall(asked[start : start + 9])
        told = answers.read()
    assert told.count(b"HTTP/1.1 200") == 2 and told.index(b"\r\n\r\n5") < told.index(b"\r\n\r\n0")


def test_what_was_not_read_is_not_taken_for_the_next_request(port: int) -> None:
    """Smuggling: the connection ends with the answer."""
    with connected(port, DEAF + b"Content-Length: 70000\r\n\r\n" + GET + b"\r\n") as connection:
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answers:
            assert answers.read().count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "said",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length: 4, 4\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X: y\r\n Transfer-Encoding: chunked\r\n",
        b"X: y\x00\r\n",
        b"Host: another\r\n",
    ],
)
def test_lengths_that_parsers_disagree_about_are_refused(port: int, said: bytes) -> None:
    with connected(port, POST + said + b"\r\n0\r\n\r\n" + GET + b"\r\n") as connection:
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answers:
            told = answers.read()
    assert told.count(b"HTTP/1.1 ") == 1 and told.split()[1] in (b"400", b"501")


def test_a_head_beyond_all_measure_is_refused(port: int) -> None:
    with connected(port, GET + b"X-Long: " + b"a" * GATHERED_BYTES) as connection:
        assert status(connection) == 431


@pytest.fixture
def body(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PacedUnreader, socket.socket]]:
    """A body that a thread waits for, and who sends it; patience is a twentieth of a second."""
    monkeypatch.setattr(connections, "PAUSE_S", 0.05)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        unreader = PacedUnreader(ours)
        unreader.begin()
        yield unreader, theirs


def test_a_body_that_pauses_is_given_up(body: tuple[PacedUnreader, socket.socket]) -> None:
    unreader, theirs = body
    theirs.sendall(b"a" * 100_000)
    began = time.monotonic()
    with pytest.raises(ConnectionResetError):
        while True:
            unreader.chunk()
    assert time.monotonic() - began < 1, "what came fast buys no long pause"


def test_a_body_that_drips_is_given_up(body: tuple[PacedUnreader, socket.socket]) -> None:
    unreader, theirs = body
    with pytest.raises(ConnectionResetError):
        for _ in range(100):
            theirs.sendall(b"a")
            unreader.chunk()
            time.sleep(0.002)
